use super::*;
use crate::sample::{CALL_FRAME, START, module, section};

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
