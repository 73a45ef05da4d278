//! What differs between processors: the thread pointer, and reading the linker's symbols.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::{LinkerSymbols, linker_symbols, thread_pointer};

#[cfg(not(target_arch = "x86_64"))]
compile_error!("unspool-tls supports x86_64 only");
