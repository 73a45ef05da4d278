//! x86-64: TP is the FS base, and the word it points to is TP again (ELF TLS §3.4.6).

use core::arch::{asm, global_asm};

use static_assertions::const_assert_eq;

/// The word at `fs:0`.
#[inline(always)]
pub(crate) fn thread_pointer() -> *mut u8 {
    let tp;
    // SAFETY: The ABI of every target this crate supports keeps TP in the word the FS base points
    // to; any use of a thread-local variable relies on it just as much. The load has no other
    // effect.
    unsafe {
        asm!("mov {}, fs:0", out(reg) tp, options(nostack, preserves_flags, readonly));
    }
    tp
}

/// Values of the linker script's symbols; null or zero where the script has none.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkerSymbols {
    /// `__tdata_start`: the first byte of the TLS image.
    pub(crate) tdata_start: *const u8,
    /// `__tdata_end`: where the bytes in the file end.
    pub(crate) tdata_end: *const u8,
    /// `__tls_end`: where `.tbss` would end if it took space.
    pub(crate) tls_end: *const u8,
    /// `__tls_align`: an absolute symbol, the alignment of the whole.
    pub(crate) tls_align: usize,
}

const_assert_eq!(core::mem::offset_of!(LinkerSymbols, tdata_start), 0);
const_assert_eq!(core::mem::offset_of!(LinkerSymbols, tdata_end), 8);
const_assert_eq!(core::mem::offset_of!(LinkerSymbols, tls_end), 16);
const_assert_eq!(core::mem::offset_of!(LinkerSymbols, tls_align), 24);

// A table, because a weak symbol that is absent has the value zero there without being called
// or taken for non-null by the compiler.
global_asm!(
    ".pushsection .data.rel.ro.unspool_tls, \"aw\", @progbits",
    ".weak __tdata_start",
    ".weak __tdata_end",
    ".weak __tls_end",
    ".weak __tls_align",
    ".globl __unspool_tls_linker_symbols",
    ".hidden __unspool_tls_linker_symbols",
    ".balign 8",
    "__unspool_tls_linker_symbols:",
    ".quad __tdata_start",
    ".quad __tdata_end",
    ".quad __tls_end",
    ".quad __tls_align",
    ".popsection",
);

/// What the linker script defined.
pub(crate) fn linker_symbols() -> LinkerSymbols {
    unsafe extern "C" {
        #[link_name = "__unspool_tls_linker_symbols"]
        static SYMBOLS: LinkerSymbols;
    }
    // SAFETY: The assembly above defines the table with this layout, and nothing writes to it
    // after the program has been loaded.
    unsafe { SYMBOLS }
}
