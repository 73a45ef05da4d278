//! Reads one call frame instruction.
//!
//! ```text
//!   │ 2 bits │ 6 bits │        advance_loc, offset, restore: the operand is in the opcode
//!   │ 00     │ opcode │ …      everything else
//! ```
//!
//! DWARF 5 §6.4.2 and §7.24; the GNU extensions are those of LSB core §10.5.2. The vocabulary is
//! gimli's `CallFrameInstruction`.
#![forbid(unsafe_code)]

use gimli::constants;
use gimli::{
    CallFrameInstruction as Instruction, DwCfa, DwEhPe, Error, Reader, Register, Result,
    UnwindExpression,
};

use crate::encoding::{Bases, Bytes, Pointer, pointer};

/// What an instruction's operands depend on.
#[derive(Clone, Copy)]
pub(crate) struct Decoder {
    /// How code addresses are encoded.
    pub(crate) encoding: DwEhPe,
    /// What they may be relative to.
    pub(crate) bases: Bases,
    /// Where the program ends in its section, in bytes.
    pub(crate) end: usize,
}

/// The high two bits, and the operand in the low six.
const PRIMARY: u8 = 0xc0;
const OPERAND: u8 = 0x3f;

impl Decoder {
    /// The next instruction; `None` at the end of the program.
    pub(crate) fn next(&self, reader: &mut Bytes<'_>) -> Result<Option<Instruction<usize>>> {
        if reader.is_empty() {
            return Ok(None);
        }
        let opcode = reader.read_u8()?;
        let operand = opcode & OPERAND;
        let register = Register(operand.into());
        Ok(Some(match DwCfa(opcode & PRIMARY) {
            constants::DW_CFA_advance_loc => Instruction::AdvanceLoc { delta: operand.into() },
            constants::DW_CFA_offset => {
                Instruction::Offset { register, factored_offset: reader.read_uleb128()? }
            }
            constants::DW_CFA_restore => Instruction::Restore { register },
            _ => self.extended(DwCfa(opcode), reader)?,
        }))
    }

    fn extended(&self, opcode: DwCfa, reader: &mut Bytes<'_>) -> Result<Instruction<usize>> {
        Ok(match opcode {
            constants::DW_CFA_nop => Instruction::Nop,
            constants::DW_CFA_set_loc => {
                let position = self.end - reader.len();
                let address = pointer(reader, position, self.encoding, &self.bases)?;
                Instruction::SetLoc { address: address.map_or(0, Pointer::address) }
            }
            constants::DW_CFA_advance_loc1 => {
                Instruction::AdvanceLoc { delta: reader.read_u8()?.into() }
            }
            constants::DW_CFA_advance_loc2 => {
                Instruction::AdvanceLoc { delta: reader.read_u16()?.into() }
            }
            constants::DW_CFA_advance_loc4 => Instruction::AdvanceLoc { delta: reader.read_u32()? },
            constants::DW_CFA_remember_state => Instruction::RememberState,
            constants::DW_CFA_restore_state => Instruction::RestoreState,
            constants::DW_CFA_def_cfa => {
                Instruction::DefCfa { register: column(reader)?, offset: reader.read_uleb128()? }
            }
            constants::DW_CFA_def_cfa_register => {
                Instruction::DefCfaRegister { register: column(reader)? }
            }
            constants::DW_CFA_def_cfa_offset => {
                Instruction::DefCfaOffset { offset: reader.read_uleb128()? }
            }
            constants::DW_CFA_def_cfa_sf => Instruction::DefCfaSf {
                register: column(reader)?,
                factored_offset: reader.read_sleb128()?,
            },
            constants::DW_CFA_def_cfa_offset_sf => {
                Instruction::DefCfaOffsetSf { factored_offset: reader.read_sleb128()? }
            }
            constants::DW_CFA_def_cfa_expression => {
                Instruction::DefCfaExpression { expression: self.expression(reader)? }
            }
            constants::DW_CFA_GNU_args_size => {
                Instruction::ArgsSize { size: reader.read_uleb128()? }
            }
            _ => self.register(opcode, reader)?,
        })
    }

    /// The instructions that give a register its rule.
    fn register(&self, opcode: DwCfa, reader: &mut Bytes<'_>) -> Result<Instruction<usize>> {
        let known = constants::DW_CFA_offset_extended.0..=constants::DW_CFA_val_expression.0;
        if !known.contains(&opcode.0) && opcode != constants::DW_CFA_GNU_negative_offset_extended {
            return Err(Error::UnknownCallFrameInstruction(opcode));
        }
        let register = column(reader)?;
        Ok(match opcode {
            constants::DW_CFA_offset_extended => {
                Instruction::Offset { register, factored_offset: reader.read_uleb128()? }
            }
            constants::DW_CFA_restore_extended => Instruction::Restore { register },
            constants::DW_CFA_undefined => Instruction::Undefined { register },
            constants::DW_CFA_same_value => Instruction::SameValue { register },
            constants::DW_CFA_register => {
                Instruction::Register { dest_register: register, src_register: column(reader)? }
            }
            constants::DW_CFA_expression => {
                Instruction::Expression { register, expression: self.expression(reader)? }
            }
            constants::DW_CFA_offset_extended_sf => {
                Instruction::OffsetExtendedSf { register, factored_offset: reader.read_sleb128()? }
            }
            constants::DW_CFA_val_offset => {
                Instruction::ValOffset { register, factored_offset: reader.read_uleb128()? }
            }
            constants::DW_CFA_val_offset_sf => {
                Instruction::ValOffsetSf { register, factored_offset: reader.read_sleb128()? }
            }
            constants::DW_CFA_val_expression => {
                Instruction::ValExpression { register, expression: self.expression(reader)? }
            }
            constants::DW_CFA_GNU_negative_offset_extended => {
                let offset = reader.read_uleb128()?;
                let offset = i64::try_from(offset).map_err(|_| Error::UnsupportedOffset)?;
                Instruction::OffsetExtendedSf { register, factored_offset: -offset }
            }
            _ => return Err(Error::UnknownCallFrameInstruction(opcode)),
        })
    }

    fn expression(&self, reader: &mut Bytes<'_>) -> Result<UnwindExpression<usize>> {
        let length = reader.read_uleb128()?;
        let length = usize::try_from(length).map_err(|_| Error::OffsetOutOfBounds(length))?;
        let offset = self.end - reader.len();
        reader.skip(length)?;
        Ok(UnwindExpression { offset, length })
    }
}

fn column(reader: &mut Bytes<'_>) -> Result<Register> {
    let number = reader.read_uleb128()?;
    u16::try_from(number).map(Register).map_err(|_| Error::UnsupportedRegister(number))
}
