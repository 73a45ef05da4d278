//! Reads a relocatable x86-64 object and checks every number in it before anyone uses it.
//!
//! ```text
//!   bytes ──► header ──► section headers ──► contents, names
//!                              │
//!                              ├──► symbols       name, binding, where defined
//!                              └──► relocations   for which section
//! ```
//!
//! Promise: an [`Elf`] has only contents that lie in the file, names that are text, section numbers
//! that exist and symbols that lie inside their sections. References: the System V gABI, chapters
//! 4 (object files) and 5; any alignment of the bytes in memory will do.
#![forbid(unsafe_code)]

use alloc::vec::Vec;

use object::elf::{self, FileHeader64, Rela64, SectionHeader64, Sym64};
use object::endian::LittleEndian as LE;
use object::read::ReadRef;
use object::read::elf::{FileHeader, SectionHeader as _, Sym as _};
use object::{U32, pod};

use crate::error::{Field, LoadError, Part};
use crate::fallible::{push, room};
use crate::reloc::RelocationType;
use crate::text::Text;

/// A checked relocatable object.
pub(crate) struct Elf<'a> {
    /// The string table with the names of the sections.
    pub section_names: &'a str,
    /// The string table with the names of the symbols.
    pub symbol_names: &'a str,
    /// All sections; a section's place here is its number.
    pub sections: Vec<Section<'a>>,
    /// All symbols; a symbol's place here is its number.
    pub symbols: Vec<Symbol<'a>>,
    /// The relocation tables.
    pub relocations: Vec<RelocationTable<'a>>,
}

/// One section.
#[derive(Debug)]
pub(crate) struct Section<'a> {
    pub name: &'a str,
    /// Where the name starts in its string table.
    pub name_at: usize,
    pub kind: elf::SectionType,
    pub flags: elf::SectionFlags,
    /// Bytes in memory.
    pub size: u64,
    pub align: u64,
    /// Bytes in the file: `size` of them, or none (`SHT_NOBITS`).
    pub data: &'a [u8],
}

/// One symbol.
#[derive(Clone, Copy)]
pub(crate) struct Symbol<'a> {
    pub name: &'a str,
    /// Where the name starts in its string table.
    pub name_at: usize,
    pub binding: Binding,
    /// Whether its definition is for its own component only (gABI, `STV_HIDDEN`).
    pub hidden: bool,
    pub kind: elf::SymbolType,
    pub definition: Definition,
    pub size: u64,
}

/// Who may refer to a symbol, and who wins if several define it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Binding {
    /// Only its own object.
    Local,
    /// Everyone.
    Global,
    /// Everyone; the first definition wins, and none at all means 0.
    Weak,
}

/// Where a symbol is defined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Definition {
    /// Elsewhere.
    Undefined,
    /// Nowhere: the value itself.
    Absolute(u64),
    /// Nowhere yet: a tentative definition of C.
    Common,
    /// `offset` bytes into a section of this object.
    Section { index: usize, offset: u64 },
}

/// The relocations of one section.
pub(crate) struct RelocationTable<'a> {
    /// The number of the section that holds them.
    section: u32,
    /// The number of the section they apply to.
    pub target: usize,
    entries: &'a [Rela64<LE>],
}

/// One relocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Relocation {
    /// Bytes from the start of the section it applies to.
    pub offset: u64,
    pub kind: RelocationType,
    /// The number of its symbol; exists.
    pub symbol: usize,
    pub addend: i64,
}

impl Section<'_> {
    /// Whether the section belongs in memory.
    pub fn is_allocated(&self) -> bool {
        self.flags.contains(elf::SHF_ALLOC) && !self.flags.contains(elf::SHF_EXCLUDE)
    }
}

impl RelocationTable<'_> {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The relocation at `index`, which must be below [`len`](Self::len).
    pub fn get(&self, index: usize) -> Relocation {
        let entry = &self.entries[index];
        Relocation {
            offset: entry.r_offset.get(LE),
            kind: RelocationType(entry.r_type(LE, false).0),
            symbol: entry.r_sym(LE, false) as usize,
            addend: entry.r_addend.get(LE),
        }
    }
}

impl<'a> Elf<'a> {
    /// Checks `file` and takes it apart.
    pub fn parse(file: &'a [u8]) -> Result<Self, LoadError> {
        let header = header(file)?;
        let headers = section_headers(header, file)?;
        let section_names = section_names(header, headers, file)?;
        let mut sections = room(headers.len())?;
        for (index, header) in (0..).zip(headers) {
            sections.push(section(file, index, header, section_names)?);
        }
        let SymbolTable { section, names, symbols } = symbols(file, headers, &sections)?;
        let relocations = relocations(headers, &sections, section, symbols.len())?;
        Ok(Self { section_names, symbol_names: names, sections, symbols, relocations })
    }

    /// What to call a symbol in a message: its name, or that of its section.
    pub fn symbol_name(&self, symbol: usize) -> Text {
        let symbol = &self.symbols[symbol];
        match symbol.definition {
            Definition::Section { index, .. } if symbol.name.is_empty() => {
                self.sections[index].name.into()
            }
            _ => symbol.name.into(),
        }
    }
}

fn header(file: &[u8]) -> Result<&FileHeader64<LE>, LoadError> {
    if let Some(&magic) = file.first_chunk()
        && magic != elf::ELFMAG
    {
        return Err(LoadError::NotElf(magic));
    }
    let len = file.len() as u64;
    let end = size_of::<FileHeader64<LE>>() as u64;
    let header: &FileHeader64<LE> =
        file.read_at(0).map_err(|()| LoadError::Truncated { part: Part::FileHeader, end, len })?;
    let ident = header.e_ident();
    if !header.is_class_64() {
        return Err(LoadError::WrongClass(ident.class.0));
    }
    if !header.is_little_endian() {
        return Err(LoadError::WrongEncoding(ident.data.0));
    }
    if ident.version != elf::EV_CURRENT {
        return Err(LoadError::WrongVersion(ident.version.0));
    }
    if header.e_type(LE) != elf::ET_REL {
        return Err(LoadError::WrongType(header.e_type(LE).0));
    }
    if header.e_machine(LE) != elf::EM_X86_64 {
        return Err(LoadError::WrongMachine(header.e_machine(LE).0));
    }
    Ok(header)
}

/// The table of section headers; its length may stand in its first entry (gABI, `e_shnum`).
fn section_headers<'a>(
    header: &FileHeader64<LE>,
    file: &'a [u8],
) -> Result<&'a [SectionHeader64<LE>], LoadError> {
    const SIZE: u64 = size_of::<SectionHeader64<LE>>() as u64;
    let start = header.e_shoff(LE);
    if start == 0 {
        return Err(LoadError::NoSections);
    }
    let found = u64::from(header.e_shentsize(LE));
    if found != SIZE {
        let part = Part::SectionHeaders;
        return Err(LoadError::WrongEntrySize { part, expected: SIZE, found });
    }
    let table = |count: u64| {
        let end = start.saturating_add(count.saturating_mul(SIZE));
        usize::try_from(count)
            .ok()
            .and_then(|count| file.read_slice_at::<SectionHeader64<LE>>(start, count).ok())
            .ok_or(LoadError::Truncated { part: Part::SectionHeaders, end, len: file.len() as u64 })
    };
    match header.e_shnum(LE) {
        0 => {
            let first = table(1)?;
            match first[0].sh_size(LE) {
                0 => Err(LoadError::NoSections),
                count => table(count),
            }
        }
        count => table(count.into()),
    }
}

/// The string table with the sections' names; its number may stand in section 0 (gABI,
/// `e_shstrndx`).
fn section_names<'a>(
    header: &FileHeader64<LE>,
    headers: &[SectionHeader64<LE>],
    file: &'a [u8],
) -> Result<&'a str, LoadError> {
    let index = match header.e_shstrndx(LE) {
        elf::SHN_XINDEX => headers[0].sh_link(LE),
        index => index.0.into(),
    };
    string_table(headers, file, index, Field::NamesOfSections)
}

fn string_table<'a>(
    headers: &[SectionHeader64<LE>],
    file: &'a [u8],
    index: u32,
    field: Field,
) -> Result<&'a str, LoadError> {
    let header = headers
        .get(index as usize)
        .filter(|header| header.sh_type(LE) == elf::SHT_STRTAB)
        .ok_or(LoadError::BadIndex { field, index })?;
    core::str::from_utf8(contents(file, index, header)?).map_err(|error| {
        let offset = error.valid_up_to() as u64;
        LoadError::NotText { section: index, offset }
    })
}

/// The NUL-terminated text at `offset`.
fn text(table: &str, offset: u32, field: Field) -> Result<&str, LoadError> {
    table
        .get(offset as usize..)
        .and_then(|rest| rest.split_once('\0'))
        .map(|(name, _)| name)
        .ok_or(LoadError::BadName { field, offset })
}

/// The bytes of a section in the file.
fn contents<'a>(
    file: &'a [u8],
    index: u32,
    header: &SectionHeader64<LE>,
) -> Result<&'a [u8], LoadError> {
    // An empty section may say that it starts anywhere.
    let Some((offset, size)) = header.file_range(LE).filter(|&(_, size)| size != 0) else {
        return Ok(&[]);
    };
    file.read_bytes_at(offset, size).map_err(|()| LoadError::Truncated {
        part: Part::Section(index),
        end: offset.saturating_add(size),
        len: file.len() as u64,
    })
}

fn section<'a>(
    file: &'a [u8],
    index: u32,
    header: &SectionHeader64<LE>,
    names: &'a str,
) -> Result<Section<'a>, LoadError> {
    if header.sh_type(LE) == elf::SHT_NULL {
        // Inactive (gABI): none of its other fields mean anything.
        let (kind, flags) = (elf::SHT_NULL, elf::SectionFlags(0));
        return Ok(Section { name: "", name_at: 0, kind, flags, size: 0, align: 0, data: &[] });
    }
    Ok(Section {
        name: text(names, header.sh_name(LE), Field::SectionName(index))?,
        name_at: header.sh_name(LE) as usize,
        kind: header.sh_type(LE),
        flags: header.sh_flags(LE),
        size: header.sh_size(LE),
        align: header.sh_addralign(LE),
        data: contents(file, index, header)?,
    })
}

/// A section's contents as a table of `T`.
fn entries<T: pod::Pod>(data: &[u8], index: u32) -> Result<&[T], LoadError> {
    let size = size_of::<T>();
    let whole = data.len().is_multiple_of(size);
    whole.then(|| pod::slice_from_all_bytes(data).ok()).flatten().ok_or(LoadError::WrongEntrySize {
        part: Part::Section(index),
        expected: size as u64,
        found: data.len() as u64,
    })
}

/// The symbol table; an object without one has none with number 0.
struct SymbolTable<'a> {
    section: u32,
    names: &'a str,
    symbols: Vec<Symbol<'a>>,
}

fn symbols<'a>(
    file: &'a [u8],
    headers: &[SectionHeader64<LE>],
    sections: &[Section<'a>],
) -> Result<SymbolTable<'a>, LoadError> {
    let mut tables = (0..).zip(headers).filter(|(_, header)| header.sh_type(LE) == elf::SHT_SYMTAB);
    let Some((table, header)) = tables.next() else {
        return Ok(SymbolTable { section: 0, names: "", symbols: Vec::new() });
    };
    if let Some((section, _)) = tables.next() {
        return Err(LoadError::SecondSymbolTable { section });
    }
    let raw: &[Sym64<LE>] = entries(sections[table as usize].data, table)?;
    let names = string_table(headers, file, header.sh_link(LE), Field::SectionLink(table))?;
    let extended = extended_indices(headers, sections, table)?;
    let mut symbols = room(raw.len())?;
    for (index, entry) in (0..).zip(raw) {
        let symbol = Symbol {
            name: text(names, entry.st_name(LE), Field::SymbolName(index))?,
            name_at: entry.st_name(LE) as usize,
            binding: match entry.st_bind() {
                elf::STB_LOCAL => Binding::Local,
                // One definition for all who use it: the first (GNU extension).
                elf::STB_WEAK | elf::STB_GNU_UNIQUE => Binding::Weak,
                _ => Binding::Global,
            },
            hidden: matches!(entry.st_visibility(), elf::STV_HIDDEN | elf::STV_INTERNAL),
            kind: entry.st_type(),
            definition: definition(entry, index, extended)?,
            size: entry.st_size(LE),
        };
        check_symbol(&symbol, index, sections)?;
        symbols.push(symbol);
    }
    Ok(SymbolTable { section: table, names, symbols })
}

/// Section numbers of symbols that do not fit `st_shndx` (gABI, `SHT_SYMTAB_SHNDX`).
fn extended_indices<'a>(
    headers: &[SectionHeader64<LE>],
    sections: &[Section<'a>],
    table: u32,
) -> Result<&'a [U32<LE>], LoadError> {
    let found = (0..).zip(headers).find(|(_, header)| {
        header.sh_type(LE) == elf::SHT_SYMTAB_SHNDX && header.sh_link(LE) == table
    });
    found.map_or(Ok(&[]), |(index, _)| entries(sections[index as usize].data, index))
}

fn definition(
    entry: &Sym64<LE>,
    index: u32,
    extended: &[U32<LE>],
) -> Result<Definition, LoadError> {
    let value = entry.st_value(LE);
    let section = match entry.st_shndx(LE) {
        elf::SHN_UNDEF => return Ok(Definition::Undefined),
        elf::SHN_ABS => return Ok(Definition::Absolute(value)),
        elf::SHN_COMMON => return Ok(Definition::Common),
        elf::SHN_XINDEX => extended.get(index as usize).map(|section| section.get(LE)),
        section if section.is_reserved() => None,
        section => Some(section.0.into()),
    };
    let index = section.ok_or(LoadError::BadIndex {
        field: Field::SymbolSection(index),
        index: entry.st_shndx(LE).0.into(),
    })?;
    Ok(Definition::Section { index: index as usize, offset: value })
}

/// Checks that the symbol's section exists and that the symbol starts in it or at its end.
fn check_symbol(
    symbol: &Symbol<'_>,
    index: u32,
    sections: &[Section<'_>],
) -> Result<(), LoadError> {
    let Definition::Section { index: number, offset } = symbol.definition else { return Ok(()) };
    let Some(section) = sections.get(number) else {
        let field = Field::SymbolSection(index);
        return Err(LoadError::BadIndex { field, index: number as u32 });
    };
    if offset > section.size {
        return Err(LoadError::SymbolOutsideSection {
            symbol: symbol.name.into(),
            section: section.name.into(),
            value: offset,
            size: section.size,
        });
    }
    Ok(())
}

/// The relocation tables, each with a target that exists and symbols that exist.
fn relocations<'a>(
    headers: &[SectionHeader64<LE>],
    sections: &[Section<'a>],
    symbol_table: u32,
    symbol_count: usize,
) -> Result<Vec<RelocationTable<'a>>, LoadError> {
    let mut tables = Vec::new();
    for (index, header) in (0..).zip(headers) {
        let section = &sections[index as usize];
        match section.kind {
            elf::SHT_RELA => {}
            elf::SHT_REL | elf::SHT_RELR | elf::SHT_CREL => {
                let section = section.name.into();
                return Err(LoadError::RelocationsWithoutAddend { section });
            }
            _ => continue,
        }
        let link = header.sh_link(LE);
        if link != symbol_table || symbol_table == 0 {
            return Err(LoadError::BadIndex { field: Field::SectionLink(index), index: link });
        }
        let target = header.sh_info(LE);
        if target == 0 || target as usize >= sections.len() {
            return Err(LoadError::BadIndex { field: Field::SectionInfo(index), index: target });
        }
        let table = RelocationTable {
            section: index,
            target: target as usize,
            entries: entries(section.data, index)?,
        };
        check_relocations(&table, symbol_count)?;
        push(&mut tables, table)?;
    }
    Ok(tables)
}

fn check_relocations(table: &RelocationTable<'_>, symbols: usize) -> Result<(), LoadError> {
    for (entry, relocation) in (0..).zip(table.entries) {
        let index = relocation.r_sym(LE, false);
        if index as usize >= symbols {
            let field = Field::RelocationSymbol { section: table.section, entry };
            return Err(LoadError::BadIndex { field, index });
        }
    }
    Ok(())
}
