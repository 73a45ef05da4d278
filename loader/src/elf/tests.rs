//! What tables of names may look like.

use object::elf;

use super::*;
use crate::sample::{Sample, data, object};

/// An object with one symbol, number 0, and this table of names.
fn with_names(names: &[u8]) -> Vec<u8> {
    let table = |kind, bytes| Sample { kind, flags: 0, ..data("table", bytes) };
    let mut file = object(&[table(elf::SHT_SYMTAB, &[0; 24]), table(elf::SHT_STRTAB, names)]);
    // `sh_link` of section 1.
    let headers = u64::from_le_bytes(*file[40..].first_chunk().unwrap()) as usize;
    file[headers + 64 + 40] = 2;
    file
}

#[test]
fn a_table_of_names_may_be_empty_but_must_end_the_last_one() {
    for names in [&b""[..], b"\0", b"\0x\0", b"x\0"] {
        let file = with_names(names);
        let elf = Elf::parse(&file).unwrap_or_else(|cause| panic!("{names:?}: {cause}"));
        let name = elf.symbol_name(&elf.symbol(0));
        assert_eq!(name, if names == b"x\0" { "x" } else { "" });
    }
    let field = Field::SymbolName(0);
    let bad = Cause::BadName { field, offset: 0 };
    assert_eq!(Elf::parse(&with_names(b"x")).err(), Some(bad));
    let mut file = with_names(b"");
    // `st_name`; the symbol table is the first section.
    file[64] = 1;
    let bad = Cause::BadName { field: Field::SymbolName(0), offset: 1 };
    assert_eq!(Elf::parse(&file).err(), Some(bad));
}
