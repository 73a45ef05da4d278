//! Finds out what relocations need before anything has an address.
//!
//! ```text
//!   relocation ─► what is wanted of its symbol     an address, a place in TLS
//!              ─► slots and stubs                   if the symbol may be far
//!              ─► of the unit                       TLS at a fixed distance, a module, __tls_get_addr
//! ```
#![forbid(unsafe_code)]

use alloc::collections::TryReserveError;
use alloc::vec::Vec;

use object::elf;

use super::simple::Noted;
use super::x86_64::tls;
use super::{Call, Kind, Problem, Step, Steps, Wants};
use crate::eh_frame::EhFrame;
use crate::elf::{Definition, Relocation};
use crate::entry::Entry;
use crate::error::{Cause, LoadError};
use crate::got::{Slot, Slots};
use crate::placement::Group;
use crate::unit::{Target, Unit};

/// What the relocations of a unit need.
#[derive(Default)]
pub(crate) struct Needs {
    /// The slots and stubs to make.
    pub slots: Slots,
    /// The entries that have any.
    pub with_slots: Vec<u32>,
    /// Whether the unit's own variables must lie at a fixed distance from TP.
    pub static_space: bool,
    /// Whether the unit must have a TLS module, with variables or without.
    pub module: bool,
    /// Whether the unit's own block is asked for by calling `__tls_get_addr`. Calls for what lies at
    /// a fixed distance from TP go away.
    pub own_block_by_call: bool,
    /// The entry of `__tls_get_addr`, if there are calls of it for variables.
    pub tls_get_addr: Option<usize>,
}

/// Finds out what the relocations of all sections that have places need.
pub(crate) fn scan(unit: &mut Unit<'_>, eh_frame: &EhFrame) -> Result<Needs, LoadError> {
    let (mut needs, mut noted) = (Needs::default(), Noted::default());
    for file in 0..unit.files.len() {
        scan_file(unit, eh_frame, file, &mut needs, &mut noted)
            .map_err(|cause| unit.files[file].error(cause))?;
    }
    if unit.has_indirect {
        for number in 0..unit.entries.len() {
            // Others may ask for it, too.
            let entry = &mut unit.entries[number];
            if entry.is_defined() && entry.kind == elf::STT_GNU_IFUNC {
                let added = needs.slots.add_indirect(&mut entry.slots);
                let noted = added.and_then(|()| needs.note_slots(number, entry));
                noted.map_err(|error| unit.files[entry.file as usize].error(error.into()))?;
            }
        }
    }
    Ok(needs)
}

impl Needs {
    /// Remembers an entry that has slots.
    fn note_slots(&mut self, number: usize, entry: &mut Entry<'_>) -> Result<(), TryReserveError> {
        if !entry.has_slots {
            self.with_slots.try_reserve(1)?;
            self.with_slots.push(number as u32);
            entry.has_slots = true;
        }
        Ok(())
    }
}

fn scan_file(
    unit: &mut Unit<'_>,
    eh_frame: &EhFrame,
    file: usize,
    needs: &mut Needs,
    noted: &mut Noted,
) -> Result<(), Cause> {
    let (elf, first) = (unit.files[file].elf, unit.files[file].first_section);
    noted.start(elf.symbol_count())?;
    for table in elf.relocations() {
        let steps = Steps::new(&elf, first, table?, &unit.places, eh_frame);
        let Some(mut steps) = steps else { continue };
        let code = steps.code;
        let group = steps.place.group;
        let relaxable = (group == Group::Text).then_some(code);
        let simple = steps.may_be_simple(unit.discards);
        let scan = &mut Scan { unit, needs, file, code, group };
        loop {
            if simple {
                let known = (&mut *scan.unit, &scan.needs.slots);
                steps.next = noted.pass(known, file, &steps.table, steps.next, relaxable);
            }
            let Some(step) = steps.next_step() else { break };
            if !scan.add(&step)? {
                return Err(steps.error(&step.relocation, Problem::Discarded));
            }
            noted.forget(step.relocation.symbol);
        }
        steps.finish()?;
    }
    Ok(())
}

/// A section whose relocations are looked at.
struct Scan<'s, 'a> {
    unit: &'s mut Unit<'a>,
    needs: &'s mut Needs,
    file: usize,
    /// Its bytes in the file.
    code: &'a [u8],
    group: Group,
}

/// What is known of a symbol before it has a value.
#[derive(Clone, Copy)]
struct Known {
    /// Whether the unit defines it.
    own: bool,
    /// Whether it will be in the unit's memory, for certain.
    near: bool,
}

/// What a symbol turned out to be.
enum Look {
    Known(Known),
    /// A local one in a section that was left out for a copy. Tables that describe the code there
    /// may name it; nobody asks them.
    Copied,
}

impl Scan<'_, '_> {
    /// Notes what a step needs; whether it can be done at all.
    fn add(&mut self, step: &Step) -> Result<bool, Cause> {
        let Step { relocation, kind, call } = step;
        let kind = *kind;
        let in_code = self.group == Group::Text;
        let known = match self.look_at(relocation, kind)? {
            Look::Known(known) => known,
            Look::Copied => return Ok(self.group.is_table()),
        };
        // Variables of others are where they are.
        self.needs.static_space |= known.own && kind.needs_static_space();
        self.needs.module |= kind.needs_module(in_code);
        let (code, Relocation { symbol, offset, addend, .. }) = (self.code, *relocation);
        match (kind, kind.slot()) {
            (Kind::InitialExec, _) if tls::relaxes_initial_exec(code, offset) => {}
            // Wherever the object will be, the symbol will be near.
            _ if in_code && known.near && kind.relaxes_if_near(code, offset, addend) => {}
            (_, Some(slot)) => self.add_got(slot, symbol)?,
            (Kind::LocalDynamic, _) => self.needs.slots.add_own_block(),
            (Kind::Call32, _) if !known.near => self.add_plt(symbol)?,
            _ => {}
        }
        if let Some((form, call)) = call {
            self.add_call(kind, symbol, *form, call.symbol)?;
        }
        Ok(true)
    }

    /// What is known of the symbol of a relocation, of which `kind` wants something.
    fn look_at(&mut self, relocation: &Relocation, kind: Kind) -> Result<Look, Cause> {
        let (unit, file) = (&mut *self.unit, self.file);
        let number = match unit.target(file, relocation.symbol) {
            Target::Entry(number) => number,
            Target::Local => {
                let elf = &unit.files[file].elf;
                let symbol = elf.symbol(relocation.symbol);
                let absent = relocation.symbol == 0 || !elf.is_named(&symbol);
                match symbol.definition {
                    Definition::Section { index, .. } if symbol.kind != elf::STT_GNU_IFUNC => {
                        return self.look_into(relocation.symbol, index, kind);
                    }
                    Definition::Undefined if absent => {
                        return Ok(Look::Known(Known { own: false, near: false }));
                    }
                    _ => unit.entry(file, relocation.symbol)?,
                }
            }
        };
        let entry = &mut unit.entries[number];
        if kind.wants() != Wants::Nothing {
            entry.wants = kind.wants();
        }
        let (own, elsewhere) = (entry.is_defined(), entry.may_be_elsewhere());
        let near = own && !elsewhere && unit.is_in_memory(number);
        Ok(Look::Known(Known { own, near }))
    }

    /// The same for a local symbol in a section.
    fn look_into(&self, symbol: usize, section: usize, kind: Kind) -> Result<Look, Cause> {
        match self.unit.place(self.file, section).group {
            Group::Discarded => Ok(Look::Copied),
            Group::Skipped if kind.wants() != Wants::Nothing => {
                let elf = &self.unit.files[self.file].elf;
                let (symbol, section) = (elf.symbol_text(symbol), elf.section_text(section));
                Err(Cause::SymbolNotInMemory { symbol, section })
            }
            _ => Ok(Look::Known(Known { own: true, near: true })),
        }
    }

    fn add_got(&mut self, slot: Slot, symbol: usize) -> Result<(), Cause> {
        let number = self.unit.entry(self.file, symbol)?;
        let entry = &mut self.unit.entries[number];
        self.needs.slots.add_got(slot, &mut entry.slots)?;
        Ok(self.needs.note_slots(number, entry)?)
    }

    fn add_plt(&mut self, symbol: usize) -> Result<(), Cause> {
        let number = self.unit.entry(self.file, symbol)?;
        let entry = &mut self.unit.entries[number];
        self.needs.slots.add_plt(&mut entry.slots)?;
        Ok(self.needs.note_slots(number, entry)?)
    }

    /// Notes a call of `__tls_get_addr` for a variable, or for the unit's own block.
    fn add_call(
        &mut self,
        kind: Kind,
        variable: usize,
        form: Call,
        callee: usize,
    ) -> Result<(), Cause> {
        match form {
            Call::Direct => self.add_plt(callee)?,
            Call::Indirect => self.add_got(Slot::Address, callee)?,
            Call::Large => {}
        }
        let callee = self.unit.entry(self.file, callee)?;
        match &mut self.unit.entries[callee] {
            // That of this file alone, which is no more than a name.
            entry if entry.local => entry.wants = Wants::Address,
            _ => self.needs.tls_get_addr = Some(callee),
        }
        match self.unit.target(self.file, variable) {
            Target::Entry(entry) if kind != Kind::LocalDynamic => {
                self.unit.entries[entry].by_call = true;
            }
            _ => self.needs.own_block_by_call = true,
        }
        Ok(())
    }
}
