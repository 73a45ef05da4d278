//! Takes a task off its CPU between any two instructions, and continues it exactly there.
//!
//! ```text
//!   │ interrupted frame        │
//!   ├──────────────────────────┤ rsp of the interrupted instruction
//!   │ red zone (128)           │
//!   ├──────────────────────────┤ CFA of the trampoline
//!   │ PreemptFrame             │ the handler's copy of what was interrupted
//!   ├──────────────────────────┤ rbx of the trampoline
//!   │ XSAVE area               │ by the trampoline: the handler leaves these registers alone
//!   ├──────────────────────────┤
//!   │ return address, switch…  │ from here on a task that waits as any other
//! ```
//!
//! The handler returns into the trampoline, on the task's stack; so the stack of interrupts is free
//! again before anybody else runs. The trampoline ends with `iretq`, which loads stack pointer,
//! flags and instruction pointer at once and touches nothing below the red zone's end; in a Linux
//! process as in a kernel. To an unwinder it is a signal frame: a walk of a preempted task comes to
//! the interrupted instruction itself.
//!
//! A task that somebody killed, at an instruction where it may die, does not come back from there.

use core::arch::naked_asm;
use core::mem::offset_of;
use core::sync::atomic::Ordering;

use static_assertions::const_assert_eq;
use x86_64::instructions::segmentation::{CS, SS, Segment};

use super::context::MXCSR;
use super::cpu_state::{CpuState, GPRS, RSP};
use super::stacks::InterruptStack;
use super::{extended_state, per_cpu};
use crate::cpu::{self, Cpu};
use crate::fault::{RED_ZONE, ROOM};
use crate::scheduler;

/// What the handler leaves on the interrupted task's stack.
#[repr(C, align(16))]
struct PreemptFrame {
    /// By DWARF number.
    gpr: [u64; GPRS],
    /// What `iretq` takes (Intel SDM volume 3, §6.14.3).
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
    free: u64,
}

const FRAME: usize = size_of::<PreemptFrame>();

/// `rflags`: a nested task is running.
const NESTED_TASK: i32 = 1 << 14;

const_assert_eq!(offset_of!(PreemptFrame, gpr), 0);
const_assert_eq!(offset_of!(PreemptFrame, ss), offset_of!(PreemptFrame, rip) + 32);

unsafe extern "C" {
    #[link_name = "unspool_kernel_preempt_end"]
    safe static END: u8;
}

/// In the handler of a tick: makes the interrupted task, if it is one and may be preempted, go on
/// in the trampoline. The handler has one reason not to preempt itself, and leaves it afterwards.
///
/// What it interrupted may be another handler: that is left before anybody else runs.
pub(crate) fn tick(state: &mut CpuState) {
    if per_cpu::reasons() != 1 || InterruptStack::containing(state.sp()).is_some() {
        cpu::this().due.store(1, Ordering::Relaxed);
    } else if scheduler::somebody_is_ready() || scheduler::must_die_here() {
        divert(state);
    }
}

/// As [`tick`], at the end of a handler: if one came while it ran.
pub(crate) fn due_tick(state: &mut CpuState) {
    if per_cpu::is_due() && per_cpu::reasons() == 1 {
        cpu::this().due.store(0, Ordering::Relaxed);
        tick(state);
    }
}

/// In the handler of another CPU's call, which may be for a kill: the same, if it is.
pub(crate) fn call(state: &mut CpuState) {
    if per_cpu::reasons() == 1 && scheduler::must_die_here() {
        divert(state);
    }
}

/// Makes the interrupted task go on in the trampoline, if that is possible.
fn divert(state: &mut CpuState) {
    if let Some(frame) = place(state) {
        let place = core::ptr::with_exposed_provenance_mut::<PreemptFrame>(frame as usize);
        let contents = PreemptFrame {
            gpr: state.gpr,
            rip: state.rip,
            cs: u64::from(CS::get_reg().0),
            rflags: state.rflags,
            rsp: state.gpr[RSP],
            ss: u64::from(SS::get_reg().0),
            free: 0,
        };
        // SAFETY: on the stack of the interrupted task, aligned, below all that it uses.
        unsafe { place.write(contents) };
        state.redirect(trampoline as *const () as u64, frame);
        // The trampoline's: it must not be preempted itself.
        per_cpu::off();
    }
}

/// Where the frame goes; `None` if the interrupted code cannot be preempted.
fn place(state: &CpuState) -> Option<u64> {
    let trampoline = trampoline as *const () as u64..(&raw const END).expose_provenance() as u64;
    // SAFETY: the task was interrupted by the caller, and does not end meanwhile.
    let stack = unsafe { scheduler::running() }?.stack();
    let sp = state.sp();
    let needed = RED_ZONE + FRAME as u64 + extended_state::SIZE.load(Ordering::Relaxed) + ROOM;
    // Its last instructions cannot be preempted: they have given up their reason already.
    let possible = stack.contains(&sp.wrapping_sub(needed))
        && sp <= stack.end
        && !trampoline.contains(&state.rip);
    possible.then_some((sp - RED_ZONE - FRAME as u64) & !15)
}

/// Saves what the frame at `rsp` lacks, lets others run, and continues what was interrupted.
#[unsafe(naked)]
unsafe extern "C" fn trampoline() -> ! {
    macro_rules! trampoline {
        ($($name:literal $number:literal),*) => {
            naked_asm!(
                ".cfi_startproc simple",
                ".cfi_signal_frame",
                ".cfi_def_cfa rsp, {size}",
                ".cfi_offset rip, {rip} - {size}",
                ".cfi_offset rsp, {rsp} - {size}",
                $(concat!(".cfi_offset ", $name, ", 8 * ", $number, " - {size}"),)*
                "mov rbx, rsp",
                ".cfi_def_cfa_register rbx",
                "sub rsp, [rip + {area}]",
                "and rsp, -64",
                "mov eax, [rip + {components}]",
                "xor edx, edx",
                "test eax, eax",
                "jz 2f",
                // XSAVE leaves most of the header as it is, and XRSTOR wants zeroes there.
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
                "jmp 3f",
                "2:",
                "fxsave64 [rsp]",
                "3:",
                // psABI x86-64 §3.2.1: an empty x87 stack on function entry.
                "fninit",
                // Nor may what is unwound fault for what the interrupted code asked for.
                "push {mxcsr}",
                "ldmxcsr [rsp]",
                "add rsp, 8",
                "mov rdi, rbx",
                "call {preempted}",
                "mov eax, [rip + {components}]",
                "xor edx, edx",
                "test eax, eax",
                "jz 2f",
                "xrstor64 [rsp]",
                "jmp 3f",
                "2:",
                "fxrstor64 [rsp]",
                "3:",
                // A nested task, which `iretq` refuses to end (Intel SDM volume 2), is whatever code that
                // was interrupted, here or in the task before, says it is.
                "pushfq",
                "and dword ptr [rsp], {not_nested}",
                "popfq",
                "mov rsp, rbx",
                ".cfi_def_cfa_register rsp",
                "dec dword ptr gs:[{off}]",
                $(
                    concat!("mov ", $name, ", [rsp + 8 * ", $number, "]"),
                    concat!(".cfi_same_value ", $name),
                )*
                "lea rsp, [rsp + {rip}]",
                ".cfi_def_cfa_offset {size} - {rip}",
                "iretq",
                ".cfi_endproc",
                ".globl unspool_kernel_preempt_end",
                ".hidden unspool_kernel_preempt_end",
                "unspool_kernel_preempt_end:",
                size = const FRAME,
                rip = const offset_of!(PreemptFrame, rip),
                rsp = const offset_of!(PreemptFrame, rsp),
                area = sym extended_state::SIZE,
                components = sym extended_state::COMPONENTS,
                off = const offset_of!(Cpu, off),
                mxcsr = const MXCSR,
                not_nested = const !NESTED_TASK,
                preempted = sym preempted,
            )
        };
    }
    trampoline!(
        "rax" 0, "rdx" 1, "rcx" 2, "rbx" 3, "rsi" 4, "rdi" 5, "rbp" 6, "r8" 8, "r9" 9, "r10" 10,
        "r11" 11, "r12" 12, "r13" 13, "r14" 14, "r15" 15
    )
}

extern "C" fn preempted(frame: &PreemptFrame) {
    let PreemptFrame { gpr, rip, rflags, .. } = *frame;
    let mut state = CpuState { gpr, rip, rflags };
    state.gpr[RSP] = frame.rsp;
    // SAFETY: these are the interrupted task's registers, and its trampoline called this.
    unsafe { scheduler::preempted(&state.registers()) };
}
