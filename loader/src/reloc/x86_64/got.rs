//! Instructions that take an address from the GOT, and what they become when they can do without.
//!
//! ```text
//!   call *foo@GOTPCREL(%rip)        ──►  addr32 call foo          foo within 2 GiB of the place
//!   jmp *foo@GOTPCREL(%rip)         ──►  jmp foo; nop
//!   mov foo@GOTPCREL(%rip), %reg    ──►  lea foo(%rip), %reg
//!   mov foo@GOTPCREL(%rip), %reg    ──►  mov $foo, %reg           foo in the lowest or highest
//!   test %reg, foo@GOTPCREL(%rip)   ──►  test $foo, %reg          2 GiB
//!   add foo@GOTPCREL(%rip), %reg    ──►  add $foo, %reg           so are adc, and, cmp, or, sbb,
//!                                                                 sub, xor
//! ```
//!
//! Promise: code does the same as before, in as many bytes, or is left as it is. Reference: psABI
//! x86-64, appendix B.2 (`R_X86_64_GOTPCRELX`, `R_X86_64_REX_GOTPCRELX`).
#![forbid(unsafe_code)]

use super::Operands;
use crate::reloc::Problem;

/// What an instruction does with the slot, by opcode and ModRM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Use {
    Call,
    Jump,
    Load,
    Test,
    /// The operation's number in opcode 0x81.
    Arithmetic(u8),
}

impl Use {
    #[inline]
    fn of(opcode: u8, modrm: u8) -> Option<Self> {
        // Any register, and an address relative to rip.
        let with_register = modrm & 0xc7 == 0x05;
        match (opcode, modrm) {
            (0xff, 0x15) => Some(Self::Call),
            (0xff, 0x25) => Some(Self::Jump),
            (0x8b, _) if with_register => Some(Self::Load),
            (0x85, _) if with_register => Some(Self::Test),
            _ if with_register && opcode & 0xc7 == 0x03 => Some(Self::Arithmetic(opcode >> 3)),
            _ => None,
        }
    }
}

/// The instruction before a displacement.
#[derive(Clone, Copy)]
struct Instruction {
    uses: Use,
    /// Where its displacement is.
    at: usize,
    /// Whether there is a REX prefix before it, as the relocation's type says.
    rex: bool,
}

impl Instruction {
    /// The instruction whose displacement of four bytes is at `offset`. The addend must account for
    /// them and nothing else.
    #[inline]
    fn before(rex: bool, code: &[u8], offset: u64, addend: i64) -> Option<Self> {
        let at = usize::try_from(offset).ok()?;
        let &[opcode, modrm, _, _, _, _] = code.get(at.checked_sub(2)?..)?.first_chunk()?;
        let prefixed = !rex || code.get(at.checked_sub(3)?)? & 0xf0 == 0x40;
        let uses = Use::of(opcode, modrm)?;
        (prefixed && addend == -4).then_some(Self { uses, at, rex })
    }

    /// Has the instruction do without its slot, for a symbol at `address`; whether it can. `place` is
    /// the address of its displacement.
    #[inline]
    fn rewrite(self, code: &mut [u8], address: u64, place: Option<u64>) -> bool {
        // A displacement counts from the next instruction. (Distances go round, as addresses do.)
        let to = |next: u64| i32::try_from(address.wrapping_sub(next).cast_signed()).ok();
        let distance = place.and_then(|place| match self.uses {
            // A byte shorter, so that its displacement is a byte before the place.
            Use::Jump => to(place.wrapping_add(3)),
            _ => to(place.wrapping_add(4)),
        });
        match distance {
            Some(distance) if self.name_distance(code, distance.to_le_bytes()) => true,
            // As the CPU extends it with the sign.
            _ => i32::try_from(address.cast_signed())
                .is_ok_and(|number| self.name_address(code, number.to_le_bytes())),
        }
    }

    /// Has the instruction name the symbol by its distance; whether it can.
    #[inline]
    fn name_distance(self, code: &mut [u8], [a, b, c, d]: [u8; 4]) -> bool {
        let Some(bytes) = code.get_mut(self.at - 2..).and_then(|code| code.first_chunk_mut())
        else {
            return false;
        };
        *bytes = match self.uses {
            Use::Call => [0x67, 0xe8, a, b, c, d],
            Use::Load => [0x8d, bytes[1], a, b, c, d],
            Use::Jump => [0xe9, a, b, c, d, 0x90],
            _ => return false,
        };
        true
    }

    /// Has the instruction take the symbol's address as a number; whether it can.
    fn name_address(self, code: &mut [u8], address: [u8; 4]) -> bool {
        let (opcode, operation) = match self.uses {
            Use::Load => (0xc7, 0),
            Use::Test => (0xf7, 0),
            Use::Arithmetic(operation) => (0x81, operation),
            Use::Call | Use::Jump => return false,
        };
        let register = code[self.at - 1] >> 3 & 7;
        code[self.at - 2] = opcode;
        code[self.at - 1] = 0xc0 | operation << 3 | register;
        if self.rex {
            // With the register in the r/m field, REX.R becomes REX.B.
            let prefix = &mut code[self.at - 3];
            *prefix = *prefix & !0b101 | *prefix >> 2 & 1;
        }
        code[self.at..self.at + 4].copy_from_slice(&address);
        true
    }
}

/// Rewrites the instruction whose displacement is at `offset`, if it can do without its slot;
/// whether it did. `rex` says that there is a REX prefix.
pub(super) fn relax(
    rex: bool,
    code: &mut [u8],
    offset: u64,
    operands: &Operands,
) -> Result<bool, Problem> {
    let address = operands.address()?;
    let instruction = Instruction::before(rex, code, offset, operands.addend);
    Ok(operands.in_code && instruction.is_some_and(|it| it.rewrite(code, address, operands.place)))
}

/// What the first two bytes become of an instruction that takes a near address: those that nearly
/// all are. The displacement is the last four of its seven bytes.
#[inline]
fn direct(rex: bool, instruction: &[u8; 7], addend: i64) -> Option<[u8; 2]> {
    let &[prefix, opcode, modrm, ..] = instruction;
    if addend != -4 || rex && prefix & 0xf0 != 0x40 {
        return None;
    }
    match (opcode, modrm) {
        (0x8b, _) if modrm & 0xc7 == 0x05 => Some([0x8d, modrm]),
        (0xff, 0x15) => Some([0x67, 0xe8]),
        _ => None,
    }
}

/// Whether an instruction is one that [`write_direct`] rewrites.
#[inline]
pub(crate) fn needs_no_slot(rex: bool, code: &[u8], offset: u64, addend: i64) -> bool {
    let start = (offset as usize).checked_sub(3);
    let instruction = start.and_then(|start| code.get(start..)?.first_chunk());
    instruction.is_some_and(|instruction| direct(rex, instruction, addend).is_some())
}

/// As [`relax`] for a symbol at this distance, but of most instructions only, and without first
/// bytes of sections; whether it did.
#[inline]
pub(crate) fn write_direct(
    rex: bool,
    code: &mut [u8],
    offset: u64,
    addend: i64,
    distance: [u8; 4],
) -> bool {
    let start = (offset as usize).checked_sub(3);
    let bytes = start.and_then(|start| code.get_mut(start..)?.first_chunk_mut());
    let Some(bytes) = bytes else { return false };
    let Some([opcode, modrm]) = direct(rex, bytes, addend) else { return false };
    let [_, rest @ ..] = bytes;
    let [a, b, c, d] = distance;
    *rest = [opcode, modrm, a, b, c, d];
    true
}

/// Whether the instruction does without its slot wherever the symbol is within 2 GiB.
#[inline]
pub(crate) fn relaxes_if_near(rex: bool, code: &[u8], offset: u64, addend: i64) -> bool {
    let instruction = Instruction::before(rex, code, offset, addend);
    instruction.is_some_and(|it| matches!(it.uses, Use::Call | Use::Jump | Use::Load))
}

#[cfg(test)]
mod tests;
