//! What a file says of its addresses: DWARF, and symbols where there is none.
//!
//! ```text
//!   linked     addresses as they are
//!   .o         .text.f │ .text.g │ …     sections are given addresses of their own, side by side,
//!              .debug_* relocated to     and debug information refers to these
//! ```
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use object::read::archive::ArchiveFile;
use object::read::elf::ElfFile64;
use object::{
    Object as _, ObjectKind, ObjectSection as _, ObjectSegment as _, ObjectSymbol as _, Relocation,
    RelocationTarget, SectionFlags, SectionIndex, SymbolKind,
};
use unspool_stack_trace::table::{self, Entry, SymbolTable};
use unspool_stack_trace::{DebugInfo, Symbolize};

use crate::embed;

type Elf<'f> = ElfFile64<'f, object::LittleEndian>;
/// Where the sections of a file lie that is not linked.
type Places = HashMap<SectionIndex, u64>;

/// Between the sections of a file that is not linked, in bytes; nothing has the address 0.
const GAP: u64 = 0x1000;

/// A file, as far as traces need it.
pub struct Contents {
    /// What loaders call it: its name, or `archive(member)`.
    name: String,
    /// Where it starts, as `name+offset` counts.
    start: Option<u64>,
    /// Where its sections lie, if it is not linked.
    sections: BTreeMap<String, u64>,
    /// `.debug_*`.
    debug: BTreeMap<String, Vec<u8>>,
    /// Its symbols, packed.
    table: Vec<u8>,
}

impl Contents {
    /// Reads an ELF file, or those in an archive.
    ///
    /// # Errors
    /// The file cannot be read, or is neither.
    pub fn read(path: &Path) -> Result<Vec<Self>> {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
        let sound = || path.display().to_string();
        let bytes = fs::read(path).with_context(sound)?;
        let Ok(archive) = ArchiveFile::parse(&*bytes) else {
            return Ok(vec![Self::parse(name.into_owned(), &bytes).with_context(sound)?]);
        };
        let mut files = Vec::new();
        for member in archive.members() {
            let member = member.with_context(sound)?;
            let data = member.data(&*bytes).with_context(sound)?;
            // Rust's metadata, for one, is no ELF file.
            if data.starts_with(b"\x7fELF") {
                let name = format!("{name}({})", String::from_utf8_lossy(member.name()));
                files.push(Self::parse(name, data).with_context(sound)?);
            }
        }
        Ok(files)
    }

    fn parse(name: String, bytes: &[u8]) -> Result<Self> {
        let file = Elf::parse(bytes)?;
        let linked = file.kind() != ObjectKind::Relocatable;
        let places = if linked { Places::new() } else { places(&file) };
        let mut sections = BTreeMap::new();
        let mut debug = BTreeMap::new();
        for section in file.sections() {
            let name = section.name()?.to_owned();
            if name.starts_with(".debug_") {
                let mut data = section.uncompressed_data()?.into_owned();
                if !linked {
                    relocate(&file, section.relocations(), &places, &mut data)?;
                }
                debug.insert(name, data);
            } else if let Some(&address) = places.get(&section.index()) {
                // Of several with one name, none can be told from the others: the first it is.
                sections.entry(name).or_insert(address);
            }
        }
        let start = file.segments().map(|segment| segment.address()).min();
        let table = match linked {
            true => table::build(&embed::symbols(bytes).unwrap_or_default()),
            false => table::build(&symbols(&file, &places)),
        };
        Ok(Self { name, start: start.filter(|_| linked), sections, debug, table })
    }
}

/// Addresses for the sections that are loaded.
fn places(file: &Elf<'_>) -> Places {
    let mut next = GAP;
    let loaded = file.sections().filter(|section| {
        matches!(section.flags(), SectionFlags::Elf { sh_flags, .. }
            if sh_flags.contains(object::elf::SHF_ALLOC))
    });
    loaded
        .map(|section| {
            let address = next.next_multiple_of(section.align().max(1));
            next = address + section.size() + GAP;
            (section.index(), address)
        })
        .collect()
}

/// Applies the relocations of a section of debug information: they have plain addresses only.
fn relocate(
    file: &Elf<'_>,
    relocations: impl Iterator<Item = (u64, Relocation)>,
    places: &Places,
    data: &mut [u8],
) -> Result<()> {
    for (offset, relocation) in relocations {
        let RelocationTarget::Symbol(index) = relocation.target() else { continue };
        let symbol = file.symbol_by_index(index)?;
        let place = symbol.section_index().and_then(|section| places.get(&section));
        let value = place.copied().unwrap_or_default().wrapping_add(symbol.address());
        let value = value.wrapping_add_signed(relocation.addend()).to_le_bytes();
        let size = usize::from(relocation.size() / 8);
        let field = usize::try_from(offset).ok().and_then(|at| data.get_mut(at..)?.get_mut(..size));
        let (Some(field), Some(value)) = (field, value.get(..size)) else {
            bail!("a relocation of {size} bytes at {offset:#x} is outside its section");
        };
        field.copy_from_slice(value);
    }
    Ok(())
}

/// The functions of a file that is not linked.
fn symbols<'f>(file: &Elf<'f>, places: &Places) -> Vec<Entry<'f>> {
    let functions = file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text);
    functions
        .filter_map(|symbol| {
            let place = places.get(&symbol.section_index()?)?;
            Some(Entry {
                name: symbol.name().ok()?,
                address: place + symbol.address(),
                size: symbol.size(),
                code: true,
                global: symbol.is_global(),
            })
        })
        .collect()
}

/// A file, ready to be asked.
pub struct Known<'c> {
    contents: &'c Contents,
    symbols: (DebugInfo<'c>, SymbolTable<'c>),
}

impl<'c> Known<'c> {
    /// Prepares a file.
    ///
    /// # Errors
    /// Its debug information cannot be read.
    pub fn new(contents: &'c Contents) -> Result<Self> {
        let section = |name: &str| contents.debug.get(name).map_or(&[][..], Vec::as_slice);
        let debug = DebugInfo::new(section, 0).with_context(|| contents.name.clone())?;
        let table = SymbolTable::parse(&contents.table).with_context(|| contents.name.clone())?;
        Ok(Self { contents, symbols: (debug, table) })
    }

    /// What its addresses mean.
    pub fn symbols(&self) -> &dyn Symbolize {
        &self.symbols
    }

    /// The address that `name` or `name(section)` means, if that is this file.
    pub fn start_of(&self, place: &str) -> Option<u64> {
        let rest = place.strip_prefix(&*self.contents.name)?;
        if rest.is_empty() {
            return self.contents.start;
        }
        self.contents.sections.get(rest.strip_prefix('(')?.strip_suffix(')')?).copied()
    }
}
