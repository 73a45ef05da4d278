//! Hands out addresses of a window. Arithmetic only; what is mapped there is others' business.
//!
//! ```text
//!  │ guard │ taken      │ guard │ taken │      free …                          │
//! ```
//!
//! The page below everything that is taken stays unmapped: overruns downwards fault.
#![forbid(unsafe_code)]

use core::ops::Range;

use alloc::vec::Vec;

use crate::machine::{MapError, PAGE, Pages};

/// A range of addresses and what of it is taken.
pub(crate) struct Window {
    range: Range<u64>,
    /// With the guard page of each, from low to high.
    taken: Vec<Range<u64>>,
}

impl Window {
    /// Nothing is taken; the bounds are multiples of a page.
    pub(crate) const fn new(range: Range<u64>) -> Self {
        Self { range, taken: Vec::new() }
    }

    /// Takes the lowest addresses that fit `size` bytes, in whole pages.
    pub(crate) fn take(&mut self, size: usize) -> Result<Pages, MapError> {
        let (mut largest, mut gap_start) = (0, self.range.start);
        let ends = self.taken.iter().map(|taken| taken.start).chain([self.range.end]);
        let mut found = None;
        for (index, gap_end) in ends.enumerate() {
            let start = gap_start + PAGE as u64;
            let room = gap_end.saturating_sub(start);
            largest = largest.max(room as usize);
            if let Some(pages) = Pages::new(start, size).filter(|pages| pages.end() <= gap_end) {
                found = Some((index, gap_start, pages));
                break;
            }
            gap_start = self.taken.get(index).map_or(gap_end, |taken| taken.end);
        }
        let (index, guard, pages) = found.ok_or(MapError::WindowFull { needed: size, largest })?;
        self.taken.try_reserve(1).map_err(|_| MapError::OutOfRecords)?;
        self.taken.insert(index, guard..pages.end());
        Ok(pages)
    }

    /// Bytes that are taken, guard pages included.
    pub(crate) fn used(&self) -> u64 {
        self.taken.iter().map(|taken| taken.end - taken.start).sum()
    }

    /// Makes what [`take`](Self::take) returned free again.
    pub(crate) fn give_back(&mut self, pages: Pages) {
        self.taken.retain(|taken| taken.end != pages.end());
    }
}
