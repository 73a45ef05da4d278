//! What every symbol of an object means: an address, or a place in thread-local storage.
//!
//! ```text
//!   undefined   earlier objects ──► the program ──► 0 if weak, else an error (all of them at once)
//!   defined     here, if strong or hidden
//!   weak        earlier objects ──► the program ──► here
//! ```
//!
//! So of weak definitions (C++ inline functions and whatever else comes in COMDAT groups) the first
//! one wins, and everyone uses that one, unless it is hidden. A later copy stays where it is,
//! because its unwind table and its own local references point to it.
//!
//! A few names mean something of the object itself, as with linkers: `__dso_handle` is its
//! first byte, `_TLS_MODULE_BASE_` the start of its TLS block.
#![forbid(unsafe_code)]

use alloc::vec::Vec;

use object::elf;
use unspool_tls::ModuleId;

use crate::atexit;
use crate::elf::{Binding, Definition, Elf, Symbol};
use crate::error::LoadError;
use crate::fallible::{push, room};
use crate::placement::{Layout, Place};
use crate::reloc::{MODULE_BASE, TLS_GET_ADDR, TlsCalls, Wants};
use crate::text::Text;
use crate::tls::Block;

/// By what address C++ runtimes know an object (Itanium C++ ABI §3.3.6.2).
const DSO_HANDLE: &str = "__dso_handle";

/// The symbols that the running program offers to loaded objects.
pub trait Symbols: Sync {
    /// The address of a function or a variable.
    fn address_of(&self, name: &str) -> Option<u64>;

    /// Where a thread-local variable lies, in bytes from TP (negative).
    ///
    /// A program that offers its own to loaded objects adds the symbol's value to
    /// [`Registry::kernel_offset`](unspool_tls::Registry::kernel_offset).
    fn tls_offset_of(&self, name: &str) -> Option<i32> {
        let _ = name;
        None
    }
}

/// What a symbol means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Value {
    /// An address (or an absolute number).
    Address(u64),
    /// Bytes from TP.
    Tls(i64),
    /// Bytes into a TLS block that is somewhere else in every task.
    Dynamic {
        /// Whose block.
        module: ModuleId,
        offset: i64,
    },
}

impl Value {
    /// What undefined weak symbols mean, and what nobody asks for.
    const ZERO: Self = Self::Address(0);
}

/// All that symbols are resolved against.
pub(crate) struct Resolver<'r, 'e> {
    pub elf: &'r Elf<'e>,
    /// What the relocations want of each symbol.
    pub wants: &'r [Wants],
    pub layout: &'r Layout,
    /// The address of the object's region.
    pub base: u64,
    /// The object's TLS block.
    pub tls: Block,
    /// Which calls of `__tls_get_addr` there are.
    pub calls: &'r TlsCalls,
    /// Looks a name up in the objects loaded before.
    pub earlier: &'r dyn Fn(&str) -> Option<Value>,
    pub program: &'r dyn Symbols,
}

impl Resolver<'_, '_> {
    /// The value of every symbol that is needed or offered to others.
    pub fn resolve(&self) -> Result<Vec<Value>, LoadError> {
        let mut values = room(self.elf.symbols.len())?;
        let mut undefined: Vec<Text> = Vec::new();
        for (symbol, &wants) in self.elf.symbols.iter().zip(self.wants) {
            let value = match symbol.definition {
                Definition::Undefined => self.elsewhere(symbol, wants),
                _ => Some(self.defined(symbol, wants)?),
            };
            if value.is_none() {
                push(&mut undefined, symbol.name.into())?;
            }
            values.push(value.unwrap_or(Value::ZERO));
        }
        if self.calls_tls_get_addr(&values) {
            let address = self.first_definition(TLS_GET_ADDR, Wants::Address);
            let mut callees = self.calls.callees.iter().filter(|&&symbol| self.is_open(symbol));
            match address {
                Some(address) => callees.for_each(|&symbol| values[symbol] = address),
                None if callees.next().is_some() => {
                    push(&mut undefined, TLS_GET_ADDR.into())?;
                }
                None => {}
            }
        }
        if undefined.is_empty() { Ok(values) } else { Err(LoadError::Undefined(undefined)) }
    }

    /// Whether a variable of a general dynamic access, or the object's own block, does not lie at
    /// a fixed distance from TP. All other calls of `__tls_get_addr` are removed.
    fn calls_tls_get_addr(&self, values: &[Value]) -> bool {
        let dynamic = |symbol: &usize| matches!(values[*symbol], Value::Dynamic { .. });
        self.calls.own_block && matches!(self.tls, Block::Dynamic(_))
            || self.calls.variables.iter().any(dynamic)
    }

    /// Whether `resolve` has left the symbol out: nobody wanted more of it than calls.
    fn is_open(&self, symbol: usize) -> bool {
        self.wants[symbol] == Wants::Nothing
            && self.elf.symbols[symbol].definition == Definition::Undefined
    }

    /// The value of a symbol that the object does not define.
    fn elsewhere(&self, symbol: &Symbol<'_>, wants: Wants) -> Option<Value> {
        // Symbol 0 has no name and means 0; others may be listed and never used.
        if wants == Wants::Nothing || symbol.name.is_empty() {
            return Some(Value::ZERO);
        }
        match (symbol.name, wants) {
            (DSO_HANDLE, Wants::Address) => return Some(Value::Address(self.base)),
            (MODULE_BASE, Wants::Tls) => return Some(self.tls.base()),
            _ => {}
        }
        let absent = match wants {
            Wants::Tls => Value::Tls(0),
            _ => Value::ZERO,
        };
        let weak = (symbol.binding == Binding::Weak).then_some(absent);
        self.first_definition(symbol.name, wants).or(weak)
    }

    fn first_definition(&self, name: &str, wants: Wants) -> Option<Value> {
        (self.earlier)(name).or_else(|| match wants {
            Wants::Tls => self.program.tls_offset_of(name).map(|at| Value::Tls(at.into())),
            _ => {
                let program = self.program.address_of(name);
                program.or_else(|| atexit::address_of(name)).map(Value::Address)
            }
        })
    }

    /// The value of a symbol that the object defines.
    fn defined(&self, symbol: &Symbol<'_>, wants: Wants) -> Result<Value, LoadError> {
        let needed = wants != Wants::Nothing || symbol.binding != Binding::Local;
        let own = match own_value(symbol, self.layout, self.base, self.tls) {
            Some(own) => own,
            None if symbol.definition == Definition::Common => {
                return Err(LoadError::Common { symbol: symbol.name.into(), size: symbol.size });
            }
            None if wants == Wants::Nothing => return Ok(Value::ZERO),
            None => return Err(self.not_in_memory(symbol)),
        };
        if needed && symbol.kind == elf::STT_GNU_IFUNC {
            return Err(LoadError::IndirectFunction { symbol: symbol.name.into() });
        }
        if symbol.binding != Binding::Weak || symbol.hidden || symbol.name.is_empty() {
            return Ok(own);
        }
        let wants = match own {
            Value::Address(_) => Wants::Address,
            Value::Tls(_) | Value::Dynamic { .. } => Wants::Tls,
        };
        Ok(self.first_definition(symbol.name, wants).unwrap_or(own))
    }

    fn not_in_memory(&self, symbol: &Symbol<'_>) -> LoadError {
        let section = match symbol.definition {
            Definition::Section { index, .. } => self.elf.sections[index].name,
            _ => "",
        };
        let name = if symbol.name.is_empty() { section } else { symbol.name };
        LoadError::SymbolNotInMemory { symbol: name.into(), section: section.into() }
    }
}

/// What the object's own definition of a symbol means, if it has one in memory. `base` is the
/// address of its region, `tls` its TLS block.
pub(crate) fn own_value(
    symbol: &Symbol<'_>,
    layout: &Layout,
    base: u64,
    tls: Block,
) -> Option<Value> {
    match symbol.definition {
        Definition::Undefined | Definition::Common => None,
        Definition::Absolute(value) => Some(Value::Address(value)),
        Definition::Section { index, offset } => match &layout.places[index] {
            Place::Skipped => None,
            Place::Memory(range) => Some(Value::Address(base + range.start as u64 + offset)),
            // Both are parts of a block that is smaller than MAX_SIZE.
            Place::Tls(range) => Some(tls.at(range.start as i64 + offset as i64)),
        },
    }
}
