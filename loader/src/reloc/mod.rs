//! Walks an object's relocations, twice: once to see what they need, once to apply them.
//!
//! ```text
//!   scan  ──► which symbols are needed, which want a GOT slot or a PLT stub   (before placing)
//!   apply ──► S, A, P, G ──► x86_64: value, overflow check, bytes            (after resolving)
//!             x at a fixed distance from TP? ──► x86_64::tls: cheaper instructions
//! ```
//!
//! Promise: whatever `apply` would not understand, `scan` has refused before anything is mapped.
//! Sections that stay out of memory (debug information) are not relocated.
#![forbid(unsafe_code)]

mod problem;
mod x86_64;

use alloc::collections::TryReserveError;
use alloc::vec::Vec;

use unspool_tls::ModuleId;

use crate::elf::{Binding, Definition, Elf, Relocation, RelocationTable};
use crate::error::LoadError;
use crate::fallible::{filled, push};
use crate::got::{Slot, Slots};
use crate::placement::{Group, Layout, Place};
use crate::symbols::Value;
use crate::tls::Block;

pub use problem::{Code, Problem, RelocationType};
use x86_64::tls::{self, Call};
pub(crate) use x86_64::tls::{MODULE_BASE, TLS_GET_ADDR};
pub(crate) use x86_64::{GOT_WORD, PLT_STUB, Wants};
use x86_64::{Kind, Operands};

/// A relocation, understood; with the call of `__tls_get_addr` that belongs to it.
struct Step {
    relocation: Relocation,
    kind: Kind,
    call: Option<(Call, Relocation)>,
}

/// The relocations of one table, each `__tls_get_addr` call together with its `lea`.
struct Steps<'e> {
    elf: &'e Elf<'e>,
    table: &'e RelocationTable<'e>,
    next: usize,
}

impl<'e> Steps<'e> {
    fn new(elf: &'e Elf<'e>, table: &'e RelocationTable<'e>) -> Self {
        Self { elf, table, next: 0 }
    }

    fn take(&mut self) -> Option<Relocation> {
        let relocation = (self.next < self.table.len()).then(|| self.table.get(self.next));
        self.next += 1;
        relocation
    }

    fn understand(&mut self, relocation: Relocation) -> Result<Step, Problem> {
        let kind = Kind::decode(relocation.kind).ok_or(Problem::UnknownType)?;
        if !kind.precedes_call() {
            return Ok(Step { relocation, kind, call: None });
        }
        let call = self
            .take()
            .filter(|call| self.elf.symbols[call.symbol].name == TLS_GET_ADDR)
            .and_then(|call| Some((tls::call_after(kind, &relocation, &call)?, call)))
            .ok_or(Problem::MissingTlsCall)?;
        Ok(Step { relocation, kind, call: Some(call) })
    }
}

impl Iterator for Steps<'_> {
    type Item = Result<Step, LoadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let relocation = self.take()?;
        let step = self.understand(relocation);
        Some(step.map_err(|problem| error(self.elf, self.table, &relocation, problem)))
    }
}

fn error(
    elf: &Elf<'_>,
    table: &RelocationTable<'_>,
    relocation: &Relocation,
    problem: Problem,
) -> LoadError {
    LoadError::Relocation {
        section: elf.sections[table.target].name.into(),
        offset: relocation.offset,
        kind: relocation.kind,
        symbol: elf.symbol_name(relocation.symbol),
        problem,
    }
}

/// What the relocations of an object need.
pub(crate) struct Needs {
    /// What is wanted of each symbol.
    pub symbols: Vec<Wants>,
    /// The slots and stubs to make.
    pub slots: Slots,
    /// The calls of `__tls_get_addr`.
    pub calls: TlsCalls,
    /// Whether the object's own variables must lie at a fixed distance from TP.
    pub static_space: bool,
    /// Whether the object must have a TLS module, with variables or without.
    pub module: bool,
}

/// Who calls `__tls_get_addr`, and for what. Calls for what lies at a fixed distance from TP go away.
#[derive(Default)]
pub(crate) struct TlsCalls {
    /// The numbers of the symbols by which it is called: one, as compilers number symbols.
    pub callees: Vec<usize>,
    /// The variables of all general dynamic accesses.
    pub variables: Vec<usize>,
    /// Whether there are local dynamic accesses.
    pub own_block: bool,
}

/// Finds out what the relocations of all sections in memory need.
pub(crate) fn scan(elf: &Elf<'_>, groups: &[Option<Group>]) -> Result<Needs, LoadError> {
    let count = elf.symbols.len();
    let mut needs = Needs {
        symbols: filled(Wants::Nothing, count)?,
        slots: Slots::new(count)?,
        calls: TlsCalls::default(),
        static_space: false,
        module: false,
    };
    for table in &elf.relocations {
        if groups[table.target].is_none() {
            continue;
        }
        for step in Steps::new(elf, table) {
            needs.add(elf, table, groups[table.target] == Some(Group::Text), &step?)?;
        }
    }
    Ok(needs)
}

impl Needs {
    fn add(
        &mut self,
        elf: &Elf<'_>,
        table: &RelocationTable<'_>,
        in_code: bool,
        step: &Step,
    ) -> Result<(), TryReserveError> {
        let Step { relocation, kind, call } = step;
        let symbol = relocation.symbol;
        if kind.wants() != Wants::Nothing {
            self.symbols[symbol] = kind.wants();
        }
        // Variables of others are where they are.
        let own = elf.symbols[symbol].definition != Definition::Undefined;
        self.static_space |= own && kind.needs_static_space();
        self.module |= kind.needs_module(in_code);
        let code = elf.sections[table.target].data;
        match (kind, kind.slot()) {
            (Kind::InitialExec, _) if tls::relaxes_initial_exec(code, relocation.offset) => {}
            // Wherever the object will be, the symbol will be near.
            _ if in_code
                && is_near(elf, symbol)
                && kind.relaxes_if_near(code, relocation.offset, relocation.addend) => {}
            (_, Some(slot)) => self.slots.add_got(slot, symbol)?,
            (Kind::LocalDynamic, _) => self.slots.add_own_block(),
            (Kind::Call32, _) if may_be_elsewhere(elf, symbol) => self.slots.add_plt(symbol)?,
            _ => {}
        }
        let Some((form, call)) = call else { return Ok(()) };
        match form {
            Call::Direct => self.slots.add_plt(call.symbol)?,
            Call::Indirect => self.slots.add_got(Slot::Address, call.symbol)?,
            Call::Large => {}
        }
        if !self.calls.callees.contains(&call.symbol) {
            push(&mut self.calls.callees, call.symbol)?;
        }
        match kind {
            Kind::LocalDynamic => self.calls.own_block = true,
            _ => push(&mut self.calls.variables, symbol)?,
        }
        Ok(())
    }
}

/// Whether a symbol may turn out to be another object's or the program's.
fn may_be_elsewhere(elf: &Elf<'_>, symbol: usize) -> bool {
    let symbol = &elf.symbols[symbol];
    symbol.definition == Definition::Undefined || symbol.binding == Binding::Weak && !symbol.hidden
}

/// Whether a symbol is in the object's own memory, for certain.
fn is_near(elf: &Elf<'_>, symbol: usize) -> bool {
    let in_section = matches!(elf.symbols[symbol].definition, Definition::Section { .. });
    in_section && !may_be_elsewhere(elf, symbol)
}

/// An object on its way: its bytes, and all that its relocations are computed from.
pub(crate) struct Image<'i> {
    pub elf: &'i Elf<'i>,
    pub groups: &'i [Option<Group>],
    pub layout: &'i Layout,
    pub slots: &'i Slots,
    /// The value of every symbol.
    pub values: &'i [Value],
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

impl Image<'_> {
    /// Applies all relocations and fills the GOT and the PLT.
    pub fn relocate(&mut self) -> Result<(), LoadError> {
        let elf = self.elf;
        for table in &elf.relocations {
            if self.layout.places[table.target] == Place::Skipped {
                continue;
            }
            for step in Steps::new(elf, table) {
                let step = step?;
                self.apply(table.target, &step)
                    .map_err(|problem| error(elf, table, &step.relocation, problem))?;
            }
        }
        self.fill_slots();
        Ok(())
    }

    fn apply(&mut self, target: usize, step: &Step) -> Result<(), Problem> {
        let Step { relocation, kind, call } = step;
        let (kind, offset) = (*kind, relocation.offset);
        let operands = self.operands(target, kind, relocation);
        let callee = call.map(|(form, call)| {
            let kind = Kind::decode(call.kind).ok_or(Problem::UnknownType)?;
            Ok((form, kind, call.offset, self.operands(target, kind, &call)))
        });
        let section = match &self.layout.places[target] {
            Place::Memory(range) => self.region.get_mut(range.clone()),
            Place::Tls(range) => self.tls.get_mut(range.clone()),
            Place::Skipped => None,
        };
        // What has no initial values (.tbss) has no bytes to relocate.
        let section = section.unwrap_or_default();
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

    fn operands(&self, target: usize, kind: Kind, relocation: &Relocation) -> Operands {
        let symbol = relocation.symbol;
        let address = match &self.layout.places[target] {
            Place::Memory(range) => Some(self.base + range.start as u64),
            _ => None,
        };
        let word = match kind {
            Kind::LocalDynamic => self.slots.own_block(),
            kind => kind.slot().and_then(|slot| self.slots.got(slot, symbol)),
        };
        // Symbol 0 stands for the object's own block here.
        let own_block = symbol == 0 && kind == Kind::DtpModule64;
        let known = &self.elf.symbols[symbol];
        Operands {
            symbol: if own_block { self.block.at(0) } else { self.values[symbol] },
            addend: relocation.addend,
            place: address.map(|address| address.wrapping_add(relocation.offset)),
            stub: self.slots.plt(symbol).map(|stub| self.layout.plt_stub(self.base, stub)),
            slot: word.map(|word| self.layout.got_word(self.base, word)),
            got: self.layout.got_word(self.base, 0),
            in_code: self.groups[target] == Some(Group::Text),
            block: self.block,
            module: self.module,
            size: (known.definition != Definition::Undefined).then_some(known.size),
        }
    }

    /// Fills the GOT, and writes the jumps through it into the PLT.
    fn fill_slots(&mut self) {
        if let (Block::Dynamic(module), Some(at)) = (self.block, self.slots.own_block()) {
            self.put(at, [module.get() as u64, 0]);
        }
        for (symbol, value) in self.values.iter().enumerate() {
            // `apply` has refused what would read a slot that does not go with the symbol.
            let slot = |slot| self.slots.got(slot, symbol);
            match *value {
                Value::Address(address) => {
                    let Some(at) = slot(Slot::Address) else { continue };
                    self.put(at, [address]);
                    self.put_stub(symbol, at);
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
                    self.put(
                        descriptor,
                        crate::tls::dynamic_descriptor(self.layout.got_word(self.base, at)),
                    );
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

    /// Writes the PLT stub of a symbol, if it has one, whose address is at a word of the GOT.
    fn put_stub(&mut self, symbol: usize, word: usize) {
        let Some(stub) = self.slots.plt(symbol) else { return };
        let (from, to) =
            (self.layout.plt_stub(self.base, stub), self.layout.got_word(self.base, word));
        let at = self.layout.plt + stub * PLT_STUB;
        self.region[at..at + PLT_STUB].copy_from_slice(&x86_64::plt_stub(from, to));
    }
}
