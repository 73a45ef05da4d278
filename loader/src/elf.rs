//! Reads a relocatable x86-64 object and checks every number in it before anyone uses it.
//!
//! ```text
//!   bytes ──► header ──► section headers ──► contents, names
//!                              │
//!                              ├──► symbols       name, binding, where defined
//!                              └──► relocations   for which section
//! ```
//!
//! Promise: an [`Elf`] has only contents that lie in the file, names that are text, and symbols that
//! lie inside sections that exist; tables and groups are checked when they are asked for. References: the System V gABI, chapters
//! 4 (object files) and 5; any alignment of the bytes in memory will do.
#![forbid(unsafe_code)]

mod header;
mod relocations;
#[cfg(test)]
mod tests;

use object::elf::{self, FileHeader64, SectionHeader64, Sym64};
use object::endian::LittleEndian as LE;
use object::read::ReadRef;
use object::read::elf::{FileHeader, SectionHeader as _, Sym as _};
use object::{U32, pod};

use crate::error::{Cause, Field, Part};
use crate::text::Text;

use header::{header, section_headers};
pub(crate) use relocations::{Relocation, RelocationTable};

/// Common symbols of the large code model (psABI x86-64 §4.2).
const SHN_X86_64_LCOMMON: elf::SymbolSection = elf::SymbolSection(0xff02);

/// A checked relocatable object. Nothing is copied out of the file; sections and symbols are read
/// where they are needed.
#[derive(Clone, Copy)]
pub(crate) struct Elf<'a> {
    file: &'a [u8],
    headers: &'a [SectionHeader64<LE>],
    /// The string table with the names of the sections.
    pub section_names: &'a str,
    /// The string table with the names of the symbols.
    pub symbol_names: &'a str,
    /// The number of the symbol table's section, 0 if there is none.
    symbol_table: u32,
    symbols: &'a [Sym64<LE>],
    /// Section numbers that do not fit into symbols.
    extended: &'a [U32<LE>],
    /// The number of the first symbol that is not local.
    pub first_global: usize,
    /// How many symbols are functions.
    pub functions: usize,
}

/// One section.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Section<'a> {
    /// Where the name starts in its string table.
    pub name_at: u32,
    pub kind: elf::SectionType,
    pub flags: elf::SectionFlags,
    /// Bytes in memory.
    pub size: u64,
    pub align: u64,
    /// Bytes in the file: `size` of them, or none (`SHT_NOBITS`).
    pub data: &'a [u8],
    link: u32,
    info: u32,
}

/// One symbol.
#[derive(Clone, Copy)]
pub(crate) struct Symbol {
    /// Where the name starts in its string table.
    pub name_at: u32,
    pub binding: Binding,
    pub visibility: Visibility,
    pub kind: elf::SymbolType,
    pub definition: Definition,
    pub size: u64,
}

/// Who may refer to a symbol, and who wins if several define it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Binding {
    /// Only its own file.
    Local,
    /// Everyone.
    Global,
    /// Everyone; the first definition wins, and none at all means 0.
    Weak,
}

/// What a definition means to other components (gABI, `st_other`). Of several that files give a name,
/// the greatest counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Visibility {
    /// They may use it, and one of theirs may be used instead of it.
    Default,
    /// They may use it; its own component uses no other.
    Protected,
    /// Nothing.
    Hidden,
}

/// Where a symbol is defined.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Definition {
    /// Elsewhere.
    Undefined,
    /// Nowhere: the value itself.
    Absolute(u64),
    /// Nowhere yet: a tentative definition of C that wants this alignment.
    Common { align: u64 },
    /// `offset` bytes into a section of this file.
    Section { index: usize, offset: u64 },
}

/// A group of sections (gABI, `SHT_GROUP`) of which one copy is kept, whoever brings it.
pub(crate) struct Group<'a> {
    /// The name by which copies are known.
    pub signature: &'a str,
    members: &'a [U32<LE>],
}

impl Section<'_> {
    /// Whether the section belongs in memory.
    pub fn is_allocated(&self) -> bool {
        self.flags.contains(elf::SHF_ALLOC) && !self.flags.contains(elf::SHF_EXCLUDE)
    }
}

impl Group<'_> {
    /// The numbers of the sections in it.
    pub fn members(&self) -> impl Iterator<Item = usize> {
        self.members.iter().map(|member| member.get(LE) as usize)
    }
}

impl<'a> Elf<'a> {
    /// Checks `file`.
    pub fn parse(file: &'a [u8]) -> Result<Self, Cause> {
        let header = header(file)?;
        let headers = section_headers(header, file)?;
        let section_names = section_names(header, headers, file)?;
        let mut elf = Self {
            file,
            headers,
            section_names,
            symbol_names: "",
            symbol_table: 0,
            symbols: &[],
            extended: &[],
            first_global: 0,
            functions: 0,
        };
        let ends = last_end(section_names);
        for (index, header) in (0..).zip(headers) {
            elf.check_section(index, header, ends)?;
        }
        elf.find_symbols()?;
        elf.check_symbols()?;
        Ok(elf)
    }

    /// How many sections there are.
    pub fn section_count(&self) -> usize {
        self.headers.len()
    }

    /// All sections; a section's place here is its number.
    pub fn sections(&self) -> impl Iterator<Item = Section<'a>> + use<'a> {
        let elf = *self;
        (0..elf.headers.len()).map(move |index| elf.section(index))
    }

    /// The section with a number below [`section_count`](Self::section_count).
    pub fn section(&self, index: usize) -> Section<'a> {
        let header = &self.headers[index];
        let kind = header.sh_type(LE);
        if kind == elf::SHT_NULL {
            // Inactive (gABI): none of its other fields mean anything.
            let flags = elf::SectionFlags(0);
            let data = &[];
            return Section { name_at: 0, kind, flags, size: 0, align: 0, data, link: 0, info: 0 };
        }
        Section {
            name_at: header.sh_name(LE),
            kind,
            flags: header.sh_flags(LE),
            size: header.sh_size(LE),
            align: header.sh_addralign(LE),
            // `parse` has seen that they are in the file.
            data: find_contents(self.file, header).unwrap_or_default(),
            link: header.sh_link(LE),
            info: header.sh_info(LE),
        }
    }

    /// The name of a section.
    pub fn section_name(&self, section: &Section<'_>) -> &'a str {
        match section.kind {
            elf::SHT_NULL => "",
            _ => name_at(self.section_names, section.name_at),
        }
    }

    /// The name of the section with this number.
    pub fn section_text(&self, index: usize) -> Text {
        self.section_name(&self.section(index)).into()
    }

    /// How many symbols there are.
    pub fn symbol_count(&self) -> usize {
        self.symbols.len()
    }

    /// The symbol with a number below [`symbol_count`](Self::symbol_count).
    #[inline]
    pub fn symbol(&self, index: usize) -> Symbol {
        let entry = &self.symbols[index];
        Symbol {
            name_at: entry.st_name(LE),
            binding: match entry.st_bind() {
                elf::STB_LOCAL => Binding::Local,
                // One definition for all who use it: the first (GNU extension).
                elf::STB_WEAK | elf::STB_GNU_UNIQUE => Binding::Weak,
                _ => Binding::Global,
            },
            visibility: match entry.st_visibility() {
                elf::STV_HIDDEN | elf::STV_INTERNAL => Visibility::Hidden,
                elf::STV_PROTECTED => Visibility::Protected,
                _ => Visibility::Default,
            },
            kind: entry.st_type(),
            definition: self.definition_of(index),
            size: entry.st_size(LE),
        }
    }

    /// The name of a symbol.
    pub fn symbol_name(&self, symbol: &Symbol) -> &'a str {
        name_at(self.symbol_names, symbol.name_at)
    }

    /// What to call a symbol in a message: its name, or that of its section.
    pub fn symbol_text(&self, index: usize) -> Text {
        let symbol = self.symbol(index);
        match (self.symbol_name(&symbol), symbol.definition) {
            ("", Definition::Section { index, .. }) => self.section_text(index),
            (name, _) => name.into(),
        }
    }

    /// Where there are relocations: the number of the section that holds them, and the number of the
    /// one that they apply to.
    pub fn relocations(&self) -> impl Iterator<Item = Result<(u32, usize), Cause>> + use<'a> {
        let elf = *self;
        (0..).zip(elf.headers).filter_map(move |(index, header)| match header.sh_type(LE) {
            elf::SHT_RELA => match header.sh_info(LE) {
                target if target != 0 && (target as usize) < elf.headers.len() => {
                    Some(Ok((index, target as usize)))
                }
                other => {
                    Some(Err(Cause::BadIndex { field: Field::SectionInfo(index), index: other }))
                }
            },
            elf::SHT_REL | elf::SHT_RELR | elf::SHT_CREL => {
                let section = elf.section_text(index as usize);
                Some(Err(Cause::RelocationsWithoutAddend { section }))
            }
            _ => None,
        })
    }

    /// The relocations that a section holds for another.
    pub fn relocation_table(
        &self,
        (index, target): (u32, usize),
    ) -> Result<RelocationTable<'a>, Cause> {
        let Section { link, data, .. } = self.section(index as usize);
        if link != self.symbol_table || link == 0 {
            return Err(Cause::BadIndex { field: Field::SectionLink(index), index: link });
        }
        Ok(RelocationTable { section: index, target, entries: entries(data, index)? })
    }

    /// The COMDAT groups.
    pub fn groups(&self) -> impl Iterator<Item = Result<Group<'a>, Cause>> + use<'a> {
        let elf = *self;
        let groups = (0..).zip(elf.headers).filter(|(_, of)| of.sh_type(LE) == elf::SHT_GROUP);
        groups.filter_map(move |(index, _)| elf.group(index).transpose())
    }

    fn group(&self, index: u32) -> Result<Option<Group<'a>>, Cause> {
        let Section { link, info, data, .. } = self.section(index as usize);
        let Some((flags, members)) = entries::<U32<LE>>(data, index)?.split_first() else {
            return Ok(None);
        };
        if flags.get(LE) & elf::GRP_COMDAT.0 == 0 {
            return Ok(None);
        }
        if link != self.symbol_table || link == 0 {
            return Err(Cause::BadIndex { field: Field::SectionLink(index), index: link });
        }
        if info as usize >= self.symbols.len() {
            return Err(Cause::BadIndex { field: Field::SectionInfo(index), index: info });
        }
        for member in members {
            let number = member.get(LE);
            if number == 0 || number as usize >= self.headers.len() {
                return Err(Cause::BadIndex { field: Field::GroupMember(index), index: number });
            }
        }
        let symbol = self.symbol(info as usize);
        let signature = match (self.symbol_name(&symbol), symbol.definition) {
            ("", Definition::Section { index, .. }) => self.section_name(&self.section(index)),
            (name, _) => name,
        };
        Ok(Some(Group { signature, members }))
    }

    fn check_section(
        &self,
        index: u32,
        header: &SectionHeader64<LE>,
        ends: Option<usize>,
    ) -> Result<(), Cause> {
        if header.sh_type(LE) != elf::SHT_NULL {
            let field = Field::SectionName(index);
            check_name(self.section_names, ends, header.sh_name(LE), field)?;
            contents(self.file, index, header)?;
        }
        Ok(())
    }

    /// Finds the symbol table; an object need not have one.
    fn find_symbols(&mut self) -> Result<(), Cause> {
        let mut tables =
            (0..).zip(self.headers).filter(|(_, header)| header.sh_type(LE) == elf::SHT_SYMTAB);
        let Some((table, header)) = tables.next() else { return Ok(()) };
        if let Some((section, _)) = tables.next() {
            return Err(Cause::SecondSymbolTable { section });
        }
        self.symbols = entries(self.section(table as usize).data, table)?;
        let names = header.sh_link(LE);
        self.symbol_names =
            string_table(self.headers, self.file, names, Field::SectionLink(table))?;
        self.symbol_table = table;
        // All symbols before it are local (gABI, `sh_info`).
        self.first_global = (header.sh_info(LE) as usize).min(self.symbols.len());
        let extended = (0..).zip(self.headers).find(|(_, header)| {
            header.sh_type(LE) == elf::SHT_SYMTAB_SHNDX && header.sh_link(LE) == table
        });
        if let Some((index, _)) = extended {
            self.extended = entries(self.section(index as usize).data, index)?;
        }
        Ok(())
    }

    /// Checks that all symbols have names, and that those in sections start in these or at their
    /// ends.
    fn check_symbols(&mut self) -> Result<(), Cause> {
        let ends = last_end(self.symbol_names);
        for (number, entry) in (0..).zip(self.symbols) {
            check_name(self.symbol_names, ends, entry.st_name(LE), Field::SymbolName(number))?;
            self.functions += usize::from(entry.st_type() == elf::STT_FUNC);
            let definition = self.definition(number as usize).ok_or_else(|| Cause::BadIndex {
                field: Field::SymbolSection(number),
                index: entry.st_shndx(LE).0.into(),
            })?;
            let Definition::Section { index, offset } = definition else { continue };
            let Some(section) = self.headers.get(index) else {
                let field = Field::SymbolSection(number);
                return Err(Cause::BadIndex { field, index: index as u32 });
            };
            let active = section.sh_type(LE) != elf::SHT_NULL;
            let size = if active { section.sh_size(LE) } else { 0 };
            if offset > size {
                let (symbol, section) =
                    (name_at(self.symbol_names, entry.st_name(LE)), self.section_text(index));
                let symbol = symbol.into();
                return Err(Cause::SymbolOutsideSection { symbol, section, value: offset, size });
            }
        }
        Ok(())
    }

    /// Where a symbol is defined, in a section that may not exist; `None` if nobody knows where.
    #[inline]
    fn definition(&self, number: usize) -> Option<Definition> {
        let entry = &self.symbols[number];
        let value = entry.st_value(LE);
        let section = match entry.st_shndx(LE) {
            elf::SHN_UNDEF => return Some(Definition::Undefined),
            elf::SHN_ABS => return Some(Definition::Absolute(value)),
            elf::SHN_COMMON | SHN_X86_64_LCOMMON => {
                return Some(Definition::Common { align: value });
            }
            elf::SHN_XINDEX => self.extended.get(number)?.get(LE),
            section if section.is_reserved() => return None,
            section => section.0.into(),
        };
        Some(Definition::Section { index: section as usize, offset: value })
    }

    /// Where a symbol is defined, that must be known.
    #[inline]
    pub fn definition_of(&self, number: usize) -> Definition {
        // `parse` has seen that it is.
        self.definition(number).unwrap_or(Definition::Undefined)
    }

    /// Whether a symbol has a name.
    pub fn is_named(&self, symbol: &Symbol) -> bool {
        self.has_name(symbol.name_at)
    }

    fn has_name(&self, at: u32) -> bool {
        self.symbol_names.as_bytes().get(at as usize).is_some_and(|&byte| byte != 0)
    }

    /// Whether a symbol is a function that has a name.
    pub fn is_named_function(&self, number: usize) -> bool {
        let entry = &self.symbols[number];
        entry.st_type() == elf::STT_FUNC && self.has_name(entry.st_name(LE))
    }

    /// What a symbol names.
    #[inline]
    pub fn symbol_type(&self, number: usize) -> elf::SymbolType {
        self.symbols[number].st_type()
    }

    /// Where the name of a symbol starts in its string table.
    pub fn symbol_name_at(&self, number: usize) -> u32 {
        self.symbols[number].st_name(LE)
    }
}

/// The string table with the sections' names; its number may stand in section 0 (gABI,
/// `e_shstrndx`).
fn section_names<'a>(
    header: &FileHeader64<LE>,
    headers: &[SectionHeader64<LE>],
    file: &'a [u8],
) -> Result<&'a str, Cause> {
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
) -> Result<&'a str, Cause> {
    let header = headers
        .get(index as usize)
        .filter(|header| header.sh_type(LE) == elf::SHT_STRTAB)
        .ok_or(Cause::BadIndex { field, index })?;
    core::str::from_utf8(contents(file, index, header)?).map_err(|error| {
        let offset = error.valid_up_to() as u64;
        Cause::NotText { section: index, offset }
    })
}

/// Where the last name of a table ends, if it has one.
fn last_end(table: &str) -> Option<usize> {
    table.rfind('\0')
}

/// Checks that a name starts at `offset` of a table in which the last one ends at `end`. A table
/// may be empty, and has the empty name then (gABI chapter 4, "String Table").
fn check_name(table: &str, end: Option<usize>, offset: u32, field: Field) -> Result<(), Cause> {
    let at = offset as usize;
    let ends = end.map_or(offset == 0 && table.is_empty(), |end| at <= end);
    let good = ends && table.is_char_boundary(at);
    if good { Ok(()) } else { Err(Cause::BadName { field, offset }) }
}

/// The NUL-terminated text at `offset`, if there is one.
fn name_at(table: &str, offset: u32) -> &str {
    let rest = table.get(offset as usize..).unwrap_or_default();
    until_zero(rest.as_bytes()).map_or("", |end| &rest[..end])
}

/// Where the first zero is. Eight bytes at a time, as names are too short to prepare for more.
fn until_zero(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::MAX / 0xff;
    let (words, rest) = bytes.as_chunks::<8>();
    for (number, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // The lowest bit that is set marks the first zero; others may be wrong.
        let zeros = word.wrapping_sub(ONES) & !word & (ONES << 7);
        if zeros != 0 {
            return Some(8 * number + zeros.trailing_zeros() as usize / 8);
        }
    }
    let last = rest.iter().position(|&byte| byte == 0)?;
    Some(bytes.len() - rest.len() + last)
}

/// The bytes of a section, if they are in the file.
#[inline]
fn find_contents<'a>(file: &'a [u8], header: &SectionHeader64<LE>) -> Option<&'a [u8]> {
    // An empty section may say that it starts anywhere.
    match header.file_range(LE) {
        Some((offset, size)) if size != 0 => file.read_bytes_at(offset, size).ok(),
        _ => Some(&[]),
    }
}

/// The bytes of a section in the file.
fn contents<'a>(
    file: &'a [u8],
    index: u32,
    header: &SectionHeader64<LE>,
) -> Result<&'a [u8], Cause> {
    find_contents(file, header).ok_or_else(|| {
        let (offset, size) = header.file_range(LE).unwrap_or_default();
        let end = offset.saturating_add(size);
        Cause::Truncated { part: Part::Section(index), end, len: file.len() as u64 }
    })
}

/// A section's contents as a table of `T`.
fn entries<T: pod::Pod>(data: &[u8], index: u32) -> Result<&[T], Cause> {
    let size = size_of::<T>();
    let whole = data.len().is_multiple_of(size);
    whole.then(|| pod::slice_from_all_bytes(data).ok()).flatten().ok_or(Cause::WrongEntrySize {
        part: Part::Section(index),
        expected: size as u64,
        found: data.len() as u64,
    })
}
