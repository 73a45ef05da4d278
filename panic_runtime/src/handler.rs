//! From `panic!` to an exception in flight.
//!
//! ```text
//!   count ─► message ─► trace ─► payload ─► raise
//!     │ a panic while reporting one, a panic that must not unwind, nobody to catch:
//!     └────────────────────────────────────────────────► words, halt
//! ```

use core::fmt::{self, Write};
use core::panic::{Location, PanicInfo};
use core::sync::atomic::{AtomicBool, Ordering};

use unspool_stack_trace::{Style, end_short};

use crate::catch;
use crate::hook::{self, PanicHookInfo};
use crate::payload;
use crate::platform::{Console, StackTrace, platform, print_trace, trace};

/// Writes std's words for an error that nothing can be done about, and halts.
pub(crate) fn fatal(reason: fmt::Arguments<'_>) -> ! {
    // The console cannot fail.
    let _ = writeln!(Console, "fatal runtime error: {reason}, aborting");
    platform().halt()
}

static FIRST: AtomicBool = AtomicBool::new(true);

/// What std's default hook writes.
#[inline(never)]
pub(crate) fn default_report(location: Option<&Location<'_>>, message: fmt::Arguments<'_>) {
    let task = platform().task();
    // The console cannot fail.
    let _ = match location {
        Some(at) => writeln!(Console, "\nthread {task} panicked at {at}:\n{message}"),
        None => writeln!(Console, "\nthread {task} panicked:\n{message}"),
    };
    report_trace(trace());
}

/// Runs what a panic begins with. A panic while another is being reported ends the program; the
/// message of that one is shown only if it is a literal: printing may be what panics.
pub(crate) fn report(
    location: Option<&Location<'_>>,
    literal: Option<&str>,
    report: impl FnOnce(),
) {
    if platform().state().report(report) {
        return;
    }
    if let Some(at) = location {
        let _ = writeln!(Console, "panicked at {at}:\n{}", literal.unwrap_or_default());
    }
    let _ = Console.write_str("thread panicked while processing panic. aborting.\n");
    platform().halt()
}

/// The trace of a report, in the platform's style.
pub(crate) fn report_trace(trace: StackTrace) {
    let style = platform().backtrace_style();
    let first = FIRST.swap(false, Ordering::Relaxed);
    if style != Style::Off {
        print_trace(trace, style);
    } else if first {
        let _ = writeln!(Console, "{}", platform().backtrace_note());
    }
}

/// Counts a panic that begins; ends the program if panics are to do that.
pub(crate) fn begin(location: Option<&Location<'_>>, message: fmt::Arguments<'_>) {
    platform().state().begin();
    if hook::must_abort() {
        if let Some(at) = location {
            let _ = writeln!(Console, "aborting due to panic at {at}:\n{message}");
        }
        platform().halt();
    }
}

/// What a panic handler does: reports, traces, raises.
///
/// The crate's own `#[panic_handler]` (feature `lang-items`) is nothing but this; a program that
/// must have its own calls it at the end.
#[inline(always)]
pub fn begin_panic(info: &PanicInfo<'_>) -> ! {
    end_short(|| {
        let (location, message) = (info.location(), info.message());
        begin(location, format_args!("{message}"));
        let payload = match (hook::current(), location) {
            // The payload is made first, because the hook is told; the default report needs no
            // memory, so it comes before anything that does.
            (Some(hook), Some(at)) => {
                let payload = payload::of_message(&message);
                let info = PanicHookInfo::new(&*payload, at, can_unwind(info));
                report(location, message.as_str(), || hook(&info));
                payload
            }
            _ => {
                let text = format_args!("{message}");
                report(location, message.as_str(), || default_report(location, text));
                payload::of_message(&message)
            }
        };
        if !can_unwind(info) {
            let _ = Console.write_str("thread caused non-unwinding panic. aborting.\n");
            platform().halt();
        }
        catch::raise(payload)
    })
}

#[cfg(feature = "lang-items")]
fn can_unwind(info: &PanicInfo<'_>) -> bool {
    info.can_unwind()
}

/// Without the compiler's word for it, a panic in a function that must not unwind is found out
/// when it is raised: such a function has no call site for it.
#[cfg(not(feature = "lang-items"))]
fn can_unwind(_info: &PanicInfo<'_>) -> bool {
    true
}

#[cfg(feature = "lang-items")]
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    begin_panic(info)
}
