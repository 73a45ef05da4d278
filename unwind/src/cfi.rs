//! Runs the CFI program of a function up to an address.
//!
//! ```text
//!   CIE program ─► initial row ─► FDE program, until its location passes the address ─► Row
//!                                 advance_loc · def_cfa · offset · remember/restore_state · …
//! ```
//!
//! A row of ours is 144 bytes (gimli's, made for every architecture, has more than a thousand), so that
//! a row and the states that a program remembers fit on a stack of a few KiB. Only parsing is
//! gimli's; what an instruction means is DWARF 5 §6.4.2.
#![forbid(unsafe_code)]

use gimli::{CallFrameInstruction as Instruction, UnwindExpression};

use crate::error::UnwindError;
use crate::fde::Function;
use crate::registers::Register;

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
    const START: Self = Self {
        cfa: CfaRule::Offset(Register::RSP, 0),
        args_size: 0,
        rules: [RegisterRule::Unspecified; Register::COUNT],
    };

    /// The rule for a register.
    pub const fn rule(&self, register: Register) -> RegisterRule {
        self.rules[register.number()]
    }
}

/// How many `DW_CFA_remember_state` may be open at once. Compilers nest them one deep.
const REMEMBERED: usize = 4;

impl Function<'_> {
    /// The row in force at `address`, which must lie in this function.
    ///
    /// # Errors
    ///
    /// [`UnwindError::BadTable`], [`UnwindError::Unsupported`] or
    /// [`UnwindError::RememberTooDeep`], each with `address`.
    pub fn row(&self, address: u64) -> Result<Row, UnwindError> {
        let mut program = Program::new(self, address);
        program.run_cie()?;
        program.run_fde()?;
        Ok(program.row)
    }
}

struct Program<'f, 'm> {
    function: &'f Function<'m>,
    /// The address asked for.
    target: u64,
    /// The address that the program has reached.
    location: u64,
    row: Row,
    remembered: [Row; REMEMBERED],
    depth: usize,
}

impl<'f, 'm> Program<'f, 'm> {
    fn new(function: &'f Function<'m>, target: u64) -> Self {
        Self {
            function,
            target,
            location: function.start(),
            row: Row::START,
            remembered: [Row::START; REMEMBERED],
            depth: 0,
        }
    }

    fn run_cie(&mut self) -> Result<(), UnwindError> {
        let (section, bases) = (self.function.section(), self.function.bases());
        let mut instructions = self.function.fde.cie().instructions(&section, &bases);
        while let Some(instruction) = instructions.next().map_err(|e| self.bad_table(e))? {
            self.step(instruction)?;
        }
        Ok(())
    }

    fn run_fde(&mut self) -> Result<(), UnwindError> {
        let (section, bases) = (self.function.section(), self.function.bases());
        let mut instructions = self.function.fde.instructions(&section, &bases);
        while let Some(instruction) = instructions.next().map_err(|e| self.bad_table(e))? {
            let next = match instruction {
                Instruction::AdvanceLoc { delta } => {
                    let factor = self.function.fde.cie().code_alignment_factor();
                    self.location.wrapping_add(u64::from(delta).wrapping_mul(factor))
                }
                Instruction::SetLoc { address } => address,
                other => {
                    self.step(other)?;
                    continue;
                }
            };
            if next > self.target {
                break;
            }
            self.location = next;
        }
        Ok(())
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
            Instruction::RememberState => self.remember()?,
            Instruction::RestoreState => self.restore()?,
            Instruction::ArgsSize { size } => {
                self.row.args_size = u32::try_from(size).map_err(|_| self.unsupported())?;
            }
            Instruction::Nop => {}
            Instruction::Restore { register } => {
                let rule = self.initial_rule(register)?;
                self.set(register, rule);
            }
            other => return self.register_rule(other),
        }
        Ok(())
    }

    /// One instruction that gives a register its rule.
    fn register_rule(&mut self, instruction: Instruction<usize>) -> Result<(), UnwindError> {
        let (register, rule) = match instruction {
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
            _ => return Err(self.unsupported()),
        };
        self.set(register, rule);
        Ok(())
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

    fn remember(&mut self) -> Result<(), UnwindError> {
        let slot = self
            .remembered
            .get_mut(self.depth)
            .ok_or(UnwindError::RememberTooDeep { pc: self.target, limit: REMEMBERED })?;
        *slot = self.row;
        self.depth += 1;
        Ok(())
    }

    fn restore(&mut self) -> Result<(), UnwindError> {
        self.depth = self
            .depth
            .checked_sub(1)
            .ok_or_else(|| self.bad_table(gimli::Error::PopWithEmptyStack))?;
        self.row = self.remembered[self.depth];
        Ok(())
    }

    /// What the CIE says of a register. CIE programs have two or three instructions, so running
    /// one again is cheaper than keeping its row.
    #[inline(never)]
    fn initial_rule(&self, register: gimli::Register) -> Result<RegisterRule, UnwindError> {
        let mut initial = Program::new(self.function, self.target);
        initial.run_cie()?;
        Ok(Register::from_dwarf(register.0)
            .map_or(RegisterRule::Unspecified, |r| initial.row.rule(r)))
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
            .checked_mul(self.function.fde.cie().data_alignment_factor())
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
