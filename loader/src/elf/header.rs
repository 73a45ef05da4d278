//! The start of an object file: what it is, and where its table of sections lies.
//!
//! ```text
//!   e_ident │ e_type │ e_machine │ … │ e_shoff │ … │ e_shnum ──► section headers
//! ```
//!
//! Promise: the table lies in the file. References: the System V gABI, chapter 4.
#![forbid(unsafe_code)]

use object::elf::{self, FileHeader64, SectionHeader64};
use object::endian::LittleEndian as LE;
use object::read::ReadRef;
use object::read::elf::{FileHeader, SectionHeader as _};

use crate::error::{Cause, Part};

/// The file's header, if it is that of a relocatable x86-64 object.
pub(super) fn header(file: &[u8]) -> Result<&FileHeader64<LE>, Cause> {
    if let Some(&magic) = file.first_chunk()
        && magic != elf::ELFMAG
    {
        return Err(Cause::NotElf(magic));
    }
    let len = file.len() as u64;
    let end = size_of::<FileHeader64<LE>>() as u64;
    let header: &FileHeader64<LE> =
        file.read_at(0).map_err(|()| Cause::Truncated { part: Part::FileHeader, end, len })?;
    let ident = header.e_ident();
    if !header.is_class_64() {
        return Err(Cause::WrongClass(ident.class.0));
    }
    if !header.is_little_endian() {
        return Err(Cause::WrongEncoding(ident.data.0));
    }
    if ident.version != elf::EV_CURRENT {
        return Err(Cause::WrongVersion(ident.version.0));
    }
    if header.e_type(LE) != elf::ET_REL {
        return Err(Cause::WrongType(header.e_type(LE).0));
    }
    if header.e_machine(LE) != elf::EM_X86_64 {
        return Err(Cause::WrongMachine(header.e_machine(LE).0));
    }
    Ok(header)
}

/// The table of section headers; its length may stand in its first entry (gABI, `e_shnum`).
pub(super) fn section_headers<'a>(
    header: &FileHeader64<LE>,
    file: &'a [u8],
) -> Result<&'a [SectionHeader64<LE>], Cause> {
    const SIZE: u64 = size_of::<SectionHeader64<LE>>() as u64;
    let start = header.e_shoff(LE);
    if start == 0 {
        return Err(Cause::NoSections);
    }
    let found = u64::from(header.e_shentsize(LE));
    if found != SIZE {
        let part = Part::SectionHeaders;
        return Err(Cause::WrongEntrySize { part, expected: SIZE, found });
    }
    let table = |count: u64| {
        let end = start.saturating_add(count.saturating_mul(SIZE));
        usize::try_from(count)
            .ok()
            .and_then(|count| file.read_slice_at::<SectionHeader64<LE>>(start, count).ok())
            .ok_or(Cause::Truncated { part: Part::SectionHeaders, end, len: file.len() as u64 })
    };
    match header.e_shnum(LE) {
        0 => {
            let first = table(1)?;
            match first[0].sh_size(LE) {
                0 => Err(Cause::NoSections),
                count => table(count),
            }
        }
        count => table(count.into()),
    }
}
