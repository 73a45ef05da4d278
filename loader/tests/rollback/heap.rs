//! Counts what a thread has on the heap.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static HEAP: Counting = Counting;

std::thread_local! {
    static BYTES: Cell<isize> = const { Cell::new(0) };
    /// How many allocations succeed until one fails, or all do.
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
    static ALL: Cell<bool> = const { Cell::new(false) };
}

/// What `run` returns when its allocation number `failing`, counted from 0, fails; and whether it
/// came to that.
pub fn failing_at<R>(failing: usize, run: impl FnOnce() -> R) -> (R, bool) {
    LEFT.set(Some(failing));
    let result = run();
    (result, LEFT.take().is_none())
}

/// What `run` returns when all its allocations fail.
pub fn failing_always<R>(run: impl FnOnce() -> R) -> R {
    ALL.set(true);
    let result = run();
    ALL.set(false);
    result
}

/// What `run` returns, whose allocations are not counted and do not fail: it is the test's own.
pub fn untouched<R>(run: impl FnOnce() -> R) -> R {
    let (left, all) = (LEFT.take(), ALL.replace(false));
    let result = run();
    LEFT.set(left);
    ALL.set(all);
    result
}

/// Whether the allocation that is asked for is to fail.
fn fails() -> bool {
    let countdown = || match LEFT.get() {
        Some(0) => {
            LEFT.set(None);
            true
        }
        left => {
            LEFT.set(left.map(|left| left - 1));
            false
        }
    };
    // A thread that ends allocates when these are gone.
    ALL.try_with(Cell::get).unwrap_or(false) || LEFT.try_with(|_| countdown()).unwrap_or(false)
}

/// Bytes that this thread has allocated more than it has freed.
pub fn used() -> isize {
    BYTES.get()
}

fn count(bytes: isize) {
    // A thread that ends frees things when this is gone.
    let _ = BYTES.try_with(|used| used.set(used.get() + bytes));
}

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if fails() {
            return std::ptr::null_mut();
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
