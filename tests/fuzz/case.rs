//! What fuzz tests of several packages share: a case of theirs, and who hears of it if it fails.
//!
//! ```text
//!   seed of a run + number of a case ──► splitmix64 ──► every choice that the case makes
//!   panic ──► numbers, and the inputs in the target's folder        fault ──► numbers
//! ```
//!
//! So a case can be repeated alone, from two numbers. A module of each test, which adds the numbers
//! that mean something there.

use std::ffi::c_int;
use std::ops::Range;
use std::path::PathBuf;

/// A generator (splitmix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators").
pub struct Random(u64);

impl Random {
    pub fn new(run: u64, case: u64) -> Self {
        let mut random = Self(run);
        random.0 = random.next() ^ case;
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// One of `range`; its start if it is empty.
    pub fn within(&mut self, range: Range<usize>) -> usize {
        range.start + (self.next() % range.len().max(1) as u64) as usize
    }

    /// A number below `end`; 0 if there is none.
    pub fn below(&mut self, end: usize) -> usize {
        self.within(0..end)
    }

    /// Once in so many times.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn choose<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// Says which case it was, and keeps its inputs.
pub fn keep<'i>(target: &str, run: u64, case: u64, inputs: impl Iterator<Item = &'i Vec<u8>>) {
    eprintln!("{target}: case {case} of run {run}");
    for (number, input) in inputs.enumerate() {
        let name = format!("fuzz-{target}-{run}-{case}-{number}");
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        if std::fs::write(&path, input).is_ok() {
            eprintln!("  {}", path.display());
        }
    }
}

/// Says which case it was, and ends the process, in a signal handler.
pub fn end(signal: c_int, run: u64, case: u64) -> ! {
    let numbers = [signal as u64, case, run];
    for (text, number) in ["signal ", ", case ", " of run "].into_iter().zip(numbers) {
        write(text.as_bytes());
        let mut digits = [b'0'; 20];
        let mut at = digits.len() - 1;
        let mut rest = number;
        while rest >= 10 {
            digits[at] += (rest % 10) as u8;
            (rest, at) = (rest / 10, at - 1);
        }
        digits[at] += rest as u8;
        write(&digits[at..]);
    }
    write(b"\n");
    // SAFETY: ends the process without anything else.
    unsafe { libc::_exit(128 + signal) }
}

fn write(bytes: &[u8]) {
    // SAFETY: the bytes are there.
    unsafe { libc::write(libc::STDERR_FILENO, bytes.as_ptr().cast(), bytes.len()) };
}
