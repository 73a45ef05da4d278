//! x86-64: TP is the FS base, and the word it points to is TP again (ELF TLS §3.4.6).

mod descriptor;

use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicU64, Ordering};

use static_assertions::const_assert_eq;

pub(crate) use descriptor::{dynamic_resolver, static_resolver};

/// Where the dynamic thread vector's address lies, in bytes above TP (ELF TLS §3.4.6 has it in the
/// TCB; the place is glibc's and musl's, too).
pub(crate) const DTV: usize = 8;

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

/// The body of `__tls_get_addr`, all of it in half a line of the instruction cache: the alignment at
/// the end is that of the function's section. Entries are addresses, and every vector has one for
/// every module, so seven instructions do; `$make_block` gets the same argument.
macro_rules! tls_get_addr {
    ($make_block:path) => {
        core::arch::naked_asm!(
            ".cfi_startproc",
            "mov rax, [rdi + {module}]",
            "mov rdx, fs:[{dtv}]",
            "mov rax, [rdx + 8 * rax]",
            "test rax, rax",
            "jz 2f",
            "add rax, [rdi + {offset}]",
            "ret",
            "2:",
            "jmp {make_block}",
            ".cfi_endproc",
            ".p2align 5",
            module = const core::mem::offset_of!($crate::abi::TlsIndex, module),
            offset = const core::mem::offset_of!($crate::abi::TlsIndex, offset),
            dtv = const $crate::arch::DTV,
            make_block = sym $make_block,
        )
    };
}
pub(crate) use tls_get_addr;

/// How many words are copied by instructions of their own; more are left to the string unit, which
/// takes a while to start.
const FEW_WORDS: usize = 96;

/// Copies words that others may be changing: each is some value that it had.
///
/// # Safety
/// `to` is valid for writes of that many words, which nobody else uses.
#[inline]
pub(crate) unsafe fn copy_words(to: *mut u64, from: &[AtomicU64]) {
    if from.len() > FEW_WORDS {
        // SAFETY:
        // 1. Reads `from`, writes as many words at `to`.
        // 2. The processor reads each word in one piece at most as old as the instruction's start,
        //    as atomic loads do.
        unsafe {
            asm!(
                "rep movsq",
                inout("rcx") from.len() => _,
                inout("rsi") from.as_ptr() => _,
                inout("rdi") to => _,
                options(nostack, preserves_flags),
            );
        }
        return;
    }
    let (lines, rest) = from.as_chunks::<8>();
    for (index, line) in lines.iter().enumerate() {
        let words: [u64; 8] = core::array::from_fn(|n| line[n].load(Ordering::Relaxed));
        // SAFETY: Inside what `to` is valid for.
        unsafe { to.add(index * 8).cast::<[u64; 8]>().write(words) };
    }
    for (word, index) in rest.iter().zip(lines.len() * 8..) {
        // SAFETY: As above.
        unsafe { to.add(index).write(word.load(Ordering::Relaxed)) };
    }
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
