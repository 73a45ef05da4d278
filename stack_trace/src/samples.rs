//! Samples of what a CPU was doing, kept in a fixed buffer until somebody takes them out.
//!
//! ```text
//!        taken ─►            ◄─ kept
//!   ─────┬───────────────────┬──────────────────────────┬─────  words of the caller, used in a ring
//!        │ head, time, task, │ head, time, task, pc, pc │
//!        │ pc, pc, pc        │                          │
//!   ─────┴───────────────────┴──────────────────────────┴─────
//! ```
//!
//! Promise: nothing here allocates, locks or waits, so a sample can be kept by the handler of any
//! interrupt while a task on another CPU takes out older ones. A sample that finds no room is
//! dropped, and counted; what was kept stays as it is.
#![forbid(unsafe_code)]

use core::ops::ControlFlow;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use unspool_unwind::{FindModule, ReadStack};

use crate::trace::Trace;

/// The most frames that are kept of a sample.
pub const FRAMES: usize = 64;

/// Words before the addresses: the head, the time, the task.
const HEAD: usize = 3;
/// In the head, above the number of addresses: the stack had more frames.
const CUT: u64 = 1 << 32;

/// Keeps an address, if there is room for it.
type Each<'a> = dyn FnMut(u64) -> ControlFlow<()> + 'a;

/// What a CPU was doing at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// When, in the unit of whoever kept it.
    pub time: u64,
    /// The number of the task that ran; by convention 0 for none.
    pub task: u64,
    /// Whether the stack had more frames than were kept.
    pub cut: bool,
    addresses: [u64; FRAMES],
    len: usize,
}

impl Sample {
    /// The addresses to look up, innermost first: of the interrupted instruction, and inside the
    /// calls that led there ([`Pc::lookup`](unspool_unwind::Pc::lookup)).
    pub fn addresses(&self) -> &[u64] {
        &self.addresses[..self.len]
    }
}

/// The samples of one CPU.
///
/// One keeps while another one takes; a second one at the same time, such as the handler of an
/// interrupt that cannot be masked, is turned away.
#[derive(Debug)]
pub struct Samples<'b> {
    words: &'b [AtomicU64],
    /// Words that were ever taken out; of them, the last ones lie at this number modulo the length.
    taken: AtomicUsize,
    /// Words that were ever put in, as above.
    kept: AtomicUsize,
    keeping: AtomicBool,
    taking: AtomicBool,
    samples: AtomicU64,
    dropped: AtomicU64,
}

impl<'b> Samples<'b> {
    /// None yet, and room for them in `words`: a sample of `n` frames takes `n` + 3. Use a power of
    /// two: then also counters that wrap around lead nowhere else.
    pub const fn new(words: &'b [AtomicU64]) -> Self {
        Self {
            words,
            taken: AtomicUsize::new(0),
            kept: AtomicUsize::new(0),
            keeping: AtomicBool::new(false),
            taking: AtomicBool::new(false),
            samples: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// Keeps a sample: its first [`FRAMES`] `addresses`, innermost first. Says whether there
    /// was room.
    pub fn keep(&self, time: u64, task: u64, mut addresses: impl Iterator<Item = u64>) -> bool {
        self.keep_each(time, task, |each| _ = addresses.try_for_each(each))
    }

    /// As [`keep`](Self::keep), of a trace.
    pub fn keep_trace<S: ReadStack, M: FindModule>(
        &self,
        time: u64,
        task: u64,
        mut trace: Trace<'_, S, M>,
    ) -> bool {
        self.keep_each(time, task, |each| trace.walk(|frame| each(frame.pc.lookup())))
    }

    fn keep_each(&self, time: u64, task: u64, addresses: impl FnOnce(&mut Each<'_>)) -> bool {
        let kept = !self.keeping.swap(true, Ordering::Acquire) && {
            let kept = self.put(time, task, addresses).is_some();
            self.keeping.store(false, Ordering::Release);
            kept
        };
        let counter = if kept { &self.samples } else { &self.dropped };
        counter.fetch_add(1, Ordering::Relaxed);
        kept
    }

    fn put(&self, time: u64, task: u64, addresses: impl FnOnce(&mut Each<'_>)) -> Option<()> {
        let start = self.kept.load(Ordering::Relaxed);
        // From here on, what was taken out may be written over.
        let used = start.wrapping_sub(self.taken.load(Ordering::Acquire));
        let put = |offset: usize, value| {
            (used + offset < self.words.len()).then(|| {
                self.word(start.wrapping_add(offset)).store(value, Ordering::Relaxed);
            })
        };
        put(1, time)?;
        put(2, task)?;
        let (mut len, mut more, mut room) = (0, false, Some(()));
        addresses(&mut |address| {
            more = len == FRAMES;
            if more {
                return ControlFlow::Break(());
            }
            room = put(HEAD + len, address);
            len += 1;
            if room.is_some() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        room?;
        put(0, len as u64 | if more { CUT } else { 0 })?;
        // Whoever sees the number sees the words.
        self.kept.store(start.wrapping_add(HEAD + len), Ordering::Release);
        Some(())
    }

    /// Takes out the oldest sample; `None` if there is none, or somebody else is taking one.
    pub fn take(&self) -> Option<Sample> {
        if self.taking.swap(true, Ordering::Acquire) {
            return None;
        }
        let sample = self.get();
        self.taking.store(false, Ordering::Release);
        sample
    }

    fn get(&self) -> Option<Sample> {
        let start = self.taken.load(Ordering::Relaxed);
        if start == self.kept.load(Ordering::Acquire) {
            return None;
        }
        let get = |offset| self.word(start.wrapping_add(offset)).load(Ordering::Relaxed);
        let head = get(0);
        let len = (head as u32 as usize).min(FRAMES);
        let mut addresses = [0; FRAMES];
        addresses[..len].iter_mut().enumerate().for_each(|(index, to)| *to = get(HEAD + index));
        let sample = Sample { time: get(1), task: get(2), cut: head & CUT != 0, addresses, len };
        // They have been read before somebody writes over them.
        self.taken.store(start.wrapping_add(HEAD + len), Ordering::Release);
        Some(sample)
    }

    fn word(&self, number: usize) -> &AtomicU64 {
        &self.words[number % self.words.len()]
    }

    /// How many samples were kept, ever.
    pub fn kept(&self) -> u64 {
        self.samples.load(Ordering::Relaxed)
    }

    /// How many samples were lost because there was no room, or because one was being kept already.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

mod text;

pub use text::{Counts, Record, Recorded, SampleFrame};

#[cfg(test)]
mod tests;
