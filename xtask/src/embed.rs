//! Puts a kernel's symbol table into the kernel itself.
//!
//! ```text
//! before  │ ELF header │ … │ placeholder      │ … │ section headers │
//! after   │ ELF header │ … │ placeholder      │ … │ section headers │ pad │ blob │
//!             program header of .unspool.symbols ───────────────────────────▲
//! ```
//!
//! The table's size is known only after the link, so its segment is the image's last one in memory
//! and may grow. No other address changes.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fmt;
use std::mem::offset_of;
use std::ops::Range;

use object::LittleEndian as LE;
use object::elf::{
    FileHeader64, PT_LOAD, ProgramHeader64, SHF_ALLOC, SHF_EXECINSTR, SHT_SYMTAB, STB_LOCAL,
    STT_FUNC, STT_NOTYPE, STT_OBJECT, SectionHeader64,
};
use object::read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _, Sym as _};
use unspool_stack_trace::table::{self, Entry};

/// The section that the linker script keeps free for the table.
pub const SECTION: &str = ".unspool.symbols";

/// A kernel that carries its own symbol table.
pub struct Embedded {
    /// The ELF file.
    pub elf: Vec<u8>,
    /// How many symbols the table has.
    pub symbols: usize,
    /// Its size, in bytes.
    pub table: usize,
    /// The size of `.symtab` and `.strtab`, in bytes.
    pub plain: u64,
}

/// The size of a table, and how much that is of what the file has.
impl fmt::Display for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = self.table as f64 * 100.0 / self.plain as f64;
        let (symbols, size) = (self.symbols, self.table.div_ceil(1024));
        write!(f, "{symbols} symbols in {size} KiB ({percent:.1} % of .symtab and .strtab)")
    }
}

/// Why there is no room for a symbol table, or none to embed.
#[derive(Debug, PartialEq, Eq)]
pub enum EmbedError {
    /// The file is not a little-endian ELF64 file with sound headers.
    NotElf(String),
    /// The file has no `.symtab`, or nothing in it that could be named in a trace.
    NoSymbols,
    /// There is no section for the table.
    NoSection,
    /// The section does not start on a page (its address).
    NotPageAligned(u64),
    /// No PT_LOAD starts where the section does (its address).
    NoSegment(u64),
    /// The segment has more in it than the section (bytes).
    NotAlone { segment: u64, section: u64 },
    /// Another segment lies where the table would grow to.
    Overlap { table: Range<u64>, segment: Range<u64> },
}

impl fmt::Display for EmbedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf(reason) => write!(f, "not a sound ELF64 file: {reason}"),
            Self::NoSymbols => write!(f, "no symbols in .symtab: link without strip"),
            Self::NoSection => write!(
                f,
                "no section {SECTION}: the linker script must keep {} zero bytes there, alone in \
                 the last PT_LOAD",
                table::PLACEHOLDER
            ),
            Self::NotPageAligned(address) => {
                write!(f, "{SECTION} is at {address:#x}, not on a page of 4096 bytes")
            }
            Self::NoSegment(address) => {
                write!(f, "no PT_LOAD starts at {address:#x}, where {SECTION} is")
            }
            Self::NotAlone { segment, section } => write!(
                f,
                "{SECTION} ({section} bytes) is not alone in its segment ({segment} bytes)"
            ),
            Self::Overlap { table, segment } => write!(
                f,
                "the symbol table would fill {table:#x?}, but a segment lies at {segment:#x?}: \
                 {SECTION} must be the last in memory"
            ),
        }
    }
}

impl std::error::Error for EmbedError {}

impl From<object::Error> for EmbedError {
    fn from(error: object::Error) -> Self {
        Self::NotElf(error.to_string())
    }
}

/// `elf`, with the table of its own symbols in [`SECTION`].
///
/// # Errors
/// The file is not as the linker script of a kernel lays it out.
pub fn embed(elf: &[u8]) -> Result<Embedded, EmbedError> {
    let symbols = symbols(elf)?;
    let blob = table::build(&symbols);
    let (symbols, table) = (symbols.len(), blob.len());
    Ok(Embedded { elf: graft(elf, &blob)?, symbols, table, plain: plain(elf)? })
}

/// How large the file's own symbol table is, with its names.
fn plain(elf: &[u8]) -> Result<u64, EmbedError> {
    let sections = FileHeader64::<LE>::parse(elf)?.sections(LE, elf)?;
    let named = |name: &[u8]| sections.section_by_name(LE, name);
    let size = |name| named(name).map_or(0, |(_, section)| section.sh_size(LE));
    Ok(size(b".symtab") + size(b".strtab"))
}

/// What a trace can name and a loaded object can refer to.
pub fn symbols(elf: &[u8]) -> Result<Vec<Entry<'_>>, EmbedError> {
    let header = FileHeader64::<LE>::parse(elf)?;
    let sections = header.sections(LE, elf)?;
    let all = sections.symbols(LE, elf, SHT_SYMTAB)?;
    let mut found = Vec::new();
    // Where the section of each code symbol ends.
    let mut ends = Vec::new();
    for symbol in all.iter() {
        let kind = symbol.st_type();
        let nameable = [STT_FUNC, STT_OBJECT, STT_NOTYPE].contains(&kind);
        let Some(section) = symbol.st_shndx(LE).index().filter(|_| nameable) else { continue };
        let section = sections.section(object::SectionIndex(section.into()))?;
        let flags = section.sh_flags(LE);
        let end = section.sh_addr(LE).saturating_add(section.sh_size(LE));
        let address = symbol.st_value(LE);
        // What a linker script defines between sections counts as the end of the one before.
        let executable = flags.contains(SHF_EXECINSTR) && address < end;
        // A name that is not UTF-8 can be neither printed nor asked for.
        let name = std::str::from_utf8(symbol.name(LE, all.strings())?).unwrap_or_default();
        // What compilers mark in other sections for themselves (`GCC_except_table1`).
        let mark = kind == STT_NOTYPE && symbol.st_bind() == STB_LOCAL && !executable;
        if flags.contains(SHF_ALLOC) && address != 0 && !name.is_empty() && !mark {
            found.push(Entry {
                name,
                address,
                size: symbol.st_size(LE),
                code: executable,
                global: symbol.st_bind() != STB_LOCAL,
            });
            ends.push(end);
        }
    }
    bound(&mut found, &ends);
    if found.is_empty() { Err(EmbedError::NoSymbols) } else { Ok(found) }
}

/// Gives code without a size (labels in assembly) what lies between it and the next symbol, or the
/// end of its section: a table takes a size of zero for "without end". A label at a function that
/// has a size (where a section starts, say) names no code of its own.
fn bound(symbols: &mut [Entry<'_>], ends: &[u64]) {
    let sized = |s: &&Entry<'_>| s.code && s.size != 0;
    let functions: BTreeSet<u64> = symbols.iter().filter(sized).map(|s| s.address).collect();
    for symbol in symbols.iter_mut().filter(|s| s.size == 0) {
        symbol.code &= !functions.contains(&symbol.address);
    }
    let mut starts: Vec<u64> = symbols.iter().filter(|s| s.code).map(|s| s.address).collect();
    starts.sort_unstable();
    for (symbol, &end) in symbols.iter_mut().zip(ends).filter(|(s, _)| s.code && s.size == 0) {
        let next = starts.partition_point(|&start| start <= symbol.address);
        let next = starts.get(next).copied().unwrap_or(end);
        symbol.size = next.min(end) - symbol.address;
    }
}

/// `elf` with `blob` as the content of [`SECTION`] and of its segment.
fn graft(elf: &[u8], blob: &[u8]) -> Result<Vec<u8>, EmbedError> {
    let header = FileHeader64::<LE>::parse(elf)?;
    let sections = header.sections(LE, elf)?;
    let segments = header.program_headers(LE, elf)?;

    let (section_index, section) =
        sections.section_by_name(LE, SECTION.as_bytes()).ok_or(EmbedError::NoSection)?;
    let address = section.sh_addr(LE);
    if !address.is_multiple_of(4096) {
        return Err(EmbedError::NotPageAligned(address));
    }
    let loads = || segments.iter().enumerate().filter(|(_, each)| each.p_type(LE) == PT_LOAD);
    let (segment_index, segment) = loads()
        .find(|(_, each)| each.p_vaddr(LE) == address)
        .ok_or(EmbedError::NoSegment(address))?;
    if segment.p_memsz(LE) != section.sh_size(LE) {
        return Err(EmbedError::NotAlone {
            segment: segment.p_memsz(LE),
            section: section.sh_size(LE),
        });
    }
    let table = address..address + blob.len() as u64;
    for (index, each) in loads() {
        let taken = each.p_vaddr(LE)..each.p_vaddr(LE).saturating_add(each.p_memsz(LE));
        if index != segment_index && taken.start < table.end && table.start < taken.end {
            return Err(EmbedError::Overlap { table, segment: taken });
        }
    }

    // ELF gABI, program header: p_offset and p_vaddr agree modulo p_align.
    let align = segment.p_align(LE).max(4096);
    let end = (elf.len() as u64).next_multiple_of(4096);
    let offset = end + address.wrapping_sub(end) % align;
    let mut out = elf.to_vec();
    out.resize(offset as usize, 0);
    out.extend_from_slice(blob);

    let size = blob.len() as u64;
    type Segment = ProgramHeader64<LE>;
    let at =
        header.e_phoff.get(LE) as usize + segment_index * usize::from(header.e_phentsize.get(LE));
    put(&mut out, at + offset_of!(Segment, p_offset), offset);
    put(&mut out, at + offset_of!(Segment, p_filesz), size);
    put(&mut out, at + offset_of!(Segment, p_memsz), size);
    type Section = SectionHeader64<LE>;
    let at =
        header.e_shoff.get(LE) as usize + section_index.0 * usize::from(header.e_shentsize.get(LE));
    put(&mut out, at + offset_of!(Section, sh_offset), offset);
    put(&mut out, at + offset_of!(Section, sh_size), size);
    Ok(out)
}

/// Writes a word of an ELF header; the headers were parsed, so they lie within the file.
fn put(elf: &mut [u8], at: usize, value: u64) {
    elf[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests;
