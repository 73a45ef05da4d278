//! The integer registers of interrupted code.
//!
//! ```text
//!   0x00 rax rdx rcx rbx rsi rdi rbp rsp r8 … r15   by DWARF number (psABI x86-64, figure 3.36)
//!   0x80 rip rflags
//! ```
//!
//! An interrupt frame and a Linux signal frame both become this, and are made from it again.
#![forbid(unsafe_code)]

use core::mem::offset_of;

use static_assertions::const_assert_eq;
use unspool::unwind::{Register, Registers};

/// How many general-purpose registers there are.
pub(crate) const GPRS: usize = 16;

/// The DWARF number of `rsp`.
pub(crate) const RSP: usize = Register::RSP.number();

/// `rflags`: trap, direction, resume and alignment-check. A handler starts without them: the ABI
/// wants the direction flag clear, and the others belong to the interrupted instruction.
const INSTRUCTION_FLAGS: u64 = 1 << 8 | 1 << 10 | 1 << 16 | 1 << 18;

/// Where interrupted code was, and where it will continue.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct CpuState {
    /// By DWARF number.
    pub gpr: [u64; GPRS],
    pub rip: u64,
    pub rflags: u64,
}

// The assembly of the fault trampoline describes this layout to the unwinder.
const_assert_eq!(offset_of!(CpuState, gpr), 0);
const_assert_eq!(offset_of!(CpuState, rip), 8 * GPRS);
const_assert_eq!(size_of::<CpuState>() % 16, 0);

impl CpuState {
    pub(crate) const fn sp(&self) -> u64 {
        self.gpr[RSP]
    }

    /// As the unwinder wants them.
    pub(crate) fn registers(&self) -> Registers {
        let mut registers = Registers::new().with(Register::RA, self.rip);
        for (register, value) in Register::all().zip(self.gpr) {
            registers.set(register, value);
        }
        registers
    }

    /// Continues at `rip` with the stack at `sp`, as if called.
    pub(crate) const fn redirect(&mut self, rip: u64, sp: u64) {
        self.rip = rip;
        self.gpr[RSP] = sp;
        self.rflags &= !INSTRUCTION_FLAGS;
    }
}
