//! The general path: rows that do not fit a [`Rule`](crate::Rule).
//!
//! ```text
//!   Row + registers ─► CFA ─► each register by its own rule ─► caller's registers
//!                             expression: CFA pushed first (DWARF 5 §6.4.2.3)
//! ```
//!
//! PLT stubs, signal trampolines, realigned stacks and hand-written assembly come here.
#![forbid(unsafe_code)]

use crate::address::Pc;
use crate::cfi::{CfaRule, ExpressionRange, RegisterRule, Row};
use crate::cursor::Step;
use crate::error::UnwindError;
use crate::expression::{Failure, evaluate};
use crate::registers::{Register, Registers};
use crate::stack::ReadStack;

/// One frame on its way to its caller.
pub(crate) struct Frame<'f, S> {
    pub(crate) row: &'f Row,
    /// Where the row's expressions are.
    pub(crate) eh_frame: &'f [u8],
    pub(crate) pc: Pc,
    pub(crate) stack: &'f S,
}

impl<S: ReadStack> Frame<'_, S> {
    /// Replaces the registers of the frame by those of its caller, which may be on a lower stack
    /// if the frame is that of a signal handler's (`sigaltstack`) and this is said.
    #[cold]
    #[inline(never)]
    pub(crate) fn leave(
        &self,
        registers: &mut Registers,
        may_descend: bool,
    ) -> Result<Step, UnwindError> {
        let row = self.row;
        if row.rule(Register::RA) == RegisterRule::Undefined {
            return Ok(Step::End);
        }
        let cfa = self.cfa(registers)?;
        let sp = registers.sp();
        // A function that has popped its return address into a register (vfork does) has its CFA
        // at its stack pointer. It cannot have called anyone like that, so only the innermost
        // frame may, and a walk still ends.
        let popped = cfa == sp
            && matches!(self.pc, Pc::Exact(_))
            && matches!(row.rule(Register::RA), RegisterRule::Register(_));
        if cfa <= sp && !popped && !may_descend {
            return Err(UnwindError::CfaNotAbove { pc: self.address(), cfa, sp });
        }
        self.restore(registers, cfa)?;
        Ok(Step::Caller { cfa })
    }

    /// Replaces each register by its rule, of which any may need any register of the frame.
    #[inline(never)]
    fn restore(&self, registers: &mut Registers, cfa: u64) -> Result<(), UnwindError> {
        let mut caller = registers.with(Register::RSP, cfa);
        for register in Register::all() {
            if let Some(value) = self.value(self.row.rule(register), registers, cfa)? {
                caller.set(register, value);
            }
        }
        *registers = caller;
        Ok(())
    }

    /// The frame's CFA.
    #[inline(never)]
    pub(crate) fn cfa(&self, registers: &Registers) -> Result<u64, UnwindError> {
        match self.row.cfa {
            CfaRule::Offset(base, offset) => {
                Ok(registers.get(base).wrapping_add_signed(i64::from(offset)))
            }
            CfaRule::Expression(range) => self.evaluate(range, registers, None),
        }
    }

    /// The caller's value of a register, unless it is what the frame has.
    #[inline]
    fn value(
        &self,
        rule: RegisterRule,
        registers: &Registers,
        cfa: u64,
    ) -> Result<Option<u64>, UnwindError> {
        let value = match rule {
            RegisterRule::Unspecified | RegisterRule::Undefined | RegisterRule::SameValue => {
                return Ok(None);
            }
            RegisterRule::Offset(offset) => {
                self.read(cfa.wrapping_add_signed(i64::from(offset)))?
            }
            RegisterRule::ValOffset(offset) => cfa.wrapping_add_signed(i64::from(offset)),
            RegisterRule::Register(register) => registers.get(register),
            RegisterRule::Expression(range) => {
                self.read(self.evaluate(range, registers, Some(cfa))?)?
            }
            RegisterRule::ValExpression(range) => self.evaluate(range, registers, Some(cfa))?,
        };
        Ok(Some(value))
    }

    const fn address(&self) -> u64 {
        self.pc.lookup()
    }

    fn read(&self, address: u64) -> Result<u64, UnwindError> {
        self.stack.read(address).ok_or(UnwindError::StackRead { pc: self.address(), address })
    }

    #[cold]
    #[inline(never)]
    fn evaluate(
        &self,
        range: ExpressionRange,
        registers: &Registers,
        initial: Option<u64>,
    ) -> Result<u64, UnwindError> {
        let pc = self.address();
        let start = range.offset as usize;
        let code = self.eh_frame.get(start..start + usize::from(range.length));
        let outside = gimli::Error::OffsetOutOfBounds(start as u64);
        let code = code.ok_or(UnwindError::BadTable { pc, source: outside })?;
        evaluate(code, registers, self.stack, initial).map_err(|failure| match failure {
            Failure::Bad(source) => UnwindError::BadTable { pc, source },
            Failure::Read(address) => UnwindError::StackRead { pc, address },
        })
    }
}

#[cfg(test)]
mod tests;
