//! Runs the programs that most functions have, and needs no row for it.
//!
//! ```text
//!   advance_loc · def_cfa… · offset · restore · remember/restore_state ─► CFA, slots ─► Rule
//!   anything else ─► a Row
//! ```
//!
//! A first walk spends most of its time in programs. These need sixteen bytes of state, so that a
//! state is remembered by copying it. What is said here is what the row says, or nothing.
#![forbid(unsafe_code)]

use gimli::constants;

use super::{ADVANCE_LOC, DEF_CFA, DEF_CFA_OFFSET, NOP, OFFSET, RESTORE};
use crate::fde::{Cie, Function};
use crate::registers::Register;
use crate::rule::{BASE_RBP, Rule};

const ADVANCE_LOC1: u8 = constants::DW_CFA_advance_loc1.0;
const ADVANCE_LOC2: u8 = constants::DW_CFA_advance_loc2.0;
const REMEMBER_STATE: u8 = constants::DW_CFA_remember_state.0;
const RESTORE_STATE: u8 = constants::DW_CFA_restore_state.0;
const DEF_CFA_REGISTER: u8 = constants::DW_CFA_def_cfa_register.0;

/// `rsp` and `rbp` as operands.
const RSP: u8 = Register::RSP.number() as u8;
const RBP: u8 = Register::RBP.number() as u8;

/// How all compilers' functions begin: the CFA is rsp + 8, the return address at CFA − 8.
const BEGINNING: [u8; 5] = [DEF_CFA, RSP, 8, OFFSET + Register::RA.number() as u8, 1];

/// The two bits that tell the instructions with an operand in the others.
const PRIMARY: u8 = 0xc0;
/// What is said of a push, as the lower bytes of a word: advance_loc, def_cfa_offset and its operand of one
/// byte, offset and its own. The bits that are the same in all.
const PUSH: u64 = u64::from_le_bytes([ADVANCE_LOC, DEF_CFA_OFFSET, 0, OFFSET, 0, 0, 0, 0]);
const PUSH_BITS: u64 = u64::from_le_bytes([PRIMARY, 0xff, 0x80, PRIMARY, 0x80, 0, 0, 0]);
const PUSH_LENGTH: usize = 5;
/// Where the return address stands among the slots.
const RETURN_ADDRESS: u8 = 56;

/// What there is to know of a frame with a rule.
#[derive(Clone, Copy)]
struct State {
    cfa_offset: u16,
    base_rbp: bool,
    /// How many slots below the CFA a register is: in a rule's byte for it, and the return address in
    /// the byte after these.
    slots: u64,
}

impl State {
    const START: Self = Self { cfa_offset: 8, base_rbp: false, slots: 1 << RETURN_ADDRESS };

    #[inline]
    fn save(&mut self, register: u8, slots: u8) -> Option<()> {
        if slots == 0 {
            return None;
        }
        let shift = SHIFTS[usize::from(register) % SHIFTS.len()];
        self.slots = self.slots & !(0xff << shift) | u64::from(slots) << shift;
        Some(())
    }

    /// As it was at the beginning.
    #[inline]
    fn restore(&mut self, register: u8) -> Option<()> {
        let shift = SHIFTS[usize::from(register) % SHIFTS.len()];
        if shift == NO_PLACE {
            return None;
        }
        let byte = 0xff << shift;
        self.slots = self.slots & !byte | Self::START.slots & byte;
        Some(())
    }

    /// One of the instructions that are not in the loop; what follows it.
    #[inline]
    fn step<'c>(
        &mut self,
        opcode: u8,
        code: &'c [u8],
        remembered: &mut Option<Self>,
    ) -> Option<&'c [u8]> {
        match (opcode, code) {
            (NOP, _) => Some(code),
            (DEF_CFA, [register, rest @ ..]) => {
                let (offset, rest) = offset(rest)?;
                self.cfa_offset = offset;
                self.set_base(*register)?;
                Some(rest)
            }
            (DEF_CFA_REGISTER, [register, rest @ ..]) => {
                self.set_base(*register)?;
                Some(rest)
            }
            (REMEMBER_STATE, _) if remembered.is_none() => {
                *remembered = Some(*self);
                Some(code)
            }
            (RESTORE_STATE, _) => {
                *self = remembered.take()?;
                Some(code)
            }
            _ => None,
        }
    }

    fn set_base(&mut self, register: u8) -> Option<()> {
        self.base_rbp = match register {
            RSP => false,
            RBP => true,
            _ => return None,
        };
        Some(())
    }

    const fn rule(self) -> Option<Rule> {
        let [0, a, b, c, d, e, f, 1] = self.slots.to_le_bytes() else { return None };
        let bits = if self.base_rbp { BASE_RBP } else { 0 };
        Some(Rule::new(bits, self.cfa_offset as i32, 0, [a, b, c, d, e, f]))
    }
}

/// By how many bits the slots of a register are shifted. Those of a register that no rule has are in the
/// lowest byte: then there is none.
const SHIFTS: [u8; 64] = {
    let mut shifts = [NO_PLACE; 64];
    let mut place = 0;
    while place < Rule::SAVED.len() {
        shifts[Rule::SAVED[place].number()] = 8 * (place as u8 + 1);
        place += 1;
    }
    shifts[Register::RA.number()] = RETURN_ADDRESS;
    shifts
};
const NO_PLACE: u8 = 0;

impl Function<'_> {
    /// The rule at `address`, if the programs are of the usual kind.
    #[inline(never)]
    pub(super) fn usual_rule(&self, address: u64) -> Option<Rule> {
        if !self.cie.is_usual {
            return None;
        }
        // No advance from here on is beyond the last address.
        address.checked_add(u16::MAX.into())?;
        let left = address.checked_sub(self.start())?;
        run(self.module.reader(self.program).ok()?.slice(), left)?.rule()
    }
}

impl Cie {
    /// Whether its functions begin as those of all compilers, if this is its program.
    pub(crate) fn begins_as_usual(&self, program: &[u8]) -> bool {
        let rest = program.strip_prefix(&BEGINNING);
        let is_beginning = rest.is_some_and(|rest| rest.iter().all(|&byte| byte == NOP));
        is_beginning && self.code_factor == 1 && self.data_factor == -8
    }
}

/// Runs the program as far as it is for the first `left` bytes of code and the one after them.
#[inline(always)]
fn run(mut code: &[u8], mut left: u64) -> Option<State> {
    let (mut state, mut remembered) = (State::START, None);
    loop {
        // All that most programs have up to a call: pushes, and room on the stack.
        while let Some(word) = code.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)) {
            let [advance, _, offset, save, slots, ..] = word.to_le_bytes();
            let after = left.checked_sub((advance & !PRIMARY).into());
            if word & PUSH_BITS == PUSH {
                let Some(after) = after else { return Some(state) };
                left = after;
                state.cfa_offset = offset.into();
                state.save(save & !PRIMARY, slots)?;
                code = &code[PUSH_LENGTH..];
            } else if advance & PRIMARY == ADVANCE_LOC {
                let Some(after) = after else { return Some(state) };
                left = after;
                code = &code[1..];
            } else {
                break;
            }
        }
        let [opcode, ref rest @ ..] = *code else { return Some(state) };
        code = rest;
        let operand = opcode & !PRIMARY;
        let advance = match opcode & PRIMARY {
            ADVANCE_LOC => u64::from(operand),
            OFFSET => {
                let [slots @ 1..0x80, ref rest @ ..] = *code else { return None };
                code = rest;
                state.save(operand, slots)?;
                continue;
            }
            RESTORE => {
                state.restore(operand)?;
                continue;
            }
            _ if opcode == DEF_CFA_OFFSET => {
                (state.cfa_offset, code) = offset(code)?;
                continue;
            }
            _ => match *code {
                [bytes, ref rest @ ..] if opcode == ADVANCE_LOC1 => {
                    code = rest;
                    bytes.into()
                }
                [low, high, ref rest @ ..] if opcode == ADVANCE_LOC2 => {
                    code = rest;
                    u16::from_le_bytes([low, high]).into()
                }
                _ => {
                    code = state.step(opcode, code, &mut remembered)?;
                    continue;
                }
            },
        };
        match left.checked_sub(advance) {
            Some(after) => left = after,
            None => return Some(state),
        }
    }
}

/// An offset of one or two bytes (ULEB128), and what follows it.
#[inline]
fn offset(code: &[u8]) -> Option<(u16, &[u8])> {
    match *code {
        [offset @ ..0x80, ref rest @ ..] => Some((offset.into(), rest)),
        [low, high @ ..0x80, ref rest @ ..] => {
            Some((u16::from(high) << 7 | u16::from(low & 0x7f), rest))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cfi::Row;
    use crate::sample::{self, START, module};

    /// The next number of a sequence in which every bit looks random (SplitMix64).
    fn next(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Instructions that are usual, mostly, with operands that are not always.
    fn program(state: &mut u64) -> Vec<u8> {
        const REGISTERS: [u8; 10] = [3, 6, 6, 7, 12, 13, 14, 15, 16, 9];
        let mut program = Vec::new();
        for _ in 0..next(state) % 14 {
            let number = next(state);
            let register = REGISTERS[(number >> 8) as usize % REGISTERS.len()];
            let [small, large] = [(number >> 16) as u8 % 9, (number >> 24) as u8];
            match number % 16 {
                0 | 1 => program.push(ADVANCE_LOC + large % 16),
                2 | 3 => program.extend([ADVANCE_LOC + small, DEF_CFA_OFFSET, large & 0x7f]),
                4..=6 => program.extend([
                    ADVANCE_LOC + small,
                    DEF_CFA_OFFSET,
                    large & 0x7f,
                    OFFSET + register,
                    small,
                ]),
                7 => program.extend([OFFSET + register, large]),
                8 => program.push(RESTORE + register),
                9 => program.extend([DEF_CFA_OFFSET, large | 0x80, small]),
                10 => program.extend([DEF_CFA, register, large & 0x7f]),
                11 => program.extend([DEF_CFA_REGISTER, register]),
                12 => program.push(REMEMBER_STATE),
                13 => program.push(RESTORE_STATE),
                14 => program.extend([ADVANCE_LOC1, large]),
                _ => program.extend([ADVANCE_LOC2, large, small & 1]),
            }
        }
        program
    }

    #[test]
    fn a_usual_rule_is_that_of_the_row() {
        const PROGRAMS: u32 = if cfg!(miri) { 200 } else { 20_000 };
        let (mut state, mut usual, mut unusual) = (7, 0, 0);
        for _ in 0..PROGRAMS {
            let program = program(&mut state);
            let section = sample::section(1, &BEGINNING, &program);
            let function = module(&section).function(START).unwrap();
            for offset in [0, 1, 7, 20, 60, 0xff] {
                let mut row = Row::START;
                let found = function.run_to(START + offset, &mut row);
                match function.usual_rule(START + offset) {
                    Some(rule) => {
                        assert_eq!(found, Ok(()), "{program:x?}");
                        assert_eq!(Some(rule), Rule::from_row(&row), "{program:x?} at {offset}");
                        usual += 1;
                    }
                    None => unusual += u32::from(found.is_ok()),
                }
            }
        }
        // Rows that are none of these are needed as well, and not for most.
        assert!(usual > 2 * PROGRAMS && unusual > PROGRAMS / 4, "{usual} of {unusual} more");
    }

    #[test]
    fn another_beginning_is_left_to_the_row() {
        let programs: [&[u8]; 4] = [
            &[DEF_CFA, RSP, 16, 0x90, 1],
            &[DEF_CFA, RSP, 8, 0x90, 1, 0x86, 2],
            &[DEF_CFA, RSP, 8, 0x90],
            &[],
        ];
        for program in programs {
            let section = sample::section(1, program, &[NOP; 3]);
            let function = module(&section).function(START).unwrap();
            assert_eq!(function.usual_rule(START), None, "{program:x?}");
        }
        let section = sample::section(1, &BEGINNING, &[NOP; 3]);
        let function = module(&section).function(START).unwrap();
        assert_eq!(function.usual_rule(START), Some(Rule::new(0, 8, 0, [0; 6])));
        assert_eq!(function.usual_rule(START - 1), None);
    }
}
