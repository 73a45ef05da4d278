//! What depends on the processor: a task's own static without the compiler's help.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(not(target_arch = "x86_64"))]
compile_error!("without the feature `nightly`, only x86_64 is supported");

pub use x86_64::Slot;
