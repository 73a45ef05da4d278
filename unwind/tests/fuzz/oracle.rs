//! What gimli makes of the same bytes, evaluated plainly, on the heap.
//!
//! ```text
//!   row ─► CFA ─► each register by its rule ─► caller's registers      on made-up memory
//! ```

use gimli::{
    BaseAddresses, CfaRule, EhFrame, Encoding, EndianSlice, Evaluation, EvaluationResult, Format,
    LittleEndian, RegisterRule, UnitOffset, UnwindExpression, UnwindTableRow, Value,
};
use unspool_unwind::{FindModule, Module, ReadStack, Register, Registers, Section};

pub type Bytes<'a> = EndianSlice<'a, LittleEndian>;

/// Memory that is everywhere, and whose every byte depends on its address alone. Only words that
/// are aligned are read of a stack.
#[derive(Clone, Copy, Debug)]
pub struct Everywhere;

impl Everywhere {
    /// So many bytes at an address.
    pub fn bytes(address: u64, size: u8) -> u64 {
        let byte = |at: u64| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
        (0..u64::from(size))
            .fold(0, |value, n| value | u64::from(byte(address.wrapping_add(n))) << (8 * n))
    }
}

impl ReadStack for Everywhere {
    fn read(&self, address: u64) -> Option<u64> {
        Some(Self::bytes(address, 8))
    }
}

/// One module that is everywhere.
pub struct Only<'m>(pub Module<'m>);

impl FindModule for Only<'_> {
    fn find(&self, _address: u64) -> Option<Module<'_>> {
        Some(self.0)
    }
}

/// Registers to evaluate at `pc`: all different, the stack pointer the lowest.
pub fn registers(pc: u64) -> Registers {
    let mut registers = Registers::new();
    for register in Register::all() {
        let number = register.number() as u64;
        registers.set(register, 0x1000_0000_0000 + number * 0x1_0000_0000);
    }
    registers.set(Register::RSP, SP);
    registers.set(Register::RA, pc);
    registers
}

/// Their stack pointer.
pub const SP: u64 = 0x0800_0000_0000;

/// A section as gimli sees it.
pub fn gimli(section: Section<'_>, text: u64) -> (EhFrame<Bytes<'_>>, BaseAddresses) {
    let bases = BaseAddresses::default().set_eh_frame(section.address).set_text(text);
    (EhFrame::new(section.data, LittleEndian), bases)
}

/// What a row says of a frame.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Caller {
    /// It is the outermost.
    None,
    /// The CFA, the caller's registers, and whether the return address was in a register.
    At(u64, Registers, bool),
    /// It has a CFA, but its registers cannot be restored.
    Lost(u64),
    /// It asks for what CFI or x86-64 does not have.
    Nonsense,
}

/// The caller by one row of gimli's table. Registers it says nothing of keep their value, as do
/// undefined ones.
pub fn caller(
    section: &EhFrame<Bytes<'_>>,
    row: &UnwindTableRow<usize>,
    registers: &Registers,
) -> Caller {
    if row.register(gimli::Register(16)) == Some(RegisterRule::Undefined) {
        return Caller::None;
    }
    let cfa = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => Register::from_dwarf(register.0)
            .map(|register| registers.get(register).wrapping_add_signed(*offset)),
        CfaRule::Expression(expression) => range(section, expression, registers, None),
    };
    let Some(cfa) = cfa else { return Caller::Nonsense };
    let mut caller = registers.with(Register::RSP, cfa);
    let mut in_register = false;
    for (register, rule) in row.registers() {
        let Some(register) = Register::from_dwarf(register.0) else { continue };
        let value = match rule {
            RegisterRule::Undefined | RegisterRule::SameValue => continue,
            RegisterRule::Offset(n) => Some(Everywhere::bytes(cfa.wrapping_add_signed(*n), 8)),
            RegisterRule::ValOffset(n) => Some(cfa.wrapping_add_signed(*n)),
            RegisterRule::Register(other) => {
                in_register |= register == Register::RA;
                Register::from_dwarf(other.0).map(|other| registers.get(other))
            }
            RegisterRule::Expression(e) => {
                range(section, e, registers, Some(cfa)).map(|at| Everywhere::bytes(at, 8))
            }
            RegisterRule::ValExpression(e) => range(section, e, registers, Some(cfa)),
            _ => None,
        };
        let Some(value) = value else { return Caller::Lost(cfa) };
        caller.set(register, value);
    }
    Caller::At(cfa, caller, in_register)
}

fn range(
    section: &EhFrame<Bytes<'_>>,
    expression: &UnwindExpression<usize>,
    registers: &Registers,
    initial: Option<u64>,
) -> Option<u64> {
    evaluate(expression.get(section).ok()?.0, registers, initial)
}

/// The value of an expression; `None` for whatever CFI cannot do.
fn evaluate(code: Bytes<'_>, registers: &Registers, initial: Option<u64>) -> Option<u64> {
    let encoding = Encoding { format: Format::Dwarf32, version: 5, address_size: 8 };
    let mut evaluation = Evaluation::new(code, encoding);
    evaluation.set_max_iterations(1000);
    if let Some(value) = initial {
        evaluation.set_initial_value(value);
    }
    let mut state = evaluation.evaluate().ok()?;
    loop {
        state = match state {
            EvaluationResult::Complete => break,
            EvaluationResult::RequiresMemory { address, size, space: None, base_type }
                if base_type == UnitOffset(0) && (1..=8).contains(&size) =>
            {
                evaluation.resume_with_memory(Value::Generic(Everywhere::bytes(address, size)))
            }
            EvaluationResult::RequiresRegister { register, base_type: UnitOffset(0) } => {
                let register = Register::from_dwarf(register.0)?;
                evaluation.resume_with_register(Value::Generic(registers.get(register)))
            }
            EvaluationResult::RequiresRelocatedAddress(address) => {
                evaluation.resume_with_relocated_address(address)
            }
            _ => return None,
        }
        .ok()?;
    }
    match evaluation.value_result() {
        Some(Value::Generic(value)) => Some(value),
        _ => None,
    }
}
