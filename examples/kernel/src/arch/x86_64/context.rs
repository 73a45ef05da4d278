//! Switching between tasks.
//!
//! ```text
//!  a task that is not running            a task that has not run yet
//!  │ caller of switch …          │       │ end of the stack       │
//!  │ return address              │       │ task_entry             │
//!  │ rbx rbp r12 r13 r14 r15     │       │ zeroes                 │
//!  │ mxcsr, x87 control word     │ ◄ sp  │ defaults               │ ◄ sp
//! ```
//!
//! Both look the same, so a new task is switched to as any other.

use core::arch::naked_asm;
use core::mem::offset_of;

use static_assertions::const_assert_eq;
use unspool::unwind::{Register, Registers};

/// What a function call preserves (psABI x86-64 §3.2.1), on the stack of a task that waits.
#[repr(C)]
struct Saved {
    mxcsr: u32,
    x87_control: u32,
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    rbx: u64,
    rbp: u64,
    /// Pushed by the call.
    rip: u64,
}

/// What `switch` itself pushes.
const PUSHED: usize = offset_of!(Saved, rip);

const_assert_eq!(PUSHED + 8, size_of::<Saved>());

/// Round to nearest, all exceptions masked (psABI x86-64 §3.4.1).
pub(super) const MXCSR: u32 = 0x1f80;
/// Extended precision, round to nearest, all exceptions masked (ibid.).
const X87_CONTROL: u32 = 0x37f;

/// Prepares a new stack that ends at `top`, so that switching to it starts [`task_entry`].
/// Returns the stack pointer to switch to.
///
/// # Safety
///
/// The words below `top`, which is a multiple of 16, are writable and nobody uses them.
pub(crate) unsafe fn prepare(top: u64) -> u64 {
    let sp = top - size_of::<Saved>() as u64;
    let saved = Saved {
        mxcsr: MXCSR,
        x87_control: X87_CONTROL,
        r15: 0,
        r14: 0,
        r13: 0,
        r12: 0,
        rbx: 0,
        // The outermost frame of a frame-pointer chain.
        rbp: 0,
        rip: task_entry as *const () as u64,
    };
    let place = core::ptr::with_exposed_provenance_mut::<Saved>(sp as usize);
    // SAFETY: the caller hands over the end of a stack that nobody uses.
    unsafe { place.write(saved) };
    sp
}

/// The registers with which a suspended task goes on, whose stack pointer is `sp`.
///
/// # Safety
///
/// `sp` was saved by [`switch`], and the task stays suspended meanwhile.
pub(crate) unsafe fn suspended(sp: u64) -> Registers {
    // SAFETY: the caller's promise: this is what `switch` pushed.
    let saved = unsafe { &*core::ptr::with_exposed_provenance::<Saved>(sp as usize) };
    Registers::new()
        .with(Register::RA, saved.rip)
        .with(Register::RSP, sp + size_of::<Saved>() as u64)
        .with(Register::RBX, saved.rbx)
        .with(Register::RBP, saved.rbp)
        .with(Register::R12, saved.r12)
        .with(Register::R13, saved.r13)
        .with(Register::R14, saved.r14)
        .with(Register::R15, saved.r15)
}

/// Puts the running task to sleep, with its stack pointer in `*save`, and goes on with the one
/// whose stack pointer is `load`. Returns when somebody switches back.
///
/// # Safety
///
/// 1. `save` is valid for a write.
/// 2. `load` comes from [`prepare`] or from an earlier switch, was not used since, and its stack
///    is still there.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn switch(save: *mut u64, load: u64) {
    naked_asm!(
        ".cfi_startproc",
        "sub rsp, {pushed}",
        ".cfi_adjust_cfa_offset {pushed}",
        "mov [rsp + {rbx}], rbx",
        ".cfi_rel_offset rbx, {rbx}",
        "mov [rsp + {rbp}], rbp",
        ".cfi_rel_offset rbp, {rbp}",
        "mov [rsp + {r12}], r12",
        ".cfi_rel_offset r12, {r12}",
        "mov [rsp + {r13}], r13",
        ".cfi_rel_offset r13, {r13}",
        "mov [rsp + {r14}], r14",
        ".cfi_rel_offset r14, {r14}",
        "mov [rsp + {r15}], r15",
        ".cfi_rel_offset r15, {r15}",
        "stmxcsr [rsp + {mxcsr}]",
        "fnstcw [rsp + {x87}]",
        "mov [rdi], rsp",
        // From here on it is the other task, at the same place in its own frame.
        "mov rsp, rsi",
        "ldmxcsr [rsp + {mxcsr}]",
        "fldcw [rsp + {x87}]",
        "mov rbx, [rsp + {rbx}]",
        ".cfi_restore rbx",
        "mov rbp, [rsp + {rbp}]",
        ".cfi_restore rbp",
        "mov r12, [rsp + {r12}]",
        ".cfi_restore r12",
        "mov r13, [rsp + {r13}]",
        ".cfi_restore r13",
        "mov r14, [rsp + {r14}]",
        ".cfi_restore r14",
        "mov r15, [rsp + {r15}]",
        ".cfi_restore r15",
        "add rsp, {pushed}",
        ".cfi_adjust_cfa_offset -{pushed}",
        "ret",
        ".cfi_endproc",
        pushed = const PUSHED,
        mxcsr = const offset_of!(Saved, mxcsr),
        x87 = const offset_of!(Saved, x87_control),
        rbx = const offset_of!(Saved, rbx),
        rbp = const offset_of!(Saved, rbp),
        r12 = const offset_of!(Saved, r12),
        r13 = const offset_of!(Saved, r13),
        r14 = const offset_of!(Saved, r14),
        r15 = const offset_of!(Saved, r15),
    )
}

/// The outermost frame of every task: where a walk ends.
#[unsafe(naked)]
unsafe extern "C" fn task_entry() -> ! {
    naked_asm!(
        ".cfi_startproc",
        ".cfi_undefined rip",
        "call {main}",
        "ud2",
        ".cfi_endproc",
        main = sym crate::task::run_current,
    )
}
