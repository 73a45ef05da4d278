//! The global allocator: one region, first fit, behind a spin lock.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;

use linked_list_allocator::Heap;

use crate::lock::Lock;

/// Bytes of the heap.
pub(crate) const SIZE: usize = 64 << 20;

static HEAP: Lock<Heap> = Lock::new(Heap::empty());

struct KernelHeap;

#[global_allocator]
static ALLOCATOR: KernelHeap = KernelHeap;

/// Gives the heap its memory. Until then nothing can be allocated.
///
/// # Safety
///
/// To be called once; `start` points to [`SIZE`] bytes that are writable, aligned to a page, and
/// the heap's alone forever.
pub(crate) unsafe fn init(start: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe { HEAP.lock().init(start, SIZE) };
}

/// Whether this CPU was in the middle of an allocation.
pub(crate) fn is_held_here() -> bool {
    HEAP.is_held_here()
}

/// Bytes that are allocated.
pub fn used() -> usize {
    HEAP.lock().used()
}

// SAFETY: `Heap` hands out disjoint, suitably aligned pieces of its memory, and does not unwind;
// the lock keeps changes apart.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HEAP.lock().allocate_first_fit(layout).map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let Some(pointer) = NonNull::new(pointer) else { return };
        // SAFETY: the caller got the pointer from `alloc` with the same layout.
        unsafe { HEAP.lock().deallocate(pointer, layout) };
    }
}
