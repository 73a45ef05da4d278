use super::*;

const PLACE: u64 = 0x4000_0000;

/// A field of eight bytes after eight others, at [`PLACE`].
fn relocate(kind: Kind, operands: Operands) -> Result<u64, Problem> {
    let mut section = [0xaa; 24];
    section[8..16].fill(0);
    apply(kind, &mut section, 8, &operands)?;
    assert!(section[..8].iter().chain(&section[16..]).all(|&byte| byte == 0xaa));
    Ok(u64::from_le_bytes(section[8..16].try_into().unwrap()))
}

fn operands(symbol: Value, addend: i64) -> Operands {
    Operands { symbol, addend, place: Some(PLACE), stub: None, in_code: true }
}

fn address(kind: Kind, symbol: u64, addend: i64) -> Result<u64, Problem> {
    relocate(kind, operands(Value::Address(symbol), addend))
}

fn tls(kind: Kind, symbol: i64, addend: i64) -> Result<u64, Problem> {
    relocate(kind, operands(Value::Tls(symbol), addend))
}

fn overflow<T: core::fmt::Debug>(result: Result<T, Problem>, value: i128) {
    match result {
        Err(Problem::Overflow { value: found, .. }) => assert_eq!(found, value),
        other => panic!("expected an overflow with {value:#x}, got {other:?}"),
    }
}

#[test]
fn none_changes_nothing() {
    assert_eq!(address(Kind::None, 0x1234, 5), Ok(0));
}

#[test]
fn absolute_64_takes_any_address() {
    assert_eq!(address(Kind::Absolute64, 0xffff_8000_0000_1000, -0x10), Ok(0xffff_8000_0000_0ff0));
    assert_eq!(address(Kind::Absolute64, 0, -1), Ok(u64::MAX));
    assert_eq!(address(Kind::Absolute64, u64::MAX, 1), Ok(0));
}

#[test]
fn absolute_32_is_unsigned() {
    assert_eq!(address(Kind::Absolute32, 0xffff_fffe, 1), Ok(0xffff_ffff));
    assert_eq!(address(Kind::Absolute32, 4, -4), Ok(0));
    overflow(address(Kind::Absolute32, 0xffff_ffff, 1), 1 << 32);
    overflow(address(Kind::Absolute32, 4, -5), -1);
}

#[test]
fn absolute_32_signed_takes_both_ends_of_the_address_space_only_as_numbers() {
    assert_eq!(address(Kind::Absolute32Signed, 0x7fff_fff0, 0xf), Ok(0x7fff_ffff));
    overflow(address(Kind::Absolute32Signed, 0x7fff_fff0, 0x10), 0x8000_0000);
    assert_eq!(address(Kind::Absolute32Signed, 0, -0x8000_0000), Ok(0x8000_0000));
    overflow(address(Kind::Absolute32Signed, 0, -0x8000_0001), -0x8000_0001);
}

#[test]
fn relative_32_reaches_2_gib_in_both_directions() {
    for kind in [Kind::Relative32, Kind::Call32, Kind::GotRelative32] {
        assert_eq!(address(kind, PLACE + 0x10, -4), Ok(0xc), "{kind:?}");
        assert_eq!(address(kind, PLACE + 0x7fff_ffff, 0), Ok(0x7fff_ffff), "{kind:?}");
        overflow(address(kind, PLACE + 0x8000_0000, 0), 0x8000_0000);
        assert_eq!(address(kind, 0, -0x4000_0000), Ok(0x8000_0000), "{kind:?}");
        overflow(address(kind, 0, -0x4000_0001), -0x8000_0001);
    }
}

#[test]
fn relative_64_reaches_everything() {
    assert_eq!(address(Kind::Relative64, PLACE - 8, 0), Ok((-8i64) as u64));
    let far = 0xffff_ffff_8000_0000;
    assert_eq!(address(Kind::Relative64, far, 0), Ok(far - PLACE));
}

#[test]
fn a_call_that_cannot_reach_goes_through_its_stub() {
    let far = Operands { stub: Some(PLACE + 0x100), ..operands(Value::Address(1 << 46), -4) };
    assert_eq!(relocate(Kind::Call32, far), Ok(0xfc));
    let near = Operands { symbol: Value::Address(PLACE + 0x20), ..far };
    assert_eq!(relocate(Kind::Call32, near), Ok(0x1c));
    let unreachable = Operands { stub: Some(1 << 40), ..far };
    overflow(relocate(Kind::Call32, unreachable), (1 << 40) - 4 - i128::from(PLACE));
}

#[test]
fn tp_offsets_are_negative_and_checked() {
    for kind in [Kind::TpOffset32, Kind::DtpOffset32] {
        assert_eq!(tls(kind, -0x40, 8), Ok(0xffff_ffc8), "{kind:?}");
        assert_eq!(tls(kind, -0x8000_0000, 0), Ok(0x8000_0000), "{kind:?}");
        overflow(tls(kind, -0x8000_0000, -1), -0x8000_0001);
        overflow(tls(kind, 0x7fff_ffff, 1), 0x8000_0000);
    }
    assert_eq!(tls(Kind::DtpOffset64, -0x40, 8), Ok((-0x38i64) as u64));
}

#[test]
fn offsets_into_the_module_are_understood_in_code_only() {
    let in_data = Operands { in_code: false, ..operands(Value::Tls(-8), 0) };
    assert_eq!(relocate(Kind::DtpOffset32, in_data), Err(Problem::OffsetOutsideCode));
    assert_eq!(relocate(Kind::DtpOffset64, in_data), Err(Problem::OffsetOutsideCode));
    assert_eq!(relocate(Kind::TpOffset32, in_data), Ok(0xffff_fff8));
}

#[test]
fn thread_local_and_ordinary_symbols_are_not_confused() {
    for number in 0..64 {
        let Some(kind) = Kind::decode(RelocationType(number)) else { continue };
        match kind.wants() {
            Wants::Address => assert_eq!(tls(kind, -8, 0), Err(Problem::ThreadLocal)),
            Wants::TpOffset if !kind.precedes_call() => {
                assert_eq!(address(kind, 8, 0), Err(Problem::NotThreadLocal));
            }
            _ => {}
        }
    }
}

#[test]
fn initial_values_of_tls_have_no_address_to_be_relative_to() {
    let nowhere = Operands { place: None, ..operands(Value::Address(0x1000), 0) };
    for kind in [Kind::Relative32, Kind::Relative64, Kind::Call32, Kind::GotRelative32] {
        assert_eq!(relocate(kind, nowhere), Err(Problem::NoAddress), "{kind:?}");
    }
    assert_eq!(relocate(Kind::Absolute64, nowhere), Ok(0x1000));
}

#[test]
fn a_place_must_lie_in_the_section() {
    let operands = operands(Value::Address(0), 0);
    let mut section = [0; 16];
    assert_eq!(apply(Kind::Absolute64, &mut section, 8, &operands), Ok(()));
    for offset in [9, 16, 17, u64::MAX] {
        let outside = Problem::OutsideSection { width: 8, size: 16 };
        assert_eq!(apply(Kind::Absolute64, &mut section, offset, &operands), Err(outside));
    }
    assert_eq!(apply(Kind::Absolute32, &mut section, 12, &operands), Ok(()));
    let outside = Problem::OutsideSection { width: 4, size: 16 };
    assert_eq!(apply(Kind::Absolute32, &mut section, 13, &operands), Err(outside));
}

/// `code` with the value 0 in its displacement, relocated as Initial Exec.
fn relax_ie(code: [u8; 7], tp_offset: i64) -> Result<[u8; 7], Problem> {
    let mut section = code;
    apply(Kind::InitialExec, &mut section, 3, &operands(Value::Tls(tp_offset), -4))?;
    Ok(section)
}

#[test]
fn initial_exec_loads_become_immediates_for_every_register() {
    for register in 0..16u8 {
        let (rex, low) = (if register < 8 { 0x48 } else { 0x4c }, register & 7);
        let new_rex = if register < 8 { 0x48 } else { 0x49 };
        for (opcode, new_opcode) in [(0x8b, 0xc7), (0x03, 0x81)] {
            let code = [rex, opcode, 0x05 | low << 3, 0, 0, 0, 0];
            let expected = [new_rex, new_opcode, 0xc0 | low, 0xf0, 0xff, 0xff, 0xff];
            assert_eq!(relax_ie(code, -16), Ok(expected));
        }
    }
}

#[test]
fn initial_exec_in_other_instructions_is_refused_with_their_bytes() {
    let others = [
        [0x40, 0x8b, 0x05, 0, 0, 0, 0], // no REX.W: a 32-bit load
        [0x48, 0x2b, 0x05, 0, 0, 0, 0], // sub
        [0x48, 0x8b, 0x45, 0, 0, 0, 0], // not relative to rip
    ];
    for code in others {
        let found = Box::from(code.as_slice());
        assert_eq!(relax_ie(code, -16), Err(Problem::UnexpectedCode { found }));
    }
    let mut short = [0x8b, 0x05, 0, 0, 0, 0];
    let result = apply(Kind::InitialExec, &mut short, 2, &operands(Value::Tls(-8), -4));
    assert_eq!(result, Err(Problem::OutsideSection { width: 4, size: 6 }));
    overflow(relax_ie([0x48, 0x8b, 0x05, 0, 0, 0, 0], -0x8000_0001), -0x8000_0001);
}

struct Dynamic {
    kind: Kind,
    call: Call,
    code: &'static [u8],
    lea: u64,
    call_at: u64,
    local_exec: &'static [u8],
}

/// Every form, with fields that must be overwritten filled with 0x11 and 0x22.
const DYNAMIC: [Dynamic; 4] = [
    Dynamic {
        kind: Kind::GeneralDynamic,
        call: Call::Direct,
        code: b"\x66\x48\x8d\x3d\x11\x11\x11\x11\x66\x66\x48\xe8\x22\x22\x22\x22",
        lea: 4,
        call_at: 12,
        local_exec: b"\x64\x48\x8b\x04\x25\0\0\0\0\x48\x8d\x80\xf0\xff\xff\xff",
    },
    Dynamic {
        kind: Kind::GeneralDynamic,
        call: Call::Indirect,
        code: b"\x66\x48\x8d\x3d\x11\x11\x11\x11\x66\x48\xff\x15\x22\x22\x22\x22",
        lea: 4,
        call_at: 12,
        local_exec: b"\x64\x48\x8b\x04\x25\0\0\0\0\x48\x8d\x80\xf0\xff\xff\xff",
    },
    Dynamic {
        kind: Kind::LocalDynamic,
        call: Call::Direct,
        code: b"\x48\x8d\x3d\x11\x11\x11\x11\xe8\x22\x22\x22\x22",
        lea: 3,
        call_at: 8,
        local_exec: b"\x66\x66\x66\x64\x48\x8b\x04\x25\0\0\0\0",
    },
    Dynamic {
        kind: Kind::LocalDynamic,
        call: Call::Indirect,
        code: b"\x48\x8d\x3d\x11\x11\x11\x11\xff\x15\x22\x22\x22\x22",
        lea: 3,
        call_at: 9,
        local_exec: b"\x66\x66\x66\x66\x64\x48\x8b\x04\x25\0\0\0\0",
    },
];

#[test]
fn dynamic_sequences_become_local_exec_and_touch_nothing_else() {
    for Dynamic { kind, call, code, lea, local_exec, .. } in DYNAMIC {
        assert_eq!(code.len(), local_exec.len());
        let mut section = Vec::from(b"\x90".as_slice());
        section.extend(code);
        section.push(0x90);
        let operands = operands(Value::Tls(-16), -4);
        assert_eq!(apply_tls_call(kind, call, &mut section, lea + 1, &operands), Ok(()));
        assert_eq!(&section[1..=code.len()], local_exec, "{kind:?} {call:?}");
        assert_eq!((section[0], section[code.len() + 1]), (0x90, 0x90));
    }
}

#[test]
fn dynamic_sequences_with_any_other_byte_are_refused() {
    for Dynamic { kind, call, code, lea, .. } in DYNAMIC {
        for (at, &byte) in code.iter().enumerate() {
            if matches!(byte, 0x11 | 0x22) {
                continue;
            }
            let mut section = Vec::from(code);
            section[at] ^= 0x80;
            let found = Box::from(section.as_slice());
            let operands = operands(Value::Tls(-16), -4);
            let result = apply_tls_call(kind, call, &mut section, lea, &operands);
            assert_eq!(result, Err(Problem::UnexpectedCode { found: Box::clone(&found) }));
            assert_eq!(*section, *found);
        }
    }
}

#[test]
fn dynamic_sequences_must_lie_in_the_section_and_fit_their_value() {
    for Dynamic { kind, call, code, lea, .. } in DYNAMIC {
        let operands = operands(Value::Tls(-0x8000_0001), -4);
        let (width, size) = (code.len() as u64, code.len() as u64);
        for offset in [lea - 1, lea + 1, u64::MAX] {
            let result = apply_tls_call(kind, call, &mut Vec::from(code), offset, &operands);
            assert_eq!(result, Err(Problem::OutsideSection { width, size }));
        }
        let result = apply_tls_call(kind, call, &mut Vec::from(code), lea, &operands);
        match kind {
            Kind::GeneralDynamic => overflow(result, -0x8000_0001),
            _ => assert_eq!(result, Ok(())),
        }
        let ordinary = Operands { symbol: Value::Address(0), ..operands };
        let result = apply_tls_call(kind, call, &mut Vec::from(code), lea, &ordinary);
        match kind {
            Kind::GeneralDynamic => assert_eq!(result, Err(Problem::NotThreadLocal)),
            _ => assert_eq!(result, Ok(())),
        }
    }
}

#[test]
fn the_call_is_recognised_by_its_type_and_distance() {
    for Dynamic { kind, call, lea, call_at, .. } in DYNAMIC {
        let types = match call {
            Call::Direct => [elf::R_X86_64_PLT32, elf::R_X86_64_PC32],
            Call::Indirect => [elf::R_X86_64_GOTPCREL, elf::R_X86_64_GOTPCRELX],
        };
        let at = |offset, kind: elf::RelocationType| Relocation {
            offset,
            kind: RelocationType(kind.0),
            symbol: 1,
            addend: -4,
        };
        let first = at(lea, elf::R_X86_64_NONE);
        for number in types {
            assert_eq!(call_after(kind, &first, &at(call_at, number)), Some(call));
            assert_eq!(call_after(kind, &first, &at(call_at + 7, number)), None);
            assert_eq!(call_after(kind, &first, &at(0, number)), None);
        }
        assert_eq!(call_after(kind, &first, &at(call_at, elf::R_X86_64_64)), None);
        assert_eq!(call_after(Kind::TpOffset32, &first, &at(call_at, types[0])), None);
    }
}

#[test]
fn a_stub_jumps_through_its_slot() {
    assert_eq!(plt_stub(0x1000, 0x2000), [0xff, 0x25, 0xfa, 0x0f, 0, 0, 0xcc, 0xcc]);
    assert_eq!(plt_stub(0x2000, 0x1000), [0xff, 0x25, 0xfa, 0xef, 0xff, 0xff, 0xcc, 0xcc]);
}

#[test]
fn types_have_the_names_of_the_abi() {
    assert_eq!(RelocationType(2).to_string(), "R_X86_64_PC32");
    assert_eq!(RelocationType(42).to_string(), "R_X86_64_REX_GOTPCRELX");
    assert_eq!(RelocationType(200).to_string(), "relocation type 200");
}

#[test]
fn every_type_that_rustc_emits_is_known_and_no_other() {
    let known = (0..256).filter(|&number| Kind::decode(RelocationType(number)).is_some());
    let expected = [0, 1, 2, 4, 9, 10, 11, 17, 19, 20, 21, 22, 23, 24, 41, 42];
    assert_eq!(known.collect::<Vec<_>>(), expected);
}
