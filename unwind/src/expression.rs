//! Evaluates the DWARF expressions of call frame instructions.
//!
//! ```text
//!   CFA rule:        [ ]     ─ operations ─► top = CFA
//!   register's rule: [CFA]   ─ operations ─► top = value, or the address that it is saved at
//! ```
//!
//! DWARF 5 §2.5 as far as §6.4.2 allows it: stack, arithmetic, comparison, control flow, registers
//! and memory. Values are 64-bit and have no type. Operations that need a unit, a frame or another object
//! are not valid in CFI and are refused, as are locations.
#![forbid(unsafe_code)]

use gimli::{DwOp, EndianSlice, Error, LittleEndian, Reader, Result, constants};

use crate::encoding::Bytes;
use crate::registers::{Register, Registers};
use crate::stack::ReadStack;

/// Values on the expression stack that are made room for at first; the deepest one in real tables holds
/// four.
const FEW: usize = 8;
/// Values that are made room for when those are not enough: as many as libgcc has.
const MANY: usize = 64;
/// Operations an expression may execute: bounds loops made with `DW_OP_bra`.
const OPERATIONS: u32 = 1000;

/// Why an expression has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It is malformed.
    Bad(Error),
    /// A word that it asks for is not on the stack.
    Read(u64),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Bad(error)
    }
}

type Outcome<T> = core::result::Result<T, Failure>;

/// The value of an expression: what is on top after the last operation. `initial` lies on the stack at
/// first.
#[inline]
pub(crate) fn evaluate<S: ReadStack>(
    code: &[u8],
    registers: &Registers,
    memory: &S,
    initial: Option<u64>,
) -> Outcome<u64> {
    match Expression::<S, FEW>::new(code, registers, memory).evaluate(initial) {
        // Evaluating changes nothing, so it can be begun again.
        Err(Failure::Bad(Error::StackFull)) => evaluate_deep(code, registers, memory, initial),
        outcome => outcome,
    }
}

/// On a larger stack: half a KiB, which a throw takes only where it must. With it, a throw takes more
/// than 2 KiB: up to 2304 bytes.
#[cold]
#[inline(never)]
fn evaluate_deep<S: ReadStack>(
    code: &[u8],
    registers: &Registers,
    memory: &S,
    initial: Option<u64>,
) -> Outcome<u64> {
    Expression::<S, MANY>::new(code, registers, memory).evaluate(initial)
}

/// An expression that is being evaluated.
struct Expression<'e, S, const VALUES: usize> {
    /// All of it: branches may go back.
    code: &'e [u8],
    registers: &'e Registers,
    memory: &'e S,
    values: [u64; VALUES],
    depth: usize,
}

impl<'e, S: ReadStack, const VALUES: usize> Expression<'e, S, VALUES> {
    fn new(code: &'e [u8], registers: &'e Registers, memory: &'e S) -> Self {
        Self { code, registers, memory, values: [0; VALUES], depth: 0 }
    }

    #[inline]
    fn evaluate(mut self, initial: Option<u64>) -> Outcome<u64> {
        if let Some(value) = initial {
            self.push(value)?;
        }
        let mut reader = EndianSlice::new(self.code, LittleEndian);
        for _ in 0..OPERATIONS {
            if reader.is_empty() {
                return Ok(self.pop()?);
            }
            let operation = DwOp(reader.read_u8()?);
            self.operation(operation, &mut reader)?;
        }
        Err(Error::TooManyIterations.into())
    }

    fn operation(&mut self, operation: DwOp, reader: &mut Bytes<'e>) -> Outcome<()> {
        let lit0 = constants::DW_OP_lit0.0;
        match operation {
            constants::DW_OP_nop => return Ok(()),
            constants::DW_OP_skip => return Ok(self.branch(reader, true)?),
            constants::DW_OP_bra => {
                let taken = self.pop()? != 0;
                return Ok(self.branch(reader, taken)?);
            }
            constants::DW_OP_deref => {
                let address = self.pop()?;
                let value = self.read(address, 8)?;
                self.push(value)?;
            }
            constants::DW_OP_deref_size => {
                let size = reader.read_u8()?;
                let address = self.pop()?;
                let value = self.read(address, size)?;
                self.push(value)?;
            }
            constants::DW_OP_bregx => {
                let number = reader.read_uleb128()?;
                self.base(number, reader)?;
            }
            _ if (constants::DW_OP_breg0.0..=constants::DW_OP_breg31.0).contains(&operation.0) => {
                self.base(u64::from(operation.0 - constants::DW_OP_breg0.0), reader)?;
            }
            _ if (lit0..=constants::DW_OP_lit31.0).contains(&operation.0) => {
                self.push(u64::from(operation.0 - lit0))?;
            }
            _ => match constant(operation, reader)? {
                Some(value) => self.push(value)?,
                None => self.arrange_or_compute(operation, reader)?,
            },
        }
        Ok(())
    }

    /// The operations that rearrange the stack, and those on its topmost value.
    #[inline(never)]
    fn arrange_or_compute(&mut self, operation: DwOp, reader: &mut Bytes<'e>) -> Result<()> {
        match operation {
            constants::DW_OP_dup => self.push(self.at(0)?),
            constants::DW_OP_drop => self.pop().map(drop),
            constants::DW_OP_over => self.push(self.at(1)?),
            constants::DW_OP_pick => {
                let index = usize::from(reader.read_u8()?);
                self.push(self.at(index)?)
            }
            constants::DW_OP_swap => {
                let (top, second) = (self.pop()?, self.pop()?);
                self.push(top)?;
                self.push(second)
            }
            constants::DW_OP_rot => {
                let (top, second, third) = (self.pop()?, self.pop()?, self.pop()?);
                self.push(top)?;
                self.push(third)?;
                self.push(second)
            }
            constants::DW_OP_abs => self.unary(|n| (n as i64).wrapping_abs() as u64),
            constants::DW_OP_neg => self.unary(u64::wrapping_neg),
            constants::DW_OP_not => self.unary(|n| !n),
            constants::DW_OP_plus_uconst => {
                let addend = reader.read_uleb128()?;
                self.unary(|n| n.wrapping_add(addend))
            }
            _ => self.binary(operation),
        }
    }

    fn unary(&mut self, compute: impl FnOnce(u64) -> u64) -> Result<()> {
        let value = self.pop()?;
        self.push(compute(value))
    }

    /// The operations on the two topmost values. Division and comparison are signed, `mod` is not
    /// (DWARF 5 §2.5.1.4, §2.5.1.5).
    fn binary(&mut self, operation: DwOp) -> Result<()> {
        let logic = constants::DW_OP_and.0..=constants::DW_OP_xor.0;
        let comparison = constants::DW_OP_eq.0..=constants::DW_OP_ne.0;
        if !logic.contains(&operation.0) && !comparison.contains(&operation.0) {
            return Err(Error::InvalidExpression(operation));
        }
        let right = self.pop()?;
        let left = self.pop()?;
        let (signed_left, signed_right) = (left as i64, right as i64);
        let shift = u32::try_from(right).unwrap_or(u32::MAX);
        let value = match operation {
            constants::DW_OP_and => left & right,
            constants::DW_OP_or => left | right,
            constants::DW_OP_xor => left ^ right,
            constants::DW_OP_plus => left.wrapping_add(right),
            constants::DW_OP_minus => left.wrapping_sub(right),
            constants::DW_OP_mul => left.wrapping_mul(right),
            constants::DW_OP_div if right != 0 => signed_left.wrapping_div(signed_right) as u64,
            constants::DW_OP_mod if right != 0 => left % right,
            constants::DW_OP_div | constants::DW_OP_mod => return Err(Error::DivisionByZero),
            constants::DW_OP_shl => left.checked_shl(shift).unwrap_or(0),
            constants::DW_OP_shr => left.checked_shr(shift).unwrap_or(0),
            constants::DW_OP_shra => (signed_left >> shift.min(63)) as u64,
            constants::DW_OP_eq => u64::from(left == right),
            constants::DW_OP_ne => u64::from(left != right),
            constants::DW_OP_ge => u64::from(signed_left >= signed_right),
            constants::DW_OP_gt => u64::from(signed_left > signed_right),
            constants::DW_OP_le => u64::from(signed_left <= signed_right),
            constants::DW_OP_lt => u64::from(signed_left < signed_right),
            other => return Err(Error::InvalidExpression(other)),
        };
        self.push(value)
    }

    /// Goes on so many bytes after the operand, forwards or backwards.
    fn branch(&self, reader: &mut Bytes<'e>, taken: bool) -> Result<()> {
        let distance = reader.read_i16()?;
        if taken {
            let here = self.code.len() - reader.len();
            let target = here.checked_add_signed(distance.into());
            let rest = target.and_then(|target| self.code.get(target..));
            let rest = rest.ok_or(Error::BadBranchTarget(here as u64))?;
            *reader = EndianSlice::new(rest, LittleEndian);
        }
        Ok(())
    }

    /// A register plus a signed operand.
    fn base(&mut self, number: u64, reader: &mut Bytes<'e>) -> Result<()> {
        let column = u16::try_from(number).ok().and_then(Register::from_dwarf);
        let column = column.ok_or(Error::UnsupportedRegister(number))?;
        let offset = reader.read_sleb128()?;
        self.push(self.registers.get(column).wrapping_add_signed(offset))
    }

    /// `size` bytes at `address`, zero-extended.
    fn read(&self, address: u64, size: u8) -> Outcome<u64> {
        if !(1..=8).contains(&size) {
            return Err(Error::InvalidDerefSize(size).into());
        }
        let word = |address| self.memory.read(address).ok_or(Failure::Read(address));
        let (first, skipped) = (address & !7, (address & 7) as u32);
        let mut value = word(first)? >> (8 * skipped);
        if skipped + u32::from(size) > 8 {
            value |= word(first.wrapping_add(8))? << (8 * (8 - skipped));
        }
        Ok(value & (u64::MAX >> (64 - 8 * u32::from(size))))
    }

    fn push(&mut self, value: u64) -> Result<()> {
        *self.values.get_mut(self.depth).ok_or(Error::StackFull)? = value;
        self.depth += 1;
        Ok(())
    }

    fn pop(&mut self) -> Result<u64> {
        let value = self.at(0)?;
        self.depth -= 1;
        Ok(value)
    }

    /// The value so many below the top.
    fn at(&self, index: usize) -> Result<u64> {
        let place = self.depth.checked_sub(index + 1).ok_or(Error::NotEnoughStackItems)?;
        Ok(self.values[place])
    }
}

/// The operand of an operation that pushes one.
fn constant(operation: DwOp, reader: &mut Bytes<'_>) -> Result<Option<u64>> {
    Ok(Some(match operation {
        constants::DW_OP_addr | constants::DW_OP_const8u | constants::DW_OP_const8s => {
            reader.read_u64()?
        }
        constants::DW_OP_const1u => reader.read_u8()?.into(),
        constants::DW_OP_const1s => i64::from(reader.read_i8()?) as u64,
        constants::DW_OP_const2u => reader.read_u16()?.into(),
        constants::DW_OP_const2s => i64::from(reader.read_i16()?) as u64,
        constants::DW_OP_const4u => reader.read_u32()?.into(),
        constants::DW_OP_const4s => i64::from(reader.read_i32()?) as u64,
        constants::DW_OP_constu => reader.read_uleb128()?,
        constants::DW_OP_consts => reader.read_sleb128()? as u64,
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests;
