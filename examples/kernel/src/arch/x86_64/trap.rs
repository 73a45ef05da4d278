//! Continues a faulting task in the code that unwinds it.
//!
//! ```text
//!   │ faulting frame          │
//!   ├─────────────────────────┤ rsp of the faulting instruction
//!   │ red zone (128)          │
//!   ├─────────────────────────┤ CFA of the trampoline
//!   │ FaultFrame              │
//!   ├─────────────────────────┤ rsp of the trampoline, a multiple of 16
//!   │ return address, unwind… │
//! ```
//!
//! The trampoline looks like a signal frame: whoever walks from inside the unwinding code comes to
//! the faulting instruction itself, with all its registers.
//!
//! It needs nothing of the CPU but `rsp`, so a handler that need not return to be done with can go on
//! there at once: `handler ─► trampoline(frame) ─► ENTRY`, where one that returns arrives.

use core::any::Any;
use core::arch::naked_asm;
use core::fmt;
use core::mem::offset_of;

use alloc::boxed::Box;
use unspool::unwind::{Pc, Registers};

use super::context::MXCSR;
use super::cpu_state::CpuState;
use crate::fault::{self, Claim, FaultKind};

/// What the handler leaves on the faulting task's stack.
#[repr(C, align(16))]
pub(crate) struct FaultFrame {
    state: CpuState,
    kind: FaultKind,
    claim: Option<Claim>,
}

/// Bytes of stack that [`deliver`] uses.
pub(crate) const FRAME: u64 = size_of::<FaultFrame>() as u64;

unsafe extern "C" {
    /// The instruction of the trampoline that runs on the task's stack first.
    #[link_name = "unspool_kernel_fault_entry"]
    safe static ENTRY: u8;
}

/// Copies `state` to `frame` on the task's stack and continues there, in the [trampoline](trampoline()).
///
/// # Safety
///
/// `frame` is a multiple of 16, and the [`FRAME`] bytes from there on are part of the stack of
/// the interrupted task, below all that it uses.
pub(crate) unsafe fn deliver(
    kind: FaultKind,
    claim: Option<Claim>,
    state: &mut CpuState,
    frame: u64,
) {
    let place = core::ptr::with_exposed_provenance_mut::<FaultFrame>(frame as usize);
    // SAFETY: the caller found the place: on a mapped stack, aligned, used by nobody.
    unsafe { place.write(FaultFrame { state: *state, kind, claim }) };
    state.redirect((&raw const ENTRY).expose_provenance() as u64, frame);
}

/// Whether `state` is as [`deliver`] left it.
pub(super) fn is_delivered(state: &CpuState) -> bool {
    state.rip == (&raw const ENTRY).expose_provenance() as u64
}

/// Calls [`enter`] with the frame, on the stack that it is on.
///
/// Between any two instructions there are tables that tell where the caller is: up to [`ENTRY`] the
/// handler, from there on the faulting instruction.
///
/// # Safety
///
/// The caller is a handler that [delivered](deliver) to `frame`, that the system or the CPU does not
/// need to know the end of, and that leaves the direction flag clear and alignment unchecked.
#[unsafe(naked)]
pub(super) unsafe extern "C" fn trampoline(frame: u64) -> ! {
    macro_rules! trampoline {
        ($($name:literal $number:literal),*) => {
            naked_asm!(
                ".cfi_startproc",
                "mov rsp, rdi",
                ".cfi_endproc",
                ".globl unspool_kernel_fault_entry",
                ".hidden unspool_kernel_fault_entry",
                "unspool_kernel_fault_entry:",
                ".cfi_startproc simple",
                ".cfi_signal_frame",
                ".cfi_def_cfa rsp, {size}",
                ".cfi_offset rip, {rip} - {size}",
                $(concat!(".cfi_offset ", $name, ", {gpr} + 8 * ", $number, " - {size}"),)*
                // The interrupted code may have been in the middle of x87 or MMX work; the ABI
                // wants an empty register stack (psABI x86-64 §3.2.1).
                "fninit",
                // Nor may what is unwound fault again for what its faulting callee asked for.
                "push {mxcsr}",
                ".cfi_adjust_cfa_offset 8",
                "ldmxcsr [rsp]",
                "add rsp, 8",
                ".cfi_adjust_cfa_offset -8",
                "mov rdi, rsp",
                "call {enter}",
                "ud2",
                ".cfi_endproc",
                mxcsr = const MXCSR,
                size = const FRAME,
                gpr = const offset_of!(FaultFrame, state.gpr),
                rip = const offset_of!(FaultFrame, state.rip),
                enter = sym enter,
            )
        };
    }
    trampoline!(
        "rax" 0, "rdx" 1, "rcx" 2, "rbx" 3, "rsi" 4, "rdi" 5, "rbp" 6, "rsp" 7, "r8" 8, "r9" 9,
        "r10" 10, "r11" 11, "r12" 12, "r13" 13, "r14" 14, "r15" 15
    )
}

extern "C" fn enter(frame: &FaultFrame) -> ! {
    // SAFETY: this is the trampoline, and the frame is what `deliver` left for it.
    unsafe { fault::unwind(frame.kind, frame.claim, &frame.state) }
}

/// Hands a fault to the panic runtime.
///
/// # Safety
///
/// `registers` are those of the instruction at which the running task was interrupted, or of the call
/// that led there, as `pc` says; and the caller runs in the trampoline that [`deliver`] put below it.
pub(crate) unsafe fn unwind(
    registers: &Registers,
    pc: Pc,
    reason: fmt::Arguments<'_>,
    payload: Box<dyn Any + Send>,
) -> ! {
    // SAFETY: the trampoline is on the interrupted stack below the red zone, and it does not
    // return: nothing of the interrupted code runs again.
    unsafe { unspool::panic::unwind_fault(registers, pc, reason, payload) }
}
