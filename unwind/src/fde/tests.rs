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
