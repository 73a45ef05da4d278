//! The relocations that nearly all are, without the detours of the others.
//!
//! ```text
//!   scan    64, PC32, PLT32, GOTPCREL…: nothing more to note of the symbol? ──► next
//!   apply   64, PC32, PLT32, GOTPCRELX: the symbol has an address, and it fits? ──► written, next
//!             └─ no ──► this one in the general way, and here again
//! ```
//!
//! Promise: what is passed over needs nothing, and what is written is what the general way would
//! write; whatever else, errors included, is left to it.
#![forbid(unsafe_code)]

use alloc::collections::TryReserveError;
use alloc::vec::Vec;

use object::elf;

use super::apply::{Here, Image};
use super::x86_64::{self, Kind, Wants, got};
use crate::elf::{Definition, Relocation, RelocationTable};
use crate::got::{Slot, Slots};
use crate::placement::{Group, Layout};
use crate::symbols::Value;
use crate::unit::{Target, Unit};

/// What is noted of the symbols of one file: first of its own, then as far as relocations have asked.
#[derive(Default)]
pub(super) struct Noted(Vec<u8>);

impl Noted {
    /// It is known that its address is wanted.
    const WANTED: u8 = 1;
    /// It is near, or has a PLT stub.
    const CALLABLE: u8 = 2;
    /// It has a slot with its address.
    const SLOT: u8 = 4;
    /// It will be in the unit's memory.
    const NEAR: u8 = 8;
    /// Its entry was looked at.
    const LOOKED: u8 = 16;
    /// All that may be wanted of what is near.
    const ALL_NEAR: u8 = Self::WANTED | Self::CALLABLE | Self::NEAR;

    /// What, of a symbol, is enough for the relocation types by their numbers.
    const ENOUGH: [u8; 64] = {
        let mut enough = [0; 64];
        enough[elf::R_X86_64_64.0 as usize] = Self::WANTED;
        // It may be a branch, which may need a stub.
        enough[elf::R_X86_64_PC32.0 as usize] = Self::NEAR;
        enough[elf::R_X86_64_PLT32.0 as usize] = Self::CALLABLE;
        enough[elf::R_X86_64_GOTPCREL.0 as usize] = Self::SLOT;
        enough[elf::R_X86_64_GOTPCRELX.0 as usize] = Self::SLOT;
        enough[elf::R_X86_64_REX_GOTPCRELX.0 as usize] = Self::SLOT;
        enough
    };

    /// Begins with a file: what it defines, and nobody else can, is near.
    pub fn start(&mut self, unit: &Unit<'_>, file: usize) -> Result<(), TryReserveError> {
        let of = &unit.files[file];
        let places = &unit.places[of.first_section..][..of.elf.section_count()];
        let is_near = |number| {
            let Definition::Section { index, .. } = of.elf.definition_of(number) else {
                return false;
            };
            places[index].group.is_loaded()
                && of.elf.symbol_type(number) != elf::STT_GNU_IFUNC
                && match unit.target(file, number) {
                    Target::Local => true,
                    Target::Entry(entry) => {
                        let entry = &unit.entries[entry];
                        let counts = (entry.file as usize, entry.symbol as usize) == (file, number);
                        counts && !entry.may_be_elsewhere()
                    }
                }
        };
        let count = of.elf.symbol_count();
        self.0.clear();
        self.0.try_reserve(count)?;
        self.0.extend((0..count).map(|number| if is_near(number) { Self::ALL_NEAR } else { 0 }));
        Ok(())
    }

    /// Has a symbol looked at again, of which the general way may have noted something.
    pub fn forget(&mut self, symbol: usize) {
        if let Some(noted) = self.0.get_mut(symbol) {
            *noted = if *noted & Self::NEAR != 0 { Self::ALL_NEAR } else { 0 };
        }
    }

    /// Passes over the relocations of a file from number `next` on that need nothing more, and gives
    /// the first that may. `code` is what they apply to, if that is code.
    // Not inlined, so that the loop has the registers for itself.
    #[inline(never)]
    pub fn pass(
        &mut self,
        known: (&mut Unit<'_>, &Slots),
        file: usize,
        table: &RelocationTable<'_>,
        mut next: usize,
        code: Option<&[u8]>,
    ) -> usize {
        let code = code.unwrap_or_default();
        for relocation in table.from(next) {
            let Some(&noted) = self.0.get(relocation.symbol) else { break };
            let number = relocation.kind.0 as usize;
            let enough = Self::ENOUGH.get(number).copied().unwrap_or(0);
            if noted & enough == 0 {
                let near = noted & Self::NEAR != 0;
                // The general way asks more of the code.
                let direct = |rex| {
                    near && got::needs_no_slot(rex, code, relocation.offset, relocation.addend)
                };
                let needs_nothing = match elf::RelocationType(relocation.kind.0) {
                    elf::R_X86_64_REX_GOTPCRELX if direct(true) => true,
                    elf::R_X86_64_GOTPCRELX if direct(false) => true,
                    _ => enough != 0 && self.look_closer(known.0, known.1, file, &relocation, code),
                };
                if !needs_nothing {
                    break;
                }
            }
            next += 1;
        }
        next
    }

    /// Whether a relocation needs nothing more, as far as is known by now of its symbol.
    #[inline(never)]
    fn look_closer(
        &mut self,
        unit: &mut Unit<'_>,
        slots: &Slots,
        file: usize,
        relocation: &Relocation,
        code: &[u8],
    ) -> bool {
        let Relocation { offset, kind, symbol, addend } = *relocation;
        let noted = &mut self.0[symbol];
        if *noted & Self::LOOKED == 0 {
            *noted |= Self::LOOKED | look_at(unit, slots, file, symbol);
        }
        let Some(kind) = Kind::decode(kind) else { return false };
        let direct = |rex| got::needs_no_slot(rex, code, offset, addend);
        let enough = match kind.in_code(code, offset, addend) {
            Kind::Absolute64 | Kind::Relative32 => Self::WANTED,
            Kind::Call32 => Self::CALLABLE,
            Kind::GotRelaxable32 if direct(false) => Self::SLOT | Self::NEAR,
            Kind::GotRelaxable32Rex if direct(true) => Self::SLOT | Self::NEAR,
            Kind::GotRelative32 | Kind::GotRelaxable32 | Kind::GotRelaxable32Rex => Self::SLOT,
            _ => 0,
        };
        *noted & enough != 0
    }
}

/// Notes that the address of a symbol is wanted; nothing if the general way may refuse that.
fn look_at(unit: &mut Unit<'_>, slots: &Slots, file: usize, symbol: usize) -> u8 {
    // A local one that is near has been noted from the beginning.
    let Target::Entry(number) = unit.target(file, symbol) else { return 0 };
    let entry = &mut unit.entries[number];
    entry.wants = Wants::Address;
    let stub = slots.plt(entry.slots).map_or(0, |_| Noted::CALLABLE);
    let slot = slots.got(Slot::Address, entry.slots).map_or(0, |_| Noted::SLOT);
    let near = entry.is_defined() && !entry.may_be_elsewhere() && unit.is_in_memory(number);
    Noted::WANTED | stub | slot | if near { Noted::ALL_NEAR } else { 0 }
}

/// The addresses of the symbols of one file.
#[derive(Default)]
pub(super) struct Addresses(Vec<u64>);

impl Addresses {
    /// Not an address; or by chance the address, which is left to the general way.
    const NONE: u64 = 0x5555_5555_5555_5555;

    /// Begins with a file of an object at `base`.
    pub fn start(
        &mut self,
        (unit, layout, base): (&Unit<'_>, &Layout, u64),
        file: usize,
    ) -> Result<(), TryReserveError> {
        let of = &unit.files[file];
        let places = &unit.places[of.first_section..][..of.elf.section_count()];
        let address = |number| match unit.target(file, number) {
            Target::Entry(entry) => match unit.entries[entry].value {
                Value::Address(address) => address,
                Value::Tls(_) | Value::Dynamic { .. } => Self::NONE,
            },
            Target::Local => match of.elf.definition_of(number) {
                Definition::Section { index, offset } if places[index].group.has_address() => {
                    base + layout.start(places[index]) as u64 + offset
                }
                Definition::Absolute(value) => value,
                _ => Self::NONE,
            },
        };
        let count = of.elf.symbol_count();
        self.0.clear();
        self.0.try_reserve(count)?;
        self.0.extend((0..count).map(address));
        Ok(())
    }
}

impl Image<'_, '_> {
    /// Applies the relocations of a section in memory from number `next` on, up to one that is not
    /// simple, which it gives.
    // Not inlined, so that the loop has the registers for itself.
    #[inline(never)]
    pub(super) fn apply_simple(
        &mut self,
        addresses: &Addresses,
        here: Here,
        table: &RelocationTable<'_>,
        mut next: usize,
    ) -> usize {
        let bytes = self.region.get_mut(here.start..here.start + here.len);
        let Some(section) = bytes else { return next };
        let start = self.base + here.start as u64;
        let in_code = here.place.group == Group::Text;
        for Relocation { offset, kind, symbol, addend } in table.from(next) {
            let Some(&address) = addresses.0.get(symbol) else { break };
            if address == Addresses::NONE {
                break;
            }
            let sum = address.wrapping_add_signed(addend);
            // Written only if it fits.
            let distance = sum.wrapping_sub(start.wrapping_add(offset)).cast_signed();
            let near = i32::try_from(distance).map(i32::to_le_bytes);
            let written = match (elf::RelocationType(kind.0), near) {
                (elf::R_X86_64_64, _) => x86_64::put(section, offset, sum.to_le_bytes()).is_ok(),
                (elf::R_X86_64_PC32 | elf::R_X86_64_PLT32, Ok(distance)) => {
                    x86_64::put(section, offset, distance).is_ok()
                }
                (elf::R_X86_64_REX_GOTPCRELX, Ok(distance)) if in_code => {
                    got::write_direct(true, section, offset, addend, distance)
                }
                (elf::R_X86_64_GOTPCRELX, Ok(distance)) if in_code => {
                    got::write_direct(false, section, offset, addend, distance)
                }
                _ => false,
            };
            if !written {
                break;
            }
            next += 1;
        }
        next
    }
}
