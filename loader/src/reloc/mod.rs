//! Walks an object's relocations, twice: once to see what they need, once to apply them.
//!
//! ```text
//!   scan  ──► which symbols are needed, which want a GOT slot or a PLT stub   (before placing)
//!   apply ──► S, A, P, G ──► x86_64: value, overflow check, bytes            (after resolving)
//! ```
//!
//! Promise: whatever `apply` would not understand, `scan` has refused before anything is mapped.
//! Sections that stay out of memory (debug information) are not relocated.
#![forbid(unsafe_code)]

mod x86_64;

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use crate::elf::{Binding, Definition, Elf, Relocation, RelocationTable};
use crate::error::LoadError;
use crate::got::Slots;
use crate::placement::{Group, Layout, Place};
use crate::symbols::Value;

use x86_64::{Call, Kind, Operands};
pub(crate) use x86_64::{GOT_SLOT, PLT_STUB, Wants};

/// The type of a relocation, as in `r_info` (psABI x86-64 §4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelocationType(pub u32);

/// What is wrong with a relocation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// The type is not one that this loader knows.
    UnknownType,
    /// The bytes to relocate do not lie in the section.
    OutsideSection {
        /// How many bytes.
        width: u64,
        /// The size of the section in bytes.
        size: u64,
    },
    /// The value does not fit the place.
    Overflow {
        /// The value.
        value: i128,
        /// The smallest that fits.
        min: i64,
        /// The largest that fits.
        max: i64,
    },
    /// The type is for thread-local variables, the symbol is not one.
    NotThreadLocal,
    /// The symbol is a thread-local variable, the type is not for one.
    ThreadLocal,
    /// The value would depend on the address of an initial value that every task has a copy of.
    NoAddress,
    /// `R_X86_64_TLSGD` or `R_X86_64_TLSLD` is not followed by its call of `__tls_get_addr`.
    MissingTlsCall,
    /// The instructions are not those that go with the type, so they cannot be rewritten.
    UnexpectedCode {
        /// The bytes where the instructions should be.
        found: Box<[u8]>,
    },
    /// An offset into a module's TLS block, in data: nothing says what it is added to.
    OffsetOutsideCode,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::UnknownType => f.write_str("unknown type"),
            Self::OutsideSection { width, size } => {
                write!(f, "{width} bytes there are not inside the section of {size:#x} bytes")
            }
            Self::Overflow { value, min, max } => {
                let (value, min, max) = (Signed(value), Signed(min.into()), Signed(max.into()));
                write!(f, "value {value} is not between {min} and {max}")
            }
            Self::NotThreadLocal => f.write_str("not a thread-local variable"),
            Self::ThreadLocal => f.write_str("a thread-local variable"),
            Self::NoAddress => f.write_str("the initial value of a TLS block has no address"),
            Self::MissingTlsCall => f.write_str("no call of __tls_get_addr follows"),
            Self::UnexpectedCode { ref found } => write!(f, "unexpected instructions {found:02x?}"),
            Self::OffsetOutsideCode => f.write_str("only understood in code"),
        }
    }
}

impl core::error::Error for Problem {}

/// A number in hexadecimal with a sign.
struct Signed(i128);

impl fmt::Display for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:#x}", if self.0 < 0 { "-" } else { "" }, self.0.unsigned_abs())
    }
}

/// A relocation, understood; with the call that belongs to it.
struct Step {
    relocation: Relocation,
    kind: Kind,
    call: Option<Call>,
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
            .filter(|call| self.elf.symbols[call.symbol].name == x86_64::TLS_GET_ADDR)
            .and_then(|call| x86_64::call_after(kind, &relocation, &call))
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
}

/// Finds out what the relocations of all sections in memory need.
pub(crate) fn scan(elf: &Elf<'_>, groups: &[Option<Group>]) -> Result<Needs, LoadError> {
    let count = elf.symbols.len();
    let mut needs = Needs { symbols: vec![Wants::Nothing; count], slots: Slots::new(count) };
    for table in &elf.relocations {
        if groups[table.target].is_none() {
            continue;
        }
        for step in Steps::new(elf, table) {
            let Step { relocation, kind, .. } = step?;
            let symbol = relocation.symbol;
            if kind.wants() != Wants::Nothing {
                needs.symbols[symbol] = kind.wants();
            }
            match kind {
                Kind::GotRelative32 => needs.slots.add_got(symbol),
                Kind::Call32 if may_be_elsewhere(elf, symbol) => needs.slots.add_plt(symbol),
                _ => {}
            }
        }
    }
    Ok(needs)
}

/// Whether a symbol may turn out to be another object's or the program's.
fn may_be_elsewhere(elf: &Elf<'_>, symbol: usize) -> bool {
    let symbol = &elf.symbols[symbol];
    symbol.definition == Definition::Undefined || symbol.binding == Binding::Weak
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
        let (section, address) = match &self.layout.places[target] {
            Place::Memory(range) => {
                let address = self.base + range.start as u64;
                (self.region.get_mut(range.clone()), Some(address))
            }
            Place::Tls(range) => (self.tls.get_mut(range.clone()), None),
            Place::Skipped => (None, None),
        };
        // What has no initial values (.tbss) has no bytes to relocate.
        let section = section.unwrap_or_default();
        let symbol = relocation.symbol;
        let slot = self.slots.got(symbol).map(|slot| self.layout.got_slot(self.base, slot));
        let operands = Operands {
            symbol: match (kind, self.values[symbol], slot) {
                // The place refers to the slot that holds the address.
                (Kind::GotRelative32, Value::Address(_), Some(slot)) => Value::Address(slot),
                (_, value, _) => value,
            },
            addend: relocation.addend,
            place: address.map(|address| address.wrapping_add(relocation.offset)),
            stub: self.slots.plt(symbol).map(|stub| self.layout.plt_stub(self.base, stub)),
            in_code: self.groups[target] == Some(Group::Text),
        };
        match call {
            Some(call) => {
                x86_64::apply_tls_call(*kind, *call, section, relocation.offset, &operands)
            }
            None => x86_64::apply(*kind, section, relocation.offset, &operands),
        }
    }

    /// Writes the symbols' addresses into the GOT and the jumps through it into the PLT.
    fn fill_slots(&mut self) {
        for (symbol, value) in self.values.iter().enumerate() {
            let Some(slot) = self.slots.got(symbol) else { continue };
            // A thread-local variable has no address, and `apply` refuses what would read it here.
            let Value::Address(address) = *value else { continue };
            let at = self.layout.got + slot * GOT_SLOT;
            self.region[at..at + GOT_SLOT].copy_from_slice(&address.to_le_bytes());
            if let Some(stub) = self.slots.plt(symbol) {
                let at = self.layout.plt + stub * PLT_STUB;
                let code = x86_64::plt_stub(
                    self.layout.plt_stub(self.base, stub),
                    self.layout.got_slot(self.base, slot),
                );
                self.region[at..at + PLT_STUB].copy_from_slice(&code);
            }
        }
    }
}
