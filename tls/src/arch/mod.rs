//! What differs between processors: the thread pointer and what hangs off it, descriptors, fast
//! copies, and reading the linker's symbols.

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::{
    DTV, LinkerSymbols, copy_words, dynamic_resolver, linker_symbols, static_resolver,
    thread_pointer, tls_get_addr,
};

#[cfg(not(target_arch = "x86_64"))]
compile_error!("unspool-tls supports x86_64 only");
