//! Decides where each section of an object goes. Arithmetic only.
//!
//! ```text
//!  one region of memory, page-aligned parts                         and, per task,
//!
//!  │ text  RX        │ rodata  R                  │ data  RW     │  │ TLS block       │
//!  │ .text.* │ PLT   │ .eh_frame 0 │ LSDAs │      │ .data │ .bss │  │ .tdata │ .tbss  │
//!  │                 │ .rodata │ .data.rel.ro│GOT │              │  │        │ (zero) │
//! ```
//!
//! Promise: no two sections overlap, each is aligned as it asks, no page is both writable and
//! executable, and all `.eh_frame` contributions are one chain that ends with a zero word.
#![forbid(unsafe_code)]

use alloc::vec::Vec;
use core::ops::Range;

use object::elf;

use crate::elf::{Elf, Section};
use crate::error::LoadError;
use crate::fallible::{filled, room};
use crate::got::Slots;
use crate::memory::PAGE;
use crate::reloc::{GOT_WORD, PLT_STUB};

/// The most memory an object may have, in bytes: everything in it reaches everything else with
/// 32-bit displacements, with room to spare for addends.
pub(crate) const MAX_SIZE: u64 = 1 << 30;

/// The end of an `.eh_frame` chain: an entry of length 0 (LSB core §10.6.1).
const TERMINATOR: usize = 4;

/// What a section needs of its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Group {
    Text,
    EhFrame,
    ExceptTable,
    ReadOnly,
    Data,
    Zeroed,
    TlsImage,
    TlsZeroed,
}

/// Where a section goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// Nowhere: debug information, tables for linkers.
    Skipped,
    /// These bytes of the region.
    Memory(Range<usize>),
    /// These bytes of every task's TLS block.
    Tls(Range<usize>),
}

/// The TLS block of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TlsBlock {
    /// Bytes of the block.
    pub size: usize,
    /// A power of two.
    pub align: usize,
    /// How many of its bytes have initial values; the others are zero.
    pub image: usize,
}

/// Where everything of an object goes, in bytes from the start of its region.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// By section number.
    pub places: Vec<Place>,
    /// Code and PLT stubs. Starts at a page; `rodata` starts at the next one.
    pub text: Range<usize>,
    /// Read-only data. Starts at a page.
    pub rodata: Range<usize>,
    /// Writable data. Starts at a page.
    pub data: Range<usize>,
    /// All of it, in whole pages.
    pub size: usize,
    /// The first PLT stub, inside `text`.
    pub plt: usize,
    /// The GOT, inside `rodata`.
    pub got: usize,
    /// The chain of `.eh_frame` entries with its terminator; empty if there is none.
    pub eh_frame: Range<usize>,
    /// All `.gcc_except_table*` sections.
    pub except_table: Range<usize>,
    /// What the object adds to every task's TLS.
    pub tls: TlsBlock,
}

impl Layout {
    /// The address of a word of the GOT, in an object at `base`.
    pub fn got_word(&self, base: u64, word: usize) -> u64 {
        base + (self.got + word * GOT_WORD) as u64
    }

    /// The address of a PLT stub, in an object at `base`.
    pub fn plt_stub(&self, base: u64, stub: usize) -> u64 {
        base + (self.plt + stub * PLT_STUB) as u64
    }
}

/// The group of each section (`None`: stays out of memory).
pub(crate) fn classify(elf: &Elf<'_>) -> Result<Vec<Option<Group>>, LoadError> {
    let mut groups = room(elf.sections.len())?;
    for section in &elf.sections {
        groups.push(group(section)?);
    }
    Ok(groups)
}

fn group(section: &Section<'_>) -> Result<Option<Group>, LoadError> {
    let is = |flag| section.flags.contains(flag);
    if !section.is_allocated() {
        return Ok(None);
    }
    if is(elf::SHF_COMPRESSED) {
        return Err(LoadError::Compressed { section: section.name.into() });
    }
    if section.align > PAGE as u64 || section.align & section.align.wrapping_sub(1) != 0 {
        let (align, max) = (section.align, PAGE as u64);
        return Err(LoadError::Alignment { section: section.name.into(), align, max });
    }
    if runs_code(section) && section.size != 0 {
        let size = section.size;
        return Err(LoadError::Constructors { section: section.name.into(), size });
    }
    let zeroed = section.kind == elf::SHT_NOBITS;
    let writable = is(elf::SHF_WRITE);
    Ok(Some(match section.name {
        _ if is(elf::SHF_EXECINSTR) && (writable || is(elf::SHF_TLS)) => {
            return Err(LoadError::WritableCode { section: section.name.into() });
        }
        _ if is(elf::SHF_EXECINSTR) => Group::Text,
        _ if is(elf::SHF_TLS) && zeroed => Group::TlsZeroed,
        _ if is(elf::SHF_TLS) => Group::TlsImage,
        // Some compilers mark these three writable, for relocations only; those are done before
        // the region is sealed.
        ".eh_frame" if !zeroed => Group::EhFrame,
        name if is_part(name, ".gcc_except_table") => Group::ExceptTable,
        name if is_part(name, ".data.rel.ro") && !zeroed => Group::ReadOnly,
        _ if writable && zeroed => Group::Zeroed,
        _ if writable => Group::Data,
        _ => Group::ReadOnly,
    }))
}

/// Whether `name` is `base` or `base.something`.
fn is_part(name: &str, base: &str) -> bool {
    name.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Whether the section lists functions to be called at start or exit.
fn runs_code(section: &Section<'_>) -> bool {
    let kinds = [elf::SHT_INIT_ARRAY, elf::SHT_FINI_ARRAY, elf::SHT_PREINIT_ARRAY];
    let names = [".init_array", ".fini_array", ".preinit_array", ".ctors", ".dtors"];
    kinds.contains(&section.kind)
        || names.iter().any(|base| is_part(section.name, base))
        || [".init", ".fini"].contains(&section.name)
}

/// Hands out bytes from low to high, and stops at [`MAX_SIZE`].
struct Cursor(u64);

impl Cursor {
    /// The next `size` bytes at a multiple of `align`, a power of two (0 means 1).
    fn take(&mut self, size: u64, align: u64) -> Result<Range<usize>, LoadError> {
        // The cursor is at most MAX_SIZE and alignments at most a page: no overflow.
        let start = self.0.next_multiple_of(align.max(1));
        let end = start.saturating_add(size);
        if end > MAX_SIZE {
            return Err(LoadError::TooLarge { needed: end, max: MAX_SIZE });
        }
        self.0 = end;
        Ok(start as usize..end as usize)
    }

    /// `count` slots of `size` bytes each.
    fn slots(&mut self, count: u64, size: usize) -> Result<usize, LoadError> {
        let bytes = count.saturating_mul(size as u64);
        Ok(self.take(bytes, size as u64)?.start)
    }

    fn page(&mut self) -> Result<usize, LoadError> {
        Ok(self.take(0, PAGE as u64)?.start)
    }

    fn here(&self) -> usize {
        self.0 as usize
    }
}

/// Places all sections whose groups [`classify`] found, and what `slots` asks for.
pub(crate) fn place(
    elf: &Elf<'_>,
    groups: &[Option<Group>],
    slots: &Slots,
) -> Result<Layout, LoadError> {
    let places = filled(Place::Skipped, elf.sections.len())?;
    let mut placer = Placer { elf, groups, places };
    let mut cursor = Cursor(0);
    let text = cursor.page()?;
    placer.group(Group::Text, &mut cursor)?;
    let plt = cursor.slots(slots.plt_count(), PLT_STUB)?;
    let text = text..cursor.here();

    let rodata = cursor.page()?;
    let eh_frame = placer.eh_frame(&mut cursor)?;
    let except_table = placer.group(Group::ExceptTable, &mut cursor)?;
    placer.group(Group::ReadOnly, &mut cursor)?;
    let got = cursor.slots(slots.got_words(), GOT_WORD)?;
    let rodata = rodata..cursor.here();

    let data = cursor.page()?;
    placer.group(Group::Data, &mut cursor)?;
    placer.group(Group::Zeroed, &mut cursor)?;
    let data = data..cursor.here();
    // An object may be empty; its region is not.
    let size = cursor.page()?.max(PAGE);

    let tls = placer.tls()?;
    let places = placer.places;
    Ok(Layout { places, text, rodata, data, size, plt, got, eh_frame, except_table, tls })
}

struct Placer<'e> {
    elf: &'e Elf<'e>,
    groups: &'e [Option<Group>],
    places: Vec<Place>,
}

impl<'e> Placer<'e> {
    fn members(&self, group: Group) -> impl Iterator<Item = (usize, &'e Section<'e>)> + use<'e> {
        let sections = self.elf.sections.iter().enumerate().zip(self.groups);
        sections.filter(move |(_, of)| **of == Some(group)).map(|(section, _)| section)
    }

    /// Places the sections of a group one after the other.
    fn group(&mut self, group: Group, cursor: &mut Cursor) -> Result<Range<usize>, LoadError> {
        let mut all: Option<Range<usize>> = None;
        for (index, section) in self.members(group) {
            let range = cursor.take(section.size, section.align)?;
            all = Some(all.map_or(range.start, |all| all.start)..range.end);
            self.places[index] = Place::Memory(range);
        }
        Ok(all.unwrap_or(cursor.here()..cursor.here()))
    }

    /// Places the `.eh_frame` sections without gaps (a gap would read as the terminator) and
    /// without their own terminators, and one terminator after the last.
    fn eh_frame(&mut self, cursor: &mut Cursor) -> Result<Range<usize>, LoadError> {
        let start = cursor.take(0, 8)?.start;
        for (index, section) in self.members(Group::EhFrame) {
            let range = cursor.take(chain_length(section)?, 1)?;
            self.places[index] = Place::Memory(range);
        }
        if cursor.here() != start {
            cursor.take(TERMINATOR as u64, 1)?;
        }
        Ok(start..cursor.here())
    }

    /// Places the TLS sections: initial values first, as in a `PT_TLS` segment.
    fn tls(&mut self) -> Result<TlsBlock, LoadError> {
        let mut cursor = Cursor(0);
        let mut align = 1;
        let mut image = 0;
        for group in [Group::TlsImage, Group::TlsZeroed] {
            for (index, section) in self.members(group) {
                align = align.max(section.align);
                self.places[index] = Place::Tls(cursor.take(section.size, section.align)?);
            }
            if group == Group::TlsImage {
                image = cursor.here();
            }
        }
        Ok(TlsBlock { size: cursor.here(), align: align as usize, image })
    }
}

/// The bytes of an `.eh_frame` section up to its terminator or its end. A terminator anywhere but
/// at the end would hide the entries behind it.
fn chain_length(section: &Section<'_>) -> Result<u64, LoadError> {
    let data = section.data;
    let word = |at: usize| Some(u32::from_le_bytes(*data.get(at..)?.first_chunk()?));
    let long = |at: usize| Some(u64::from_le_bytes(*data.get(at + 4..)?.first_chunk()?));
    let mut at = 0;
    while at < data.len() {
        let next = match word(at) {
            Some(0) if at + TERMINATOR == data.len() => break,
            Some(0) | None => None,
            // The escape of the 64-bit form: the length follows.
            Some(u32::MAX) => long(at).and_then(|length| (at as u64 + 12).checked_add(length)),
            Some(length) => Some(at as u64 + 4 + u64::from(length)),
        };
        match next.filter(|&next| next <= data.len() as u64) {
            Some(next) => at = next as usize,
            None => {
                let section = section.name.into();
                return Err(LoadError::BadUnwindTable { section, offset: at as u64 });
            }
        }
    }
    Ok(at as u64)
}

#[cfg(test)]
mod tests;
