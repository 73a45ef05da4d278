//! The pool of physical pages that only windows show.
//!
//! ```text
//!   frame number   0        64       128
//!   words        │ 1110…  │ 0000…  │ 0110…  │     1: free
//! ```
#![forbid(unsafe_code)]

use alloc::vec;
use alloc::vec::Vec;

use x86_64::PhysAddr;
use x86_64::structures::paging::{PhysFrame, Size4KiB};

use super::plan::POOL_END;
use crate::machine::PAGE;

const BITS: usize = u64::BITS as usize;

/// Which frames are free.
pub(super) struct FramePool {
    words: Vec<u64>,
    free: usize,
    /// No word before this one has a free frame.
    first: usize,
}

impl FramePool {
    /// A pool of the frames at these addresses, all below [`POOL_END`]. Needs the heap.
    pub(super) fn new(frames: impl Iterator<Item = u64> + Clone) -> Self {
        let number = |address: u64| (address.min(POOL_END - 1) as usize) / PAGE;
        let end = frames.clone().map(number).max().map_or(0, |last| last / BITS + 1);
        let mut pool = Self { words: vec![0; end], free: 0, first: 0 };
        for frame in frames {
            pool.set_free(number(frame));
        }
        pool
    }

    /// How many frames are free.
    pub(super) const fn free(&self) -> usize {
        self.free
    }

    /// Takes a free frame.
    pub(super) fn take(&mut self) -> Option<PhysFrame<Size4KiB>> {
        let word = self.first + self.words[self.first..].iter().position(|&word| word != 0)?;
        let bit = self.words[word].trailing_zeros() as usize;
        self.words[word] &= !(1 << bit);
        self.free -= 1;
        self.first = word;
        Some(PhysFrame::containing_address(PhysAddr::new(((word * BITS + bit) * PAGE) as u64)))
    }

    /// Makes a frame that [`take`](Self::take) returned free again.
    pub(super) fn give_back(&mut self, frame: PhysFrame<Size4KiB>) {
        self.set_free(frame.start_address().as_u64() as usize / PAGE);
    }

    fn set_free(&mut self, number: usize) {
        let (word, bit) = (number / BITS, 1 << (number % BITS));
        debug_assert!(self.words[word] & bit == 0, "frame {number} is free already");
        self.words[word] |= bit;
        self.free += 1;
        self.first = self.first.min(word);
    }
}
