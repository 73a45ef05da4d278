//! Counts what is allocated, while somebody wants to know.
//!
//! ```text
//!   allocate ─► System ─► size, if counting ─► now, and the most so far
//! ```

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering};

/// The system's allocator; otherwise as fast as that, but for a load.
struct Counting {
    is_counting: AtomicBool,
    /// Bytes since counting began; below zero if older memory was freed.
    now: AtomicIsize,
    most: AtomicIsize,
}

#[global_allocator]
static HEAP: Counting = Counting {
    is_counting: AtomicBool::new(false),
    now: AtomicIsize::new(0),
    most: AtomicIsize::new(0),
};

impl Counting {
    fn count(&self, bytes: isize) {
        if self.is_counting.load(Ordering::Relaxed) {
            let now = self.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
            self.most.fetch_max(now, Ordering::Relaxed);
        }
    }
}

// SAFETY: all is handed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.count(layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        self.count(-(layout.size() as isize));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Where it moves, both are there for a while.
        self.count(size as isize);
        self.count(-(layout.size() as isize));
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// What `act` gives, and the most bytes that were allocated at any time meanwhile, of all threads.
pub fn peak_of<T>(act: impl FnOnce() -> T) -> (T, usize) {
    HEAP.now.store(0, Ordering::Relaxed);
    HEAP.most.store(0, Ordering::Relaxed);
    HEAP.is_counting.store(true, Ordering::Relaxed);
    let value = act();
    HEAP.is_counting.store(false, Ordering::Relaxed);
    (value, HEAP.most.load(Ordering::Relaxed).unsigned_abs())
}
