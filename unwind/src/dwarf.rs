//! The general path: rows that do not fit a [`Rule`](crate::Rule).
//!
//! ```text
//!   Row + registers ─► CFA ─► each register by its own rule ─► caller's registers
//!                             expression: CFA pushed first (DWARF 5 §6.4.2.3)
//! ```
//!
//! PLT stubs, signal trampolines, realigned stacks and hand-written assembly come here.
#![forbid(unsafe_code)]

use gimli::{Encoding, Evaluation, EvaluationResult, EvaluationStorage, Format, Piece, Value};

use crate::address::Pc;
use crate::cfi::{CfaRule, ExpressionRange, RegisterRule, Row};
use crate::cursor::Step;
use crate::encoding::Bytes;
use crate::error::UnwindError;
use crate::fde::{Function, Span};
use crate::registers::{Register, Registers};
use crate::stack::ReadStack;

/// Values on the expression stack; the deepest one in real tables holds four.
const VALUES: usize = 8;
/// Operations an expression may execute: bounds loops made with `DW_OP_bra`.
const OPERATIONS: u32 = 1000;

/// One frame on its way to its caller.
pub(crate) struct Frame<'f, 'm, S> {
    pub(crate) function: &'f Function<'m>,
    pub(crate) pc: Pc,
    pub(crate) stack: &'f S,
}

/// Expressions in CFI need no heap: the stack is [`VALUES`] deep, there are no calls and the
/// result is one piece.
struct Fixed;

impl<'m> EvaluationStorage<Bytes<'m>> for Fixed {
    type Stack = [Value; VALUES];
    type ExpressionStack = [(Bytes<'m>, Bytes<'m>); 1];
    type Result = [Piece<Bytes<'m>>; 1];
}

impl<S: ReadStack> Frame<'_, '_, S> {
    /// The frame's CFA.
    #[cold]
    #[inline(never)]
    pub(crate) fn cfa(&self, registers: &Registers) -> Result<u64, UnwindError> {
        let row = self.function.row(self.address())?;
        self.cfa_by(&row, registers)
    }

    /// Replaces the registers of the frame by those of its caller, which may be on a lower stack
    /// if the frame is that of a signal handler's (`sigaltstack`) and this is said.
    #[cold]
    #[inline(never)]
    pub(crate) fn leave(
        &self,
        registers: &mut Registers,
        may_descend: bool,
    ) -> Result<Step, UnwindError> {
        let row = self.function.row(self.address())?;
        if row.rule(Register::RA) == RegisterRule::Undefined {
            return Ok(Step::End);
        }
        let cfa = self.cfa_by(&row, registers)?;
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
        let mut caller = registers.with(Register::RSP, cfa);
        for register in Register::all() {
            if let Some(value) = self.value(row.rule(register), registers, cfa)? {
                caller.set(register, value);
            }
        }
        *registers = caller;
        Ok(Step::Caller { cfa })
    }

    fn cfa_by(&self, row: &Row, registers: &Registers) -> Result<u64, UnwindError> {
        match row.cfa {
            CfaRule::Offset(base, offset) => {
                Ok(registers.get(base).wrapping_add_signed(i64::from(offset)))
            }
            CfaRule::Expression(range) => self.evaluate(range, registers, None),
        }
    }

    /// The caller's value of a register, unless it is what the frame has.
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

    /// `size` bytes at `address`, zero-extended; they may straddle no word.
    fn read_sized(&self, address: u64, size: u8) -> Result<u64, UnwindError> {
        let missing = UnwindError::StackRead { pc: self.address(), address };
        let word = self.read(address & !7)?;
        let shift = (address & 7) * 8;
        match size {
            8 if shift == 0 => Ok(word),
            1..=7 if shift + u64::from(size) * 8 <= 64 => {
                Ok((word >> shift) & ((1 << (u64::from(size) * 8)) - 1))
            }
            _ => Err(missing),
        }
    }

    #[cold]
    #[inline(never)]
    fn evaluate(
        &self,
        range: ExpressionRange,
        registers: &Registers,
        initial: Option<u64>,
    ) -> Result<u64, UnwindError> {
        let bad_table = |source| UnwindError::BadTable { pc: self.address(), source };
        let unsupported = UnwindError::Unsupported { pc: self.address() };
        let start = range.offset as usize;
        let span = Span { start, end: start + usize::from(range.length) };
        let code = self.function.module.reader(span).map_err(bad_table)?;
        let encoding = Encoding { format: Format::Dwarf32, version: 5, address_size: 8 };
        let mut evaluation = Evaluation::<_, Fixed>::new_in(code, encoding);
        evaluation.set_max_iterations(OPERATIONS);
        if let Some(value) = initial {
            evaluation.set_initial_value(value);
        }
        let mut state = evaluation.evaluate().map_err(bad_table)?;
        loop {
            state = match state {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresMemory { address, size, space: None, .. } => {
                    let value = self.read_sized(address, size)?;
                    evaluation.resume_with_memory(Value::Generic(value))
                }
                EvaluationResult::RequiresRegister { register, .. } => {
                    let register = Register::from_dwarf(register.0).ok_or(unsupported)?;
                    evaluation.resume_with_register(Value::Generic(registers.get(register)))
                }
                _ => return Err(unsupported),
            }
            .map_err(bad_table)?;
        }
        match evaluation.value_result() {
            Some(Value::Generic(value)) => Ok(value),
            _ => Err(unsupported),
        }
    }
}
