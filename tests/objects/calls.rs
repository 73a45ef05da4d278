//! Calls back, and has something to do when a task ends: what unloading must wait for.
#![no_std]
#![feature(thread_local)]
#![allow(missing_docs)]

use core::cell::Cell;
use core::hint::black_box;
use core::ptr::{null_mut, with_exposed_provenance_mut};
use core::sync::atomic::{AtomicU64, Ordering};

unsafe extern "C" {
    fn __cxa_thread_atexit(
        destructor: unsafe extern "C-unwind" fn(*mut u8),
        object: *mut u8,
        dso_handle: *mut u8,
    ) -> i32;
}

static ENDED: AtomicU64 = AtomicU64::new(0);

#[thread_local]
static MARKS: Cell<u64> = Cell::new(100);

/// Calls with a frame of its own around the call, and a value to drop in it.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn calls_back(call: extern "C-unwind" fn(usize), data: usize) -> u64 {
    struct Mark;
    impl Drop for Mark {
        fn drop(&mut self) {
            MARKS.set(MARKS.get() + 1);
        }
    }
    let _mark = Mark;
    call(black_box(data));
    MARKS.get()
}

/// The same with nothing to drop.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn calls_straight(call: extern "C-unwind" fn(usize), data: usize) -> u64 {
    call(black_box(data));
    black_box(1)
}

#[unsafe(no_mangle)]
pub extern "C" fn calls_marks() -> u64 {
    MARKS.get()
}

/// Has the task's marks added to those of ended tasks when it ends.
#[unsafe(no_mangle)]
pub extern "C" fn calls_at_end() -> bool {
    unsafe extern "C-unwind" fn end(marks: *mut u8) {
        // SAFETY: registered below with this task's marks, which are there until it has ended.
        let marks = unsafe { &*marks.cast::<Cell<u64>>() };
        ENDED.fetch_add(marks.get(), Ordering::Relaxed);
    }
    let marks = with_exposed_provenance_mut((&raw const MARKS).expose_provenance());
    // SAFETY: `end` may be called with them once, by this task, when it ends.
    unsafe { __cxa_thread_atexit(end, marks, null_mut()) == 0 }
}

#[unsafe(no_mangle)]
pub extern "C" fn calls_ended() -> u64 {
    ENDED.load(Ordering::Relaxed)
}
