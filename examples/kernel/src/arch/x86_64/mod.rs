//! x86-64.
//!
//! ```text
//!   bare: the machine in QEMU              linux: a process without a C library
//!   ─────────────────── both ───────────────────
//!   image · stacks · per_cpu · cpu_state · trap · context · preempt ·
//!   extended_state · memory_functions · random
//! ```

mod bare;
mod context;
mod cpu_state;
mod extended_state;
mod image;
mod linux;
mod memory_functions;
pub(crate) mod per_cpu;
mod preempt;
mod random;
mod stacks;
mod trap;

pub(crate) use context::{prepare, suspended, switch};
pub(crate) use cpu_state::CpuState;
pub use image::MissingSymbol;
pub(crate) use image::{Image, boot_stack, boot_stack_guard, build_id, frame_bytes, symbol_bytes};
pub(crate) use stacks::InterruptStack;
pub(crate) use trap::{FRAME, deliver, unwind};

/// The time stamp counter.
pub(crate) fn time_stamp() -> u64 {
    // SAFETY: every x86_64 CPU has it, and neither the kernel nor Linux forbids it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The stack pointer of the caller, give or take a frame.
#[inline(always)]
pub(crate) fn stack_pointer() -> u64 {
    let sp;
    // SAFETY: only reads a register.
    unsafe {
        core::arch::asm!("mov {}, rsp", out(reg) sp, options(nomem, nostack, preserves_flags))
    };
    sp
}
