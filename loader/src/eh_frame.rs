//! The unwind tables of a unit's files, as one chain without what describes discarded code.
//!
//! ```text
//!   file 0   │ CIE │ FDE a │ FDE b │ 0 │      file 1   │ CIE │ FDE a │ FDE c │ 0 │    a: discarded there
//!   region   │ CIE │ FDE a │ FDE b │ CIE │ FDE c │ 0 │
//! ```
//!
//! Sections of files that keep all their code are taken as they are, without their terminators.
//! From others the FDEs of discarded functions are cut out, and what follows moves up; an FDE says
//! how far back its CIE is, so that number changes as well (LSB core §10.6.1).
//!
//! Promise: what is cut out are whole FDEs of discarded functions; a terminator anywhere but at the
//! end, which would hide the entries behind it, is an error.
#![forbid(unsafe_code)]

use alloc::vec::Vec;
use core::ops::Range;

use crate::elf::{Elf, RelocationTable};
use crate::error::{Cause, LoadError};
use crate::placement::{Group, Place, TERMINATOR};
use crate::unit::{File, Unit};

/// One CIE or FDE.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Piece {
    /// Where it is in the file's section.
    from: u32,
    len: u32,
    /// Where it goes, from the start of the section; [`Self::GONE`] if nowhere.
    to: u32,
    /// Of an FDE: where its CIE is in the file's section.
    cie: Option<u32>,
}

impl Piece {
    const GONE: u32 = u32::MAX;
}

/// The unwind table of a file.
#[derive(Debug)]
struct Chain {
    /// The section's number in the unit.
    section: usize,
    /// If something may have been cut out.
    pieces: Range<usize>,
    /// Bytes that stay, without the terminator.
    len: u32,
}

/// The unwind tables, and what was cut out of which.
#[derive(Default)]
pub(crate) struct EhFrame {
    pieces: Vec<Piece>,
    /// In the order of their numbers.
    chains: Vec<Chain>,
    /// How many CIEs and FDEs there are, those that were cut out included.
    pub entries: usize,
}

/// What was cut out of one section.
#[derive(Clone, Copy)]
pub(crate) struct Cut<'e> {
    pieces: &'e [Piece],
}

impl EhFrame {
    /// Reads the tables, and finds what describes discarded code.
    pub fn cut(unit: &Unit<'_>) -> Result<Self, LoadError> {
        let mut all = Self::default();
        for (number, file) in unit.files.iter().enumerate() {
            let places = &unit.places[file.first_section..][..file.elf.section_count()];
            let has = |group| places.iter().any(|place| place.group == group);
            let done = match unit.discards && has(Group::Discarded) {
                true => all.cut_file(unit, number),
                false => all.measure_file(file, places),
            };
            done.map_err(|cause| file.error(cause))?;
        }
        Ok(all)
    }

    fn measure_file(&mut self, file: &File<'_>, places: &[Place]) -> Result<(), Cause> {
        for (index, _) in places.iter().enumerate().filter(|(_, it)| it.group == Group::EhFrame) {
            let mut entries = Entries::of(&file.elf, index, file.elf.section(index).data);
            for entry in &mut entries {
                entry?;
                self.entries += 1;
            }
            self.chains.try_reserve(1)?;
            let section = file.first_section + index;
            // No larger than the last entry has found.
            self.chains.push(Chain { section, pieces: 0..0, len: entries.at as u32 });
        }
        Ok(())
    }

    fn cut_file(&mut self, unit: &Unit<'_>, number: usize) -> Result<(), Cause> {
        let file = &unit.files[number];
        let first_cut = self.chains.len();
        for (index, section) in file.elf.sections().enumerate() {
            if unit.place(number, index).group != Group::EhFrame {
                continue;
            }
            let first = self.pieces.len();
            for entry in Entries::of(&file.elf, index, section.data) {
                self.pieces.try_reserve(1)?;
                self.pieces.push(entry?);
            }
            let pieces = first..self.pieces.len();
            self.entries += pieces.len();
            self.chains.try_reserve(1)?;
            let section = file.first_section + index;
            self.chains.push(Chain { section, pieces, len: 0 });
        }
        for table in file.elf.relocations() {
            let table = table?;
            if let Ok(at) = self.find(file.first_section + table.target) {
                let pieces = &mut self.pieces[self.chains[at].pieces.clone()];
                drop_discarded(unit, number, &table, pieces);
            }
        }
        for section in &mut self.chains[first_cut..] {
            section.len = close_ranks(&mut self.pieces[section.pieces.clone()]);
        }
        Ok(())
    }

    fn find(&self, section: usize) -> Result<usize, usize> {
        self.chains.binary_search_by_key(&section, |cut| cut.section)
    }

    /// What was cut out of a section of the unit, if anything could be.
    pub fn of(&self, section: usize) -> Option<Cut<'_>> {
        let pieces = &self.pieces[self.chains[self.find(section).ok()?].pieces.clone()];
        (!pieces.is_empty()).then_some(Cut { pieces })
    }

    /// The bytes of an `.eh_frame` section of the unit that stay.
    pub fn len(&self, section: usize) -> u64 {
        self.find(section).map_or(0, |at| self.chains[at].len.into())
    }
}

impl Cut<'_> {
    /// Where a byte of the section went; `None` if it was cut out.
    pub fn moved(&self, offset: u64) -> Option<u64> {
        let after = self.pieces.partition_point(|piece| u64::from(piece.from) <= offset);
        // What lies behind all pieces is the terminator, which nothing refers to.
        let piece = self.pieces[..after].last()?;
        (piece.to != Piece::GONE).then(|| offset - u64::from(piece.from) + u64::from(piece.to))
    }

    /// Copies what stays.
    pub fn copy(&self, data: &[u8], to: &mut [u8]) {
        for piece in self.pieces.iter().filter(|piece| piece.to != Piece::GONE) {
            let (from, at, len) = (piece.from as usize, piece.to as usize, piece.len as usize);
            let target = &mut to[at..at + len];
            target.copy_from_slice(&data[from..from + len]);
            let Some(cie) = piece.cie.and_then(|cie| self.moved(cie.into())) else { continue };
            let id_at = if target.starts_with(&[0xff; 4]) { 12 } else { 4 };
            let back = (piece.to + id_at as u32).wrapping_sub(cie as u32);
            target[id_at..id_at + 4].copy_from_slice(&back.to_le_bytes());
        }
    }
}

/// Marks the FDEs whose functions are in discarded sections.
fn drop_discarded(unit: &Unit<'_>, file: usize, table: &RelocationTable<'_>, pieces: &mut [Piece]) {
    for index in 0..table.len() {
        let relocation = table.get(index);
        if !unit.is_discarded(file, relocation.symbol) {
            continue;
        }
        let after = pieces.partition_point(|piece| u64::from(piece.from) <= relocation.offset);
        let Some(piece) = pieces[..after].last_mut() else { continue };
        // The function's start comes after the length and the distance of the CIE.
        let start = relocation.offset - u64::from(piece.from);
        if piece.cie.is_some() && (start == 8 || start == 20 || start == 16) {
            piece.to = Piece::GONE;
        }
    }
}

/// Has the pieces that stay follow each other; how many bytes they have.
fn close_ranks(pieces: &mut [Piece]) -> u32 {
    let mut end = 0;
    for piece in pieces.iter_mut().filter(|piece| piece.to != Piece::GONE) {
        piece.to = end;
        end += piece.len;
    }
    end
}

/// The entries of a section.
struct Entries<'e> {
    elf: &'e Elf<'e>,
    index: usize,
    data: &'e [u8],
    at: usize,
}

impl<'e> Entries<'e> {
    fn of(elf: &'e Elf<'e>, index: usize, data: &'e [u8]) -> Self {
        Self { elf, index, data, at: 0 }
    }

    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(*self.data.get(at..)?.first_chunk()?))
    }

    fn long(&self, at: usize) -> Option<u64> {
        Some(u64::from_le_bytes(*self.data.get(at..)?.first_chunk()?))
    }

    /// The entry here, which is not the terminator.
    fn entry(&self) -> Option<Piece> {
        let at = self.at;
        let (id_at, len) = match self.word(at)? {
            0 => return None,
            // The escape of the 64-bit form: the length follows.
            u32::MAX => (12, self.long(at + 4)?.checked_add(12)?),
            length => (4, u64::from(length) + 4),
        };
        let end = (at as u64).checked_add(len).filter(|&end| end <= self.data.len() as u64)?;
        let id = if len >= id_at as u64 + 4 { self.word(at + id_at)? } else { 0 };
        let cie = (id != 0).then(|| ((at + id_at) as u32).wrapping_sub(id));
        // Sections are parts of files, but they need not be small.
        u32::try_from(end).ok()?;
        Some(Piece { from: at as u32, len: len as u32, to: 0, cie })
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Piece, Cause>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.data.len() - self.at;
        if rest == 0 || rest == TERMINATOR && self.word(self.at) == Some(0) {
            return None;
        }
        let entry = self.entry();
        match entry {
            Some(piece) => self.at += piece.len as usize,
            None => {
                let (section, offset) = (self.elf.section_text(self.index), self.at as u64);
                self.at = self.data.len();
                return Some(Err(Cause::BadUnwindTable { section, offset }));
            }
        }
        entry.map(Ok)
    }
}
