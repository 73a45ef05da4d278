//! Memory of a task's blocks without static space: room in its area for the first, then a few chunks.
//!
//! ```text
//!  area    │ … │ Tcb … │ block │ block │ room │
//!
//!  chunk   │ block │ block │ … │ not cut yet │ Head │ ─► next chunk ─► … ─► none
//!          ◄──────────────── room ───────────►
//! ```
//!
//! Small blocks share chunks of [`CHUNK`] bytes, others have one each. So a row of first accesses
//! asks the allocator now and then only, and ends with as few calls. A chunk is freed when its last
//! block is: no more than a chunk per block is ever held.

use core::alloc::Layout;
use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use crate::error::AccessError;

/// Bytes of a chunk that blocks share, its head included: a KiB with what allocators add.
const CHUNK: usize = 1024 - 32;
/// Its alignment, which every allocator gives without ado.
const CHUNK_ALIGN: usize = 16;
/// The largest block in it.
const SMALL: usize = 256;
/// The largest alignment of one.
const SMALL_ALIGN: usize = 64;

/// What a chunk ends with. The registry's lock guards it.
#[derive(Debug)]
struct Head {
    next: *mut Head,
    /// Where the chunk starts.
    start: *mut u8,
    /// Bytes before the head.
    room: usize,
    /// Bytes that were cut off the room.
    cut: usize,
    /// How many blocks are in use.
    blocks: usize,
    memory: Layout,
}

impl Head {
    /// A piece of the room, if it is large enough.
    #[inline]
    fn cut(&mut self, block: Layout) -> Option<NonNull<u8>> {
        let free = self.start.addr().wrapping_add(self.cut);
        let start = self.cut.checked_add(free.wrapping_neg() & (block.align() - 1))?;
        let end = start.checked_add(block.size())?;
        if end > self.room {
            return None;
        }
        self.cut = end;
        self.blocks += 1;
        NonNull::new(self.start.wrapping_add(start))
    }

    fn contains(&self, block: *mut u8) -> bool {
        (self.start..self.start.wrapping_add(self.room)).contains(&block)
    }

    /// Whether blocks share the chunk.
    fn is_shared(&self) -> bool {
        self.memory.size() == CHUNK
    }
}

/// The layout of a chunk, and where its head is.
fn chunk(room: usize, align: usize) -> Option<(Layout, usize)> {
    let (chunk, head) =
        Layout::from_size_align(room, align).ok()?.extend(Layout::new::<Head>()).ok()?;
    Some((chunk.pad_to_align(), head))
}

/// The memory of a block of `size` bytes aligned to `align`; `None` if it is out of this world.
pub(crate) fn memory(size: usize, align: usize) -> Option<Layout> {
    // A block without bytes has an address of its own, too.
    let (size, align) = (size.max(1), align.max(align_of::<Head>()));
    chunk(size, align)?;
    Layout::from_size_align(size, align).ok()
}

/// A chunk that nobody uses yet.
#[derive(Debug)]
pub(crate) struct Chunk(NonNull<Head>);

// SAFETY: Memory from the global allocator, owned by the value.
unsafe impl Send for Chunk {}

impl Chunk {
    /// A chunk with room for `block`, and for others if it is small and there is memory.
    pub(crate) fn allocate(block: Layout) -> Result<Self, AccessError> {
        let small = block.size() <= SMALL && block.align() <= SMALL_ALIGN;
        let shared = small.then(|| Self::new(CHUNK - size_of::<Head>(), CHUNK_ALIGN)).flatten();
        shared
            .or_else(|| Self::new(block.size(), block.align()))
            .ok_or(AccessError::out_of_memory(block))
    }

    fn new(room: usize, align: usize) -> Option<Self> {
        let (memory, head) = chunk(room, align)?;
        // SAFETY: Not of size zero: the head is part of it.
        let start = unsafe { alloc::alloc::alloc(memory) };
        if start.is_null() {
            return None;
        }
        // SAFETY: The layout has the head there.
        let head = NonNull::new(unsafe { start.add(head) }.cast::<Head>())?;
        let initial = Head { next: ptr::null_mut(), start, room, cut: 0, blocks: 0, memory };
        // SAFETY: Inside the new memory, aligned for it.
        unsafe { head.write(initial) };
        Some(Self(head))
    }

    /// Whether it has room for `block`.
    pub(crate) fn fits(&self, block: Layout) -> bool {
        // SAFETY: The value owns it.
        let head = unsafe { self.0.as_ref() };
        let skipped = head.start.addr().wrapping_neg() & (block.align() - 1);
        skipped.checked_add(block.size()).is_some_and(|needed| needed <= head.room)
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        // SAFETY: The value owns it.
        let &Head { start, memory, .. } = unsafe { self.0.as_ref() };
        // SAFETY: From `new`, with this layout; nobody else has it.
        unsafe { alloc::alloc::dealloc(start, memory) };
    }
}

/// Bytes of the room that every area has for its first small blocks.
const FIRST_ROOM: usize = 256;

/// Room for the first small blocks of a task, which need no memory but the area's. It is cut anew
/// when the last of them is given up. The registry's lock guards it.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct FirstBlocks {
    room: UnsafeCell<[MaybeUninit<u8>; FIRST_ROOM]>,
    /// Bytes that were cut off the room.
    cut: AtomicUsize,
    /// How many blocks are in use.
    blocks: AtomicUsize,
}

impl FirstBlocks {
    /// All room, no blocks.
    pub(crate) const fn new() -> Self {
        let room = UnsafeCell::new([MaybeUninit::uninit(); FIRST_ROOM]);
        Self { room, cut: AtomicUsize::new(0), blocks: AtomicUsize::new(0) }
    }

    /// Memory for a block, if there is any left.
    #[inline]
    pub(crate) fn cut(&self, block: Layout) -> Option<NonNull<u8>> {
        if block.align() > align_of::<Self>() {
            return None;
        }
        let start = self.cut.load(Ordering::Relaxed).next_multiple_of(block.align());
        let end = start.checked_add(block.size()).filter(|end| *end <= FIRST_ROOM)?;
        self.cut.store(end, Ordering::Relaxed);
        self.blocks.store(self.blocks.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        NonNull::new(self.room.get().cast::<u8>().wrapping_add(start))
    }

    /// Takes a block back if it is one of these, and says whether it is.
    pub(crate) fn give_up(&self, block: *mut u8) -> bool {
        let room = self.room.get().cast::<u8>();
        if !(room..room.wrapping_add(FIRST_ROOM)).contains(&block) {
            return false;
        }
        match self.blocks.load(Ordering::Relaxed) {
            0 | 1 => self.clear(),
            blocks => self.blocks.store(blocks - 1, Ordering::Relaxed),
        }
        true
    }

    /// Takes all blocks back.
    pub(crate) fn clear(&self) {
        self.cut.store(0, Ordering::Relaxed);
        self.blocks.store(0, Ordering::Relaxed);
    }
}

/// Chunks that are linked by their heads. Dropping it frees them.
#[derive(Debug)]
pub(crate) struct Blocks {
    /// If blocks share any of them, the first is the one to cut from.
    first: AtomicPtr<Head>,
}

impl Blocks {
    /// None.
    pub(crate) const fn new() -> Self {
        Self { first: AtomicPtr::new(ptr::null_mut()) }
    }

    /// Memory for a block, if there is any left in the first chunk.
    ///
    /// # Safety
    /// Nobody else uses the chunks meanwhile.
    #[inline]
    pub(crate) unsafe fn cut(&self, block: Layout) -> Option<NonNull<u8>> {
        let mut first = NonNull::new(self.first.load(Ordering::Relaxed))?;
        // SAFETY: In place, and unused by others (contract).
        unsafe { first.as_mut() }.cut(block)
    }

    /// Memory for a block from a new chunk, which has room for it.
    ///
    /// # Safety
    /// As [`cut`](Self::cut).
    pub(crate) unsafe fn cut_new(&self, chunk: Chunk, block: Layout) -> Option<NonNull<u8>> {
        let mut new = chunk.0;
        // SAFETY: The caller's.
        let head = unsafe { new.as_mut() };
        let cut = head.cut(block)?;
        let first = self.first.load(Ordering::Relaxed);
        match NonNull::new(first).filter(|_| !head.is_shared()) {
            // There may be something to cut from the first one yet.
            Some(mut first) => {
                // SAFETY: In place, and unused by others (contract).
                let first = unsafe { first.as_mut() };
                head.next = first.next;
                first.next = new.as_ptr();
            }
            None => {
                head.next = first;
                self.first.store(new.as_ptr(), Ordering::Relaxed);
            }
        }
        core::mem::forget(chunk);
        Some(cut)
    }

    /// Gives up a block. If it was the last of its chunk, that goes to `freed`.
    ///
    /// # Safety
    /// As [`cut`](Self::cut); and nobody uses the block any more.
    pub(crate) unsafe fn give_up(&self, block: *mut u8, freed: &Self) {
        let mut link = self.first.as_ptr();
        // SAFETY: The list's own word, then the words of chunks in place, unused by others (contract).
        while let Some(mut at) = NonNull::new(unsafe { link.read() }) {
            // SAFETY: As above.
            let head = unsafe { at.as_mut() };
            if !head.contains(block) {
                link = &raw mut head.next;
                continue;
            }
            head.blocks -= 1;
            if head.blocks == 0 {
                // SAFETY: The link that was just read.
                unsafe { link.write(head.next) };
                head.next = freed.first.load(Ordering::Relaxed);
                freed.first.store(at.as_ptr(), Ordering::Relaxed);
            }
            return;
        }
    }

    /// Gives up all blocks, and frees their memory but for a chunk that the next task can use.
    ///
    /// # Safety
    /// As [`cut`](Self::cut); and nobody uses the blocks any more.
    pub(crate) unsafe fn clear(&self) {
        let Some(mut first) = NonNull::new(self.first.load(Ordering::Relaxed)) else { return };
        // SAFETY: In place, and unused by others (contract).
        let head = unsafe { first.as_mut() };
        if !head.is_shared() {
            drop(Self {
                first: AtomicPtr::new(self.first.swap(ptr::null_mut(), Ordering::Relaxed)),
            });
            return;
        }
        let others = core::mem::replace(&mut head.next, ptr::null_mut());
        (head.cut, head.blocks) = (0, 0);
        drop(Self { first: AtomicPtr::new(others) });
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        while let Some(chunk) = NonNull::new(*self.first.get_mut()) {
            // SAFETY: In place until the end of the round.
            *self.first.get_mut() = unsafe { chunk.as_ref() }.next;
            drop(Chunk(chunk));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// Cuts a block as the registry does.
    fn block(blocks: &Blocks, size: usize, align: usize) -> (*mut u8, Layout) {
        let memory = memory(size, align).unwrap();
        // SAFETY: The test has one thread.
        let cut = unsafe { blocks.cut(memory) }.or_else(|| {
            let chunk = Chunk::allocate(memory).unwrap();
            assert!(chunk.fits(memory));
            // SAFETY: As above.
            unsafe { blocks.cut_new(chunk, memory) }
        });
        (cut.unwrap().as_ptr(), memory)
    }

    fn give_up(blocks: &Blocks, start: *mut u8) {
        let freed = Blocks::new();
        // SAFETY: The test has one thread, and does not use the block any more.
        unsafe { blocks.give_up(start, &freed) };
    }

    fn chunks(blocks: &Blocks) -> usize {
        let mut count = 0;
        let mut next = blocks.first.load(Ordering::Relaxed);
        while let Some(head) = NonNull::new(next) {
            // SAFETY: In place; the test has one thread.
            next = unsafe { head.as_ref() }.next;
            count += 1;
        }
        count
    }

    #[test]
    fn small_blocks_share_a_chunk_until_the_last_is_given_up() {
        let blocks = Blocks::new();
        let all = [(); 14].map(|()| block(&blocks, 64, 8).0);
        assert_eq!(chunks(&blocks), 1);
        let large = block(&blocks, 5000, 4096).0;
        assert_eq!((chunks(&blocks), large.addr() % 4096), (2, 0));
        give_up(&blocks, large);
        for (given_up, start) in all.into_iter().enumerate() {
            assert_eq!(chunks(&blocks), 1, "{given_up} given up");
            give_up(&blocks, start);
        }
        assert_eq!(chunks(&blocks), 0);
    }

    #[test]
    fn the_first_small_blocks_need_no_memory() {
        let first = FirstBlocks::new();
        let cut = |size, align| first.cut(memory(size, align).unwrap());
        let blocks = [cut(100, 8), cut(1, 64), cut(120, 8)].map(|block| block.unwrap().as_ptr());
        let starts = blocks.map(|block| block.addr() - first.room.get().addr());
        assert_eq!(starts, [0, 128, 136]);
        assert_eq!((cut(8, 8), cut(1, 128)), (None, None));
        let outside = blocks[0].wrapping_add(FIRST_ROOM);
        assert_eq!(blocks.map(|block| first.give_up(block)), [true; 3]);
        assert!(!first.give_up(outside));
        assert_eq!(cut(FIRST_ROOM, 64).map(NonNull::as_ptr), Some(blocks[0]));
    }

    #[test]
    fn the_next_task_gets_a_chunk_if_blocks_share_it() {
        let blocks = Blocks::new();
        block(&blocks, 5000, 8);
        // SAFETY: The test has one thread, and does not use the blocks.
        unsafe { blocks.clear() };
        assert_eq!(chunks(&blocks), 0);
        let (first, _) = block(&blocks, 64, 64);
        for _ in 0..30 {
            block(&blocks, 100, 8);
        }
        // SAFETY: As above.
        unsafe { blocks.clear() };
        assert_eq!(chunks(&blocks), 1);
        assert_eq!(first.addr() % 64, 0);
        block(&blocks, 200, 8);
        assert_eq!(chunks(&blocks), 1);
    }

    #[test]
    fn what_no_address_space_holds_has_no_layout() {
        assert_eq!(memory(isize::MAX as usize, 8), None);
        assert_eq!(memory(8, 1 << 63), None);
        assert_eq!(memory(0, 1), Layout::from_size_align(1, 8).ok());
    }

    proptest! {
        #[test]
        fn blocks_are_aligned_and_apart_and_no_more_chunks_than_blocks_are_held(
            steps in prop::collection::vec((0usize..600, 0u32..9, any::<usize>(), any::<bool>()), 0..80),
        ) {
            let blocks = Blocks::new();
            let mut held: Vec<(*mut u8, Layout)> = Vec::new();
            for (size, log, index, goes) in steps {
                if goes && !held.is_empty() {
                    let (start, _) = held.swap_remove(index % held.len());
                    give_up(&blocks, start);
                } else {
                    let (start, memory) = block(&blocks, size, 1 << log);
                    prop_assert_eq!(start.addr() % memory.align(), 0);
                    // SAFETY: The block's memory.
                    unsafe { start.write_bytes(0x5a, memory.size()) };
                    let end = start.addr() + memory.size();
                    for (other, memory) in &held {
                        let other = other.addr();
                        prop_assert!(end <= other || other + memory.size() <= start.addr());
                    }
                    held.push((start, memory));
                }
                prop_assert!(chunks(&blocks) <= held.len());
            }
        }
    }
}
