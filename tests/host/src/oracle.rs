//! The caller's registers by gimli alone, evaluated plainly, on the heap.
//!
//! Nothing of ours is used here but the names of registers: this is what our rules are compared
//! with.

use gimli::{
    CfaRule, EhFrame, Encoding, EndianSlice, EvaluationResult, Format, LittleEndian, RegisterRule,
    UnwindExpression, UnwindTableRow, Value,
};
use unspool_unwind::{ReadStack, Register, Registers};

type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// A stack that is everywhere, with contents that depend on the address alone: aligned words
/// that look like addresses above every register.
#[derive(Clone, Copy, Debug)]
pub struct Everywhere;

impl Everywhere {
    fn word(address: u64) -> u64 {
        let mut x = address.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        x ^= x >> 29;
        0x4000_0000_0000 + (x & 0xfff_ffff_fff8)
    }
}

impl ReadStack for Everywhere {
    fn read(&self, address: u64) -> Option<u64> {
        Some(Self::word(address))
    }
}

/// Registers to evaluate at `pc`: all different, the stack pointer the lowest.
pub fn registers(pc: u64) -> Registers {
    let mut registers = Registers::new();
    for register in Register::all() {
        let number = register.number() as u64;
        registers.set(register, 0x1000_0000_0000 + number * 0x1_0000_0000);
    }
    registers.set(Register::RSP, 0x0800_0000_0000);
    registers.set(Register::RA, pc);
    registers
}

/// The CFA and the caller's registers by one row of gimli's table; `None` if the frame is the
/// outermost.
/// Registers the row says nothing of keep their value, as do undefined ones.
///
/// # Panics
///
/// If the row asks for what x86-64 does not have.
pub fn caller(
    section: &EhFrame<Bytes<'_>>,
    row: &UnwindTableRow<usize>,
    registers: &Registers,
) -> Option<(u64, Registers)> {
    let column = |r: gimli::Register| Register::from_dwarf(r.0).expect("a tracked register");
    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => {
            registers.get(column(*register)).wrapping_add_signed(*offset)
        }
        CfaRule::Expression(expression) => evaluate(section, expression, registers, None),
    };
    let mut caller = registers.with(Register::RSP, cfa);
    for (register, rule) in row.registers() {
        let Some(register) = Register::from_dwarf(register.0) else { continue };
        let value = match rule {
            RegisterRule::Undefined if register == Register::RA => return None,
            RegisterRule::Undefined | RegisterRule::SameValue => continue,
            RegisterRule::Offset(n) => Everywhere::word(cfa.wrapping_add_signed(*n)),
            RegisterRule::ValOffset(n) => cfa.wrapping_add_signed(*n),
            RegisterRule::Register(other) => registers.get(column(*other)),
            RegisterRule::Expression(e) => {
                Everywhere::word(evaluate(section, e, registers, Some(cfa)))
            }
            RegisterRule::ValExpression(e) => evaluate(section, e, registers, Some(cfa)),
            other => panic!("no x86-64 table has {other:?}"),
        };
        caller.set(register, value);
    }
    Some((cfa, caller))
}

fn evaluate(
    section: &EhFrame<Bytes<'_>>,
    expression: &UnwindExpression<usize>,
    registers: &Registers,
    initial: Option<u64>,
) -> u64 {
    let encoding = Encoding { format: Format::Dwarf32, version: 5, address_size: 8 };
    let expression = expression.get(section).expect("inside its section");
    let mut evaluation = expression.evaluation(encoding);
    if let Some(value) = initial {
        evaluation.set_initial_value(value);
    }
    let mut state = evaluation.evaluate().expect("a valid expression");
    loop {
        state = match state {
            EvaluationResult::Complete => break,
            EvaluationResult::RequiresMemory { address, size: 8, .. } => {
                evaluation.resume_with_memory(Value::Generic(Everywhere::word(address)))
            }
            EvaluationResult::RequiresRegister { register, .. } => {
                let register = Register::from_dwarf(register.0).expect("a tracked register");
                evaluation.resume_with_register(Value::Generic(registers.get(register)))
            }
            other => panic!("no table asks for {other:?}"),
        }
        .expect("a valid expression");
    }
    match evaluation.as_result() {
        [piece] => match piece.location {
            gimli::Location::Address { address } => address,
            ref other => panic!("not an address: {other:?}"),
        },
        other => panic!("not one piece: {other:?}"),
    }
}
