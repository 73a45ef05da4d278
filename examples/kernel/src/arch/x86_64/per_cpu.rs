//! The block of this CPU, through the GS base.
//!
//! Each access is one instruction: whoever is moved to another CPU is moved before or after it.

use core::arch::asm;
use core::mem::offset_of;

use crate::cpu::Cpu;
use crate::task::Task;

/// The block of this CPU.
#[inline(always)]
pub(crate) fn this() -> *const Cpu {
    let cpu;
    // SAFETY: only reads: the GS base is the address of a `Cpu` from the entry point on.
    unsafe {
        asm!("mov {}, gs:[{}]", out(reg) cpu, const offset_of!(Cpu, this), options(nostack, preserves_flags))
    };
    cpu
}

/// The task that runs this, or null.
#[inline(always)]
pub(crate) fn running() -> *mut Task {
    let task;
    // SAFETY: as in `this`.
    unsafe {
        asm!("mov {}, gs:[{}]", out(reg) task, const offset_of!(Cpu, running), options(nostack, preserves_flags))
    };
    task
}

/// Adds a reason not to preempt.
#[inline(always)]
pub(crate) fn off() {
    // SAFETY: changes a counter that is there for this.
    unsafe { asm!("inc dword ptr gs:[{}]", const offset_of!(Cpu, off), options(nostack)) };
}

/// Takes a reason not to preempt away; says whether none is left.
#[inline(always)]
pub(crate) fn on() -> bool {
    let none: u8;
    // SAFETY: as in `off`.
    unsafe {
        asm!(
            "dec dword ptr gs:[{off}]",
            "setz {none}",
            off = const offset_of!(Cpu, off),
            none = out(reg_byte) none,
            options(nostack)
        );
    }
    none != 0
}

/// How many reasons there are not to preempt.
#[inline(always)]
pub(crate) fn reasons() -> u32 {
    let count;
    // SAFETY: as in `this`.
    unsafe {
        asm!("mov {:e}, gs:[{}]", out(reg) count, const offset_of!(Cpu, off), options(nostack, preserves_flags))
    };
    count
}

/// Whether a tick came while preemption was off.
#[inline(always)]
pub(crate) fn is_due() -> bool {
    let due: u32;
    // SAFETY: as in `this`.
    unsafe {
        asm!("mov {:e}, gs:[{}]", out(reg) due, const offset_of!(Cpu, due), options(nostack, preserves_flags))
    };
    due != 0
}
