//! What is said of a panic: by one task at a time, line by line, and never in a circle.
//!
//! ```text
//!   report ─► OWNER free? ── yes ─► lines to the platform's console ─► free
//!              │ the same task, interrupted or nested: go on at once
//!              └ another: wait while it makes progress, then take over
//!
//!   none ─► a report ─► last words ─► silence     what a task may still do, if each of them panics
//! ```
//!
//! Promise: reports of several CPUs do not mix, and none waits forever: whoever has stopped writing,
//! because it was interrupted for good, or because the waiting CPU is the one it needs, loses its
//! turn.

use core::fmt::{self, Write};
use core::hint::spin_loop;
use core::panic::Location;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize, Ordering};

use unspool_stack_trace::Style;

use crate::platform::{StackTrace, platform, print_trace, trace};

/// The address of the state of the task that reports; 0: nobody's.
static OWNER: AtomicUsize = AtomicUsize::new(0);
/// What the owner has written, in lines.
static PROGRESS: AtomicU32 = AtomicU32::new(0);

/// How often one who waits looks, without any progress, before it takes over: about a second.
const PATIENCE: u32 = 10_000_000;

/// Bytes that are written at once.
const LINE: usize = 256;

/// The right to write a report, and the line that it has come to.
pub(crate) struct Report {
    /// The address of the state of this task, to be taken off; 0 in a nested report.
    owner: usize,
    bytes: [u8; LINE],
    length: usize,
    /// Write when `bytes` is full, not after each line: what belongs together is then said whole, or
    /// not at all.
    at_once: bool,
}

impl Report {
    /// Waits until nobody else reports, or until whoever does has stopped.
    pub(crate) fn begin() -> Self {
        let task = (&raw const *platform().state()).addr();
        let progress = || PROGRESS.load(Ordering::Relaxed);
        let owner = if acquire(&OWNER, progress, task, PATIENCE) { task } else { 0 };
        Self { owner, bytes: [0; LINE], length: 0, at_once: false }
    }

    fn flush(&mut self) {
        let line = core::mem::replace(&mut self.length, 0);
        // Whole strings were put in.
        platform().write(str::from_utf8(&self.bytes[..line]).unwrap_or_default());
        PROGRESS.fetch_add(1, Ordering::Relaxed);
    }
}

/// Makes `task` the owner; `false` if it is already. `progress` says how far the owner is.
fn acquire(
    owner: &AtomicUsize,
    mut progress: impl FnMut() -> u32,
    task: usize,
    patience: u32,
) -> bool {
    let take = |from| owner.compare_exchange(from, task, Ordering::Acquire, Ordering::Relaxed);
    let mut seen = None;
    let mut looks = 0;
    loop {
        match take(0) {
            Ok(_) => return true,
            Err(other) if other == task => return false,
            Err(other) => {
                let now = Some((other, progress()));
                if now != seen {
                    (seen, looks) = (now, 0);
                }
                looks += 1;
                // Whoever comes first takes over; others wait for that one then.
                if looks > patience && take(other).is_ok() {
                    return true;
                }
                spin_loop();
            }
        }
    }
}

impl Write for Report {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.len() > LINE - self.length {
            self.flush();
        }
        if text.len() > LINE {
            platform().write(text);
            return Ok(());
        }
        self.bytes[self.length..][..text.len()].copy_from_slice(text.as_bytes());
        self.length += text.len();
        if text.ends_with('\n') && !self.at_once {
            self.flush();
        }
        Ok(())
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if self.length != 0 {
            self.flush();
        }
        if self.owner != 0 {
            // Somebody else's, if this one took too long.
            let _ = OWNER.compare_exchange(self.owner, 0, Ordering::Release, Ordering::Relaxed);
        }
    }
}

/// Writes the last words of the program, and halts. If a panic comes of that, it halts in silence.
pub(crate) fn last_words(words: fmt::Arguments<'_>) -> ! {
    if platform().state().may_speak_last() {
        let mut report = Report::begin();
        report.at_once = true;
        // The console cannot fail.
        let _ = report.write_fmt(words);
        report.flush();
        // Nobody else reports now: `report` is not dropped.
        core::mem::forget(report);
    }
    platform().halt()
}

/// Writes std's words for an error that nothing can be done about, and halts.
pub(crate) fn fatal(reason: fmt::Arguments<'_>) -> ! {
    last_words(format_args!("fatal runtime error: {reason}, aborting\n"))
}

/// The words of a panic in a destructor that unwinding runs. As std's, it has no trace: that of the
/// panic before has just been printed.
pub(crate) const IN_CLEANUP: &str = "panic in a destructor during cleanup";

/// What std's default hook writes; without a trace if `brief`.
#[inline(never)]
pub(crate) fn default_report(
    location: Option<&Location<'_>>,
    message: fmt::Arguments<'_>,
    brief: bool,
) {
    let task = platform().task();
    let mut report = Report::begin();
    // As in std, nothing is said of a message that panics when it is formatted, unless it is long.
    report.at_once = true;
    // The console cannot fail.
    let _ = match location {
        Some(at) => writeln!(report, "\nthread {task} panicked at {at}:\n{message}"),
        None => writeln!(report, "\nthread {task} panicked:\n{message}"),
    };
    report.flush();
    report.at_once = false;
    if !brief {
        report.trace(trace());
    }
}

static FIRST: AtomicBool = AtomicBool::new(true);

impl Report {
    /// A trace in the platform's style; in full, as std has it, if the task was panicking already.
    pub(crate) fn trace(&mut self, trace: StackTrace) {
        let style = match platform().state().panics() {
            0 | 1 => style(),
            _ => Style::Full,
        };
        let first = FIRST.swap(false, Ordering::Relaxed);
        if style != Style::Off {
            print_trace(self, trace, style);
        } else if first {
            // The console cannot fail.
            let _ = writeln!(self, "{}", platform().backtrace_note());
        }
    }
}

/// What [`set_backtrace_style`] said: its place in `STYLES`, plus 1.
static STYLE: AtomicU8 = AtomicU8::new(0);
const STYLES: [Style; 3] = [Style::Off, Style::Short, Style::Full];

/// Says how much of a trace panics print from now on, whatever the platform says.
///
/// As `std::panic::set_backtrace_style` (unstable there).
pub fn set_backtrace_style(style: Style) {
    let place = STYLES.iter().position(|each| *each == style);
    STYLE.store(place.map_or(0, |place| place as u8 + 1), Ordering::Relaxed);
}

/// How much of a trace panics print. Never `None`: a platform without traces says
/// [`Style::Off`].
///
/// As `std::panic::get_backtrace_style` (unstable there).
pub fn get_backtrace_style() -> Option<Style> {
    Some(style())
}

pub(crate) fn style() -> Style {
    let set = usize::from(STYLE.load(Ordering::Relaxed)).checked_sub(1);
    set.map_or_else(|| platform().backtrace_style(), |place| STYLES[place])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_reports_already_goes_on_at_once() {
        let owner = AtomicUsize::new(0);
        assert!(acquire(&owner, || 0, 1, 0));
        assert!(!acquire(&owner, || 0, 1, u32::MAX));
    }

    #[test]
    fn who_makes_no_progress_loses_its_turn() {
        let (owner, mut looks) = (AtomicUsize::new(7), 0);
        let progress = || {
            looks += 1;
            0
        };
        assert!(acquire(&owner, progress, 1, 1000));
        assert_eq!((owner.into_inner(), looks), (1, 1001));
    }

    #[test]
    fn who_makes_progress_is_waited_for() {
        const PATIENCE: u32 = 100;
        let (owner, mut looks) = (AtomicUsize::new(7), 0);
        // Longer than the patience, all in all; just in time, each time.
        let progress = || {
            looks += 1;
            if looks == 50 * PATIENCE {
                owner.store(0, Ordering::Relaxed);
            }
            looks / PATIENCE
        };
        assert!(acquire(&owner, progress, 1, PATIENCE));
        assert_eq!(looks, 50 * PATIENCE);
    }

    #[test]
    fn the_style_that_was_set_counts() {
        assert_eq!(get_backtrace_style(), Some(Style::Short), "the platform's");
        set_backtrace_style(Style::Full);
        assert_eq!(get_backtrace_style(), Some(Style::Full));
        STYLE.store(0, Ordering::Relaxed);
    }
}
