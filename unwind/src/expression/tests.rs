use gimli::{
    Encoding, Evaluation, EvaluationResult, EvaluationStorage, Format, Piece, UnitOffset, Value,
};

use super::*;

/// Memory whose every byte depends on its address alone.
struct Memory;

impl Memory {
    fn bytes(address: u64, size: u8) -> u64 {
        let byte = |at: u64| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
        (0..u64::from(size))
            .fold(0, |value, n| value | u64::from(byte(address.wrapping_add(n))) << (8 * n))
    }
}

impl ReadStack for Memory {
    fn read(&self, address: u64) -> Option<u64> {
        address.is_multiple_of(8).then(|| Self::bytes(address, 8))
    }
}

fn registers() -> Registers {
    let mut registers = Registers::new();
    for register in Register::all() {
        registers.set(register, 0x1000 + 0x111 * register.number() as u64);
    }
    registers
}

fn ours(code: &[u8], initial: Option<u64>) -> Outcome<u64> {
    evaluate(code, &registers(), &Memory, initial)
}

struct Fixed;

impl<'e> EvaluationStorage<Bytes<'e>> for Fixed {
    type Stack = [Value; MANY];
    type ExpressionStack = [(Bytes<'e>, Bytes<'e>); 1];
    type Result = [Piece<Bytes<'e>>; 1];
}

/// What gimli says; `None` for whatever CFI cannot do.
fn theirs(code: &[u8], initial: Option<u64>) -> Option<u64> {
    let encoding = Encoding { format: Format::Dwarf32, version: 5, address_size: 8 };
    let code = EndianSlice::new(code, LittleEndian);
    let mut evaluation = Evaluation::<_, Fixed>::new_in(code, encoding);
    evaluation.set_max_iterations(OPERATIONS);
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
                evaluation.resume_with_memory(Value::Generic(Memory::bytes(address, size)))
            }
            EvaluationResult::RequiresRegister { register, base_type: UnitOffset(0) } => {
                let register = Register::from_dwarf(register.0)?;
                evaluation.resume_with_register(Value::Generic(registers().get(register)))
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

/// Operations that are valid in CFI, but for the literals and the base registers.
const VALID: &[u8] = &[
    0x03, 0x06, 0x08, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x0e, 0x0f, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15,
    0x16, 0x17, 0x19, 0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f, 0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26,
    0x27, 0x28, 0x29, 0x2a, 0x2b, 0x2c, 0x2d, 0x2e, 0x2f, 0x92, 0x94, 0x96,
];

/// How many bytes of operands follow.
fn operands(operation: u8) -> usize {
    match operation {
        0x03 | 0x0e | 0x0f => 8,
        0x0c | 0x0d => 4,
        0x0a | 0x0b | 0x28 | 0x2f | 0x92 => 2,
        0x08..=0x11 | 0x15 | 0x23 | 0x70..=0x8f | 0x94 => 1,
        _ => 0,
    }
}

#[test]
fn random_expressions_have_gimlis_values() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 20) as usize % below
    };
    let (mut values, mut used) = (0, [0u32; 256]);
    for round in 0..200_000 {
        let mut code = Vec::new();
        let mut operations = Vec::new();
        for _ in 0..1 + random(12) {
            let operation = match random(5) {
                0 => 0x30 + random(32) as u8,
                1 => 0x70 + random(18) as u8,
                _ => VALID[random(VALID.len())],
            };
            code.push(operation);
            operations.push(operation);
            for n in 0..operands(operation) {
                // Small numbers: LEB128 of one byte, short branches, plausible indices.
                let small = random(24) as u8;
                let high = n > 0 && matches!(operation, 0x28 | 0x2f);
                code.push(if high { [0, 0xff][random(2)] } else { small });
            }
        }
        let initial = (round % 2 == 0).then_some(0x7fff_0000 + round);
        let (ours, theirs) = (ours(&code, initial), theirs(&code, initial));
        assert_eq!(ours.ok(), theirs, "{code:02x?}, {initial:x?}: {ours:x?}");
        if theirs.is_some() {
            values += 1;
            operations.iter().for_each(|&each| used[usize::from(each)] += 1);
        }
    }
    assert!(values > 20_000, "{values} have a value");
    for &operation in VALID {
        assert!(
            used[usize::from(operation)] > 20,
            "{operation:#x}: {}",
            used[usize::from(operation)]
        );
    }
}

#[test]
fn operations_that_cfi_does_not_have_are_refused() {
    // xderef, reg0, fbreg, piece, push_object_address, call2, form_tls_address, call_frame_cfa,
    // implicit_value, stack_value, addrx, entry_value, convert, an unknown one.
    for operation in
        [0x18, 0x50, 0x91, 0x93, 0x97, 0x98, 0x9b, 0x9c, 0x9e, 0x9f, 0xa1, 0xa3, 0xa8, 0xff]
    {
        let failure = ours(&[0x31, 0x31, operation, 0, 0], None);
        assert_eq!(failure, Err(Failure::Bad(Error::InvalidExpression(DwOp(operation)))));
    }
}

#[test]
fn memory_is_read_in_every_size_also_across_words() {
    for offset in 0..8u8 {
        for size in 1..=8u8 {
            // const4u 0x10000 + offset; deref_size
            let code = [0x0c, offset, 0, 1, 0, 0x94, size];
            assert_eq!(ours(&code, None), Ok(Memory::bytes(0x1_0000 + u64::from(offset), size)));
        }
    }
    for size in [0, 9, 255] {
        let failure = ours(&[0x31, 0x94, size], None);
        assert_eq!(failure, Err(Failure::Bad(Error::InvalidDerefSize(size))));
    }
    let registers = registers();
    let nowhere = evaluate(&[0x38, 0x06], &registers, &crate::stack::NoStack, None);
    assert_eq!(nowhere, Err(Failure::Read(8)));
}

#[test]
fn an_expression_that_never_ends_is_given_up() {
    // lit1; skip -4
    assert_eq!(ours(&[0x96, 0x2f, 0xfc, 0xff], None), Err(Failure::Bad(Error::TooManyIterations)));
}

#[test]
fn the_stack_holds_as_many_values_as_libgcc_and_no_more() {
    // Literals, and the sum of all of them.
    let sum = |count: usize| [vec![0x31; count], vec![0x22; count - 1]].concat();
    for count in [FEW - 1, FEW, FEW + 1, MANY - 1, MANY] {
        assert_eq!(ours(&sum(count), None), Ok(count as u64));
        assert_eq!(theirs(&sum(count), None), Some(count as u64));
        // What lies there at first takes a place.
        assert_eq!(ours(&sum(count - 1), Some(7)), Ok(count as u64 - 1));
    }
    let full = Err(Failure::Bad(Error::StackFull));
    assert_eq!(ours(&sum(MANY + 1), None), full);
    assert_eq!(ours(&sum(MANY), Some(7)), full);
    assert_eq!(ours(&[], None), Err(Failure::Bad(Error::NotEnoughStackItems)));
}

#[test]
fn a_register_number_may_be_padded_and_an_unknown_operation_is_named_first() {
    let expected = ours(&[0x73, 5], None);
    // bregx 3 (in eleven bytes at most), 5.
    for padding in 0..=8 {
        let mut code = vec![0x92, 0x83];
        code.extend(vec![0x80; padding]);
        code.extend([0, 5]);
        assert_eq!(ours(&code, None), expected, "{code:02x?}");
    }
    // GNU_deref_type, with too little on the stack for an operation on two values.
    let failure = ours(&[0x31, 0xf6, 6, 0], None);
    assert_eq!(failure, Err(Failure::Bad(Error::InvalidExpression(DwOp(0xf6)))));
}
