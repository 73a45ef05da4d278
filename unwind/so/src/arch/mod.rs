//! What must be assembly: registers, system calls, weak and versioned symbols.

#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::{
    FindObject, cpp_personality, dl_find_object, libc_stack_end, proven, readable, set_proven,
    thread_pointer,
};

#[cfg(not(target_arch = "x86_64"))]
compile_error!("unspool-unwind-so supports x86_64 only");
