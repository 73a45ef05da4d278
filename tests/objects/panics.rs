//! Panics and drops inside a loaded object, and pointers to data in every section.
#![no_std]
#![allow(missing_docs)]

use core::sync::atomic::{AtomicU32, Ordering};

static DROPS: AtomicU32 = AtomicU32::new(0);
static mut SCRATCH: [u32; 16] = [3; 16];
static TABLE: [fn(u32) -> u32; 3] = [double, triple, fail];

struct Counted;

impl Drop for Counted {
    fn drop(&mut self) {
        DROPS.fetch_add(1, Ordering::Relaxed);
    }
}

#[inline(never)]
fn double(x: u32) -> u32 {
    x * 2
}

#[inline(never)]
fn triple(x: u32) -> u32 {
    x * 3
}

#[inline(never)]
fn fail(x: u32) -> u32 {
    let _counted = Counted;
    panic!("object asked to fail with {x}")
}

#[unsafe(no_mangle)]
pub extern "C" fn object_drops() -> u32 {
    DROPS.load(Ordering::Relaxed)
}

/// Calls through a table of pointers; the third entry panics.
#[unsafe(no_mangle)]
pub extern "C-unwind" fn object_call(index: usize, x: u32) -> u32 {
    let _counted = Counted;
    let result = TABLE[index](x);
    core::hint::black_box(result)
}

/// Writes to the object's own data.
#[unsafe(no_mangle)]
pub extern "C" fn object_scratch(index: usize, value: u32) -> u32 {
    // SAFETY: the suites call it from one task at a time.
    let scratch = unsafe { &mut *(&raw mut SCRATCH) };
    core::mem::replace(&mut scratch[index], value)
}
