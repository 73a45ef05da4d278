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
use crate::tls::Block;
use crate::unit::{Target, Unit};

/// What is noted of the symbols of one file, as far as relocations have asked.
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

    /// Begins with a file of `count` symbols.
    pub fn start(&mut self, count: usize) -> Result<(), TryReserveError> {
        self.0.clear();
        self.0.try_reserve(count)?;
        self.0.resize(count, 0);
        Ok(())
    }

    /// Has a symbol looked at again, of which the general way may have noted something.
    pub fn forget(&mut self, symbol: usize) {
        if let Some(noted) = self.0.get_mut(symbol) {
            *noted = 0;
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
            let Relocation { offset, kind, symbol, addend } = relocation;
            let Some(kind) = Kind::decode(kind) else { break };
            let kind = kind.in_code(code, offset, addend);
            let enough = Self::enough(kind);
            let noted = match self.0.get_mut(symbol) {
                Some(noted) if *noted == 0 && enough != 0 => {
                    *noted = look_at(known.0, known.1, file, symbol);
                    *noted
                }
                Some(noted) => *noted,
                None => break,
            };
            // The general way asks more of the code.
            let direct = |rex| got::needs_no_slot(rex, code, offset, addend);
            let needs_nothing = noted & enough != 0
                || match kind {
                    Kind::GotRelaxable32 if noted & Self::NEAR != 0 => direct(false),
                    Kind::GotRelaxable32Rex if noted & Self::NEAR != 0 => direct(true),
                    _ => false,
                };
            if !needs_nothing {
                break;
            }
            next += 1;
        }
        next
    }

    /// What, of a symbol, is enough for a relocation.
    #[inline]
    fn enough(kind: Kind) -> u8 {
        match kind {
            Kind::Absolute64 | Kind::Relative32 => Self::WANTED,
            Kind::Call32 => Self::CALLABLE,
            Kind::GotRelative32 | Kind::GotRelaxable32 | Kind::GotRelaxable32Rex => Self::SLOT,
            _ => 0,
        }
    }
}

/// Notes that the address of a symbol is wanted; nothing if the general way may refuse that.
#[inline(never)]
fn look_at(unit: &mut Unit<'_>, slots: &Slots, file: usize, symbol: usize) -> u8 {
    const NEAR: u8 = Noted::WANTED | Noted::CALLABLE | Noted::NEAR;
    match unit.target(file, symbol) {
        Target::Local => {
            let elf = &unit.files[file].elf;
            match elf.definition_of(symbol) {
                Definition::Section { index, .. }
                    if unit.place(file, index).group.is_loaded()
                        && elf.symbol(symbol).kind != elf::STT_GNU_IFUNC =>
                {
                    NEAR
                }
                _ => 0,
            }
        }
        Target::Entry(number) => {
            let entry = &mut unit.entries[number];
            entry.wants = Wants::Address;
            let stub = slots.plt(entry.slots).map_or(0, |_| Noted::CALLABLE);
            let slot = slots.got(Slot::Address, entry.slots).map_or(0, |_| Noted::SLOT);
            let near = entry.is_defined() && !entry.may_be_elsewhere() && unit.is_in_memory(number);
            Noted::WANTED | stub | slot | if near { NEAR } else { 0 }
        }
    }
}

/// The addresses of the symbols of one file, as far as relocations have asked.
#[derive(Default)]
pub(super) struct Addresses(Vec<u64>);

impl Addresses {
    /// Not looked up yet, or not an address; or by chance the address, which is then looked up
    /// again and again.
    const UNKNOWN: u64 = 0x5555_5555_5555_5555;

    /// Begins with a file of `count` symbols.
    pub fn start(&mut self, count: usize) -> Result<(), TryReserveError> {
        self.0.clear();
        self.0.try_reserve(count)?;
        self.0.resize(count, Self::UNKNOWN);
        Ok(())
    }

    #[inline]
    fn get(&mut self, symbol: usize, find: impl FnOnce() -> Option<u64>) -> Option<u64> {
        let address = self.0.get_mut(symbol)?;
        if *address == Self::UNKNOWN {
            *address = find()?;
        }
        Some(*address)
    }
}

/// The address of a symbol of a file, if that is what it means.
#[inline(never)]
fn find_address(
    (unit, layout, base, block): (&Unit<'_>, &Layout, u64, Block),
    file: usize,
    symbol: usize,
) -> Option<u64> {
    let value = match unit.target(file, symbol) {
        Target::Entry(number) => unit.entries[number].value,
        Target::Local => unit.location(file, symbol).value(layout, base, block)?,
    };
    match value {
        Value::Address(address) => Some(address),
        Value::Tls(_) | Value::Dynamic { .. } => None,
    }
}

impl Image<'_, '_> {
    /// Applies the relocations of a section in memory from number `next` on, up to one that is not
    /// simple, which it gives.
    // Not inlined, so that the loop has the registers for itself.
    #[inline(never)]
    pub(super) fn apply_simple(
        &mut self,
        addresses: &mut Addresses,
        here: Here,
        table: &RelocationTable<'_>,
        mut next: usize,
    ) -> usize {
        let object = (self.unit, self.layout, self.base, self.block);
        let bytes = self.region.get_mut(here.start..here.start + here.len);
        let Some(section) = bytes else { return next };
        let (start, in_code) = (object.2 + here.start as u64, here.place.group == Group::Text);
        for Relocation { offset, kind, symbol, addend } in table.from(next) {
            let find = || find_address(object, here.file, symbol);
            let Some(address) = addresses.get(symbol, find) else { break };
            let place = start.wrapping_add(offset);
            let sum = address.wrapping_add_signed(addend);
            let written = match Kind::decode(kind) {
                Some(Kind::Absolute64) => x86_64::put(section, offset, sum.to_le_bytes()).is_ok(),
                Some(kind) if Self::is_distance(kind, in_code) => {
                    let distance = i32::try_from(sum.wrapping_sub(place).cast_signed());
                    let Ok(distance) = distance.map(i32::to_le_bytes) else { break };
                    let mut direct =
                        |rex| got::write_direct(rex, section, offset, addend, distance);
                    match kind {
                        Kind::GotRelaxable32 => direct(false),
                        Kind::GotRelaxable32Rex => direct(true),
                        _ => x86_64::put(section, offset, distance).is_ok(),
                    }
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

    /// Whether S + A − P is what to write, or is likely to be.
    #[inline]
    fn is_distance(kind: Kind, in_code: bool) -> bool {
        match kind {
            Kind::Relative32 | Kind::Call32 => true,
            Kind::GotRelaxable32 | Kind::GotRelaxable32Rex => in_code,
            _ => false,
        }
    }
}
