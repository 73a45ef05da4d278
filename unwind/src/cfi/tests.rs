use super::*;
use crate::address::Pc;
use crate::cursor::{Cursor, Step};
use crate::module::Module;
use crate::modules::FindModule;
use crate::registers::Registers;
use crate::sample::{CALL_FRAME, START, module, section};
use crate::stack::ReadStack;

fn row(program: &[u8], offset: u64) -> Result<Row, UnwindError> {
    let section = section(1, CALL_FRAME, program);
    module(&section).function(START + offset)?.row(START + offset)
}

fn cfa(program: &[u8], offset: u64) -> i32 {
    match row(program, offset).unwrap().cfa {
        CfaRule::Offset(Register::RSP, offset) => offset,
        other => panic!("{other:?}"),
    }
}

const REMEMBER: u8 = 0x0a;
const RESTORE: u8 = 0x0b;
const OFFSET: u8 = 0x0e;
/// `advance_loc 1`.
const NEXT: u8 = 0x41;

#[test]
fn remembered_states_nest_to_any_depth() {
    // At each of 40 levels: remember, and 8 bytes more; then all restored, a byte apart.
    let mut program = Vec::new();
    for level in 1..=40u8 {
        program.extend([NEXT, REMEMBER, OFFSET, 8 + level]);
    }
    for _ in 0..40 {
        program.extend([NEXT, RESTORE]);
    }
    for offset in 0..=40 {
        assert_eq!(cfa(&program, offset), 8 + offset as i32, "going in, at {offset}");
        assert_eq!(cfa(&program, 80 - offset), 8 + offset as i32, "coming out, at {offset}");
    }
}

#[test]
fn what_stands_between_remember_and_restore_is_undone() {
    // remember; cfa+32; rbx at cfa−16; restore
    let program = [NEXT, REMEMBER, OFFSET, 32, 0x80 | 3, 2, NEXT, RESTORE];
    let inside = row(&program, 1).unwrap();
    assert_eq!(inside.rule(Register::RBX), RegisterRule::Offset(-16));
    let after = row(&program, 2).unwrap();
    assert_eq!(after.rule(Register::RBX), RegisterRule::Unspecified);
    assert_eq!(after, row(&[], 2).unwrap());
}

#[test]
fn a_restore_without_its_remember_is_an_error() {
    let error = UnwindError::BadTable { pc: START, source: gimli::Error::PopWithEmptyStack };
    assert_eq!(row(&[RESTORE], 0), Err(error));
}

#[test]
fn a_restored_register_has_the_rule_of_the_cie() {
    let mut initial = CALL_FRAME.to_vec();
    initial.extend([0x80 | 12, 5]);
    // r12 at cfa−24; then, a byte later, restore r12 (short and extended form).
    let section = section(1, &initial, &[0x80 | 12, 3, NEXT, 0xc0 | 12, NEXT, 0x06, 12]);
    let module = module(&section);
    let r12 = |offset: u64| {
        let function = module.function(START + offset).unwrap();
        function.row(START + offset).unwrap().rule(Register::R12)
    };
    assert_eq!(r12(0), RegisterRule::Offset(-24));
    assert_eq!(r12(1), RegisterRule::Offset(-40));
    assert_eq!(r12(2), RegisterRule::Offset(-40));
}

#[test]
fn gnu_extensions_are_understood_or_refused() {
    // args_size 16; negative_offset_extended rbx, 2: at cfa + 16.
    let row_ = row(&[0x2e, 16, 0x2f, 3, 2], 0).unwrap();
    assert_eq!(row_.args_size, 16);
    assert_eq!(row_.rule(Register::RBX), RegisterRule::Offset(16));
    let window_save = row(&[0x2d], 0).unwrap_err();
    assert!(matches!(window_save, UnwindError::BadTable { .. }), "{window_save}");
}

#[test]
fn a_location_can_be_set_and_advanced_in_every_size() {
    let mut program = vec![0x01];
    program.extend((START + 4).to_le_bytes());
    program.extend([OFFSET, 16, 0x02, 4, OFFSET, 24, 0x03, 4, 0, OFFSET, 32]);
    program.extend([0x04, 4, 0, 0, 0, OFFSET, 40]);
    for (offset, expected) in [(0, 8), (3, 8), (4, 16), (8, 24), (12, 32), (16, 40), (0xff, 40)] {
        assert_eq!(cfa(&program, offset), expected, "at {offset}");
    }
}

#[test]
fn numbers_beyond_what_a_row_holds_are_unsupported() {
    // def_cfa_offset 2^35; def_cfa of column 40.
    for program in [&[OFFSET, 0x80, 0x80, 0x80, 0x80, 0x80, 1][..], &[0x0c, 40, 8]] {
        assert_eq!(row(program, 0), Err(UnwindError::Unsupported { pc: START }));
    }
}

#[test]
fn columns_beyond_the_return_address_are_tolerated() {
    // xmm6 (column 23) at cfa−32.
    assert_eq!(row(&[0x05, 23, 4], 0), row(&[], 0));
}

fn bad(program: &[u8], offset: u64) -> gimli::Error {
    match row(program, offset) {
        Err(UnwindError::BadTable { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_location_that_goes_back_or_beyond_the_address_space_is_an_error() {
    let mut back = vec![NEXT, 0x01];
    back.extend(START.to_le_bytes());
    assert_eq!(bad(&back, 1), Error::InvalidCfiSetLoc(START));
    let mut beyond = vec![0x01];
    beyond.extend((u64::MAX - 1).to_le_bytes());
    assert_eq!(row(&beyond, 0x80), row(&[], 0x80));
    // A factor that no advance survives.
    let mut wide = section(1, CALL_FRAME, &[NEXT]);
    let factor = wide.windows(4).position(|bytes| bytes == [1, 0x78, 16, 1]).unwrap();
    let maximum = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
    wide.splice(factor..=factor, maximum);
    wide[0] += 9;
    // The FDE says how far back its CIE is.
    let fde = usize::from(wide[0]) + 4;
    wide[fde + 4] += 9;
    let row = module(&wide).function(START).unwrap().row(START);
    assert_eq!(row, Err(UnwindError::BadTable { pc: START, source: Error::AddressOverflow }));
}

#[test]
fn the_program_of_a_cie_has_no_location_no_states_and_nothing_to_restore() {
    for instruction in [NEXT, REMEMBER, RESTORE, 0xc0 | 3] {
        let initial = [CALL_FRAME, &[instruction]].concat();
        let section = section(1, &initial, &[]);
        let row = module(&section).function(START).unwrap().row(START);
        let source = Error::CfiInstructionInInvalidContext;
        assert_eq!(row, Err(UnwindError::BadTable { pc: START, source }), "{instruction:#x}");
    }
}

#[test]
fn states_that_are_remembered_without_end_are_given_up() {
    assert_eq!(bad(&[REMEMBER; 4096], 0), Error::TooManyIterations);
    assert_eq!(row(&[REMEMBER; 64], 0), row(&[], 0));
}

/// The caller's registers by this program, of a frame with rsp 0x1000 on a stack of its addresses.
fn caller(program: &[u8]) -> Result<(Step, Registers), UnwindError> {
    struct Stack;
    impl ReadStack for Stack {
        fn read(&self, address: u64) -> Option<u64> {
            (0x1000..0x2000).contains(&address).then_some(address)
        }
    }
    struct Only<'m>(Module<'m>);
    impl FindModule for Only<'_> {
        fn find(&self, _address: u64) -> Option<Module<'_>> {
            Some(self.0)
        }
    }
    let section = section(1, CALL_FRAME, program);
    let modules = Only(module(&section));
    let registers = Registers::new().with(Register::RSP, 0x1000).with(Register::RBX, 0x1008);
    let mut cursor = Cursor::new(registers, Pc::Exact(START), Stack, &modules);
    Ok((cursor.step()?, *cursor.registers()))
}

#[test]
fn expressions_of_registers_begin_with_the_cfa_and_that_of_the_cfa_with_nothing() {
    // val_expression r12: cfa + 8; expression r13: [cfa + 16].
    let program = [0x16, 12, 2, 0x23, 8, 0x10, 13, 2, 0x23, 16];
    let (step, registers) = caller(&program).unwrap();
    assert_eq!(step, Step::Caller { cfa: 0x1008 });
    assert_eq!(registers.get(Register::R12), 0x1010);
    assert_eq!(registers.get(Register::R13), 0x1018);
    // def_cfa_expression rbx + 8, then one that takes what is not there.
    assert_eq!(caller(&[0x0f, 2, 0x73, 8]).unwrap().0, Step::Caller { cfa: 0x1010 });
    let source = Error::NotEnoughStackItems;
    assert_eq!(caller(&[0x0f, 1, 0x12]), Err(UnwindError::BadTable { pc: START, source }));
}

#[test]
fn an_undefined_return_address_is_the_end_and_values_may_be_offsets_or_registers() {
    assert_eq!(caller(&[0x07, 16]).unwrap().0, Step::End);
    // The same beside a rule that needs DWARF: val_offset r12, −16.
    assert_eq!(caller(&[0x07, 16, 0x14, 12, 2]).unwrap().0, Step::End);
    // val_offset r12: cfa − 16; register r13: rbx; val_offset_sf r14: cfa + 8.
    let (_, registers) = caller(&[0x14, 12, 2, 0x09, 13, 3, 0x15, 14, 0x7f]).unwrap();
    assert_eq!(registers.get(Register::R12), 0x1008 - 16);
    assert_eq!(registers.get(Register::R13), 0x1008);
    assert_eq!(registers.get(Register::R14), 0x1008 + 8);
}
