use super::*;
use crate::reloc::RelocationType;
use crate::symbols::Value;
use crate::tls::Block;
use alloc::vec::Vec;
use object::elf;

fn operands(symbol: Value, addend: i64) -> Operands {
    let (place, stub, slot) = (Some(0x4000_0000), None, Some(0x4000_2000));
    let block = Block::Static(-64);
    let (module, size) = (None, None);
    Operands { symbol, addend, place, stub, slot, got: 0, in_code: true, block, module, size }
}

fn overflow<T: core::fmt::Debug>(result: Result<T, Problem>, value: i128) {
    match result {
        Err(Problem::Overflow { value: found, .. }) => assert_eq!(found, value),
        other => panic!("expected an overflow with {value:#x}, got {other:?}"),
    }
}

/// `code` with the value 0 in its displacement, relocated as Initial Exec.
fn relax_ie(code: [u8; 7], tp_offset: i64) -> Result<[u8; 7], Problem> {
    let mut section = code;
    let result = relax_initial_exec(&mut section, 3, &operands(Value::Tls(tp_offset), -4));
    let known = !matches!(result, Err(Problem::UnexpectedCode { .. }));
    assert_eq!(relaxes_initial_exec(&code, 3), known);
    result.map(|()| section)
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
        let found = Code::new(&code);
        assert_eq!(relax_ie(code, -16), Err(Problem::UnexpectedCode { found }));
    }
    let mut short = [0x8b, 0x05, 0, 0, 0, 0];
    let result = relax_initial_exec(&mut short, 2, &operands(Value::Tls(-8), -4));
    assert!(!relaxes_initial_exec(&short, 2));
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
const DYNAMIC: [Dynamic; 7] = [
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
    Dynamic {
        kind: Kind::GeneralDynamic,
        call: Call::Large,
        code: b"\x48\x8d\x3d\x11\x11\x11\x11\x48\xb8\x22\x22\x22\x22\x22\x22\x22\x22\
            \x48\x01\xd8\xff\xd0",
        lea: 3,
        call_at: 9,
        local_exec: b"\x64\x48\x8b\x04\x25\0\0\0\0\x48\x8d\x80\xf0\xff\xff\xff\x66\x0f\x1f\x44\0\0",
    },
    Dynamic {
        kind: Kind::GeneralDynamic,
        call: Call::Large,
        code: b"\x48\x8d\x3d\x11\x11\x11\x11\x48\xb8\x22\x22\x22\x22\x22\x22\x22\x22\
            \x4c\x01\xf8\xff\xd0",
        lea: 3,
        call_at: 9,
        local_exec: b"\x64\x48\x8b\x04\x25\0\0\0\0\x48\x8d\x80\xf0\xff\xff\xff\x66\x0f\x1f\x44\0\0",
    },
    Dynamic {
        kind: Kind::LocalDynamic,
        call: Call::Large,
        code: b"\x48\x8d\x3d\x11\x11\x11\x11\x48\xb8\x22\x22\x22\x22\x22\x22\x22\x22\
            \x48\x01\xd8\xff\xd0",
        lea: 3,
        call_at: 9,
        local_exec: b"\x66\x66\x66\x66\x2e\x0f\x1f\x84\0\0\0\0\0\x64\x48\x8b\x04\x25\0\0\0\0",
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
        assert_eq!(relax_call(kind, call, &mut section, lea + 1, &operands), Ok(()));
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
            let found = Code::new(&section);
            let operands = operands(Value::Tls(-16), -4);
            let result = relax_call(kind, call, &mut section, lea, &operands);
            assert_eq!(result, Err(Problem::UnexpectedCode { found }));
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
            let result = relax_call(kind, call, &mut Vec::from(code), offset, &operands);
            assert_eq!(result, Err(Problem::OutsideSection { width, size }));
        }
        let result = relax_call(kind, call, &mut Vec::from(code), lea, &operands);
        match kind {
            Kind::GeneralDynamic => overflow(result, -0x8000_0001),
            _ => assert_eq!(result, Ok(())),
        }
        let ordinary = Operands { symbol: Value::Address(0), ..operands };
        let result = relax_call(kind, call, &mut Vec::from(code), lea, &ordinary);
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
            Call::Large => [elf::R_X86_64_PLTOFF64; 2],
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

/// A `lea` of a descriptor, relocated where the variable is 16 bytes below TP.
fn relax_lea(code: [u8; 7]) -> Result<[u8; 7], Problem> {
    let mut section = code;
    let operands = operands(Value::Tls(-16), -4);
    relax_descriptor(Kind::Descriptor, &mut section, 3, &operands)?;
    Ok(section)
}

#[test]
fn descriptors_become_immediates_and_their_calls_nothing() {
    for register in 0..16u8 {
        let (rex, low) = (if register < 8 { 0x48 } else { 0x4c }, register & 7);
        let new_rex = if register < 8 { 0x48 } else { 0x49 };
        let code = [rex, 0x8d, 0x05 | low << 3, 0x11, 0x11, 0x11, 0x11];
        let expected = [new_rex, 0xc7, 0xc0 | low, 0xf0, 0xff, 0xff, 0xff];
        assert_eq!(relax_lea(code), Ok(expected));
    }
    let mut call = [0x90, 0xff, 0x10, 0x90];
    let operands = operands(Value::Tls(-16), 0);
    assert_eq!(relax_descriptor(Kind::DescriptorCall, &mut call, 1, &operands), Ok(()));
    assert_eq!(call, [0x90, 0x66, 0x90, 0x90]);
}

#[test]
fn descriptors_in_other_instructions_are_refused_with_their_bytes() {
    let others = [[0x48, 0x8b, 0x05, 0, 0, 0, 0], [0x66, 0x8d, 0x05, 0, 0, 0, 0]];
    for code in others {
        let found = Code::new(&code);
        assert_eq!(relax_lea(code), Err(Problem::UnexpectedCode { found }));
    }
    let operands = operands(Value::Tls(-16), 0);
    for (mut call, offset) in [([0xff, 0x11], 0), ([0x67, 0xff], 0)] {
        let found = Code::new(&call);
        let result = relax_descriptor(Kind::DescriptorCall, &mut call, offset, &operands);
        assert_eq!(result, Err(Problem::UnexpectedCode { found }));
    }
    let result = relax_descriptor(Kind::DescriptorCall, &mut [0xff, 0x10], 1, &operands);
    assert_eq!(result, Err(Problem::OutsideSection { width: 2, size: 2 }));
    let ordinary = Operands { symbol: Value::Address(0), ..operands };
    let result = relax_descriptor(Kind::DescriptorCall, &mut [0xff, 0x10], 0, &ordinary);
    assert_eq!(result, Err(Problem::NotThreadLocal));
}
