//! An allocator for code that runs as a made-up task: the C library's keeps its own thread-local
//! variables, which are not there while an area is in the FS base.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::task;

/// What tasks allocate: handed out once, never taken back.
struct Arena {
    bytes: UnsafeCell<[u8; Self::SIZE]>,
    next: AtomicUsize,
}

// SAFETY: `next` gives every byte to one allocation.
unsafe impl Sync for Arena {}

impl Arena {
    const SIZE: usize = 16 << 20;

    fn start(&self) -> *mut u8 {
        self.bytes.get().cast()
    }

    fn has(&self, block: *mut u8) -> bool {
        block.addr().wrapping_sub(self.start().addr()) < Self::SIZE
    }

    fn take(&self, layout: Layout) -> *mut u8 {
        let start = self.start();
        let skip = |next: usize| (start.addr() + next).next_multiple_of(layout.align());
        let after = |next: usize| skip(next) - start.addr() + layout.size();
        let fits = |next: usize| Some(after(next)).filter(|&end| end <= Self::SIZE);
        match self.next.try_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(next) => start.with_addr(skip(next)),
            Err(_) => null_mut(),
        }
    }
}

static ARENA: Arena = Arena { bytes: UnsafeCell::new([0; Arena::SIZE]), next: AtomicUsize::new(0) };

struct Heap;

#[global_allocator]
static HEAP: Heap = Heap;

// SAFETY: the system's allocator does it for the tests' threads, the arena for tasks.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if task::is_running_here() {
            return ARENA.take(layout);
        }
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if !ARENA.has(block) && !task::is_running_here() {
            // SAFETY: the caller's promise; not from the arena, so from the system.
            unsafe { System.dealloc(block, layout) }
        }
    }
}
