//! Memory of blocks that are not part of an area.
//!
//! ```text
//!  Block::allocate ─► in a vector ─► unlinked, under the lock ─► Freed ─► freed, without it
//! ```
//!
//! A block on its way out keeps the way to the next one in its own bytes, so that giving back needs
//! no memory and the registry's lock is not held while the allocator works.

use core::alloc::Layout;
use core::ptr::{self, NonNull};

use crate::error::AccessError;

/// What is written into a block that is to be freed.
#[repr(C)]
#[derive(Debug)]
struct Link {
    next: *mut Link,
    memory: Layout,
}

/// The memory of a block of `size` bytes aligned to `align`; `None` if it is out of this world.
pub(crate) fn memory(size: usize, align: usize) -> Option<Layout> {
    let link = Layout::new::<Link>();
    Layout::from_size_align(size.max(link.size()), align.max(link.align())).ok()
}

/// A block that nobody uses yet.
#[derive(Debug)]
pub(crate) struct OwnedBlock {
    start: NonNull<u8>,
    memory: Layout,
}

impl OwnedBlock {
    /// Uninitialised memory, of a layout from [`memory`].
    pub(crate) fn allocate(memory: Layout) -> Result<Self, AccessError> {
        // SAFETY: The size is not zero: a link has room in it.
        let start = NonNull::new(unsafe { alloc::alloc::alloc(memory) });
        let start = start.ok_or(AccessError::out_of_memory(memory))?;
        Ok(Self { start, memory })
    }

    /// The layout it was allocated with.
    pub(crate) fn memory(&self) -> Layout {
        self.memory
    }

    /// Gives it away; it is to be freed through a [`Freed`].
    pub(crate) fn into_raw(self) -> NonNull<u8> {
        let start = self.start;
        core::mem::forget(self);
        start
    }
}

impl Drop for OwnedBlock {
    fn drop(&mut self) {
        // SAFETY: From `allocate`, with this layout; nobody else has it.
        unsafe { alloc::alloc::dealloc(self.start.as_ptr(), self.memory) };
    }
}

/// Blocks that nobody uses any more. Dropping it frees them.
#[derive(Debug)]
pub(crate) struct Freed(*mut Link);

impl Freed {
    /// None.
    pub(crate) const fn new() -> Self {
        Self(ptr::null_mut())
    }

    /// Adds one.
    ///
    /// # Safety
    /// `start` is from [`OwnedBlock::into_raw`] of a block with this layout, and belongs to the
    /// caller alone.
    pub(crate) unsafe fn add(&mut self, start: *mut u8, memory: Layout) {
        let link = start.cast::<Link>();
        // SAFETY: A layout from `memory` has room for a link and its alignment; nobody else uses
        // the bytes (contract).
        unsafe { link.write(Link { next: self.0, memory }) };
        self.0 = link;
    }
}

impl Drop for Freed {
    fn drop(&mut self) {
        while let Some(link) = NonNull::new(self.0) {
            // SAFETY: `add` wrote it, and the block is still the chain's.
            let Link { next, memory } = unsafe { link.read() };
            self.0 = next;
            // SAFETY: From `OwnedBlock::allocate`, with this layout.
            unsafe { alloc::alloc::dealloc(link.as_ptr().cast(), memory) };
        }
    }
}
