//! A task's own static as `thread_local!` has it on stable Rust: the very macro, in an object.
#![no_std]
#![allow(missing_docs)]

use core::cell::Cell;

#[path = "../../thread_local_macro/src/arch/x86_64.rs"]
mod slot;

pub mod __private {
    pub use crate::slot::Slot;
    pub use core::hint::assert_unchecked;
}

#[unsafe(no_mangle)]
pub extern "C" fn stable_tls_next() -> u64 {
    let last = __thread_local_static!(Cell<u64>, Cell::new(40));
    // SAFETY: this task's copy.
    let last = unsafe { &*last };
    last.set(last.get() + 1);
    last.get()
}
