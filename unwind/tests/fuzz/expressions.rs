//! DWARF expressions: made of every operation, wrapped into a function that uses them.
//!
//! ```text
//!   operations ─► val_expression of rbx, expression of r12, or CFA ─► our step = gimli's row
//! ```

use crate::Seeds;
use crate::frames;
use crate::random::Random;
use crate::section::{change_bytes, number};

/// Operations that are valid in CFI, but for the literals and the base registers.
const VALID: &[u8] = &[
    0x03, 0x06, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15,
    0x16, 0x17, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26,
    0x27, 0x28, 0x29, 0x2a, 0x2b, 0x2c, 0x2d, 0x2e, 0x2f, 0x92, 0x94, 0x96,
];

/// Appends an expression.
pub fn make(to: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..1 + random.below(10) {
        let operation = match random.below(16) {
            0 => random.byte(),
            1..4 => 0x30 + random.below(32) as u8,
            4..8 => 0x70 + random.below(18) as u8,
            _ => *random.choose(VALID),
        };
        to.push(operation);
        operands(operation, to, random);
    }
}

fn operands(operation: u8, to: &mut Vec<u8>, random: &mut Random) {
    let fixed = match operation {
        0x03 | 0x0e | 0x0f => 8,
        0x0c | 0x0d => 4,
        0x0a | 0x0b => 2,
        0x08 | 0x09 => 1,
        // LEB128
        0x10 | 0x11 | 0x23 | 0x70..=0x8f => return number(to, random),
        // pick, deref_size
        0x15 => return to.push(random.below(4) as u8),
        0x94 => return to.push(random.below(10) as u8),
        // bregx
        0x92 => {
            to.push(random.below(20) as u8);
            return number(to, random);
        }
        // bra, skip: not far, forwards or backwards
        0x28 | 0x2f => {
            let distance = random.below(24) as i16 - 12;
            return to.extend(distance.to_le_bytes());
        }
        _ => return,
    };
    to.extend(&random.number().to_le_bytes()[..fixed]);
}

/// A section with one CIE and one FDE whose rules are expressions.
pub fn input(seeds: &Seeds, random: &mut Random) -> Vec<u8> {
    let mut code = match random.choose(&seeds.expressions).clone() {
        real if random.once_in(2) => real,
        _ => Vec::new(),
    };
    if code.is_empty() || random.once_in(2) {
        make(&mut code, random);
    }
    if random.once_in(2) {
        change_bytes(&mut code, random);
    }
    code.truncate(120);
    let mut program = match random.below(3) {
        0 => vec![0x0f],
        1 => vec![0x10, 12],
        _ => vec![0x16, 3],
    };
    program.push(code.len() as u8);
    program.extend(code);
    frames::section(&program)
}
