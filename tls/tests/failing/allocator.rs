//! The system's allocator, which a test can make fail, and which counts what the test has.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// How many allocations succeed before all others fail.
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
    /// The largest allocation that may succeed, in bytes.
    static LARGEST: Cell<usize> = const { Cell::new(usize::MAX) };
    static FAILED: Cell<bool> = const { Cell::new(false) };
    static BYTES: Cell<isize> = const { Cell::new(0) };
}

struct Failing;

#[global_allocator]
static ALLOCATOR: Failing = Failing;

// SAFETY: The system's allocator does the work; failing now and then is allowed.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > LARGEST.get() {
            return std::ptr::null_mut();
        }
        match LEFT.get() {
            Some(0) => {
                FAILED.set(true);
                return std::ptr::null_mut();
            }
            Some(left) => LEFT.set(Some(left - 1)),
            None => {}
        }
        BYTES.set(BYTES.get() + layout.size() as isize);
        // SAFETY: The contract is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        BYTES.set(BYTES.get() - layout.size() as isize);
        // SAFETY: The contract is the same.
        unsafe { System.dealloc(start, layout) };
    }
}

/// Acts with this thread's `nth` allocation failing and all that follow, and says whether there was
/// one.
pub fn failing<R>(nth: usize, act: impl FnOnce() -> R) -> (R, bool) {
    FAILED.set(false);
    LEFT.set(Some(nth));
    let result = act();
    LEFT.set(None);
    (result, FAILED.get())
}

/// Acts while this thread can allocate no more than `largest` bytes at once.
pub fn no_larger_than<R>(largest: usize, act: impl FnOnce() -> R) -> R {
    LARGEST.set(largest);
    let result = act();
    LARGEST.set(usize::MAX);
    result
}

/// Bytes that this thread has allocated and not given back.
pub fn bytes() -> isize {
    BYTES.get()
}
