//! The general-purpose registers of one frame, by DWARF number.
//!
//! ```text
//!  0   1   2   3   4   5   6   7   8 … 15  16
//!  rax rdx rcx rbx rsi rdi rbp rsp r8 … r15 RA      psABI x86-64, figure 3.36
//! ```
#![forbid(unsafe_code)]

use core::fmt;

use crate::rule::Rule;

/// A DWARF register number of x86-64 that unwinding tracks: the sixteen general-purpose registers
/// and the return address column.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Register(u8);

impl Register {
    /// `rax`
    pub const RAX: Self = Self(0);
    /// `rdx`
    pub const RDX: Self = Self(1);
    /// `rcx`
    pub const RCX: Self = Self(2);
    /// `rbx`
    pub const RBX: Self = Self(3);
    /// `rsi`
    pub const RSI: Self = Self(4);
    /// `rdi`
    pub const RDI: Self = Self(5);
    /// `rbp`
    pub const RBP: Self = Self(6);
    /// `rsp`
    pub const RSP: Self = Self(7);
    /// `r8`
    pub const R8: Self = Self(8);
    /// `r9`
    pub const R9: Self = Self(9);
    /// `r10`
    pub const R10: Self = Self(10);
    /// `r11`
    pub const R11: Self = Self(11);
    /// `r12`
    pub const R12: Self = Self(12);
    /// `r13`
    pub const R13: Self = Self(13);
    /// `r14`
    pub const R14: Self = Self(14);
    /// `r15`
    pub const R15: Self = Self(15);
    /// The return address column: `rip` of the frame.
    pub const RA: Self = Self(16);

    /// How many columns there are.
    pub const COUNT: usize = 17;

    /// Every column, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT as u8).map(Self)
    }

    /// The column with this DWARF number, if it is one of the tracked ones.
    pub const fn from_dwarf(number: u16) -> Option<Self> {
        if number < Self::COUNT as u16 { Some(Self(number as u8)) } else { None }
    }

    /// The DWARF number, 0 to 16.
    pub const fn number(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for Register {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NAMES: [&str; Register::COUNT] = [
            "rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11",
            "r12", "r13", "r14", "r15", "ra",
        ];
        f.write_str(NAMES[self.number()])
    }
}

/// The values of all tracked registers in one frame.
///
/// The layout is relied on by the assembly that captures and lands: seventeen words in the order
/// of [`Register`]'s numbers.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Registers([u64; Register::COUNT]);

impl Registers {
    /// All zero.
    pub const fn new() -> Self {
        Self([0; Register::COUNT])
    }

    /// The value of a register.
    pub const fn get(&self, register: Register) -> u64 {
        self.0[register.number()]
    }

    /// Changes a register.
    pub const fn set(&mut self, register: Register, value: u64) {
        self.0[register.number()] = value;
    }

    /// The same registers with one changed.
    #[must_use]
    pub const fn with(mut self, register: Register, value: u64) -> Self {
        self.set(register, value);
        self
    }

    /// Those that a walk changes.
    #[inline(always)]
    pub(crate) fn changed(&self) -> Changed {
        Changed(Changed::WHICH.map(|register| self.get(register)))
    }

    /// Makes those that a walk changes what they were.
    #[inline(always)]
    pub(crate) fn go_back_to(&mut self, before: &Changed) {
        for (register, value) in Changed::WHICH.into_iter().zip(before.0) {
            self.set(register, value);
        }
    }

    /// The stack pointer, `rsp`.
    pub const fn sp(&self) -> u64 {
        self.get(Register::RSP)
    }

    /// The instruction pointer of the frame (the RA column).
    pub const fn ip(&self) -> u64 {
        self.get(Register::RA)
    }
}

/// The values of the registers that a walk changes.
pub(crate) struct Changed([u64; 8]);

impl Changed {
    const WHICH: [Register; 8] = {
        let [rbx, rbp, r12, r13, r14, r15] = Rule::SAVED;
        [rbx, rbp, Register::RSP, r12, r13, r14, r15, Register::RA]
    };
}

impl fmt::Debug for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for register in Register::all() {
            let gap = if register == Register::RAX { "" } else { " " };
            write!(f, "{gap}{register:?}={:#x}", self.get(register))?;
        }
        Ok(())
    }
}
