use super::*;
use crate::sample::{CALL_FRAME, SECTION, START, module, section};

#[test]
fn cie_versions_1_3_and_4_are_read_and_others_refused() {
    for version in [1, 3, 4] {
        let section = section(version, CALL_FRAME, &[]);
        let function = module(&section).function(START + 0x10).unwrap();
        assert_eq!((function.start(), function.end()), (START, START + 0x100));
        assert!(function.row(START).is_ok());
    }
    let section = section(2, CALL_FRAME, &[]);
    let error = module(&section).function(START).unwrap_err();
    assert_eq!(error, UnwindError::BadTable { pc: START, source: Error::UnknownVersion(2) });
}

#[test]
fn an_address_outside_every_function_has_no_fde() {
    let section = section(1, CALL_FRAME, &[]);
    for address in [START - 1, START + 0x100, 0, u64::MAX] {
        assert_eq!(module(&section).function(address).err(), Some(UnwindError::NoFde(address)));
    }
}

#[test]
fn all_three_indexes_find_the_same_function() {
    let section = section(1, CALL_FRAME, &[]);
    let linear = module(&section);
    let mut entries = Vec::new();
    linear.for_each_entry(|entry| entries.push(entry)).unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].start, START);
    let sorted = linear.with_index(FdeIndex::Sorted(&entries));

    // Version 1; eh_frame pointer, count and table absolute, 4 and 8 bytes wide.
    let mut header = vec![1, 0x03, 0x03, 0x04];
    header.extend((SECTION as u32).to_le_bytes());
    header.extend(1u32.to_le_bytes());
    header.extend(START.to_le_bytes());
    header.extend((SECTION + entries[0].offset).to_le_bytes());
    let header = Section { data: &header, address: 0x60_0000 };
    let indexed = linear.with_index(FdeIndex::Header(header));

    for address in [START - 1, START, START + 0xff, START + 0x100] {
        let found = |module: &Module<'_>| module.function(address).map(|f| (f.start(), f.end()));
        assert_eq!(found(&linear), found(&sorted), "{address:#x}");
        assert_eq!(found(&linear), found(&indexed), "{address:#x}");
    }
}

#[test]
fn a_section_cut_or_damaged_anywhere_never_panics() {
    let program = [0x0a, 0x0e, 16, 0x0f, 2, 0x77, 8, 0x0b, 0x10, 3, 1, 0x9c, 0x2e, 8];
    let whole = section(1, CALL_FRAME, &program);
    let mut evaluated = 0;
    let mut look = |bytes: &[u8]| {
        let module = module(bytes);
        let _ = module.for_each_entry(|_| ());
        for address in [START, START + 0x80, START + 0x100] {
            if let Ok(function) = module.function(address) {
                evaluated += u32::from(function.row(address).is_ok());
            }
        }
    };
    for length in 0..whole.len() {
        look(&whole[..length]);
    }
    for at in 0..whole.len() {
        for byte in 0..=255 {
            let mut damaged = whole.clone();
            damaged[at] = byte;
            look(&damaged);
        }
    }
    assert!(evaluated > 1000, "most damage leaves a readable table: {evaluated}");
}

/// A CIE with this augmentation and its data, and one FDE with these bytes after its range.
fn augmented(augmentation: &[u8], data: &[u8], fde: &[u8]) -> Vec<u8> {
    let mut body = vec![1];
    body.extend(augmentation);
    body.push(0);
    // GCC 2 had a pointer here.
    if augmentation == b"eh" {
        body.extend([0xee; 8]);
    }
    body.extend([1, 0x78, 16]);
    body.extend(data);
    body.extend(CALL_FRAME);
    let entry = |id: u32, body: &[u8]| {
        let mut bytes = (body.len() as u32 + 4).to_le_bytes().to_vec();
        bytes.extend(id.to_le_bytes());
        bytes.extend(body);
        bytes
    };
    let mut section = entry(0, &body);
    let mut range = START.to_le_bytes().to_vec();
    range.extend(0x100u64.to_le_bytes());
    range.extend(fde);
    section.extend(entry(section.len() as u32 + 4, &range));
    section.extend([0; 4]);
    section
}

#[test]
fn augmentations_say_what_a_function_has() {
    // P absptr, L absptr, R absptr, S, B.
    let personality = 0x1234_5678u64.to_le_bytes();
    let mut data = vec![11, 0x00];
    data.extend(personality);
    data.extend([0x00, 0x00]);
    let mut lsda = vec![8];
    lsda.extend(0x9abcu64.to_le_bytes());
    let section = augmented(b"zPLRSB", &data, &lsda);
    let function = module(&section).function(START).unwrap();
    assert_eq!(function.personality(), Some(Pointer::Direct(0x1234_5678)));
    assert_eq!(function.lsda(), Some(Pointer::Direct(0x9abc)));
    assert!(function.is_signal_frame());
    assert!(function.row(START).is_ok());

    for bare in [&b"eh"[..], b""] {
        let section = augmented(bare, &[], &[]);
        let function = module(&section).function(START).unwrap();
        assert_eq!((function.personality(), function.lsda()), (None, None));
        assert!(!function.is_signal_frame() && function.row(START).is_ok());
    }
    for unknown in [&b"zX"[..], b"R", b"armcc+"] {
        let section = augmented(unknown, &[0], &[0]);
        let error = UnwindError::BadTable { pc: START, source: Error::UnknownAugmentation };
        assert_eq!(module(&section).function(START).err(), Some(error));
    }
}

#[test]
fn an_lsda_and_a_personality_may_be_told_by_where_they_are_stored() {
    // P indirect absptr, L indirect absptr.
    let mut data = vec![10, 0x80];
    data.extend(0x7000u64.to_le_bytes());
    data.push(0x80);
    let mut lsda = vec![8];
    lsda.extend(0x8000u64.to_le_bytes());
    let section = augmented(b"zPL", &data, &lsda);
    let function = module(&section).function(START).unwrap();
    assert_eq!(function.personality(), Some(Pointer::Indirect(0x7000)));
    assert_eq!(function.lsda(), Some(Pointer::Indirect(0x8000)));
    assert_eq!(function.lsda_data(), None);
    // A function's start cannot be: the table could not be sorted.
    let section = augmented(b"zR", &[1, 0x80], &[0]);
    let source = Error::UnsupportedPointerEncoding(DwEhPe(0x80));
    let error = UnwindError::BadTable { pc: START, source };
    assert_eq!(module(&section).function(START).err(), Some(error));
}

#[test]
fn headers_of_every_fixed_width_are_searched_and_others_are_not_needed() {
    let section = section(1, CALL_FRAME, &[]);
    let linear = module(&section);
    let mut offset = 0;
    linear.for_each_entry(|entry| offset = entry.offset).unwrap();
    // Tables relative to the header (datarel) with 2, 4 and 8 bytes, absolute, and in LEB128.
    let header_at = START - 0x100;
    for (encoding, width) in
        [(0x32, 2), (0x3a, 2), (0x33, 4), (0x3b, 4), (0x34, 8), (0x3c, 8), (0x00, 8), (0x01, 0)]
    {
        let mut header = vec![1, 0x04, 0x03, encoding];
        header.extend(SECTION.to_le_bytes());
        header.extend(1u32.to_le_bytes());
        let base = if encoding == 0 { 0 } else { header_at };
        // Two bytes do not reach the section from there: the code must be near.
        let eh_frame = if width == 2 { header_at + 0x200 } else { SECTION };
        for value in [START - base, eh_frame + offset - base] {
            header.extend(&value.to_le_bytes()[..width]);
        }
        let near = Section { data: &section, address: eh_frame };
        let header = Section { data: &header, address: header_at };
        let text = START..START + 0x1000;
        let indexed = Module::new(text, near).with_index(FdeIndex::Header(header));
        let function = indexed.function(START + 0xff).unwrap();
        assert_eq!((function.start(), function.end()), (START, START + 0x100), "{encoding:#x}");
        assert!(indexed.function(START + 0x100).is_err());
    }
}

#[test]
fn the_extent_of_a_section_leaves_out_code_that_was_dropped() {
    let section = section(1, CALL_FRAME, &[]);
    assert_eq!(module(&section).extent(), Ok(Some((START, START + 0x100))));
    let mut dropped = section.clone();
    let at = dropped.windows(8).position(|window| window == START.to_le_bytes()).unwrap();
    dropped[at..at + 8].fill(0);
    assert_eq!(module(&dropped).extent(), Ok(None));
    assert_eq!(module(&[0; 4]).extent(), Ok(None));
}

/// What a header with these encodings, count and table says of `START`.
fn by_header(encodings: [u8; 3], count: u64, table: &[u64]) -> Result<u64> {
    let section = section(1, CALL_FRAME, &[]);
    let mut header = vec![1];
    header.extend(encodings);
    header.extend(SECTION.to_le_bytes());
    header.extend(count.to_le_bytes());
    header.extend(table.iter().flat_map(|word| word.to_le_bytes()));
    let header = Section { data: &header, address: START };
    let module = module(&section).with_index(FdeIndex::Header(header));
    match module.function(START) {
        Ok(function) => Ok(function.start()),
        Err(UnwindError::BadTable { source, .. }) => Err(source),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_header_that_counts_more_than_it_has_is_an_error() {
    let section = section(1, CALL_FRAME, &[]);
    let fde = SECTION + 4 + u64::from(section[0]);
    let table = [START, fde];
    assert_eq!(by_header([4, 4, 4], 1, &table), Ok(START));
    for count in [2, 1 << 60, u64::MAX / 2 + 1, u64::MAX] {
        assert_eq!(by_header([4, 4, 4], count, &table), Err(Error::OffsetOutOfBounds(count)));
    }
    // Zero is an entry as any other, relative to the header, which lies at START here.
    assert_eq!(by_header([4, 4, 0x34], 1, &[0, fde - START]), Ok(START));
    // Where addresses are stored cannot be searched.
    let source = Error::UnsupportedPointerEncoding(DwEhPe(0x84));
    assert_eq!(by_header([4, 4, 0x84], 1, &table), Err(source));
}

#[test]
fn a_cie_of_another_machine_is_refused_by_name() {
    let refused = |section: &[u8]| match module(section).function(START) {
        Err(UnwindError::BadTable { source, .. }) => source,
        other => panic!("{other:?}"),
    };
    // Length, id, version, "zR\0": address and segment sizes, factors, return address.
    let mut other = section(4, CALL_FRAME, &[]);
    other[12] = 4;
    assert_eq!(refused(&other), Error::UnsupportedAddressSize(4));
    (other[12], other[13]) = (8, 2);
    assert_eq!(refused(&other), Error::UnsupportedSegmentSize(2));
    let mut other = section(1, CALL_FRAME, &[]);
    other[14] = 30;
    assert_eq!(refused(&other), Error::UnsupportedRegister(30));
}

#[test]
fn letters_of_an_augmentation_have_a_bound() {
    let data = [1, 0x00];
    let letters = |count: usize| [&b"zR"[..], &vec![b'S'; count]].concat();
    let section = augmented(&letters(7), &data, &[0]);
    assert!(module(&section).function(START).is_ok());
    let section = augmented(&letters(8), &data, &[0]);
    let error = UnwindError::BadTable { pc: START, source: Error::UnknownAugmentation };
    assert_eq!(module(&section).function(START).err(), Some(error));
}

#[test]
fn pointers_relative_to_what_nobody_defined_are_errors() {
    // R datarel: there is no data of an .eh_frame.
    let section = augmented(b"zR", &[1, 0x30], &[0]);
    let source = Error::DataRelativePointerButDataBaseIsUndefined;
    let error = UnwindError::BadTable { pc: START, source };
    assert_eq!(module(&section).function(START).err(), Some(error));
}

#[test]
fn what_is_read_of_a_usual_fde_is_what_is_read_of_any() {
    const ENCODINGS: [u8; 5] = [0xff, 0x1b, 0x1b, 0x00, 0x9b];
    let (mut number, mut usual, mut unusual) = (1u64, 0, 0);
    let mut next = || {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (number >> 33) as usize
    };
    for _ in 0..20_000 {
        let mut section: Vec<u8> = (0..40).map(|_| next() as u8).collect();
        section[next() % 40] = 0;
        // The size of the augmentation, and sometimes no LSDA.
        section[20] = [0, 4, 4, 8][next() % 4];
        if next() % 4 == 0 {
            section[21..25].fill(0);
        }
        let mut function = Function { module: module(&section), ..Function::UNKNOWN };
        function.cie.sized = next() % 8 != 0;
        function.cie.address_encoding = DwEhPe(if next() % 8 == 0 { 0x03 } else { 0x1b });
        function.cie.lsda_encoding = DwEhPe(ENCODINGS[next() % ENCODINGS.len()]);
        let body = Span { start: 12, end: [20, 21, 24, 25, 40][next() % 5] };
        let mut other = function;
        let read = other.read_fde(&Entry { id: 0, id_at: 8, body });
        if function.read_usual_fde(body) {
            assert_eq!(read, Ok(()), "{section:x?}");
            assert_eq!(format!("{function:?}"), format!("{other:?}"), "{section:x?}");
            usual += 1;
        } else {
            unusual += 1;
        }
    }
    assert!(usual > 1000 && unusual > 1000, "{usual}, {unusual} unusual");
}
