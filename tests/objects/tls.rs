//! Thread-local variables in `.tdata` and `.tbss`, with an alignment that is more than a cache
//! line's.
#![no_std]
#![feature(thread_local)]
#![allow(missing_docs)]

use core::cell::Cell;

#[repr(C, align(256))]
pub struct Wide {
    numbers: [Cell<u64>; 40],
}

#[thread_local]
static START: Cell<u64> = Cell::new(0x1122_3344_5566_7788);

#[thread_local]
static WIDE: Wide = Wide { numbers: [const { Cell::new(7) }; 40] };

#[thread_local]
static ZERO: Cell<[u64; 8]> = Cell::new([0; 8]);

#[unsafe(no_mangle)]
pub extern "C" fn tls_start() -> u64 {
    START.get()
}

#[unsafe(no_mangle)]
pub extern "C" fn tls_set_start(value: u64) {
    START.set(value);
}

#[unsafe(no_mangle)]
pub extern "C" fn tls_wide_address() -> usize {
    (&raw const WIDE) as usize
}

#[unsafe(no_mangle)]
pub extern "C" fn tls_wide_sum() -> u64 {
    WIDE.numbers.iter().map(Cell::get).sum()
}

#[unsafe(no_mangle)]
pub extern "C" fn tls_zero_sum() -> u64 {
    ZERO.get().iter().sum()
}
