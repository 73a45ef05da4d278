//! Memory of a task's blocks that are not part of its area: cut from a few chunks of its own.
//!
//! ```text
//!  chunk   │ block │ block │ … │ not cut yet │ Head │ ─► next chunk ─► … ─► none
//!          ◄──────────────── room ───────────►
//! ```
//!
//! Small blocks share chunks of [`CHUNK`] bytes, others have one each. So a row of first accesses
//! asks the allocator now and then only, and ends with as few calls. A chunk is freed when its last
//! block is: no more than a chunk per block is ever held.

use core::alloc::Layout;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::error::AccessError;

/// Bytes of a chunk that blocks share, its head included.
const CHUNK: usize = 1024;
/// Its alignment, and the largest of a block in it.
const CHUNK_ALIGN: usize = 64;
/// The largest block in it.
const SMALL: usize = CHUNK / 4;

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
        let start = self.cut.next_multiple_of(block.align());
        let end = start.checked_add(block.size())?;
        if end > self.room || block.align() > self.memory.align() {
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
        let small = block.size() <= SMALL && block.align() <= CHUNK_ALIGN;
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
        block.size() <= head.room && block.align() <= head.memory.align()
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
