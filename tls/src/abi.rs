//! The names by which compiled code asks for thread-local variables and registers destructors.
//!
//! ```text
//!  general, local dynamic   __tls_get_addr(&TlsIndex)              ─► address
//!  TLSDESC                  descriptor { resolver, argument }      ─► offset from TP, in rax
//!  C++                      __cxa_thread_atexit(f, object, module) ─► the task's destructors
//! ```
//!
//! With the feature `abi`, the functions have these names for the linker, too.

use core::ffi::c_int;

use crate::access::make_block;
use crate::arch;
use crate::destructors::{Destructor, Entry};
use crate::layout::TpOffset;
use crate::task;

/// What `R_X86_64_DTPMOD64` and `R_X86_64_DTPOFF64` make of two words: a variable by its module and
/// its place in the module's block (ELF TLS §3.4.6, `tls_index`).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsIndex {
    /// [`ModuleId::get`](crate::ModuleId::get).
    pub module: usize,
    /// In bytes.
    pub offset: usize,
}

/// The address of the running task's copy of a variable (ELF TLS §3.4.6).
///
/// The first access of a task to a dynamic module makes its block. If there is no memory for that,
/// the handler of [`set_access_failure_handler`](crate::set_access_failure_handler) is called.
///
/// # Safety
/// 1. `index` is valid for reads; its module number is that of a published module of the registry
///    that the running task's area is of.
/// 2. The FS base holds the thread pointer of an [`Area`](crate::Area). In an interrupt handler,
///    the block must have been made.
#[cfg_attr(feature = "abi", unsafe(no_mangle))]
#[unsafe(naked)]
pub unsafe extern "C" fn __tls_get_addr(index: *const TlsIndex) -> *mut u8 {
    arch::tls_get_addr!(make_block)
}

/// Has `destructor` called with `object` when the running task ends, before those that were
/// registered earlier. `dso_handle` stands for the module. Not zero if there is no memory to
/// record it, which the first [`UNALLOCATED_DESTRUCTORS`](crate::UNALLOCATED_DESTRUCTORS) of a task
/// do not need.
///
/// What C++ libraries build `__cxa_thread_atexit` on, and one with Rust's destructors.
///
/// # Safety
/// As [`register_destructor`](crate::register_destructor).
#[cfg_attr(feature = "abi", unsafe(no_mangle))]
pub unsafe extern "C" fn __cxa_thread_atexit_impl(
    destructor: Destructor,
    object: *mut u8,
    dso_handle: *mut u8,
) -> c_int {
    // SAFETY: The contract is the same.
    match unsafe { task::register(&Entry { object, destructor, module: dso_handle }) } {
        Ok(()) => 0,
        Err(_) => -1,
    }
}

/// What C++ compilers call for a `thread_local` object with a destructor (Itanium C++ ABI §3.3.6
/// as extended for threads). The same as [`__cxa_thread_atexit_impl`].
///
/// # Safety
/// As there.
#[cfg_attr(feature = "abi", unsafe(no_mangle))]
pub unsafe extern "C" fn __cxa_thread_atexit(
    destructor: Destructor,
    object: *mut u8,
    dso_handle: *mut u8,
) -> c_int {
    // SAFETY: The contract is the same.
    unsafe { __cxa_thread_atexit_impl(destructor, object, dso_handle) }
}

/// The two words of a TLS descriptor for a variable `symbol` bytes into a block with static space:
/// resolver, argument (*RFC: TLS Descriptors for x86*, Oliva). Code calls the first with the
/// address of both in `rax` and gets an offset from TP there; all other registers, the flags, too,
/// are as before.
pub fn static_descriptor(block: TpOffset, symbol: u64) -> [u64; 2] {
    let offset = i64::from(block.get()).cast_unsigned().wrapping_add(symbol);
    [arch::static_resolver(), offset]
}

/// The same for a variable of any published module. `index` must stay in place for as long as the
/// descriptor is used.
///
/// The resolver keeps the promises that [`__tls_get_addr`] asks for, and keeps all registers. When
/// it has to make a block, it saves the vector registers as XSAVE lays them out, some 3 KiB on a
/// processor with AVX-512. Which there are is found out here, once: enable what tasks may use
/// (`CR4.OSXSAVE`, `XCR0`) before.
pub fn dynamic_descriptor(index: *const TlsIndex) -> [u64; 2] {
    [arch::dynamic_resolver(), index.expose_provenance() as u64]
}
