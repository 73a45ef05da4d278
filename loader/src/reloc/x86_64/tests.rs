use super::*;
use unspool_tls::ModuleId;

const PLACE: u64 = 0x4000_0000;
const GOT: u64 = PLACE + 0x2000;
const SLOT: u64 = GOT + 0x10;

/// A field of eight bytes after eight others, at [`PLACE`].
fn relocate(kind: Kind, operands: Operands) -> Result<u64, Problem> {
    let mut section = [0xaa; 24];
    section[8..16].fill(0);
    apply(kind, &mut section, 8, &operands)?;
    assert!(section[..8].iter().chain(&section[16..]).all(|&byte| byte == 0xaa));
    Ok(u64::from_le_bytes(section[8..16].try_into().unwrap()))
}

fn operands(symbol: Value, addend: i64) -> Operands {
    let block = match symbol {
        Value::Dynamic { module, .. } => Block::Dynamic(module),
        _ => Block::Static(-64),
    };
    let (place, slot, got) = (Some(PLACE), Some(SLOT), GOT);
    let (module, size) = (Some(module(9)), Some(0x30));
    Operands { symbol, addend, place, stub: None, slot, got, in_code: true, block, module, size }
}

fn address(kind: Kind, symbol: u64, addend: i64) -> Result<u64, Problem> {
    relocate(kind, operands(Value::Address(symbol), addend))
}

fn tls(kind: Kind, symbol: i64, addend: i64) -> Result<u64, Problem> {
    relocate(kind, operands(Value::Tls(symbol), addend))
}

fn module(number: usize) -> ModuleId {
    ModuleId::new(number).unwrap()
}

fn dynamic(kind: Kind, offset: i32, addend: i64) -> Result<u64, Problem> {
    relocate(kind, operands(Value::Dynamic { module: module(3), offset }, addend))
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
fn absolute_32_signed_takes_both_ends_of_the_address_space() {
    assert_eq!(address(Kind::Absolute32Signed, 0x7fff_fff0, 0xf), Ok(0x7fff_ffff));
    overflow(address(Kind::Absolute32Signed, 0x7fff_fff0, 0x10), 0x8000_0000);
    assert_eq!(address(Kind::Absolute32Signed, 0, -0x8000_0000), Ok(0x8000_0000));
    overflow(address(Kind::Absolute32Signed, 0, -0x8000_0001), -0x8000_0001);
    // The kernel code model.
    let (top, low) = (0xffff_ffff_8000_0000, 0x8000_0000);
    assert_eq!(address(Kind::Absolute32Signed, top, 0), Ok(low));
    overflow(address(Kind::Absolute32Signed, top, -1), i128::from(top) - 1);
    assert_eq!(address(Kind::Absolute32Signed, u64::MAX, 0), Ok(0xffff_ffff));
}

#[test]
fn fields_of_16_and_8_bits_take_numbers_of_either_sign() {
    let ends = [(Kind::Absolute16, 0x8000i64, 0xffffi64), (Kind::Absolute8, 0x80, 0xff)];
    for (kind, half, max) in ends {
        assert_eq!(address(kind, 0, max), Ok(max as u64), "{kind:?}");
        overflow(address(kind, 1, max), i128::from(max) + 1);
        assert_eq!(address(kind, 0, -half), Ok(half as u64), "{kind:?}");
        overflow(address(kind, 0, -half - 1), i128::from(-half) - 1);
    }
}

#[test]
fn distances_of_16_and_8_bits_are_signed() {
    for (kind, half) in [(Kind::Relative16, 0x8000u64), (Kind::Relative8, 0x80)] {
        assert_eq!(address(kind, PLACE + half - 1, 0), Ok(half - 1), "{kind:?}");
        overflow(address(kind, PLACE + half, 0), half.into());
        assert_eq!(address(kind, PLACE - half, 0), Ok(half), "{kind:?}");
        overflow(address(kind, PLACE - half, -1), -i128::from(half) - 1);
    }
}

#[test]
fn sizes_are_numbers_and_must_be_known() {
    let sized = |size, addend| Operands { size, ..operands(Value::Address(0x5555), addend) };
    for kind in [Kind::Size32, Kind::Size64] {
        assert_eq!(relocate(kind, sized(Some(0x30), -8)), Ok(0x28), "{kind:?}");
        assert_eq!(relocate(kind, sized(None, 0)), Err(Problem::NoSize), "{kind:?}");
        let variable = Operands { symbol: Value::Tls(-8), ..sized(Some(4), 0) };
        assert_eq!(relocate(kind, variable), Ok(4), "{kind:?}");
    }
    assert_eq!(relocate(Kind::Size32, sized(Some(0xffff_ffff), 0)), Ok(0xffff_ffff));
    overflow(relocate(Kind::Size32, sized(Some(0xffff_ffff), 1)), 1 << 32);
    overflow(relocate(Kind::Size32, sized(Some(3), -4)), -1);
    assert_eq!(relocate(Kind::Size64, sized(Some(3), -4)), Ok(u64::MAX));
}

#[test]
fn relative_32_reaches_2_gib_in_both_directions() {
    for kind in [Kind::Relative32, Kind::Call32] {
        assert_eq!(address(kind, PLACE + 0x10, -4), Ok(0xc), "{kind:?}");
        assert_eq!(address(kind, PLACE + 0x7fff_ffff, 0), Ok(0x7fff_ffff), "{kind:?}");
        overflow(address(kind, PLACE + 0x8000_0000, 0), 0x8000_0000);
        assert_eq!(address(kind, 0, -0x4000_0000), Ok(0x8000_0000), "{kind:?}");
        overflow(address(kind, 0, -0x4000_0001), -0x8000_0001);
    }
}

#[test]
fn distances_go_round_at_the_end_of_the_address_space() {
    let place = Some(0xffff_ffff_c000_0000);
    let at = |symbol| Operands { place, ..operands(Value::Address(symbol), 0) };
    // What an undefined weak symbol means, from code in the kernel model.
    assert_eq!(relocate(Kind::Relative32, at(0)), Ok(0x4000_0000));
    assert_eq!(relocate(Kind::Relative32, at(0x3fff_ffff)), Ok(0x7fff_ffff));
    let distance = 0x4000_0000 - 0xffff_ffff_c000_0000i128;
    overflow(relocate(Kind::Relative32, at(0x4000_0000)), distance);
}

#[test]
fn relative_64_reaches_everything() {
    assert_eq!(address(Kind::Relative64, PLACE - 8, 0), Ok((-8i64) as u64));
    let far = 0xffff_ffff_8000_0000;
    assert_eq!(address(Kind::Relative64, far, 0), Ok(far - PLACE));
}

#[test]
fn the_got_is_reached_from_code_and_counted_from_its_start() {
    assert_eq!(address(Kind::GotRelative32, 5, -4), Ok(SLOT - PLACE - 4));
    assert_eq!(address(Kind::GotRelative64, 5, 8), Ok(SLOT - PLACE + 8));
    assert_eq!(address(Kind::GotSlot64, 5, 0), Ok(SLOT - GOT));
    assert_eq!(address(Kind::GotSlot32, 5, -4), Ok(SLOT - GOT - 4));
    assert_eq!(address(Kind::GotOffset64, GOT - 0x30, 8), Ok((-0x28i64) as u64));
    assert_eq!(address(Kind::PltOffset64, 1 << 46, 0), Ok((1 << 46) - GOT));
    assert_eq!(address(Kind::GotBase32, 0, 2), Ok(GOT - PLACE + 2));
    assert_eq!(address(Kind::GotBase64, 0, 2), Ok(GOT - PLACE + 2));
    let nowhere = Operands { slot: None, ..operands(Value::Address(5), 0) };
    for kind in [Kind::GotRelative32, Kind::GotRelative64, Kind::GotSlot64] {
        assert_eq!(relocate(kind, nowhere), Err(Problem::NoSlot), "{kind:?}");
    }
    let far = Operands { slot: Some(1 << 40), ..operands(Value::Address(5), -4) };
    overflow(relocate(Kind::GotRelative32, far), (1 << 40) - 4 - i128::from(PLACE));
    overflow(relocate(Kind::GotSlot32, far), (1 << 40) - 4 - i128::from(GOT));
    for (distance, fits) in [(0x7fff_ffff, true), (0x8000_0000, false)] {
        let below = Operands { got: PLACE + distance, ..operands(Value::Address(5), 0) };
        assert_eq!(relocate(Kind::GotBase32, below).is_ok(), fits, "{distance:#x}");
        let slot = Operands { slot: Some(PLACE + distance), ..below };
        assert_eq!(relocate(Kind::GotRelative32, slot).is_ok(), fits, "{distance:#x}");
    }
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
    for kind in [Kind::TpOffset64, Kind::DtpOffset64] {
        assert_eq!(tls(kind, -0x40, 8), Ok((-0x38i64) as u64), "{kind:?}");
    }
}

#[test]
fn what_has_no_fixed_distance_from_tp_is_reached_through_its_slot_or_not_at_all() {
    for kind in [Kind::TpOffset32, Kind::TpOffset64, Kind::InitialExec, Kind::InitialExecSlot] {
        assert_eq!(dynamic(kind, 0x40, 0), Err(Problem::NoStaticSpace), "{kind:?}");
    }
    for kind in [Kind::GeneralDynamic, Kind::LocalDynamic, Kind::Descriptor] {
        assert_eq!(dynamic(kind, 0x40, -4), Ok(SLOT - PLACE - 4), "{kind:?}");
    }
    for kind in [Kind::InitialExec, Kind::InitialExecSlot] {
        assert_eq!(tls(kind, -0x40, -4), Ok(SLOT - PLACE - 4), "{kind:?}");
    }
    assert_eq!(dynamic(Kind::DescriptorCall, 0x40, 0), Ok(0));
    for kind in [Kind::DtpOffset32, Kind::DtpOffset64] {
        assert_eq!(dynamic(kind, 0x40, 8), Ok(0x48), "{kind:?}");
    }
}

#[test]
fn a_pair_or_a_descriptor_is_named_from_its_start() {
    for kind in [Kind::GeneralDynamic, Kind::LocalDynamic, Kind::Descriptor] {
        assert_eq!(dynamic(kind, 0x40, -4), Ok(0x200c), "{kind:?}");
        // The next pair would be another variable's.
        for beside in [8, -8, 16] {
            assert_eq!(dynamic(kind, 0x40, beside - 4), Err(Problem::Addend(beside)), "{kind:?}");
        }
    }
}

#[test]
fn a_local_dynamic_access_stays_in_its_own_block() {
    for kind in [Kind::DtpOffset32, Kind::DtpOffset64] {
        let dynamic = Value::Dynamic { module: module(3), offset: 8 };
        let others = [
            (Value::Tls(-8), Block::Dynamic(module(3))),
            (dynamic, Block::Static(-64)),
            (dynamic, Block::Dynamic(module(4))),
        ];
        for (symbol, block) in others {
            let other = Operands { block, ..operands(symbol, 0) };
            assert_eq!(relocate(kind, other), Err(Problem::OtherModule));
        }
    }
}

fn in_data(symbol: Value, block: Block) -> Operands {
    Operands { in_code: false, block, ..operands(symbol, 8) }
}

#[test]
fn in_data_module_and_offset_are_a_pair() {
    let dynamic = Value::Dynamic { module: module(3), offset: 0x40 };
    let (fixed, own) = (Block::Static(-64), module(9).get() as u64);
    let pairs = [
        (Value::Tls(-24), fixed, own, 48),
        // Others' blocks are at a fixed distance from the object's own.
        (Value::Tls(-100), fixed, own, -28),
        (dynamic, Block::Dynamic(module(3)), 3, 0x48),
        (dynamic, Block::Dynamic(module(4)), 3, 0x48),
        (dynamic, fixed, 3, 0x48),
    ];
    for (symbol, block, number, offset) in pairs {
        let operands = in_data(symbol, block);
        assert_eq!(relocate(Kind::DtpModule64, operands), Ok(number));
        assert_eq!(relocate(Kind::DtpOffset64, operands), Ok(offset as u64));
        assert_eq!(relocate(Kind::DtpOffset32, operands), Ok((offset as u32).into()));
    }
    assert_eq!(relocate(Kind::TpOffset32, in_data(Value::Tls(-8), fixed)), Ok(0));
}

#[test]
fn a_module_whose_number_is_not_known_is_an_error() {
    let unnumbered = in_data(Value::Tls(-24), Block::Dynamic(module(3)));
    for kind in [Kind::DtpModule64, Kind::DtpOffset32, Kind::DtpOffset64] {
        assert_eq!(relocate(kind, unnumbered), Err(Problem::NoModule), "{kind:?}");
    }
    let none = Operands { module: None, ..in_data(Value::Tls(-24), Block::Static(0)) };
    assert_eq!(relocate(Kind::DtpModule64, none), Err(Problem::NoModule));
}

#[test]
fn offsets_into_the_module_reach_2_gib() {
    let at = |offset, addend| {
        let symbol = Value::Dynamic { module: module(3), offset };
        let operands = Operands { addend, ..in_data(symbol, Block::Dynamic(module(3))) };
        relocate(Kind::DtpOffset32, operands)
    };
    assert_eq!(at(0x7fff_fff0, 0xf), Ok(0x7fff_ffff));
    overflow(at(0x7fff_fff0, 0x10), 0x8000_0000);
    assert_eq!(at(0, -0x8000_0000), Ok(0x8000_0000));
    overflow(at(0, -0x8000_0001), -0x8000_0001);
}

/// A descriptor in data.
fn descriptor(symbol: Value, addend: i64) -> Result<[u64; 2], Problem> {
    let mut section = [0xaa; 24];
    let operands = Operands { in_code: false, ..operands(symbol, addend) };
    apply(Kind::DescriptorItself, &mut section, 4, &operands)?;
    assert!(section[..4].iter().chain(&section[20..]).all(|&byte| byte == 0xaa));
    let word = |at| u64::from_le_bytes(section[at..at + 8].try_into().unwrap());
    Ok([word(4), word(12)])
}

#[test]
fn descriptors_have_a_distance_from_tp_or_a_pair() {
    let fixed = storage::static_descriptor(-24);
    assert_eq!(fixed[1], (-24i64) as u64);
    assert_eq!(descriptor(Value::Tls(-32), 8), Ok(fixed));
    let dynamic = Value::Dynamic { module: module(3), offset: 0x40 };
    assert_eq!(descriptor(dynamic, 0), Ok(storage::dynamic_descriptor(SLOT)));
    assert_ne!(storage::dynamic_descriptor(SLOT)[0], fixed[0]);
    assert_eq!(descriptor(dynamic, 8), Err(Problem::Addend(8)));
    assert_eq!(descriptor(Value::Address(8), 0), Err(Problem::NotThreadLocal));
}

#[test]
fn thread_local_and_ordinary_symbols_are_not_confused() {
    for number in 0..64 {
        let Some(kind) = Kind::decode(RelocationType(number)) else { continue };
        match kind.wants() {
            Wants::Address => assert_eq!(tls(kind, -8, 0), Err(Problem::ThreadLocal)),
            // The others are only applied to what lies in a block of its own.
            Wants::Tls if kind.slot().is_none() && kind != Kind::DescriptorCall => {
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
fn every_type_of_relocatable_objects_is_known_and_no_other() {
    let known = (0..256).filter(|&number| Kind::decode(RelocationType(number)).is_some());
    // Not: COPY, GLOB_DAT, JUMP_SLOT, RELATIVE (5 to 8), IRELATIVE, RELATIVE64 (37, 38) of linked
    // files; 39, 40 (reserved); descriptors in instructions of APX (45, 48, 51).
    let linked = [5, 6, 7, 8, 37, 38, 39, 40, 45, 48, 51];
    let expected: Vec<_> = (0..=51).filter(|number| !linked.contains(number)).collect();
    assert_eq!(known.collect::<Vec<_>>(), expected);
}
