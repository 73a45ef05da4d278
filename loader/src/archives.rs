//! Takes from archives the members that a unit needs.
//!
//! ```text
//!   undefined ─► of an earlier object? of the program? ── yes ─► nothing to take
//!       ▲              └─ no ─► the archives' indices ─► member ─┐
//!       └─────────────── what it refers to in turn ──────────────┘
//! ```
//!
//! Promise: a member is taken at most once, and only for a symbol that it is said to define.
#![forbid(unsafe_code)]

use alloc::vec::Vec;

use object::elf;

use crate::archive::{Archive, Member};
use crate::elf::{Binding, Definition, Elf};
use crate::error::{Cause, LoadError};
use crate::set::Input;
use crate::table::{Hash, Table};
use crate::unit::{FileName, Unit};

/// What every ELF file starts with.
const ELF_MAGIC: [u8; 4] = elf::ELFMAG;

/// Archives, and what their members define.
#[derive(Default)]
pub(crate) struct Archives<'a> {
    archives: Vec<(&'a str, Archive<'a>)>,
    offers: Vec<Offer<'a>>,
    by_name: Table,
    /// Archives and offsets of the members that were taken, sorted.
    taken: Vec<(u32, u64)>,
}

/// A symbol that a member defines.
struct Offer<'a> {
    name: &'a str,
    archive: u32,
    /// Where the member's header is.
    member: u64,
}

/// Adds a whole archive to a unit: all members that are ELF files.
pub(crate) fn add_whole<'a>(unit: &mut Unit<'a>, input: &Input<'a>) -> Result<(), LoadError> {
    let in_archive = |cause| LoadError::new(input.name.into(), cause);
    let archive = Archive::parse(input.bytes).map_err(in_archive)?;
    for member in archive.members() {
        let member = member.map_err(in_archive)?;
        if is_object(&member) {
            let name = FileName { file: input.name, member: Some(member.name) };
            unit.add(name, member.bytes)?;
        }
    }
    Ok(())
}

fn is_object(member: &Member<'_>) -> bool {
    member.bytes.starts_with(&ELF_MAGIC) && !member.is_metadata()
}

impl<'a> Archives<'a> {
    /// One more archive, whose members come after those of others.
    pub fn add(&mut self, input: &Input<'a>) -> Result<(), LoadError> {
        self.read(input).map_err(|cause| LoadError::new(input.name.into(), cause))
    }

    fn read(&mut self, input: &Input<'a>) -> Result<(), Cause> {
        let archive = Archive::parse(input.bytes)?;
        let number = self.archives.len() as u32;
        self.archives.try_reserve(1)?;
        self.archives.push((input.name, archive));
        if let Some(symbols) = archive.symbols()? {
            for symbol in symbols {
                let (name, member) = symbol?;
                self.offer(Offer { name, archive: number, member })?;
            }
            return Ok(());
        }
        // Nobody has made an index: `ar q`, and archives without symbols.
        for member in archive.members() {
            let member = member?;
            if is_object(&member) {
                self.offer_all(number, &member)?;
            }
        }
        Ok(())
    }

    fn offer_all(&mut self, archive: u32, member: &Member<'a>) -> Result<(), Cause> {
        let elf = Elf::parse(member.bytes)?;
        for number in elf.first_global..elf.symbol_count() {
            let symbol = elf.symbol(number);
            let name = elf.symbol_name(&symbol);
            let global = symbol.binding != Binding::Local && !name.is_empty();
            if global && symbol.definition != Definition::Undefined {
                self.offer(Offer { name, archive, member: member.offset })?;
            }
        }
        Ok(())
    }

    /// Notes what a member offers, unless another does.
    fn offer(&mut self, offer: Offer<'a>) -> Result<(), Cause> {
        let hash = Hash::of(offer.name);
        if self.find(hash, offer.name).is_none() {
            self.by_name.add(hash, self.offers.len() as u32)?;
            self.offers.try_reserve(1)?;
            self.offers.push(offer);
        }
        Ok(())
    }

    fn find(&self, hash: Hash, name: &str) -> Option<&Offer<'a>> {
        let is_it = |number: u32| self.offers[number as usize].name == name;
        self.by_name.find(hash, is_it).map(|number| &self.offers[number as usize])
    }

    /// Adds members to the unit until no more are needed. `elsewhere` says whether a symbol (and
    /// whether it is thread-local) is defined by others than the unit.
    pub fn complete(
        &mut self,
        unit: &mut Unit<'a>,
        elsewhere: impl Fn(&str, bool) -> bool,
    ) -> Result<(), LoadError> {
        let mut next = 0;
        while let Some(&number) = unit.undefined.get(next) {
            next += 1;
            let entry = &unit.entries[number as usize];
            if entry.is_defined() {
                continue;
            }
            let found = self.find(Hash::of(entry.name), entry.name);
            let Some(&Offer { archive, member, .. }) = found else { continue };
            if elsewhere(entry.name, unit.is_tls(entry)) {
                continue;
            }
            self.take(unit, archive, member)?;
        }
        Ok(())
    }

    fn take(&mut self, unit: &mut Unit<'a>, archive: u32, member: u64) -> Result<(), LoadError> {
        let (file, members) = &self.archives[archive as usize];
        let in_archive = |cause| LoadError::new((*file).into(), cause);
        let Err(place) = self.taken.binary_search(&(archive, member)) else { return Ok(()) };
        self.taken.try_reserve(1).map_err(|error| in_archive(error.into()))?;
        self.taken.insert(place, (archive, member));
        let member = members.member_at(member).map_err(in_archive)?;
        unit.add(FileName { file, member: Some(member.name) }, member.bytes)
    }
}
