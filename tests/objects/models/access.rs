//! Thread-local variables of every kind, as `access.c`; how they are reached is up to the
//! compiler's flags.
#![no_std]
#![feature(thread_local)]
#![allow(missing_docs)]

use core::cell::Cell;

#[repr(C, align(128))]
struct Wide([Cell<i8>; 200]);

#[thread_local]
static START: Cell<i64> = Cell::new(0x1122_3344_5566_7788);
#[thread_local]
static ZERO: Cell<i64> = Cell::new(0);
#[thread_local]
#[unsafe(no_mangle)]
static shared_by_name: Cell<i32> = Cell::new(40);
#[thread_local]
static WIDE: Wide = Wide([const { Cell::new(5) }; 200]);

#[unsafe(no_mangle)]
pub extern "C" fn access_start() -> i64 {
    START.get()
}

#[unsafe(no_mangle)]
pub extern "C" fn access_set_start(value: i64) {
    START.set(value);
}

#[unsafe(no_mangle)]
pub extern "C" fn access_zero_sum() -> i64 {
    ZERO.replace(9)
}

#[unsafe(no_mangle)]
pub extern "C" fn access_shared(by: i32) -> i32 {
    shared_by_name.set(shared_by_name.get().wrapping_add(by));
    shared_by_name.get()
}

#[unsafe(no_mangle)]
pub extern "C" fn access_wide_address() -> usize {
    (&raw const WIDE).addr()
}

#[unsafe(no_mangle)]
pub extern "C" fn access_wide_first() -> i32 {
    i32::from(WIDE.0[0].get())
}
