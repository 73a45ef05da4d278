//! The image that new areas start with: all published blocks, as they lie in an area.
//!
//! ```text
//!  area   │ free │ block │ free │ block │ block │ kernel block │ TCB │
//!  image  │ …    │ tdata │ …    │ tdata │ tdata │
//!                ◄────── used ──────────────────
//! ```
//!
//! One copy initialises all of an area's blocks, however many there are. The image is changed in
//! place, a word at a time, while others copy it: what they get of the block that is just being
//! written is of no use, and whoever copied it is told so or has the block filled by the writer
//! (`ready`).

use core::alloc::Layout;
use core::ops::Range;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use crate::arch;
use crate::area::AreaRef;
use crate::error::OutOfMemory;
use crate::layout::Block;

/// Lines of the image coincide with those of an area, so that none is copied in two halves.
const LINE: usize = 64;
const WORD: usize = size_of::<u64>();

/// The image. The registry's lock is held by whoever changes it; anyone may copy it.
#[derive(Debug)]
pub(crate) struct Image {
    /// The distances it covers: the surplus, widened to whole lines.
    range: Range<usize>,
    /// The first word is the one furthest from TP. Null until there is something to keep.
    words: AtomicPtr<AtomicU64>,
    /// Distance of the furthest published byte; zero while nothing is published.
    used: AtomicUsize,
}

impl Image {
    /// Of an area whose later modules lie at these distances. Takes no memory yet.
    pub(crate) const fn new(surplus: Range<usize>) -> Self {
        let near = surplus.start / LINE * LINE;
        let far = surplus.end.next_multiple_of(LINE);
        Self { range: near..far, words: AtomicPtr::new(ptr::null_mut()), used: AtomicUsize::new(0) }
    }

    fn layout(&self) -> Option<Layout> {
        Layout::from_size_align(self.range.len(), LINE).ok()
    }

    /// Makes room for blocks, once and for all. Needs no lock.
    pub(crate) fn prepare(&self) -> Result<(), OutOfMemory> {
        if self.range.is_empty() || !self.words.load(Ordering::Acquire).is_null() {
            return Ok(());
        }
        let layout = self.layout().ok_or(OutOfMemory)?;
        // SAFETY: The range is not empty.
        let start = unsafe { alloc::alloc::alloc_zeroed(layout) };
        if start.is_null() {
            return Err(OutOfMemory);
        }
        let none = ptr::null_mut();
        let installed =
            self.words.compare_exchange(none, start.cast(), Ordering::AcqRel, Ordering::Relaxed);
        if installed.is_err() {
            // SAFETY: Just allocated with this layout; somebody else's is in place.
            unsafe { alloc::alloc::dealloc(start, layout) };
        }
        Ok(())
    }

    /// All words, the furthest first.
    fn words(&self) -> &[AtomicU64] {
        match NonNull::new(self.words.load(Ordering::Acquire)) {
            // SAFETY: `prepare` allocated this many, initialised, and they stay.
            Some(words) => unsafe {
                core::slice::from_raw_parts(words.as_ptr(), self.range.len() / WORD)
            },
            None => &[],
        }
    }

    /// Has areas start with `tdata` and zeroes after it at `block`, which is in the surplus.
    pub(crate) fn write(&self, block: Block, tdata: &[u8]) {
        let start = self.range.end - block.distance;
        let words = self.words();
        let mut done = 0;
        while done < block.size {
            let (Some(word), place) = (words.get((start + done) / WORD), (start + done) % WORD)
            else {
                return;
            };
            let count = (WORD - place).min(block.size - done);
            let tdata = tdata.get(done..).unwrap_or_default();
            let (tdata, _) = tdata.split_at(count.min(tdata.len()));
            // Neighbours may share the word.
            let mut value = word.load(Ordering::Relaxed).to_le_bytes();
            value[place..place + count].fill(0);
            value[place..place + tdata.len()].copy_from_slice(tdata);
            word.store(u64::from_le_bytes(value), Ordering::Relaxed);
            done += count;
        }
    }

    /// How far the published blocks reach.
    pub(crate) fn set_used(&self, distance: usize) {
        self.used.store(distance, Ordering::Release);
    }

    /// Copies all published blocks into an area.
    ///
    /// May write a line's worth of bytes on either side of them.
    ///
    /// # Safety
    /// The area is of the image's registry, and nobody else uses its blocks meanwhile.
    #[inline]
    pub(crate) unsafe fn copy_to(&self, area: AreaRef<'_>) {
        let used = self.used.load(Ordering::Acquire).next_multiple_of(LINE);
        if used == 0 {
            return;
        }
        let words = self.words();
        // No more than there is, should an image without blocks be in use.
        let words = words.get((self.range.end - used) / WORD..).unwrap_or_default();
        // SAFETY:
        // 1. The lines of the image lie in the area: those of the surplus, widened by less than
        //    the alignment of TP, which is a page.
        // 2. Nobody else uses them (contract).
        unsafe { arch::copy_words(area.below(used).cast(), words) };
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let (start, layout) = (*self.words.get_mut(), self.layout());
        let (false, Some(layout)) = (start.is_null(), layout) else { return };
        // SAFETY: From `prepare`, with this layout.
        unsafe { alloc::alloc::dealloc(start.cast(), layout) };
    }
}
