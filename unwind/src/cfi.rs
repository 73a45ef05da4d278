//! Runs the CFI program of a function up to an address.
//!
//! ```text
//!   CIE program ─► initial row ─► FDE program, until its location passes the address ─► Row
//!                                 advance_loc · def_cfa · offset · remember/restore_state · …
//! ```
//!
//! A row of ours is 148 bytes and there is only one (gimli's, made for every architecture, has
//! more than a thousand, and a stack of them), so that unwinding fits on a stack of a few KiB.
//! What an instruction means is DWARF 5 §6.4.2.
#![forbid(unsafe_code)]

use gimli::{CallFrameInstruction as Instruction, Error, Reader as _, UnwindExpression, constants};

use crate::encoding::Bytes;
use crate::error::UnwindError;
use crate::fde::{Cie, Function, Span};
use crate::instruction::Decoder;
use crate::registers::Register;
use crate::rule::Rule;

/// A DWARF expression: where it lies in `.eh_frame`, in bytes.
///
/// Packed so that a [`RegisterRule`] takes eight bytes and not twelve: rows live on small stacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, packed(2))]
pub struct ExpressionRange {
    pub(crate) offset: u32,
    pub(crate) length: u16,
}

/// How the canonical frame address is computed (DWARF 5 §6.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CfaRule {
    /// A register plus bytes.
    Offset(Register, i32),
    /// The value of an expression.
    Expression(ExpressionRange),
}

/// How the caller's value of a register is found (DWARF 5 §6.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RegisterRule {
    /// The tables say nothing: unchanged, as the ABI has it for callee-saved registers.
    #[default]
    Unspecified,
    /// Not recoverable; for the return address: this frame is the outermost.
    Undefined,
    /// Unchanged.
    SameValue,
    /// Saved at CFA plus bytes.
    Offset(i32),
    /// CFA plus bytes.
    ValOffset(i32),
    /// In another register.
    Register(Register),
    /// Saved at the address that an expression computes.
    Expression(ExpressionRange),
    /// What an expression computes.
    ValExpression(ExpressionRange),
}

/// How to get from the registers of one frame to those of its caller, at one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// How the CFA is computed.
    pub cfa: CfaRule,
    /// `DW_CFA_GNU_args_size`: bytes of arguments that a landing pad must pop.
    pub args_size: u32,
    rules: [RegisterRule; Register::COUNT],
}

static_assertions::const_assert_eq!(size_of::<RegisterRule>(), 8);

impl Row {
    /// Before any instruction: everything unspecified.
    pub(crate) const START: Self = Self {
        cfa: CfaRule::Offset(Register::RSP, 0),
        args_size: 0,
        rules: [RegisterRule::Unspecified; Register::COUNT],
    };

    /// The rule for a register.
    pub const fn rule(&self, register: Register) -> RegisterRule {
        self.rules[register.number()]
    }
}

impl Function<'_> {
    /// The row in force at `address`, which must lie in this function.
    ///
    /// # Errors
    ///
    /// [`UnwindError::BadTable`] or [`UnwindError::Unsupported`], each with `address`.
    pub fn row(&self, address: u64) -> Result<Row, UnwindError> {
        let mut row = Row::START;
        self.run_to(address, &mut row)?;
        Ok(row)
    }

    /// Makes a row, which is [`Row::START`], the one in force at `address`. In place: it is too
    /// large to be handed through returns on a small stack.
    #[inline(never)]
    pub(crate) fn run_to(&self, address: u64, row: &mut Row) -> Result<(), UnwindError> {
        Program { function: self, target: address, row, budget: INSTRUCTIONS }.run_all()
    }

    /// The row in force at `address` as a rule, if it fits one; `Err` inside is a rule that has
    /// only the row's `args_size`.
    #[inline(always)]
    pub(crate) fn rule(&self, address: u64) -> Result<Result<Rule, Rule>, UnwindError> {
        match self.usual_rule(address) {
            Some(rule) => Ok(Ok(rule)),
            None => self.rule_by_row(address),
        }
    }

    /// As [`rule`](Self::rule), and gives back the stack that a row takes.
    #[cold]
    #[inline(never)]
    fn rule_by_row(&self, address: u64) -> Result<Result<Rule, Rule>, UnwindError> {
        let mut row = Row::START;
        self.run_to(address, &mut row)?;
        Ok(Rule::from_row(&row).ok_or(Rule::with_args_size(row.args_size)))
    }
}

const NOP: u8 = constants::DW_CFA_nop.0;
const DEF_CFA: u8 = constants::DW_CFA_def_cfa.0;
const DEF_CFA_OFFSET: u8 = constants::DW_CFA_def_cfa_offset.0;
// With the operand in the six low bits.
const ADVANCE_LOC: u8 = constants::DW_CFA_advance_loc.0;
const OFFSET: u8 = constants::DW_CFA_offset.0;
const RESTORE: u8 = constants::DW_CFA_restore.0;

/// A program and how far its location has advanced.
#[derive(Clone, Copy)]
struct Tape<'m> {
    reader: Bytes<'m>,
    location: u64,
}

/// What comes next on a tape.
enum Next {
    Instruction(Instruction<usize>),
    /// The program ends, or what follows is for later addresses.
    End,
}

struct Program<'f, 'm, 'r> {
    function: &'f Function<'m>,
    /// The address asked for.
    target: u64,
    row: &'r mut Row,
    /// Instructions that may still be read.
    budget: u32,
}

/// Instructions that are read for a row, those that are skipped included. The longest programs of
/// compilers have some thousands; one that remembers states without end and never restores them
/// is read again from each.
const INSTRUCTIONS: u32 = 1 << 20;

impl<'m> Program<'_, 'm, '_> {
    fn run_all(&mut self) -> Result<(), UnwindError> {
        self.begin()?;
        self.run()
    }

    fn open(&self, span: Span) -> Result<(Decoder, Bytes<'m>), UnwindError> {
        let bases = self.function.module.bases();
        let encoding = self.function.cie.address_encoding;
        let reader = self.function.module.reader(span).map_err(|e| self.bad_table(e))?;
        Ok((Decoder { encoding, bases, end: span.end }, reader))
    }

    /// Runs the CIE's program. It says how every function begins: there is no location in it yet,
    /// no state to remember, and nothing to restore.
    fn begin(&mut self) -> Result<(), UnwindError> {
        let (decoder, mut reader) = self.open(self.function.cie.program)?;
        self.common(&mut reader, None);
        while let Some(next) = decoder.next(&mut reader).map_err(|e| self.bad_table(e))? {
            match next {
                Instruction::AdvanceLoc { .. }
                | Instruction::SetLoc { .. }
                | Instruction::RememberState
                | Instruction::RestoreState
                | Instruction::Restore { .. } => {
                    return Err(self.bad_table(Error::CfiInstructionInInvalidContext));
                }
                other => self.step(other)?,
            }
        }
        Ok(())
    }

    /// Runs the FDE's program.
    fn run(&mut self) -> Result<(), UnwindError> {
        let (decoder, reader) = self.open(self.function.program)?;
        let mut tape = Tape { reader, location: self.function.start() };
        loop {
            let Tape { reader, location } = &mut tape;
            if self.common(reader, Some(location)) {
                return Ok(());
            }
            match self.next(&decoder, &mut tape).map_err(|e| self.bad_table(e))? {
                Next::End => return Ok(()),
                Next::Instruction(Instruction::RememberState) => {
                    if let Some(after) =
                        self.after_restore(&decoder, tape).map_err(|e| self.bad_table(e))?
                    {
                        tape = after;
                    }
                }
                // Its partner would have skipped it.
                Next::Instruction(Instruction::RestoreState) => {
                    return Err(self.bad_table(Error::PopWithEmptyStack));
                }
                Next::Instruction(Instruction::Restore { register }) => {
                    let rule = self.initial_rule(register)?;
                    self.set(register, rule);
                }
                Next::Instruction(other) => self.step(other)?,
            }
        }
    }

    /// Runs what most programs consist of and stops at anything else, which is left to
    /// [`Decoder`]: what is said here is what it would say, at a fraction of the cost. There may be a
    /// location to move; whether the rest of the program is for later ones.
    #[inline]
    fn common(&mut self, reader: &mut Bytes<'_>, mut location: Option<&mut u64>) -> bool {
        let Cie { code_factor: 1, data_factor: -8, .. } = self.function.cie else { return false };
        let mut code = reader.slice();
        loop {
            code = match *code {
                [NOP, ref rest @ ..] => rest,
                [DEF_CFA_OFFSET, offset @ ..0x80, ref rest @ ..] => {
                    let CfaRule::Offset(_, old) = &mut self.row.cfa else { break };
                    *old = offset.into();
                    rest
                }
                [DEF_CFA, register @ ..0x80, offset @ ..0x80, ref rest @ ..] => {
                    let Some(register) = Register::from_dwarf(register.into()) else { break };
                    self.row.cfa = CfaRule::Offset(register, offset.into());
                    rest
                }
                [opcode @ ADVANCE_LOC..OFFSET, ref rest @ ..] => {
                    let Some(location) = location.as_deref_mut() else { break };
                    let next = location.checked_add((opcode - ADVANCE_LOC).into());
                    let Some(next) = next else { break };
                    if next > self.target {
                        return true;
                    }
                    *location = next;
                    rest
                }
                [opcode @ OFFSET..RESTORE, slots @ ..0x80, ref rest @ ..] => {
                    let register = gimli::Register((opcode - OFFSET).into());
                    self.set(register, RegisterRule::Offset(-8 * i32::from(slots)));
                    rest
                }
                _ => break,
            }
        }
        let read = reader.len() - code.len();
        // As many bytes as were there.
        let _ = reader.skip(read);
        false
    }

    /// The next instruction in force at the target; those that move the location are consumed.
    fn next(&mut self, decoder: &Decoder, tape: &mut Tape<'_>) -> gimli::Result<Next> {
        while let Some(instruction) = decoder.next(&mut tape.reader)? {
            self.budget = self.budget.checked_sub(1).ok_or(Error::TooManyIterations)?;
            let location = match instruction {
                Instruction::AdvanceLoc { delta } => {
                    let bytes = u64::from(delta).wrapping_mul(self.function.cie.code_factor);
                    tape.location.checked_add(bytes).ok_or(Error::AddressOverflow)?
                }
                // Locations only grow (DWARF 5 §6.4.2.1).
                Instruction::SetLoc { address } if address < tape.location => {
                    return Err(Error::InvalidCfiSetLoc(address));
                }
                Instruction::SetLoc { address } => address,
                other => return Ok(Next::Instruction(other)),
            };
            if location > self.target {
                break;
            }
            tape.location = location;
        }
        Ok(Next::End)
    }

    /// After a `DW_CFA_remember_state`: the tape after the `DW_CFA_restore_state` that belongs
    /// to it, if the target lies behind that.
    ///
    /// What stands between the two is undone, so that it need not be done; and so no state need
    /// be remembered, however deeply compilers nest them.
    fn after_restore(
        &mut self,
        decoder: &Decoder,
        mut tape: Tape<'m>,
    ) -> gimli::Result<Option<Tape<'m>>> {
        let mut open = 1;
        while let Next::Instruction(instruction) = self.next(decoder, &mut tape)? {
            match instruction {
                Instruction::RememberState => open += 1,
                Instruction::RestoreState => open -= 1,
                _ => {}
            }
            if open == 0 {
                return Ok(Some(tape));
            }
        }
        Ok(None)
    }

    /// What the CIE says of a register. CIE programs have two or three instructions, so looking
    /// through one again is cheaper than keeping its row.
    #[cold]
    #[inline(never)]
    fn initial_rule(&self, register: gimli::Register) -> Result<RegisterRule, UnwindError> {
        let (decoder, mut reader) = self.open(self.function.cie.program)?;
        let mut initial = RegisterRule::Unspecified;
        while let Some(instruction) = decoder.next(&mut reader).map_err(|e| self.bad_table(e))? {
            match self.rule_of(instruction)? {
                Some((of, rule)) if of == register => initial = rule,
                _ => {}
            }
        }
        Ok(initial)
    }

    /// One instruction that does not move the location.
    fn step(&mut self, instruction: Instruction<usize>) -> Result<(), UnwindError> {
        match instruction {
            Instruction::DefCfa { register, offset } => {
                self.row.cfa = CfaRule::Offset(self.cfa_register(register)?, self.offset(offset)?);
            }
            Instruction::DefCfaSf { register, factored_offset } => {
                let offset = self.factored_signed(factored_offset)?;
                self.row.cfa = CfaRule::Offset(self.cfa_register(register)?, offset);
            }
            Instruction::DefCfaRegister { register } => {
                let CfaRule::Offset(_, offset) = self.row.cfa else {
                    return Err(self.unsupported());
                };
                self.row.cfa = CfaRule::Offset(self.cfa_register(register)?, offset);
            }
            Instruction::DefCfaOffset { offset } => {
                self.set_cfa_offset(self.offset(offset)?)?;
            }
            Instruction::DefCfaOffsetSf { factored_offset } => {
                self.set_cfa_offset(self.factored_signed(factored_offset)?)?;
            }
            Instruction::DefCfaExpression { expression } => {
                self.row.cfa = CfaRule::Expression(self.expression(expression)?);
            }
            Instruction::ArgsSize { size } => {
                self.row.args_size = u32::try_from(size).map_err(|_| self.unsupported())?;
            }
            Instruction::Nop => {}
            other => {
                let (register, rule) = self.rule_of(other)?.ok_or_else(|| self.unsupported())?;
                self.set(register, rule);
            }
        }
        Ok(())
    }

    /// The rule that an instruction gives to a register, if it is of those that do.
    fn rule_of(
        &self,
        instruction: Instruction<usize>,
    ) -> Result<Option<(gimli::Register, RegisterRule)>, UnwindError> {
        Ok(Some(match instruction {
            Instruction::Undefined { register } => (register, RegisterRule::Undefined),
            Instruction::SameValue { register } => (register, RegisterRule::SameValue),
            Instruction::Offset { register, factored_offset } => {
                (register, RegisterRule::Offset(self.factored(factored_offset)?))
            }
            Instruction::OffsetExtendedSf { register, factored_offset } => {
                (register, RegisterRule::Offset(self.factored_signed(factored_offset)?))
            }
            Instruction::ValOffset { register, factored_offset } => {
                (register, RegisterRule::ValOffset(self.factored(factored_offset)?))
            }
            Instruction::ValOffsetSf { register, factored_offset } => {
                (register, RegisterRule::ValOffset(self.factored_signed(factored_offset)?))
            }
            Instruction::Register { dest_register, src_register } => {
                (dest_register, RegisterRule::Register(self.cfa_register(src_register)?))
            }
            Instruction::Expression { register, expression } => {
                (register, RegisterRule::Expression(self.expression(expression)?))
            }
            Instruction::ValExpression { register, expression } => {
                (register, RegisterRule::ValExpression(self.expression(expression)?))
            }
            _ => return Ok(None),
        }))
    }

    /// Columns beyond RA (vector registers and the like) are not callee-saved in the System V
    /// ABI; what the table says of them does not matter to callers.
    fn set(&mut self, register: gimli::Register, rule: RegisterRule) {
        if let Some(register) = Register::from_dwarf(register.0) {
            self.row.rules[register.number()] = rule;
        }
    }

    fn set_cfa_offset(&mut self, offset: i32) -> Result<(), UnwindError> {
        let CfaRule::Offset(register, _) = self.row.cfa else {
            return Err(self.unsupported());
        };
        self.row.cfa = CfaRule::Offset(register, offset);
        Ok(())
    }

    fn cfa_register(&self, register: gimli::Register) -> Result<Register, UnwindError> {
        Register::from_dwarf(register.0).ok_or_else(|| self.unsupported())
    }

    fn offset(&self, offset: u64) -> Result<i32, UnwindError> {
        i32::try_from(offset).map_err(|_| self.unsupported())
    }

    fn factored(&self, offset: u64) -> Result<i32, UnwindError> {
        self.factored_signed(i64::try_from(offset).map_err(|_| self.unsupported())?)
    }

    fn factored_signed(&self, offset: i64) -> Result<i32, UnwindError> {
        offset
            .checked_mul(self.function.cie.data_factor)
            .and_then(|bytes| i32::try_from(bytes).ok())
            .ok_or_else(|| self.unsupported())
    }

    fn expression(&self, range: UnwindExpression<usize>) -> Result<ExpressionRange, UnwindError> {
        let offset = u32::try_from(range.offset).map_err(|_| self.unsupported())?;
        let length = u16::try_from(range.length).map_err(|_| self.unsupported())?;
        Ok(ExpressionRange { offset, length })
    }

    const fn unsupported(&self) -> UnwindError {
        UnwindError::Unsupported { pc: self.target }
    }

    const fn bad_table(&self, source: gimli::Error) -> UnwindError {
        UnwindError::BadTable { pc: self.target, source }
    }
}

#[cfg(feature = "build")]
mod rows;
#[cfg(test)]
mod tests;
mod usual;
