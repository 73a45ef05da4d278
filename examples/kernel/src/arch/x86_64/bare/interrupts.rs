//! From a CPU exception to Rust and back.
//!
//! ```text
//!   interrupt stack, from its top down
//!   │ ss rsp rflags cs rip │ error │ vector │ gpr[16] │ x87 and SSE state │ ◄ rsp, &mut TrapFrame
//!     pushed by the CPU      or 0    stub     common     common
//! ```
//!
//! Nothing of the interrupted code is lost: it can be resumed exactly, walked through (the
//! stubs' unwind tables describe each step), or continued elsewhere.

use core::arch::{asm, global_asm, naked_asm};
use core::fmt::Write;
use core::mem::offset_of;

use static_assertions::const_assert_eq;
use x86_64::instructions::tlb;
use x86_64::registers::control::Cr2;
use x86_64::structures::idt::PageFaultErrorCode;

use super::{apic, descriptors};
use crate::arch::x86_64::cpu_state::{CpuState, GPRS, RSP};
use crate::arch::x86_64::{per_cpu, preempt};
use crate::console::Console;
use crate::cpu::{self, Request};
use crate::fault::{self, FaultKind, PageAccess};
use crate::nmi;
use crate::profile;
use crate::walk;

/// How many interrupt vectors there are.
pub(super) const VECTORS: usize = 256;

/// Exceptions for which the CPU pushes an error code (Intel SDM volume 3, table 6-1).
const WITH_ERROR_CODE: u32 = {
    let vectors = [8, 10, 11, 12, 13, 14, 17, 21, 29, 30];
    let (mut set, mut index) = (0, 0);
    while index < vectors.len() {
        set |= 1 << vectors[index];
        index += 1;
    }
    set
};

/// Bytes between the stubs.
const STUB: usize = 16;

/// Everything about interrupted code, as the stubs leave it on the interrupt stack.
#[repr(C, align(16))]
struct TrapFrame {
    /// As `fxsave64` has it.
    fx: [u8; 512],
    /// By DWARF number; the place of `rsp` is not filled in.
    gpr: [u64; GPRS],
    free: u64,
    vector: u64,
    error: u64,
    cpu: CpuFrame,
}

/// What the CPU pushes (Intel SDM volume 3, §6.14.2).
#[repr(C)]
struct CpuFrame {
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// What the common part of the stubs adds.
const SAVED: usize = offset_of!(TrapFrame, vector);
/// Up to the top of the interrupt stack, which is the CFA in all of this.
const WHOLE: usize = size_of::<TrapFrame>();

// `fxsave64` and the ABI want multiples of 16, and the CPU starts at one.
const_assert_eq!(offset_of!(TrapFrame, fx) % 16, 0);
const_assert_eq!(WHOLE, offset_of!(TrapFrame, cpu) + size_of::<CpuFrame>());
const_assert_eq!(offset_of!(TrapFrame, error), offset_of!(TrapFrame, vector) + 8);
const_assert_eq!(offset_of!(TrapFrame, cpu), offset_of!(TrapFrame, error) + 8);
const_assert_eq!(size_of::<CpuFrame>(), 40);

// One stub for each vector, `STUB` bytes apart: an error code if the CPU pushes none, the vector.
// In AT&T syntax, because there `$` makes the counter a number beyond doubt.
global_asm!(
    ".pushsection .text.interrupt_stubs, \"ax\", @progbits",
    ".balign {stub}",
    ".type unspool_kernel_interrupt_stubs, @function",
    "unspool_kernel_interrupt_stubs:",
    ".cfi_startproc simple",
    ".cfi_signal_frame",
    ".cfi_def_cfa rsp, {cpu}",
    ".cfi_offset rip, {rip} - {cpu}",
    ".cfi_offset rsp, {rsp} - {cpu}",
    ".set unspool_vector, 0",
    ".rept {vectors}",
    ".balign {stub}",
    ".set unspool_pushed, 0",
    ".if unspool_vector < 32",
    ".set unspool_pushed, ({errors} >> unspool_vector) & 1",
    ".endif",
    ".if unspool_pushed",
    ".cfi_def_cfa_offset {cpu} + 8",
    ".else",
    ".cfi_def_cfa_offset {cpu}",
    "pushq $0",
    ".cfi_def_cfa_offset {cpu} + 8",
    ".endif",
    "pushq $unspool_vector",
    ".cfi_def_cfa_offset {cpu} + 16",
    "jmp {common}",
    ".set unspool_vector, unspool_vector + 1",
    ".endr",
    ".cfi_endproc",
    ".size unspool_kernel_interrupt_stubs, . - unspool_kernel_interrupt_stubs",
    ".popsection",
    stub = const STUB,
    vectors = const VECTORS,
    errors = const WITH_ERROR_CODE,
    cpu = const size_of::<CpuFrame>(),
    rip = const offset_of!(CpuFrame, rip),
    rsp = const offset_of!(CpuFrame, rsp),
    common = sym common,
    options(att_syntax),
);

unsafe extern "C" {
    #[link_name = "unspool_kernel_interrupt_stubs"]
    safe static STUBS: u8;
}

/// The address of the stub for `vector`, which is less than [`VECTORS`].
pub(super) fn stub(vector: usize) -> u64 {
    debug_assert!(vector < VECTORS);
    (&raw const STUBS).expose_provenance() as u64 + (vector * STUB) as u64
}

/// Saves everything, calls [`interrupted`], restores everything.
#[unsafe(naked)]
unsafe extern "C" fn common() {
    macro_rules! common {
        ($($name:literal $number:literal),*) => {
            naked_asm!(
                ".cfi_startproc simple",
                ".cfi_signal_frame",
                ".cfi_def_cfa rsp, {whole} - {saved}",
                ".cfi_offset rip, {rip}",
                ".cfi_offset rsp, {rsp}",
                "sub rsp, {saved}",
                ".cfi_def_cfa_offset {whole}",
                $(
                    concat!("mov [rsp + {gpr} + 8 * ", $number, "], ", $name),
                    concat!(".cfi_offset ", $name, ", {gpr} + 8 * ", $number, " - {whole}"),
                )*
                // #NM: the FPU was switched off, which this kernel never does; `fxsave64` would raise
                // it again. On with it (CR0.TS, CR0.EM).
                "cmp qword ptr [rsp + {vector}], 7",
                "jne 2f",
                "mov rax, cr0",
                "and rax, -13",
                "mov cr0, rax",
                "2:",
                "fxsave64 [rsp + {fx}]",
                // psABI x86-64 §3.2.1: clear on function entry.
                "cld",
                "mov rdi, rsp",
                "call {interrupted}",
                "fxrstor64 [rsp + {fx}]",
                $(
                    concat!("mov ", $name, ", [rsp + {gpr} + 8 * ", $number, "]"),
                    concat!(".cfi_same_value ", $name),
                )*
                "add rsp, {saved} + 16",
                ".cfi_def_cfa_offset {whole} - {saved} - 16",
                "iretq",
                ".cfi_endproc",
                whole = const WHOLE,
                saved = const SAVED,
                vector = const offset_of!(TrapFrame, vector),
                gpr = const offset_of!(TrapFrame, gpr),
                fx = const offset_of!(TrapFrame, fx),
                rip = const offset_of!(TrapFrame, cpu.rip) as isize - WHOLE as isize,
                rsp = const offset_of!(TrapFrame, cpu.rsp) as isize - WHOLE as isize,
                interrupted = sym interrupted,
            )
        };
    }
    common!(
        "rax" 0, "rdx" 1, "rcx" 2, "rbx" 3, "rsi" 4, "rdi" 5, "rbp" 6, "r8" 8, "r9" 9, "r10" 10,
        "r11" 11, "r12" 12, "r13" 13, "r14" 14, "r15" 15
    )
}

/// What becomes of interrupted code; on an interrupt stack. If it returns, the code goes on as
/// `frame` says.
extern "C" fn interrupted(frame: &mut TrapFrame) {
    // What a handler locks and unlocks must not end in a switch.
    per_cpu::off();
    descriptors::begin_handler(frame.vector);
    let mut state = CpuState { gpr: frame.gpr, rip: frame.cpu.rip, rflags: frame.cpu.rflags };
    state.gpr[RSP] = frame.cpu.rsp;
    handle(frame.vector, frame.error, &mut state);
    frame.gpr = state.gpr;
    frame.cpu.rip = state.rip;
    frame.cpu.rflags = state.rflags;
    frame.cpu.rsp = state.sp();
    descriptors::end_handler(frame.vector);
    per_cpu::on();
}

fn handle(vector: u64, error: u64, state: &mut CpuState) {
    const TICK: u64 = apic::TICK as u64;
    const CALL: u64 = apic::CALL as u64;
    const SPURIOUS: u64 = apic::SPURIOUS as u64;
    match vector {
        2 => {
            // A page fault that is about to be dealt with must find its address.
            let address = Cr2::read_raw();
            nmi::handle(state);
            if Cr2::read_raw() != address {
                // SAFETY: the register only holds an address for handlers.
                unsafe { asm!("mov cr2, {}", in(reg) address, options(nostack, nomem)) };
            }
        }
        0..32 => fault::handle(kind(vector, error), state),
        TICK => {
            apic::end_of_interrupt();
            if profile::tick(state) {
                preempt::tick(state);
            }
        }
        CALL => {
            apic::end_of_interrupt();
            cpu::answer(|request| match request {
                Request::Flush => tlb::flush_all(),
                Request::Walk => walk::answer(state),
            });
            preempt::call(state);
        }
        SPURIOUS => {}
        _ => notice("unexpected external interrupt", state),
    }
}

fn notice(what: &str, state: &CpuState) {
    // The console never fails.
    let _ = writeln!(Console, "{what} at {:#x}", state.rip);
}

/// The kind of an exception (Intel SDM volume 3, §6.15).
fn kind(vector: u64, error: u64) -> FaultKind {
    match vector {
        14 => page_fault(error),
        _ => FaultKind::from_vector(vector, error),
    }
}

fn page_fault(error: u64) -> FaultKind {
    let code = PageFaultErrorCode::from_bits_truncate(error);
    FaultKind::PageFault {
        address: Cr2::read_raw(),
        access: PageAccess::from_error_code(error),
        present: code.contains(PageFaultErrorCode::PROTECTION_VIOLATION),
    }
}
