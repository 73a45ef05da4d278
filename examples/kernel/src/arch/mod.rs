//! What depends on the instruction set, and the two machines it runs on.

#[cfg(not(target_arch = "x86_64"))]
compile_error!("this kernel runs on x86_64");

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::*;
