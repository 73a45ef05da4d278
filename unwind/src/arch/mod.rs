//! What assembly must do, per architecture: capture registers, land in a frame, catch.

#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "x86_64")]
pub use x86_64::{Body, Left, Word, catch, catch_body, catch_forced, catch_forced_body};
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::{
    ControlWords, catch_forced_personality, catch_pad, copied, is_catch, land, linker_symbols,
    prefetch, room, stop, with_registers,
};

#[cfg(not(target_arch = "x86_64"))]
compile_error!("unspool-unwind supports x86_64 only");
