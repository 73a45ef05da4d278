//! Why an object was not loaded or not unloaded, with the names and numbers to find the cause.
//!
//! ```text
//!   the file     Truncated, NotElf, Wrong…, BadIndex, BadName, …     before anything is mapped
//!   a section    Alignment, WritableCode, Constructors, …
//!   a symbol     Undefined (all of them at once), Duplicate, …
//!   a place      Relocation: section + offset + type + symbol + what is wrong
//!   the system   OutOfMemory, Map, TlsReserve, TlsPublish, …          everything is rolled back
//! ```
#![forbid(unsafe_code)]

use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::fmt;

use unspool_tls::{PublishError, ReserveError};
use unspool_unwind::RegisterError;

use crate::memory::MapError;
use crate::reloc::{Problem, RelocationType};
use crate::text::Text;

/// Why an object or a set was not loaded. Nothing of it stays mapped, reserved or registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    object: Text,
    cause: Cause,
}

impl LoadError {
    pub(crate) fn new(object: Text, cause: Cause) -> Self {
        Self { object, cause }
    }

    /// Where the trouble is: the name of a file of the set, of a member as `archive(member)`, or of
    /// the set itself.
    pub fn object(&self) -> &str {
        &self.object
    }

    /// What it is.
    pub fn cause(&self) -> &Cause {
        &self.cause
    }

    /// The same, to keep.
    pub fn into_cause(self) -> Cause {
        self.cause
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.cause)
    }
}

impl core::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        self.cause.source()
    }
}

/// What is wrong with an object or a set.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// A part of the file would end after the file does.
    Truncated {
        /// Which part.
        part: Part,
        /// Where the part would end, in bytes from the start of the file.
        end: u64,
        /// The size of the file in bytes.
        len: u64,
    },
    /// The file does not start with the ELF magic number.
    NotElf([u8; 4]),
    /// `EI_CLASS` is not `ELFCLASS64` (2).
    WrongClass(u8),
    /// `EI_DATA` is not `ELFDATA2LSB` (1).
    WrongEncoding(u8),
    /// `EI_VERSION` is not `EV_CURRENT` (1).
    WrongVersion(u8),
    /// `e_type` is not `ET_REL` (1): an executable, a shared library, a core file.
    WrongType(u16),
    /// `e_machine` is not `EM_X86_64` (62).
    WrongMachine(u16),
    /// The entries of a table do not have the size that the ELF specification gives them.
    WrongEntrySize {
        /// Which table.
        part: Part,
        /// The size of an entry in bytes, as specified.
        expected: u64,
        /// The size in the file: of an entry, or of a table that is not a multiple of it.
        found: u64,
    },
    /// An archive cannot be read.
    Archive {
        /// Where the header is that is meant, in bytes from the start of the archive.
        offset: u64,
        /// What is wrong there.
        problem: ArchiveProblem,
    },
    /// The file has no section headers: there is nothing to load.
    NoSections,
    /// A number that should name a section or a symbol does not.
    BadIndex {
        /// Where the number stands.
        field: Field,
        /// The number.
        index: u32,
    },
    /// A string table is not UTF-8.
    NotText {
        /// The number of its section.
        section: u32,
        /// How many bytes are.
        offset: u64,
    },
    /// A name does not lie in its string table, or does not end there.
    BadName {
        /// Whose name.
        field: Field,
        /// Its offset in the string table.
        offset: u32,
    },
    /// A second symbol table (the ELF specification allows one).
    SecondSymbolTable {
        /// The section number of the second one.
        section: u32,
    },
    /// Relocations of a kind that x86-64 does not use (`SHT_REL`, `SHT_RELR`, `SHT_CREL`).
    RelocationsWithoutAddend {
        /// The section that holds them.
        section: Text,
    },
    /// `sh_addralign` is not a power of two, or larger than a page.
    Alignment {
        /// The section.
        section: Text,
        /// Its alignment in bytes.
        align: u64,
        /// The largest that is supported, in bytes.
        max: u64,
    },
    /// A section that is both writable and executable.
    WritableCode {
        /// The section.
        section: Text,
    },
    /// A section that belongs in memory but is compressed in the file.
    Compressed {
        /// The section.
        section: Text,
    },
    /// Pieces of the functions `_init` and `_fini`, of which only C libraries have the beginnings
    /// and the ends. (Lists of constructors, as in `.init_array`, are no trouble.)
    Constructors {
        /// The section that has them: `.init` or `.fini`.
        section: Text,
        /// Its size in bytes.
        size: u64,
    },
    /// The sections together need more memory than a loaded object may have.
    TooLarge {
        /// Bytes needed up to the section that did not fit.
        needed: u64,
        /// Bytes an object may have.
        max: u64,
    },
    /// `.eh_frame` is not a chain of entries.
    BadUnwindTable {
        /// The section.
        section: Text,
        /// Where the chain breaks, in bytes from the start of the section.
        offset: u64,
    },
    /// `.eh_frame` is a chain of entries, but one of them cannot be read after relocation.
    BadUnwindEntry {
        /// How many functions were described before it.
        after: usize,
    },
    /// A symbol lies outside of its section.
    SymbolOutsideSection {
        /// The symbol.
        symbol: Text,
        /// Its section.
        section: Text,
        /// Its offset in the section, in bytes.
        value: u64,
        /// The size of the section in bytes.
        size: u64,
    },
    /// A relocation needs a symbol whose section does not belong in memory.
    SymbolNotInMemory {
        /// The symbol.
        symbol: Text,
        /// Its section.
        section: Text,
    },
    /// Two files of a set define a symbol.
    Duplicate {
        /// The symbol.
        symbol: Text,
        /// The file with the other definition.
        first: Text,
    },
    /// Symbols that neither the object, nor an earlier one, nor the program defines: all of them.
    Undefined(Vec<Text>),
    /// One place could not be relocated.
    Relocation {
        /// The section of the place.
        section: Text,
        /// The place, in bytes from the start of the section.
        offset: u64,
        /// The relocation type.
        kind: RelocationType,
        /// The symbol (the section's name if it has none of its own).
        symbol: Text,
        /// What is wrong.
        problem: Problem,
    },
    /// The heap has no memory for the loader's own records.
    OutOfMemory,
    /// Memory could not be mapped or sealed.
    Map(MapError),
    /// No room for the object's thread-local variables.
    TlsReserve(ReserveError),
    /// The thread-local variables could not be handed to the tasks.
    TlsPublish(PublishError),
    /// The unwind tables could not be registered.
    UnwindRegister(RegisterError),
}

/// What is wrong with an archive, or with a member's header in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ArchiveProblem {
    /// A thin archive: its members are other files, which the loader cannot open.
    Thin,
    /// A header, or what it describes, would end after the archive does.
    Truncated {
        /// Where it would end, in bytes from the start of the archive.
        end: u64,
        /// The size of the archive in bytes.
        len: u64,
    },
    /// There should be a header, but it does not end as one.
    NoHeader,
    /// The size in the header is not a decimal number.
    BadSize,
    /// The name in the header is none, does not lie where the header says, or is not UTF-8.
    BadName,
    /// The index of symbols does not have what it says it has.
    BadIndex,
    /// The index of symbols names a member here, where none is.
    NoMember,
}

/// A part of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Part {
    /// The ELF header.
    FileHeader,
    /// The table of section headers.
    SectionHeaders,
    /// The contents of the section with this number.
    Section(u32),
}

/// A field that refers to something else in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Field {
    /// `e_shstrndx`: the section that holds the names of the sections.
    NamesOfSections,
    /// `sh_name` of the section with this number.
    SectionName(u32),
    /// `sh_link` of the section with this number.
    SectionLink(u32),
    /// `sh_info` of the section with this number.
    SectionInfo(u32),
    /// `st_name` of the symbol with this number.
    SymbolName(u32),
    /// `st_shndx` of the symbol with this number.
    SymbolSection(u32),
    /// A member of the section group with this section number.
    GroupMember(u32),
    /// The symbol in `r_info` of a relocation.
    RelocationSymbol {
        /// The number of the section that holds the relocation.
        section: u32,
        /// The relocation's place in it, counted from 0.
        entry: u32,
    },
}

/// Why an object was not unloaded. It is as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnloadError {
    /// This loader does not have it, or not any more.
    NotLoaded,
    /// There are handles besides the one that was given, if only for a moment those of
    /// somebody who lists the objects.
    Held {
        /// How many.
        handles: usize,
    },
    /// Another object uses its symbols.
    BoundBy {
        /// The name of one that does.
        object: Text,
    },
    /// A frame of its code is on a stack.
    OnStack,
    /// An exception is on its way whose path leads through its code, or that its code will free.
    ExceptionInFlight,
    /// Tasks have destructors of it to run when they end, or run them.
    PendingDestructors {
        /// How many, of all tasks.
        count: usize,
    },
}

impl fmt::Display for UnloadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLoaded => f.write_str("not loaded"),
            Self::Held { handles } => write!(f, "other handles of it exist ({handles})"),
            Self::BoundBy { object } => write!(f, "`{object}` uses symbols of it"),
            Self::OnStack => f.write_str("a frame of its code is on a stack"),
            Self::ExceptionInFlight => f.write_str("an exception that involves it is in flight"),
            Self::PendingDestructors { count } => {
                write!(f, "thread-local destructors of it are pending ({count})")
            }
        }
    }
}

impl core::error::Error for UnloadError {}

impl From<TryReserveError> for Cause {
    fn from(_: TryReserveError) -> Self {
        Self::OutOfMemory
    }
}

impl From<MapError> for Cause {
    fn from(error: MapError) -> Self {
        Self::Map(error)
    }
}

impl From<ReserveError> for Cause {
    fn from(error: ReserveError) -> Self {
        Self::TlsReserve(error)
    }
}

impl From<PublishError> for Cause {
    fn from(error: PublishError) -> Self {
        Self::TlsPublish(error)
    }
}

impl From<RegisterError> for Cause {
    fn from(error: RegisterError) -> Self {
        Self::UnwindRegister(error)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated { part, end, len } => {
                write!(f, "truncated: {part} ends at byte {end}, the file at {len}")
            }
            Self::NotElf(found) => write!(f, "not an ELF file: starts with {found:02x?}"),
            Self::WrongClass(class) => write!(f, "ELF class {class}, expected 2 (64-bit)"),
            Self::WrongEncoding(data) => {
                write!(f, "ELF data encoding {data}, expected 1 (little-endian)")
            }
            Self::WrongVersion(version) => write!(f, "ELF version {version}, expected 1"),
            Self::WrongType(kind) => {
                write!(f, "ELF type {kind}, expected 1 (relocatable object)")
            }
            Self::WrongMachine(machine) => {
                write!(f, "ELF machine {machine}, expected 62 (x86-64)")
            }
            Self::WrongEntrySize { part, expected, found } => {
                write!(f, "{part} has entries of {expected} bytes, found {found}")
            }
            Self::Archive { offset, problem } => {
                write!(f, "archive, header at {offset:#x}: {problem}")
            }
            Self::NoSections => f.write_str("the file has no sections"),
            Self::BadIndex { field, index } => write!(f, "{field} is {index}: no such entry"),
            Self::NotText { section, offset } => {
                write!(f, "the string table in section {section} is not UTF-8 at {offset:#x}")
            }
            Self::BadName { field, offset } => write!(f, "{field} is {offset}: no name there"),
            Self::SecondSymbolTable { section } => {
                write!(f, "section {section} is a second symbol table")
            }
            Self::OutOfMemory => f.write_str("no memory on the heap"),
            Self::Map(error) => error.fmt(f),
            Self::TlsReserve(error) => error.fmt(f),
            Self::TlsPublish(error) => error.fmt(f),
            Self::UnwindRegister(error) => error.fmt(f),
            Self::RelocationsWithoutAddend { section } => {
                write!(f, "{section} holds relocations without addends")
            }
            Self::Alignment { section, align, max } => {
                write!(f, "{section} wants alignment {align}, supported: powers of two to {max}")
            }
            Self::WritableCode { section } => {
                write!(f, "{section} is both writable and executable")
            }
            Self::Compressed { section } => write!(f, "{section} is compressed"),
            Self::Constructors { section, size } => {
                write!(f, "{section} ({size} bytes) is a piece of a function")
            }
            Self::TooLarge { needed, max } => {
                write!(f, "the object needs at least {needed} bytes of memory, limit {max}")
            }
            Self::BadUnwindTable { section, offset } => {
                write!(f, "{section} has a malformed entry at {offset:#x}")
            }
            Self::BadUnwindEntry { after } => {
                write!(f, "the unwind table cannot be read after {after} functions")
            }
            Self::SymbolOutsideSection { symbol, section, value, size } => {
                write!(f, "`{symbol}` is at {value:#x} of {section}, which has {size:#x} bytes")
            }
            Self::SymbolNotInMemory { symbol, section } => {
                write!(f, "`{symbol}` is needed, but its section {section} is not loaded")
            }
            Self::Duplicate { symbol, first } => {
                write!(f, "`{symbol}` is also defined by {first}")
            }
            Self::Undefined(symbols) => fmt_undefined(symbols, f),
            Self::Relocation { section, offset, kind, symbol, problem } => {
                let advice = kind.advice(problem);
                write!(f, "{section}+{offset:#x}: {kind} against `{symbol}`: {problem}{advice}")
            }
        }
    }
}

fn fmt_undefined(symbols: &[Text], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "{} undefined symbol{}:", symbols.len(), if symbols.len() == 1 { "" } else { "s" })?;
    for (place, symbol) in symbols.iter().enumerate() {
        write!(f, "{} `{symbol}`", if place == 0 { "" } else { "," })?;
    }
    Ok(())
}

impl fmt::Display for ArchiveProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Thin => f.write_str("thin, its members are other files"),
            Self::Truncated { end, len } => write!(f, "ends at byte {end}, the archive at {len}"),
            Self::NoHeader => f.write_str("not a header"),
            Self::BadSize => f.write_str("the size is not a decimal number"),
            Self::BadName => f.write_str("no name where the header says"),
            Self::BadIndex => f.write_str("the index of symbols has less than it says"),
            Self::NoMember => f.write_str("the index of symbols names a member that is not there"),
        }
    }
}

impl core::error::Error for ArchiveProblem {}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FileHeader => f.write_str("the ELF header"),
            Self::SectionHeaders => f.write_str("the section header table"),
            Self::Section(index) => write!(f, "section {index}"),
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NamesOfSections => f.write_str("e_shstrndx"),
            Self::SectionName(section) => write!(f, "sh_name of section {section}"),
            Self::SectionLink(section) => write!(f, "sh_link of section {section}"),
            Self::SectionInfo(section) => write!(f, "sh_info of section {section}"),
            Self::SymbolName(symbol) => write!(f, "st_name of symbol {symbol}"),
            Self::SymbolSection(symbol) => write!(f, "st_shndx of symbol {symbol}"),
            Self::GroupMember(section) => write!(f, "a member of the group in section {section}"),
            Self::RelocationSymbol { section, entry } => {
                write!(f, "the symbol of relocation {entry} in section {section}")
            }
        }
    }
}

impl core::error::Error for Cause {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Archive { problem, .. } => Some(problem),
            Self::Relocation { problem, .. } => Some(problem),
            Self::Map(error) => Some(error),
            Self::TlsReserve(error) => Some(error),
            Self::TlsPublish(error) => Some(error),
            Self::UnwindRegister(error) => Some(error),
            _ => None,
        }
    }
}
