use super::super::{Kind, apply};
use super::*;
use crate::symbols::Value;
use crate::tls::Block;
use alloc::vec::Vec;

const PLACE: u64 = 0x1_4000_0000;
const SLOT: u64 = PLACE + 0x2000;

/// An instruction with a displacement at its end, at [`PLACE`], after two bytes that must stay.
fn relax_in(code: &[u8], kind: Kind, symbol: u64) -> Vec<u8> {
    let mut section = [&[0xaa, 0xaa], code, &[0xbb]].concat();
    let offset = (code.len() - 2) as u64;
    let operands = Operands {
        symbol: Value::Address(symbol),
        addend: -4,
        place: Some(PLACE),
        stub: None,
        slot: Some(SLOT),
        got: 0,
        in_code: true,
        block: Block::Static(-64),
        module: None,
        size: None,
    };
    apply(kind, &mut section, offset, &operands).unwrap();
    assert!(section.starts_with(&[0xaa; 2]) && section.ends_with(&[0xbb]));
    section[2..section.len() - 1].to_vec()
}

const PLAIN: Kind = Kind::GotRelaxable32;
const REX: Kind = Kind::GotRelaxable32Rex;
/// The displacement of the slot.
const KEPT: [u8; 4] = 0x1ffcu32.to_le_bytes();

fn with(start: &[u8], end: [u8; 4]) -> Vec<u8> {
    [start, &end].concat()
}

#[test]
fn calls_and_jumps_go_to_near_symbols_directly() {
    let code = [0xff, 0x15, 0, 0, 0, 0];
    assert_eq!(relax_in(&code, PLAIN, PLACE + 0x104), [0x67, 0xe8, 0, 1, 0, 0]);
    assert_eq!(relax_in(&code, PLAIN, PLACE + 0x8000_0003), [0x67, 0xe8, 0xff, 0xff, 0xff, 0x7f]);
    assert_eq!(relax_in(&code, PLAIN, PLACE + 0x8000_0004), with(&code[..2], KEPT));
    assert_eq!(relax_in(&code, PLAIN, PLACE - 0x7fff_fffc), [0x67, 0xe8, 0, 0, 0, 0x80]);
    assert_eq!(relax_in(&code, PLAIN, PLACE - 0x7fff_fffd), with(&code[..2], KEPT));
    let code = [0xff, 0x25, 0, 0, 0, 0];
    assert_eq!(relax_in(&code, PLAIN, PLACE + 0x104), [0xe9, 1, 1, 0, 0, 0x90]);
    assert_eq!(relax_in(&code, PLAIN, PLACE + 0x8000_0002), [0xe9, 0xff, 0xff, 0xff, 0x7f, 0x90]);
    assert_eq!(relax_in(&code, PLAIN, PLACE + 0x8000_0003), with(&code[..2], KEPT));
    assert_eq!(relax_in(&code, PLAIN, PLACE - 0x7fff_fffd), [0xe9, 0, 0, 0, 0x80, 0x90]);
    assert_eq!(relax_in(&code, PLAIN, PLACE - 0x7fff_fffe), with(&code[..2], KEPT));
}

#[test]
fn loads_of_near_addresses_compute_them() {
    let near = PLACE + 0x104;
    assert_eq!(
        relax_in(&[0x48, 0x8b, 0x05, 0, 0, 0, 0], REX, near),
        [0x48, 0x8d, 0x05, 0, 1, 0, 0]
    );
    assert_eq!(
        relax_in(&[0x4c, 0x8b, 0x3d, 0, 0, 0, 0], REX, near),
        [0x4c, 0x8d, 0x3d, 0, 1, 0, 0]
    );
    assert_eq!(relax_in(&[0x8b, 0x0d, 0, 0, 0, 0], PLAIN, near), [0x8d, 0x0d, 0, 1, 0, 0]);
    let far = with(&[0x48, 0x8b, 0x05], KEPT);
    assert_eq!(relax_in(&[0x48, 0x8b, 0x05, 0, 0, 0, 0], REX, 1 << 40), far);
}

#[test]
fn addresses_at_both_ends_of_the_address_space_become_numbers() {
    for (number, immediate) in [
        (0x1234, [0x34, 0x12, 0, 0]),
        (0x7fff_ffff, [0xff, 0xff, 0xff, 0x7f]),
        (0xffff_ffff_8000_0000, [0, 0, 0, 0x80]),
    ] {
        let load = relax_in(&[0x4c, 0x8b, 0x05, 0, 0, 0, 0], REX, number);
        // 0x1_4000_0000 is within 2 GiB of the highest of the low ones.
        if number != 0x7fff_ffff {
            assert_eq!(load, with(&[0x49, 0xc7, 0xc0], immediate));
        }
        let test = relax_in(&[0x48, 0x85, 0x1d, 0, 0, 0, 0], REX, number);
        assert_eq!(test, with(&[0x48, 0xf7, 0xc3], immediate));
        let add = relax_in(&[0x4d, 0x03, 0x0d, 0, 0, 0, 0], REX, number);
        assert_eq!(add, with(&[0x49, 0x81, 0xc1], immediate));
        let compare = relax_in(&[0x3b, 0x05, 0, 0, 0, 0], PLAIN, number);
        assert_eq!(compare, with(&[0x81, 0xf8], immediate));
    }
    for number in [0x8000_0000, 0xffff_ffff_7fff_ffff] {
        let test = [0x48, 0x85, 0x1d, 0, 0, 0, 0];
        assert_eq!(relax_in(&test, REX, number), with(&test[..3], KEPT));
    }
}

#[test]
fn every_operation_keeps_its_number() {
    for operation in 0..8u8 {
        let code = [0x48, operation << 3 | 3, 0x15, 0, 0, 0, 0];
        let expected = [0x48, 0x81, 0xc2 | operation << 3, 1, 0, 0, 0];
        assert_eq!(relax_in(&code, REX, 1), expected);
    }
}

#[test]
fn other_instructions_read_their_slot() {
    let near = PLACE + 0x104;
    let others: [(&[u8], Kind); 6] = [
        (&[0xff, 0x35], PLAIN),                     // push
        (&[0x48, 0x8b, 0x45], REX),                 // not relative to rip
        (&[0x66, 0x8b, 0x05], REX),                 // no REX prefix
        (&[0x48, 0x89, 0x05], REX),                 // a store
        (&[0x48, 0x8b, 0x05], Kind::GotRelative32), // of a type that says nothing of the code
        (&[0x0f, 0xaf, 0x05], PLAIN),               // imul
    ];
    for (start, kind) in others {
        let code = with(start, [0; 4]);
        assert_eq!(relax_in(&code, kind, near), with(start, KEPT), "{start:x?}");
    }
    assert!(!relaxes_if_near(false, &[0xff, 0x35, 0, 0, 0, 0], 2, -4));
    assert!(!relaxes_if_near(false, &[0x15, 0, 0, 0, 0], 1, -4));
    assert!(!relaxes_if_near(false, &[0xff, 0x15, 0, 0, 0], 2, -4));
    assert!(!relaxes_if_near(false, &[0xff, 0x15, 0, 0, 0, 0], 2, -5));
    assert!(!relaxes_if_near(true, &[0x8b, 0x05, 0, 0, 0, 0], 2, -4));
    assert!(relaxes_if_near(true, &[0x48, 0x8b, 0x05, 0, 0, 0, 0], 3, -4));
    assert!(relaxes_if_near(false, &[0xff, 0x25, 0, 0, 0, 0], 2, -4));
}

#[test]
fn the_short_way_writes_what_the_general_way_writes() {
    let mut rewritten = 0;
    for (opcode, modrm) in (0..=u8::MAX).flat_map(|opcode| (0..=u8::MAX).map(move |m| (opcode, m)))
    {
        for (kind, prefix) in [(PLAIN, 0x90), (PLAIN, 0x48), (REX, 0x90), (REX, 0x48), (REX, 0x4f)]
        {
            let (rex, code) = (kind == REX, [prefix, opcode, modrm, 0, 0, 0, 0]);
            let mut short = code;
            let done = write_direct(rex, &mut short, 3, -4, 0xfcu32.to_le_bytes());
            assert_eq!(needs_no_slot(rex, &code, 3, -4), done);
            if done {
                rewritten += 1;
                assert!(relaxes_if_near(rex, &code, 3, -4));
                assert_eq!(relax_in(&code, kind, PLACE + 0x100), short);
            }
            assert!(!write_direct(rex, &mut short, 2, -4, [0; 4]));
            assert!(!write_direct(rex, &mut short, 4, -4, [0; 4]));
            assert!(!write_direct(rex, &mut short, 3, -3, [0; 4]));
        }
    }
    // Eight registers to load and a call; only REX prefixes will do if there must be one.
    assert_eq!(rewritten, 9 * 4);
}
