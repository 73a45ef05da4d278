//! Whose thread-local storage is in use.

mod area;

use std::arch::asm;

pub use area::on;

/// Whether the FS base is not that of the C library, which has its own address at 16, too.
pub fn on_an_area() -> bool {
    area::fs_word::<0>() != area::fs_word::<16>()
}

/// Calls through a descriptor as compiled code does, which keeps its values in all registers but
/// `rax`. The offset from TP of what is there.
#[inline(never)]
pub fn through(descriptor: &[u64; 2]) -> u64 {
    let offset;
    // SAFETY: a descriptor of this crate.
    unsafe { asm!("call [rax]", inout("rax") descriptor => offset) };
    offset
}
