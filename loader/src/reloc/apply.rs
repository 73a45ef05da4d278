//! Applies the relocations of a unit whose sections have been copied to their places.
//!
//! ```text
//!   file, symbol ─► entry: value      ─┐
//!                ─► local: its place  ─┼─► operands ─► x86_64 ─► bytes of the region, or of the
//!   slots, stubs ─► their addresses   ─┘                         initial values of the TLS block
//! ```
#![forbid(unsafe_code)]

use unspool_tls::ModuleId;

use super::simple::Addresses;
use super::x86_64::{self, Operands, tls};
use super::{GOT_WORD, Kind, PLT_STUB, Problem, Step, Steps};
use crate::eh_frame::EhFrame;
use crate::elf::Relocation;
use crate::error::{Cause, LoadError};
use crate::got::{Slot, SlotNumber, Slots};
use crate::placement::{Group, Layout, Place};
use crate::symbols::Value;
use crate::tls::Block;
use crate::unit::{Target, Unit};

/// An object on its way: its bytes, and all that its relocations are computed from.
pub(crate) struct Image<'i, 'a> {
    pub unit: &'i Unit<'a>,
    pub eh_frame: &'i EhFrame,
    pub layout: &'i Layout,
    pub slots: &'i Slots,
    /// The entries that have any.
    pub with_slots: &'i [u32],
    /// The address of the region.
    pub base: u64,
    /// The bytes of the region.
    pub region: &'i mut [u8],
    /// The initial values of the TLS block.
    pub tls: &'i mut [u8],
    /// Where the TLS block will be.
    pub block: Block,
    /// The number of the TLS module, if there is one.
    pub module: Option<ModuleId>,
}

/// The section that is being relocated.
#[derive(Clone, Copy)]
pub(super) struct Here {
    pub file: usize,
    pub place: Place,
    /// Where it starts in the region, or in the initial values of the TLS block.
    pub start: usize,
    pub len: usize,
}

impl Image<'_, '_> {
    /// Applies all relocations and fills the GOT and the PLT.
    pub fn relocate(&mut self) -> Result<(), LoadError> {
        let mut addresses = Addresses::default();
        for (number, file) in self.unit.files.iter().enumerate() {
            self.relocate_file(number, &mut addresses).map_err(|cause| file.error(cause))?;
        }
        self.fill_slots();
        Ok(())
    }

    fn relocate_file(&mut self, number: usize, addresses: &mut Addresses) -> Result<(), Cause> {
        let (unit, eh_frame) = (self.unit, self.eh_frame);
        let file = &unit.files[number];
        addresses.start((unit, self.layout, self.base), number)?;
        for at in file.elf.relocations() {
            let steps = Steps::new(&file.elf, file.first_section, at?, &unit.places, eh_frame)?;
            let Some(mut steps) = steps else { continue };
            let (place, target) = (steps.place, steps.table.target);
            let len = match place.group {
                Group::EhFrame => eh_frame.len(file.first_section + target),
                // What has no initial values has no bytes to relocate.
                Group::TlsZeroed => 0,
                _ => file.elf.section(target).size,
            };
            let (start, len) = (self.layout.start(place), len as usize);
            let here = Here { file: number, place, start, len };
            let simple = steps.may_be_simple(file.discards);
            loop {
                if simple {
                    steps.next = self.apply_simple(addresses, here, &steps.table, steps.next);
                }
                let Some(step) = steps.next_step() else { break };
                self.apply(here, &step)
                    .map_err(|problem| steps.error(&step.relocation, problem))?;
            }
            steps.finish()?;
        }
        Ok(())
    }

    fn apply(&mut self, here: Here, step: &Step) -> Result<(), Problem> {
        let Step { relocation, kind, call } = step;
        let (kind, offset) = (*kind, relocation.offset);
        // `scan` has refused all others.
        if here.place.group.is_table() && self.unit.is_discarded_local(here.file, relocation.symbol)
        {
            return Ok(());
        }
        let operands = self.operands(here, kind, relocation);
        let callee = call.map(|(form, call)| {
            let kind = Kind::decode(call.kind).ok_or(Problem::UnknownType)?;
            Ok((form, kind, call.offset, self.operands(here, kind, &call)))
        });
        let bytes = if here.place.group.is_tls() { &mut *self.tls } else { &mut *self.region };
        let section = bytes.get_mut(here.start..here.start + here.len).unwrap_or_default();
        let fixed = match kind {
            Kind::LocalDynamic => matches!(self.block, Block::Static(_)),
            _ => !matches!(operands.symbol, Value::Dynamic { .. }),
        };
        match (kind, callee.transpose()?) {
            (_, Some((form, ..))) if fixed => {
                tls::relax_call(kind, form, section, offset, &operands)
            }
            (_, Some((_, callee, call_at, target))) => {
                x86_64::apply(kind, section, offset, &operands)?;
                x86_64::apply(callee, section, call_at, &target)
            }
            (Kind::Descriptor | Kind::DescriptorCall, _) if fixed => {
                tls::relax_descriptor(kind, section, offset, &operands)
            }
            (Kind::InitialExec, _) if tls::relaxes_initial_exec(section, offset) => {
                tls::relax_initial_exec(section, offset, &operands)
            }
            _ => x86_64::apply(kind, section, offset, &operands),
        }
    }

    fn operands(&self, here: Here, kind: Kind, relocation: &Relocation) -> Operands {
        let (unit, symbol) = (self.unit, relocation.symbol);
        let (value, size, slots) = match unit.target(here.file, symbol) {
            Target::Entry(number) => {
                let entry = &unit.entries[number];
                let own = entry.is_defined() && !entry.elsewhere;
                (entry.value, own.then(|| unit.size_of(entry)), entry.slots)
            }
            Target::Local => {
                let location = unit.location(here.file, symbol);
                let value = location.value(self.layout, self.base, self.block);
                let size = unit.files[here.file].elf.symbol(symbol).size;
                (value.unwrap_or(Value::ZERO), value.map(|_| size), SlotNumber::NONE)
            }
        };
        let word = match kind {
            Kind::LocalDynamic => self.slots.own_block(),
            kind => kind.slot().and_then(|slot| self.slots.got(slot, slots)),
        };
        // Symbol 0 stands for the object's own block here.
        let own_block = symbol == 0 && kind == Kind::DtpModule64;
        let place = self.base + here.start as u64;
        Operands {
            symbol: if own_block { self.block.at(0) } else { value },
            addend: relocation.addend,
            place: (!here.place.group.is_tls()).then(|| place.wrapping_add(relocation.offset)),
            stub: self.slots.plt(slots).map(|stub| self.layout.plt_stub(self.base, stub)),
            slot: word.map(|word| self.layout.got_word(self.base, word)),
            got: self.layout.got_word(self.base, 0),
            in_code: here.place.group == Group::Text,
            block: self.block,
            module: self.module,
            size,
        }
    }

    /// Fills the GOT, and writes the jumps through it into the PLT.
    fn fill_slots(&mut self) {
        if let (Block::Dynamic(module), Some(at)) = (self.block, self.slots.own_block()) {
            self.put(at, [module.get() as u64, 0]);
        }
        for &number in self.with_slots {
            let entry = &self.unit.entries[number as usize];
            // `apply` has refused what would read a slot that does not go with the symbol.
            let slot = |slot| self.slots.got(slot, entry.slots);
            let stub = self.slots.plt(entry.slots);
            let address = slot(Slot::Address);
            // What the stub of an indirect function reads is filled when its resolver can run; but
            // if it means another one elsewhere, nobody asks the resolver's.
            let indirect = if entry.elsewhere { None } else { slot(Slot::Indirect) };
            let jumps = indirect.or(address);
            match entry.value {
                Value::Address(value) => {
                    if let Some(at) = address {
                        self.put(at, [value]);
                    }
                    if let (Some(stub), Some(word)) = (stub, jumps) {
                        self.put_stub(stub, word);
                    }
                }
                Value::Tls(offset) => {
                    let Some(at) = slot(Slot::TpOffset) else { continue };
                    self.put(at, [offset as u64]);
                }
                Value::Dynamic { module, offset } => {
                    let Some(at) = slot(Slot::Pair) else { continue };
                    let descriptor = slot(Slot::Descriptor);
                    self.put(at, [module.get() as u64, offset as u64]);
                    let Some(descriptor) = descriptor else { continue };
                    let pair = self.layout.got_word(self.base, at);
                    self.put(descriptor, crate::tls::dynamic_descriptor(pair));
                }
            }
        }
    }

    /// Writes words of the GOT.
    fn put<const N: usize>(&mut self, first: usize, words: [u64; N]) {
        let at = self.layout.got + first * GOT_WORD;
        for (to, word) in self.region[at..].chunks_exact_mut(GOT_WORD).zip(words) {
            to.copy_from_slice(&word.to_le_bytes());
        }
    }

    /// Writes a PLT stub that jumps to the address in a word of the GOT.
    fn put_stub(&mut self, stub: usize, word: usize) {
        let (from, to) =
            (self.layout.plt_stub(self.base, stub), self.layout.got_word(self.base, word));
        let at = self.layout.plt + stub * PLT_STUB;
        self.region[at..at + PLT_STUB].copy_from_slice(&x86_64::plt_stub(from, to));
    }
}
