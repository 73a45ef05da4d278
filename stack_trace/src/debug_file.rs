//! An ELF file's debug information, linked or not.
//!
//! ```text
//!   linked     .debug_* in place                       addresses as they are
//!   .o         .text.f │ .text.g │ …  side by side,    a section's name and an offset in it
//!              .debug_* copied and relocated to that   become such an address
//! ```
//!
//! Promise: a damaged file is an error or has wrong lines in it; nothing outside it is read.
#![forbid(unsafe_code)]

use alloc::borrow::Cow;
use alloc::vec::Vec;

use object::read::elf::{ElfFile64, ElfSection64};
use object::{
    LittleEndian, Object as _, ObjectKind, ObjectSection as _, ObjectSegment as _,
    ObjectSymbol as _, RelocationTarget, SectionFlags, SectionIndex,
};

use crate::debug_info::{DebugError, DebugInfo};

type Elf<'a> = ElfFile64<'a, LittleEndian>;

/// Between the sections of a file that is not linked, in bytes; nothing has the address 0.
const GAP: u64 = 0x1000;

/// The debug information of an ELF file: the file that the linker or the compiler made, or one with
/// nothing but its `.debug_*` sections (`objcopy --only-keep-debug`).
///
/// Sections may be compressed where `object` can do that (its feature `compression`, which needs std).
#[derive(Debug)]
pub struct DebugFile<'a> {
    build_id: Option<&'a [u8]>,
    /// Where the lowest segment starts, of a linked file.
    start: Option<u64>,
    /// The sections that are loaded, of a file that is not linked.
    placed: Vec<Placed<'a>>,
    /// `.debug_*`.
    debug: Vec<(&'a str, Cow<'a, [u8]>)>,
}

/// A section of a file that is not linked.
#[derive(Clone, Copy, Debug)]
struct Placed<'a> {
    index: SectionIndex,
    name: &'a str,
    address: u64,
}

impl<'a> DebugFile<'a> {
    /// Finds the sections of a little-endian ELF64 file. Copies of `.debug_*` are made only if they
    /// must be relocated.
    ///
    /// # Errors
    ///
    /// It is no such file, or its headers or relocations lead out of it.
    pub fn parse(elf: &'a [u8]) -> Result<Self, DebugError> {
        let elf = Elf::parse(elf)?;
        let linked = elf.kind() != ObjectKind::Relocatable;
        let placed = if linked { Vec::new() } else { place(&elf)? };
        let mut debug = Vec::new();
        for section in elf.sections() {
            let name = section.name()?;
            if !name.starts_with(".debug_") {
                continue;
            }
            let mut data = section.uncompressed_data()?;
            if !linked {
                relocate(&elf, &section, &placed, data.to_mut())?;
            }
            debug.push((name, data));
        }
        let start = elf.segments().map(|segment| segment.address()).min();
        Ok(Self { build_id: elf.build_id()?, start: start.filter(|_| linked), placed, debug })
    }

    /// The file's `NT_GNU_BUILD_ID`, if it has one: the same as its program's.
    pub const fn build_id(&self) -> Option<&'a [u8]> {
        self.build_id
    }

    /// Whether there is any debug information.
    pub const fn is_empty(&self) -> bool {
        self.debug.is_empty()
    }

    /// The address in the debug information of what lies `offset` bytes behind the start of a section,
    /// or else of the lowest segment: of a [`Place`](crate::Place). Of several sections with one name
    /// none can be told from the others: the first it is.
    pub fn address_of(&self, section: Option<&str>, offset: u64) -> Option<u64> {
        let start = match section {
            None => self.start?,
            Some(name) => self.placed.iter().find(|placed| placed.name == name)?.address,
        };
        start.checked_add(offset)
    }

    /// Where the section with this number in the file lies, of a file that is not linked.
    pub fn section_address(&self, index: usize) -> Option<u64> {
        address(&self.placed, SectionIndex(index))
    }

    /// Its names and lines, by the addresses of [`address_of`](Self::address_of), and of a linked
    /// file by those that it is linked to.
    ///
    /// # Errors
    ///
    /// The sections make no sense.
    pub fn info(&self) -> Result<DebugInfo<'_>, DebugError> {
        let section = |wanted: &str| {
            let found = self.debug.iter().find(|(name, _)| *name == wanted);
            found.map_or(&[][..], |(_, data)| data)
        };
        DebugInfo::new(section, 0)
    }
}

fn address(placed: &[Placed<'_>], index: SectionIndex) -> Option<u64> {
    let at = placed.binary_search_by_key(&index.0, |placed| placed.index.0).ok()?;
    Some(placed[at].address)
}

/// Addresses for the sections that are loaded.
fn place<'a>(elf: &Elf<'a>) -> Result<Vec<Placed<'a>>, DebugError> {
    let (mut placed, mut next) = (Vec::new(), GAP);
    for section in elf.sections() {
        let SectionFlags::Elf { sh_flags, .. } = section.flags() else { continue };
        if !sh_flags.contains(object::elf::SHF_ALLOC) {
            continue;
        }
        let name = section.name()?;
        let outside = DebugError::Outside { section: section.index().0, offset: next };
        let address = next.checked_next_multiple_of(section.align().max(1)).ok_or(outside)?;
        let end = address.checked_add(section.size());
        next = end.and_then(|end| end.checked_add(GAP)).ok_or(outside)?;
        placed.push(Placed { index: section.index(), name, address });
    }
    Ok(placed)
}

/// Applies the relocations of a section of debug information: they have plain addresses only.
fn relocate<'a>(
    elf: &Elf<'a>,
    section: &ElfSection64<'a, '_, LittleEndian>,
    placed: &[Placed<'_>],
    data: &mut [u8],
) -> Result<(), DebugError> {
    for (offset, relocation) in section.relocations() {
        let RelocationTarget::Symbol(index) = relocation.target() else { continue };
        let symbol = elf.symbol_by_index(index)?;
        let place = symbol.section_index().and_then(|section| address(placed, section));
        let value = place.unwrap_or_default().wrapping_add(symbol.address());
        let value = value.wrapping_add_signed(relocation.addend()).to_le_bytes();
        let size = usize::from(relocation.size() / 8);
        let field = usize::try_from(offset).ok().and_then(|at| data.get_mut(at..)?.get_mut(..size));
        let (Some(field), Some(value)) = (field, value.get(..size)) else {
            return Err(DebugError::Outside { section: section.index().0, offset });
        };
        field.copy_from_slice(value);
    }
    Ok(())
}
