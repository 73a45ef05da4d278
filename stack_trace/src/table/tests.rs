use alloc::vec::Vec;

use super::*;

const fn entry(name: &str, address: u64, size: u64) -> Entry<'_> {
    Entry { name, address, size, code: true, global: true }
}

fn sample() -> Vec<u8> {
    build(&[
        entry("beta", 0x2000, 0x10),
        entry("alpha", 0x1000, 0x100),
        Entry { name: "label", global: false, ..entry("", 0x1040, 0) },
        Entry { name: "data", code: false, ..entry("", 0x3000, 8) },
        Entry { name: "twice", global: false, ..entry("", 0x4000, 8) },
        Entry { name: "twice", global: false, ..entry("", 0x4100, 8) },
        Entry { name: "shadow", global: false, ..entry("", 0x4200, 8) },
        entry("shadow", 0x4300, 8),
        entry("assembly", 0x5000, 0),
    ])
}

fn name(table: &SymbolTable<'_>, address: u64) -> Option<String> {
    table.symbolize(address).map(|symbol| symbol.name.to_string())
}

#[test]
fn an_address_has_the_name_of_the_function_around_it() {
    let bytes = sample();
    let table = SymbolTable::parse(&bytes).unwrap();
    assert_eq!(name(&table, 0xfff), None);
    assert_eq!(name(&table, 0x1000).as_deref(), Some("alpha"));
    assert_eq!(name(&table, 0x10ff).as_deref(), Some("alpha"), "past a label inside it");
    assert_eq!(name(&table, 0x1100), None, "past its end");
    assert_eq!(name(&table, 0x200f).as_deref(), Some("beta"));
    assert_eq!(name(&table, 0x3000), None, "data has no code");
    assert_eq!(name(&table, 0x5fff).as_deref(), Some("assembly"), "no size: open-ended");
}

#[test]
fn a_function_within_another_does_not_hide_the_rest_of_it() {
    let bytes = build(&[
        entry("outer", 0x1000, 0x100),
        entry("entrance", 0x1040, 0x10),
        entry("overlapping", 0x10f0, 0x20),
    ]);
    let table = SymbolTable::parse(&bytes).unwrap();
    for address in [0x1000, 0x1040, 0x104f, 0x1050, 0x10ef] {
        assert_eq!(name(&table, address).as_deref(), Some("outer"), "{address:#x}");
    }
    assert_eq!(name(&table, 0x110f).as_deref(), Some("overlapping"));
    assert_eq!(table.by_name("entrance").unwrap().address, 0x1040);
}

#[test]
fn a_name_is_found_where_it_is_unambiguous() {
    let bytes = sample();
    let table = SymbolTable::parse(&bytes).unwrap();
    assert_eq!(table.by_name("data").unwrap().address, 0x3000);
    assert_eq!(table.by_name("alpha").unwrap().size, 0x100);
    assert_eq!(table.by_name("twice"), None);
    assert_eq!(table.by_name("shadow").unwrap().address, 0x4300, "the global one");
    assert_eq!(table.by_name("nobody"), None);
}

#[test]
fn a_damaged_table_is_an_error_or_yields_no_names_but_never_panics() {
    let bytes = sample();
    for length in 0..bytes.len() {
        assert!(SymbolTable::parse(&bytes[..length]).is_err());
    }
    assert_eq!(SymbolTable::parse(&[0; 64]).err(), Some(TableError::Absent));
    assert_eq!(SymbolTable::parse(&[7; 64]).err(), Some(TableError::BadMagic));
    for at in MAGIC.len()..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0xff;
        if let Ok(table) = SymbolTable::parse(&damaged) {
            for address in [0, 0x1000, 0x2004, 0x5000, u64::MAX] {
                let _ = table.symbolize(address);
            }
            let _ = table.by_name("alpha");
        }
    }
}

#[test]
fn packed_names_are_what_they_were() {
    let part = |number: u64| ["_RNvNtCs8NwYtU1Mohg_4core", "größe", "", "x"][number as usize % 4];
    let names: Vec<_> = (0..700_u64)
        .map(|number| format!("{}{}_{}", part(number), part(number / 4), number * number))
        .chain([String::from("y").repeat(3000)])
        .collect();
    let address = |number: usize| 0x10_0000 + number as u64 * 0x24;
    let entries: Vec<_> =
        names.iter().enumerate().map(|(at, name)| entry(name, address(at), 0x24)).collect();
    let bytes = build(&entries);
    let table = SymbolTable::parse(&bytes).unwrap();
    assert_eq!(table.len(), names.len());
    for (at, name) in names.iter().enumerate() {
        let symbol = table.symbolize(address(at) + 0x23).unwrap();
        assert_eq!((symbol.address, symbol.size), (address(at), 0x24));
        assert!(symbol.name == **name, "{} for {name}", symbol.name);
        assert_eq!(table.by_name(name), Some(symbol));
    }
    let plain: usize = names.iter().map(|name| name.len() + 24).sum();
    assert!(bytes.len() < plain / 2, "{} of {plain} bytes", bytes.len());
    // What a buffer has no room for is cut off there.
    let longest = table.symbolize(address(700)).unwrap().name;
    let shown = longest.read(&mut crate::NameBuffer::new()).len();
    assert_eq!(shown, crate::NameBuffer::SIZE);
}
