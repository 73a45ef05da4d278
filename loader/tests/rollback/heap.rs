//! Counts what a thread has on the heap, and lets its allocations fail.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static HEAP: Counting = Counting;

std::thread_local! {
    static BYTES: Cell<isize> = const { Cell::new(0) };
    /// How many allocations are still granted, if they are counted.
    static GRANTED: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Bytes that this thread has allocated more than it has freed.
pub fn used() -> isize {
    BYTES.get()
}

/// What `run` returns when only so many of this thread's allocations are granted.
pub fn with_allocations<R>(granted: usize, run: impl FnOnce() -> R) -> R {
    GRANTED.set(Some(granted));
    let result = run();
    GRANTED.set(None);
    result
}

/// What `run` returns; its allocations are granted, and not counted.
pub fn exempt<R>(run: impl FnOnce() -> R) -> R {
    let granted = GRANTED.take();
    let result = run();
    GRANTED.set(granted);
    result
}

fn is_granted() -> bool {
    let granted = GRANTED.try_with(Cell::get).unwrap_or(None);
    let Some(left) = granted else { return true };
    GRANTED.set(Some(left.saturating_sub(1)));
    left > 0
}

fn count(bytes: isize) {
    // A thread that ends frees things when this is gone.
    let _ = BYTES.try_with(|used| used.set(used.get() + bytes));
}

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !is_granted() {
            return core::ptr::null_mut();
        }
        count(layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }
}
