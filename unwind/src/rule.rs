//! A row in sixteen bytes: enough for all but two in a thousand.
//!
//! ```text
//!   0         4          8      9                             15     16
//!   │ cfa: +n │ args     │ bits │ rbx rbp r12 r13 r14 r15     │ free │
//!                          │      └ saved at CFA − 8·k; 0: not saved
//!                          └ base rbp, else rsp · end of stack
//! ```
//!
//! The return address is at CFA − 8 and the caller's stack pointer is the CFA, as every compiled
//! function has them. Applying a rule is a handful of loads; no DWARF is looked at.
#![forbid(unsafe_code)]

use crate::cfi::{CfaRule, RegisterRule, Row};
use crate::cursor::Step;
use crate::error::UnwindError;
use crate::registers::{Register, Registers};
use crate::stack::ReadStack;

/// Bytes of a stack slot.
const WORD: i32 = 8;

/// The callee-saved registers of the System V ABI besides `rsp` (psABI x86-64 §3.2.1).
const SAVED: [Register; 6] =
    [Register::RBX, Register::RBP, Register::R12, Register::R13, Register::R14, Register::R15];

/// The CFA is relative to `rbp`; otherwise to `rsp`.
const BASE_RBP: u8 = 1;
/// The return address is undefined: the frame is the outermost.
const END: u8 = 2;

/// The common shape of a [`Row`]: CFA = rsp or rbp + n, the return address at CFA − 8,
/// callee-saved registers below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Rule {
    cfa_offset: i32,
    args_size: u32,
    bits: u8,
    saved: [u8; SAVED.len()],
    free: u8,
}

static_assertions::const_assert_eq!(size_of::<Rule>(), 16);

impl Rule {
    /// The frame is the outermost.
    pub(crate) const END_OF_STACK: Self =
        Self { cfa_offset: 0, args_size: 0, bits: END, saved: [0; SAVED.len()], free: 0 };

    /// The rule as two words.
    pub(crate) fn to_words(self) -> [u64; 2] {
        let [a, b, c, d, e, f] = self.saved;
        [
            u64::from(self.cfa_offset as u32) | u64::from(self.args_size) << 32,
            u64::from_le_bytes([self.bits, a, b, c, d, e, f, self.free]),
        ]
    }

    /// The rule that [`to_words`](Self::to_words) gave.
    pub(crate) fn from_words([first, second]: [u64; 2]) -> Self {
        let [bits, a, b, c, d, e, f, free] = second.to_le_bytes();
        Self {
            cfa_offset: first as u32 as i32,
            args_size: (first >> 32) as u32,
            bits,
            saved: [a, b, c, d, e, f],
            free,
        }
    }

    /// The rule that says the same as `row`, or `None` if the row needs DWARF.
    pub fn from_row(row: &Row) -> Option<Self> {
        let (base, cfa_offset) = match row.cfa {
            CfaRule::Offset(Register::RSP, offset) => (0, offset),
            CfaRule::Offset(Register::RBP, offset) => (BASE_RBP, offset),
            _ => return None,
        };
        let end = match row.rule(Register::RA) {
            RegisterRule::Offset(offset) if offset == -WORD => 0,
            RegisterRule::Undefined => END,
            _ => return None,
        };
        let mut rule = Self {
            cfa_offset,
            args_size: row.args_size,
            bits: base | end,
            saved: [0; SAVED.len()],
            free: 0,
        };
        for register in Register::all().filter(|&r| r != Register::RA) {
            match row.rule(register) {
                RegisterRule::Unspecified | RegisterRule::SameValue => {}
                RegisterRule::Offset(offset) => {
                    let place = SAVED.iter().position(|&saved| saved == register)?;
                    rule.saved[place] = slot(offset)?;
                }
                _ => return None,
            }
        }
        Some(rule)
    }

    /// Bytes of arguments that a landing pad must pop (`DW_CFA_GNU_args_size`).
    pub const fn args_size(&self) -> u32 {
        self.args_size
    }

    /// The canonical frame address, given the registers of the frame.
    pub const fn cfa(&self, registers: &Registers) -> u64 {
        let base = if self.bits & BASE_RBP != 0 { Register::RBP } else { Register::RSP };
        registers.get(base).wrapping_add_signed(self.cfa_offset as i64)
    }

    /// Replaces the registers of a frame by those of its caller.
    ///
    /// # Errors
    ///
    /// [`UnwindError::CfaNotAbove`] or [`UnwindError::StackRead`], with the registers unchanged.
    /// `pc` is only for these.
    #[inline]
    pub fn apply(
        &self,
        pc: u64,
        registers: &mut Registers,
        stack: &impl ReadStack,
    ) -> Result<Step, UnwindError> {
        if self.bits & END != 0 {
            return Ok(Step::End);
        }
        let cfa = self.cfa(registers);
        if cfa <= registers.sp() {
            return Err(UnwindError::CfaNotAbove { pc, cfa, sp: registers.sp() });
        }
        let read = |slots: u8| {
            let address = cfa.wrapping_sub(u64::from(slots) * WORD as u64);
            stack.read(address).ok_or(UnwindError::StackRead { pc, address })
        };
        // All reads come first: an error leaves the registers as they were.
        let ra = read(1)?;
        let mut values = [0; SAVED.len()];
        for (value, &slots) in values.iter_mut().zip(&self.saved) {
            if slots != 0 {
                *value = read(slots)?;
            }
        }
        registers.set(Register::RA, ra);
        registers.set(Register::RSP, cfa);
        for ((value, &slots), register) in values.into_iter().zip(&self.saved).zip(SAVED) {
            if slots != 0 {
                registers.set(register, value);
            }
        }
        Ok(Step::Caller { cfa })
    }
}

/// A CFA-relative offset in bytes as slots below the CFA.
fn slot(offset: i32) -> Option<u8> {
    if offset >= 0 || offset % WORD != 0 {
        return None;
    }
    u8::try_from(-(offset / WORD)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_slots_below_the_cfa_fit() {
        assert_eq!(slot(-8), Some(1));
        assert_eq!(slot(-8 * 255), Some(255));
        assert_eq!(slot(-8 * 256), None);
        assert_eq!(slot(-12), None);
        assert_eq!(slot(0), None);
        assert_eq!(slot(8), None);
    }

    struct Words<'a>(u64, &'a [u64]);

    impl ReadStack for Words<'_> {
        fn read(&self, address: u64) -> Option<u64> {
            self.1.get(usize::try_from(address.checked_sub(self.0)? / 8).ok()?).copied()
        }
    }

    const RULE: Rule =
        Rule { cfa_offset: 24, args_size: 0, bits: 0, saved: [2, 0, 0, 0, 0, 3], free: 0 };

    #[test]
    fn a_rule_survives_as_words() {
        let rule = Rule {
            cfa_offset: -24,
            args_size: 0xffff_fff0,
            bits: BASE_RBP,
            saved: [1, 2, 3, 4, 5, 255],
            free: 0,
        };
        assert_eq!(Rule::from_words(rule.to_words()), rule);
    }

    #[test]
    fn a_rule_reads_the_saved_registers_and_keeps_the_others() {
        let mut registers = Registers::new().with(Register::RSP, 0x1000).with(Register::R12, 0x12);
        let stack = Words(0x1000, &[15, 3, 0xabc]);
        assert_eq!(RULE.apply(1, &mut registers, &stack), Ok(Step::Caller { cfa: 0x1018 }));
        assert_eq!(registers.ip(), 0xabc);
        assert_eq!(registers.sp(), 0x1018);
        assert_eq!(registers.get(Register::RBX), 3);
        assert_eq!(registers.get(Register::R12), 0x12);
        assert_eq!(registers.get(Register::R15), 15);
    }

    #[test]
    fn a_missing_word_is_an_error_with_its_address_and_changes_nothing() {
        let before = Registers::new().with(Register::RSP, 0x1000);
        let mut registers = before;
        let stack = Words(0x1008, &[3, 0xabc]);
        assert_eq!(
            RULE.apply(1, &mut registers, &stack),
            Err(UnwindError::StackRead { pc: 1, address: 0x1000 })
        );
        assert_eq!(registers, before);
    }

    #[test]
    fn a_cfa_that_does_not_grow_is_an_error() {
        let rule = Rule { bits: BASE_RBP, ..RULE };
        let mut registers = Registers::new().with(Register::RSP, 0x1000).with(Register::RBP, 0xfe8);
        assert_eq!(
            rule.apply(1, &mut registers, &Words(0, &[])),
            Err(UnwindError::CfaNotAbove { pc: 1, cfa: 0x1000, sp: 0x1000 })
        );
    }
}
