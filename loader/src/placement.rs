//! Decides where each section of a unit goes. Arithmetic only.
//!
//! ```text
//!  one region of memory, page-aligned parts                         and, per task,
//!
//!  │ text  RX        │ rodata  R                  │ data  RW     │  │ TLS block       │
//!  │ .text.* │ PLT   │ .eh_frame 0 │ LSDAs │      │ .data │ .bss │  │ .tdata │ .tbss  │
//!  │                 │ .rodata │ .data.rel.ro│GOT │              │  │        │ (zero) │
//! ```
//!
//! Sections of all files that go to the same group lie there in the order of the files.
//!
//! Promise: no two sections overlap, each is aligned as it asks, no page is both writable and
//! executable, and all `.eh_frame` contributions are one chain that ends with a zero word.
#![forbid(unsafe_code)]

use core::ops::Range;

use object::elf;

use crate::eh_frame::EhFrame;
use crate::elf::{Elf, Section};
use crate::entry::Strength;
use crate::error::{Cause, LoadError};
use crate::got::Slots;
use crate::initializers;
use crate::memory::PAGE;
use crate::reloc::{GOT_WORD, PLT_STUB};
use crate::unit::Unit;

/// The most memory an object may have, in bytes: everything in it reaches everything else with
/// 32-bit displacements, with room to spare for addends.
pub(crate) const MAX_SIZE: u64 = 1 << 30;

/// The end of an `.eh_frame` chain: an entry of length 0 (LSB core §10.6.1).
pub(crate) const TERMINATOR: usize = 4;

/// What a section needs of its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Group {
    Text,
    EhFrame,
    ExceptTable,
    ReadOnly,
    /// Lists of functions to call when loading or unloading.
    Functions,
    Data,
    Zeroed,
    TlsImage,
    TlsZeroed,
    /// Nowhere: debug information, tables for linkers.
    Skipped,
    /// Nowhere: another file has the same.
    Discarded,
}

impl Group {
    /// How many have places.
    const COUNT: usize = 9;

    /// Whether its sections have places, in memory or in the TLS block.
    pub fn is_loaded(self) -> bool {
        (self as usize) < Self::COUNT
    }

    /// Whether its sections describe code, and nobody looks at what they say of other code.
    pub fn is_table(self) -> bool {
        matches!(self, Self::EhFrame | Self::ExceptTable)
    }

    /// Whether its sections have places in the TLS block.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::TlsImage | Self::TlsZeroed)
    }
}

/// Where a section goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub group: Group,
    /// Bytes from the start of the group.
    pub offset: u32,
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
    /// Where each group starts, in the region or in the TLS block.
    starts: [usize; Group::COUNT],
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
    /// Where a section starts whose group has places: bytes from the start of the region, or of the
    /// TLS block.
    pub fn start(&self, place: Place) -> usize {
        self.starts[place.group as usize] + place.offset as usize
    }

    /// The address of a word of the GOT, in an object at `base`.
    pub fn got_word(&self, base: u64, word: usize) -> u64 {
        base + (self.got + word * GOT_WORD) as u64
    }

    /// The address of a PLT stub, in an object at `base`.
    pub fn plt_stub(&self, base: u64, stub: usize) -> u64 {
        base + (self.plt + stub * PLT_STUB) as u64
    }
}

/// The group of a section.
pub(crate) fn group_of(elf: &Elf<'_>, section: &Section<'_>) -> Result<Group, Cause> {
    let is = |flag| section.flags.contains(flag);
    let name = || elf.section_name(section);
    if !section.is_allocated() {
        return Ok(Group::Skipped);
    }
    if is(elf::SHF_COMPRESSED) {
        return Err(Cause::Compressed { section: name().into() });
    }
    check_alignment(section.align).map_err(|max| {
        let (section, align) = (name().into(), section.align);
        Cause::Alignment { section, align, max }
    })?;
    let zeroed = section.kind == elf::SHT_NOBITS;
    let writable = is(elf::SHF_WRITE);
    if is(elf::SHF_EXECINSTR) {
        if writable || is(elf::SHF_TLS) {
            return Err(Cause::WritableCode { section: name().into() });
        }
        // Pieces of functions, of which only the C library has the beginnings and the ends.
        if section.size != 0 && [".init", ".fini"].contains(&name()) {
            return Err(Cause::Constructors { section: name().into(), size: section.size });
        }
        return Ok(Group::Text);
    }
    if is(elf::SHF_TLS) {
        return Ok(if zeroed { Group::TlsZeroed } else { Group::TlsImage });
    }
    // Some compilers mark these writable, for relocations only; those are done before the region
    // is sealed.
    Ok(match name() {
        ".eh_frame" if !zeroed => Group::EhFrame,
        name if is_part(name, ".gcc_except_table") => Group::ExceptTable,
        name if is_part(name, ".data.rel.ro") && !zeroed => Group::ReadOnly,
        name if initializers::order_of(section, name).is_some() => Group::Functions,
        _ if writable && zeroed => Group::Zeroed,
        _ if writable => Group::Data,
        _ => Group::ReadOnly,
    })
}

/// An alignment must be a power of two, or 0, and at most this, which is the error.
fn check_alignment(align: u64) -> Result<(), u64> {
    let max = PAGE as u64;
    if align > max || align & align.wrapping_sub(1) != 0 { Err(max) } else { Ok(()) }
}

/// Whether `name` is `base` or `base.something`.
pub(crate) fn is_part(name: &str, base: &str) -> bool {
    name.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Hands out bytes from low to high, and stops at [`MAX_SIZE`].
#[derive(Clone, Copy)]
struct Cursor {
    at: u64,
    /// The largest alignment so far.
    align: u64,
}

impl Cursor {
    const START: Self = Self { at: 0, align: 1 };

    /// The next `size` bytes at a multiple of `align`, a power of two (0 means 1).
    fn take(&mut self, size: u64, align: u64) -> Result<Range<usize>, Cause> {
        self.align = self.align.max(align);
        // The cursor is at most MAX_SIZE and alignments at most a page: no overflow.
        let start = self.at.next_multiple_of(align.max(1));
        let end = start.saturating_add(size);
        if end > MAX_SIZE {
            return Err(Cause::TooLarge { needed: end, max: MAX_SIZE });
        }
        self.at = end;
        Ok(start as usize..end as usize)
    }

    /// All that another cursor handed out.
    fn take_all(&mut self, of: Self) -> Result<Range<usize>, Cause> {
        self.take(of.at, of.align)
    }

    /// `count` slots of `size` bytes each.
    fn slots(&mut self, count: u64, size: usize) -> Result<usize, Cause> {
        let bytes = count.saturating_mul(size as u64);
        Ok(self.take(bytes, size as u64)?.start)
    }

    fn page(&mut self) -> Result<usize, Cause> {
        Ok(self.take(0, PAGE as u64)?.start)
    }

    fn here(&self) -> usize {
        self.at as usize
    }
}

/// Places all sections of a unit and its common symbols, and what `slots` asks for.
pub(crate) fn place(
    set: &str,
    unit: &mut Unit<'_>,
    eh_frame: &EhFrame,
    slots: &Slots,
) -> Result<Layout, LoadError> {
    let mut groups = [Cursor::START; Group::COUNT];
    place_sections(unit, eh_frame, &mut groups)?;
    place_common(unit, &mut groups)?;
    arrange(&mut groups, slots).map_err(|cause| LoadError::new(set.into(), cause))
}

/// Places every section in its group.
fn place_sections(
    unit: &mut Unit<'_>,
    eh_frame: &EhFrame,
    groups: &mut [Cursor; Group::COUNT],
) -> Result<(), LoadError> {
    for file in &unit.files {
        for (index, section) in file.elf.sections().enumerate() {
            let number = file.first_section + index;
            let place = &mut unit.places[number];
            let Some(group) = groups.get_mut(place.group as usize) else { continue };
            let range = match place.group {
                // A gap would read as the terminator.
                Group::EhFrame => group.take(eh_frame.len(number), 1),
                _ => group.take(section.size, section.align),
            };
            place.offset = range.map_err(|cause| file.error(cause))?.start as u32;
        }
    }
    Ok(())
}

/// Places the tentative definitions of C that nobody has made definite.
fn place_common(unit: &mut Unit<'_>, groups: &mut [Cursor; Group::COUNT]) -> Result<(), LoadError> {
    if !unit.has_common {
        return Ok(());
    }
    for entry in unit.entries.iter_mut().filter(|entry| entry.strength == Strength::Common) {
        let tls = entry.kind == elf::STT_TLS;
        let group = if tls { Group::TlsZeroed } else { Group::Zeroed };
        let file = &unit.files[entry.file as usize];
        check_alignment(entry.align).map_err(|max| {
            let (section, align) = (entry.name.into(), entry.align);
            file.error(Cause::Alignment { section, align, max })
        })?;
        let range = groups[group as usize].take(entry.size, entry.align);
        let offset = range.map_err(|cause| file.error(cause))?.start as u32;
        entry.common = Place { group, offset };
    }
    Ok(())
}

/// Puts the groups one after the other.
fn arrange(groups: &mut [Cursor; Group::COUNT], slots: &Slots) -> Result<Layout, Cause> {
    let mut starts = [0; Group::COUNT];
    let mut put = |cursor: &mut Cursor, group: Group| {
        let range = cursor.take_all(groups[group as usize])?;
        starts[group as usize] = range.start;
        Ok::<_, Cause>(range)
    };
    let mut cursor = Cursor::START;
    let text = cursor.page()?;
    put(&mut cursor, Group::Text)?;
    let plt = cursor.slots(slots.plt_count(), PLT_STUB)?;
    let text = text..cursor.here();

    let rodata = cursor.page()?;
    let mut eh_frame = put(&mut cursor, Group::EhFrame)?;
    if !eh_frame.is_empty() {
        eh_frame.end = cursor.take(TERMINATOR as u64, 1)?.end;
    }
    let except_table = put(&mut cursor, Group::ExceptTable)?;
    put(&mut cursor, Group::ReadOnly)?;
    put(&mut cursor, Group::Functions)?;
    let got = cursor.slots(slots.got_words(), GOT_WORD)?;
    let rodata = rodata..cursor.here();

    let data = cursor.page()?;
    put(&mut cursor, Group::Data)?;
    put(&mut cursor, Group::Zeroed)?;
    let data = data..cursor.here();
    // An object may be empty; its region is not.
    let size = cursor.page()?.max(PAGE);

    // Initial values first, as in a `PT_TLS` segment.
    let mut block = Cursor::START;
    let image = put(&mut block, Group::TlsImage)?.end;
    put(&mut block, Group::TlsZeroed)?;
    let tls = TlsBlock { size: block.here(), align: block.align as usize, image };
    Ok(Layout { starts, text, rodata, data, size, plt, got, eh_frame, except_table, tls })
}

#[cfg(test)]
mod tests;
