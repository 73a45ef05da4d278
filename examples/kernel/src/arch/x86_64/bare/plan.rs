//! Decides what physical memory is for.
//!
//! ```text
//!   0      1 MiB 2 MiB                                                   1 GiB        4 GiB
//!   │ BIOS │     │ image │ page tables │ heap │ pool …      │ initrd │ pool │  pool …  │
//!          not used      └─ mapped one to one ┘ └─ mapped only where a window shows it
//! ```
//!
//! Pool frames have no address of their own: each is reachable in one window at most, with one
//! access at a time.
#![forbid(unsafe_code)]

use core::ops::Range;

use super::pvh::MAX_REGIONS;
use crate::error::Error;
use crate::heap;
use crate::machine::PAGE;
use crate::memory::OBJECTS;

/// Bytes of a large page, of which what is mapped one to one is made.
pub(super) const LARGE_PAGE: u64 = 2 << 20;
/// Bytes for page tables: two windows are 1 GiB together, which takes 2 MiB. The third is sparse: a
/// reservation of 4 GiB that is backed at its start takes two tables.
const TABLES: u64 = 8 * LARGE_PAGE;
/// The part of memory that may be mapped one to one: below the windows.
const DIRECT_END: u64 = OBJECTS.start;
/// Below this is the BIOS's.
const LOW_MEMORY: u64 = 1 << 20;
/// Frames above this are not used: the pool's map has a bit for each.
pub(super) const POOL_END: u64 = 4 << 30;

/// What memory is for; all bounds are multiples of a page.
pub(super) struct Plan {
    /// For page tables; bounds are multiples of a large page.
    pub tables: Range<u64>,
    /// For the heap; right after the tables, and aligned like them.
    pub heap: Range<u64>,
    pool: [Range<u64>; MAX_REGIONS],
    /// What of the pool's ranges is something else after all.
    taken: [Range<u64>; 2],
}

impl Plan {
    /// Finds a place for everything in `ram`, around the image (which ends at `image_end`) and
    /// the initrd.
    ///
    /// # Errors
    ///
    /// No memory of the needed size in one piece.
    pub(super) fn new(
        ram: &[Range<u64>],
        image_end: u64,
        initrd: Option<Range<u64>>,
    ) -> Result<Self, Error> {
        let initrd =
            initrd.map_or(0..0, |range| down(range.start)..range.end.next_multiple_of(PAGE as u64));
        let needed = TABLES + heap::SIZE as u64;
        let mut largest = 0;
        let mut place = None;
        for range in ram {
            // The image is at the start of the memory above the BIOS, the initrd (if it is in
            // the way at all) at the end.
            let start = range.start.max(image_end).next_multiple_of(LARGE_PAGE);
            let range = start..down(range.end.min(DIRECT_END));
            let end = if range.contains(&initrd.start) { initrd.start } else { range.end };
            let size = end.saturating_sub(range.start);
            largest = largest.max(size);
            if size >= needed && place.is_none() {
                place = Some(range.start);
            }
        }
        let start = place.ok_or(Error::NotEnoughMemory { needed, largest })?;
        let tables = start..start + TABLES;
        let heap = tables.end..tables.end + heap::SIZE as u64;
        let mut pool = [const { 0..0 }; MAX_REGIONS];
        for (to, range) in pool.iter_mut().zip(ram) {
            *to = up(range.start.max(LOW_MEMORY))..down(range.end.min(POOL_END));
        }
        // The image and what follows it are one piece: nothing starts between them.
        let taken = [LOW_MEMORY..heap.end, initrd];
        Ok(Self { tables, heap, pool, taken })
    }

    /// Addresses of the pool's frames.
    pub(super) fn pool(&self) -> impl Iterator<Item = u64> + Clone {
        self.pool
            .iter()
            .flat_map(|range| range.clone().step_by(PAGE))
            .filter(|frame| !self.taken.iter().any(|taken| taken.contains(frame)))
    }
}

const fn up(address: u64) -> u64 {
    address.next_multiple_of(PAGE as u64)
}

const fn down(address: u64) -> u64 {
    address & !(PAGE as u64 - 1)
}
