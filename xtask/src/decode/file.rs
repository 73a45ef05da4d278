//! What a file says of its addresses: DWARF, and symbols where there is none.
//!
//! ```text
//!   KERNEL.elf, m.o, lib.a(m.o) ──► DebugFile   functions, inlined ones, lines
//!                               └─► table       names alone
//! ```
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use object::read::archive::ArchiveFile;
use object::read::elf::ElfFile64;
use object::{Object as _, ObjectKind, ObjectSymbol as _, SymbolKind};
use unspool_stack_trace::table::{self, Entry, SymbolTable};
use unspool_stack_trace::{DebugFile, DebugInfo, Symbolize};

use crate::embed;

type Elf<'f> = ElfFile64<'f, object::LittleEndian>;

/// A file, as far as traces need it.
pub struct Contents<'f> {
    /// What loaders call it: its name, or `archive(member)`.
    name: &'f str,
    debug: DebugFile<'f>,
    /// Its symbols, packed.
    table: Vec<u8>,
}

/// ELF files as they were read, with their names.
pub struct Files(Vec<(String, Vec<u8>)>);

impl Files {
    /// Reads an ELF file, or those in an archive.
    ///
    /// # Errors
    /// The file cannot be read, or is a damaged archive.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        let sound = || path.display().to_string();
        let bytes = fs::read(path).with_context(sound)?;
        let Ok(archive) = ArchiveFile::parse(&*bytes) else {
            return Ok(Self(vec![(name.into_owned(), bytes)]));
        };
        let mut files = Vec::new();
        for member in archive.members() {
            let member = member.with_context(sound)?;
            let data = member.data(&*bytes).with_context(sound)?;
            // Rust's metadata, for one, is no ELF file.
            if data.starts_with(b"\x7fELF") {
                let name = format!("{name}({})", String::from_utf8_lossy(member.name()));
                files.push((name, data.to_owned()));
            }
        }
        Ok(Self(files))
    }

    /// What is in each.
    ///
    /// # Errors
    /// One is no sound ELF file.
    pub fn contents(&self) -> Result<Vec<Contents<'_>>> {
        self.0.iter().map(|(name, bytes)| Contents::parse(name, bytes)).collect()
    }
}

impl<'f> Contents<'f> {
    fn parse(name: &'f str, bytes: &'f [u8]) -> Result<Self> {
        let debug = DebugFile::parse(bytes).with_context(|| name.to_owned())?;
        let file = Elf::parse(bytes).with_context(|| name.to_owned())?;
        let table = match file.kind() {
            ObjectKind::Relocatable => table::build(&symbols(&file, &debug)),
            _ => table::build(&embed::symbols(bytes).unwrap_or_default()),
        };
        Ok(Self { name, debug, table })
    }
}

/// The functions of a file that is not linked.
fn symbols<'f>(file: &Elf<'f>, debug: &DebugFile<'_>) -> Vec<Entry<'f>> {
    let functions = file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text);
    functions
        .filter_map(|symbol| {
            let section = debug.section_address(symbol.section_index()?.0)?;
            Some(Entry {
                name: symbol.name().ok()?,
                address: section.checked_add(symbol.address())?,
                size: symbol.size(),
                code: true,
                global: symbol.is_global(),
            })
        })
        .collect()
}

/// A file, ready to be asked.
pub struct Known<'c> {
    contents: &'c Contents<'c>,
    symbols: (DebugInfo<'c>, SymbolTable<'c>),
}

impl<'c> Known<'c> {
    /// Prepares a file.
    ///
    /// # Errors
    /// Its debug information cannot be read.
    pub fn new(contents: &'c Contents<'c>) -> Result<Self> {
        let debug = contents.debug.info().with_context(|| contents.name.to_owned())?;
        let table =
            SymbolTable::parse(&contents.table).with_context(|| contents.name.to_owned())?;
        Ok(Self { contents, symbols: (debug, table) })
    }

    /// What its addresses mean.
    pub fn symbols(&self) -> &dyn Symbolize {
        &self.symbols
    }

    /// The address that `name` or `name(section)` means, if that is this file.
    pub fn start_of(&self, place: &str) -> Option<u64> {
        let rest = place.strip_prefix(self.contents.name)?;
        let section = match rest {
            "" => None,
            rest => Some(rest.strip_prefix('(')?.strip_suffix(')')?),
        };
        self.contents.debug.address_of(section, 0)
    }
}
