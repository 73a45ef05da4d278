//! Resolvers of TLS descriptors: functions that keep every register but `rax`.
//!
//! ```text
//!  lea rax, [rip + descriptor]        rax ─► │ resolver │ argument │
//!  call [rax]                         rax = offset of the variable from TP
//!
//!  static   argument                                             2 instructions
//!  dynamic  argument ─► TlsIndex; vector[module] + offset − TP   15, none of them changes flags
//!           no block yet: save everything, make it
//! ```
//!
//! Code that accesses a variable this way keeps values in all registers, vector registers included,
//! across the call (*RFC: TLS Descriptors for x86*, §3). To make a block, Rust code has to run, so
//! all that it may change is saved first.

use core::arch::{asm, naked_asm};
use core::mem::offset_of;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::DTV;
use crate::abi::TlsIndex;
use crate::access::make_block;

/// The resolver of variables with static space.
pub(crate) fn static_resolver() -> u64 {
    resolve_static as *const () as u64
}

/// The resolver of all variables. Finds out how much state it may have to save.
pub(crate) fn dynamic_resolver() -> u64 {
    STATE.measure();
    resolve_dynamic as *const () as u64
}

/// The argument is the offset.
#[unsafe(naked)]
unsafe extern "C" fn resolve_static() {
    naked_asm!(".cfi_startproc", "mov rax, [rax + 8]", "ret", ".cfi_endproc")
}

/// A resolver whose argument points to a [`TlsIndex`], with its `State` and what makes blocks; tests
/// have others. No comparison with the vector's length is needed, and `jrcxz`, `not` and `lea` leave
/// the flags alone. The fast path lies in one line of the instruction cache: the alignment at the end is
/// that of the function's section.
macro_rules! dynamic_resolver {
    ($name:ident, $state:path, $make_block:path) => {
        #[unsafe(naked)]
        unsafe extern "C" fn $name() {
            naked_asm!(
                ".cfi_startproc",
                "push rcx",
                ".cfi_adjust_cfa_offset 8",
                "push rdx",
                ".cfi_adjust_cfa_offset 8",
                "mov rax, [rax + 8]",
                "mov rcx, [rax + {module}]",
                "mov rdx, fs:[{dtv}]",
                "mov rcx, [rdx + 8 * rcx]",
                "jrcxz 2f",
                "mov rdx, fs:[0]",
                "mov rax, [rax + {offset}]",
                "not rdx",
                "lea rax, [rax + rcx]",
                "lea rax, [rax + rdx + 1]",
                "pop rdx",
                ".cfi_adjust_cfa_offset -8",
                "pop rcx",
                ".cfi_adjust_cfa_offset -8",
                "ret",

                "2:",
                ".cfi_adjust_cfa_offset 16",
                "pushfq",
                ".cfi_adjust_cfa_offset 8",
                "push rbp",
                ".cfi_adjust_cfa_offset 8",
                ".cfi_rel_offset rbp, 0",
                "mov rbp, rsp",
                ".cfi_def_cfa_register rbp",
                "push rsi",
                "push rdi",
                "push r8",
                "push r9",
                "push r10",
                "push r11",
                "mov rdi, rax",
                "sub rsp, [rip + {state} + {size}]",
                "and rsp, -64",
                "mov eax, [rip + {state} + {mask}]",
                "mov edx, [rip + {state} + {mask} + 4]",
                "test eax, eax",
                "jz 3f",

                // XRSTOR wants the header's reserved words to be zero; XSAVE leaves them as they are (SDM
                // vol. 1, §13.7 and §13.8).
                "xor ecx, ecx",
                "mov [rsp + 512], rcx",
                "mov [rsp + 520], rcx",
                "mov [rsp + 528], rcx",
                "mov [rsp + 536], rcx",
                "mov [rsp + 544], rcx",
                "mov [rsp + 552], rcx",
                "mov [rsp + 560], rcx",
                "mov [rsp + 568], rcx",
                "xsave64 [rsp]",
                "call {make_block}",
                "mov rcx, rax",
                "mov eax, [rip + {state} + {mask}]",
                "mov edx, [rip + {state} + {mask} + 4]",
                "xrstor64 [rsp]",
                "mov rax, rcx",
                "jmp 4f",

                "3:",
                "fxsave64 [rsp]",
                "call {make_block}",
                "fxrstor64 [rsp]",

                "4:",
                "sub rax, fs:[0]",
                "lea rsp, [rbp - 48]",
                "pop r11",
                "pop r10",
                "pop r9",
                "pop r8",
                "pop rdi",
                "pop rsi",
                "pop rbp",
                ".cfi_def_cfa rsp, 32",
                ".cfi_same_value rbp",
                "popfq",
                ".cfi_adjust_cfa_offset -8",
                "pop rdx",
                ".cfi_adjust_cfa_offset -8",
                "pop rcx",
                ".cfi_adjust_cfa_offset -8",
                "ret",
                ".cfi_endproc",
                ".p2align 6",
                module = const offset_of!(TlsIndex, module),
                offset = const offset_of!(TlsIndex, offset),
                dtv = const DTV,
                state = sym $state,
                size = const offset_of!(State, size),
                mask = const offset_of!(State, mask),
                make_block = sym $make_block,
            )
        }
    };
}

dynamic_resolver!(resolve_dynamic, STATE, make_block);

/// What of the processor's state Rust code may change, besides general registers.
#[repr(C)]
struct State {
    /// The components to save (bits of XCR0); zero if the system does not use XSAVE, and FXSAVE
    /// has to do.
    mask: AtomicU64,
    /// How many bytes they take.
    size: AtomicUsize,
}

static STATE: State = State { mask: AtomicU64::new(0), size: AtomicUsize::new(FXSAVE) };

/// Bytes that FXSAVE writes, and the first part of what XSAVE does.
const FXSAVE: usize = 512;
/// XSAVE's header.
const HEADER: usize = 64;
/// x87, SSE, AVX, MPX (two), AVX-512 (three), APX: registers of ordinary code. Not protection keys,
/// which are not a register to compute with, nor AMX tiles, which are 8 KiB that only code made
/// for them touches.
const COMPONENTS: u64 = 0xff | 1 << 19;

impl State {
    /// Finds out what this processor has enabled.
    fn measure(&self) {
        let [_, _, features, _] = cpuid(1, 0);
        let osxsave = features & 1 << 27 != 0;
        if !osxsave {
            return;
        }
        let mask = xcr0() & COMPONENTS;
        let own_place = |component: u32| {
            let [size, offset, ..] = cpuid(0xd, component);
            (size + offset) as usize
        };
        let there = (2..64).filter(|component| mask & 1 << component != 0);
        let size = there.map(own_place).max().unwrap_or(0).max(FXSAVE + HEADER);
        // The size first: whoever finds the mask finds room for it.
        self.size.store(size, Ordering::Release);
        self.mask.store(mask, Ordering::Release);
    }
}

/// `eax`, `ebx`, `ecx`, `edx` of a leaf.
fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let (eax, ebx, ecx, edx);
    // SAFETY: Every x86-64 processor has the instruction, and it has no side effect. The compiler
    // keeps `rbx` for itself.
    unsafe {
        asm!(
            "mov {saved}, rbx",
            "cpuid",
            "xchg {saved}, rbx",
            saved = out(reg) ebx,
            inout("eax") leaf => eax,
            inout("ecx") subleaf => ecx,
            out("edx") edx,
            options(nostack, preserves_flags, nomem),
        );
    }
    let ebx: u64 = ebx;
    [eax, ebx as u32, ecx, edx]
}

/// The components of state that the system has enabled.
fn xcr0() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: CPUID says that the system has enabled XSAVE, and the instruction with it.
    unsafe {
        asm!(
            "xgetbv",
            in("ecx") 0,
            out("eax") low,
            out("edx") high,
            options(nostack, preserves_flags, nomem),
        );
    }
    u64::from(high) << 32 | u64::from(low)
}

#[cfg(test)]
mod tests;
