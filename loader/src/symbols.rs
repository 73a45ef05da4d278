//! What every symbol of a unit means: an address, or a place in thread-local storage.
//!
//! ```text
//!   undefined   earlier objects ──► the program ──► 0 if weak, else an error (all of them at once)
//!   defined     here, if strong, common or hidden
//!   weak        earlier objects ──► the program ──► here
//! ```
//!
//! So of weak definitions (C++ inline functions and whatever else comes in COMDAT groups) the first
//! one wins, and everyone uses that one, unless it is hidden or protected. A later copy stays where it is,
//! because its unwind table and its own local references point to it.
//!
//! A few names mean something of the object itself, as with linkers: `__dso_handle` is its
//! first byte, `_TLS_MODULE_BASE_` the start of its TLS block.
#![forbid(unsafe_code)]

use alloc::collections::TryReserveError;
use alloc::vec::Vec;

use object::elf;
use unspool_tls::ModuleId;

use crate::atexit;
use crate::elf::Definition;
use crate::entry::{Entry, Strength};
use crate::error::{Cause, LoadError};
use crate::got::Slots;
use crate::object::{Loaded, Object};
use crate::placement::Layout;
use crate::reloc::{MODULE_BASE, Needs, TLS_GET_ADDR, Wants};
use crate::shared::Shared;
use crate::table::Hash;
use crate::text::Text;
use crate::tls::Block;
use crate::unit::Unit;

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
        offset: i32,
    },
}

impl Value {
    /// What undefined weak symbols mean, and what nobody asks for.
    pub const ZERO: Self = Self::Address(0);
}

/// What was there before a unit: objects, and the program.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'s, 'k> {
    pub loaded: &'s [Loaded<'k>],
    pub program: &'s dyn Symbols,
}

impl Scope<'_, '_> {
    /// Whether anybody defines a symbol.
    pub fn has(&self, name: &str, tls: bool) -> bool {
        let wants = if tls { Wants::Tls } else { Wants::Address };
        self.earlier(name).is_some() || self.of_program(name, wants).is_some()
    }

    /// What a symbol means in the oldest object that offers it, and which object that is.
    fn earlier(&self, name: &str) -> Option<(usize, Value)> {
        let hash = Hash::of(name);
        let mut objects = self.loaded.iter().enumerate();
        objects.find_map(|(number, Loaded { object, .. })| {
            // One that is being unloaded is on its way out.
            let open = || !object.holds.is_closed();
            let value = object.names().global(hash, name).filter(|_| open())?;
            Some((number, value))
        })
    }

    fn of_program(&self, name: &str, wants: Wants) -> Option<Value> {
        match wants {
            Wants::Tls => self.program.tls_offset_of(name).map(|at| Value::Tls(at.into())),
            _ => {
                let program = self.program.address_of(name);
                program.or_else(|| atexit::address_of(name)).map(Value::Address)
            }
        }
    }
}

/// Finds what the unit's symbols mean elsewhere.
pub(crate) struct Resolver<'r, 'k> {
    scope: Scope<'r, 'k>,
    /// By their numbers, the objects that were found to define something.
    bound: Vec<bool>,
}

impl<'r, 'k> Resolver<'r, 'k> {
    /// Resolves what the unit does not define, and what it would leave to others. Returns the
    /// objects whose symbols it uses. `block` is the unit's TLS block.
    pub fn resolve(
        scope: Scope<'r, 'k>,
        unit: &mut Unit<'_>,
        needs: &Needs,
        block: Block,
    ) -> Result<Vec<Shared<Object>>, Cause> {
        let mut bound = Vec::new();
        bound.try_reserve_exact(scope.loaded.len())?;
        bound.resize(scope.loaded.len(), false);
        let mut resolver = Self { scope, bound };
        resolver.resolve_all(unit, needs, block)?;
        Ok(resolver.bound_to()?)
    }

    fn resolve_all(
        &mut self,
        unit: &mut Unit<'_>,
        needs: &Needs,
        block: Block,
    ) -> Result<(), Cause> {
        let mut undefined: Vec<Text> = Vec::new();
        for entry in &mut unit.entries {
            // A call of `__tls_get_addr` wants nothing, as long as it may go away.
            let wants = match entry.kind {
                elf::STT_TLS if entry.yields() => Wants::Tls,
                _ if entry.yields() => Wants::Address,
                _ if entry.is_defined() || is_own(entry) => continue,
                _ => entry.wants,
            };
            if wants == Wants::Nothing {
                continue;
            }
            let found = self.find(entry, wants);
            if !entry.resolve(found) && entry.strength == Strength::Undefined {
                undefined.try_reserve(1)?;
                undefined.push(entry.name.into());
            }
        }
        let called = needs.tls_get_addr.map(|number| &mut unit.entries[number]);
        if let Some(entry) = called.filter(|entry| !entry.is_defined())
            && entry.wants == Wants::Nothing
        {
            let found = self.find(entry, Wants::Address);
            let absent = !entry.resolve(found);
            if absent && calls_tls_get_addr(unit, needs, block) {
                undefined.try_reserve(1)?;
                undefined.push(TLS_GET_ADDR.into());
            }
        }
        if undefined.is_empty() { Ok(()) } else { Err(Cause::Undefined(undefined)) }
    }

    fn find(&mut self, entry: &Entry<'_>, wants: Wants) -> Option<Value> {
        if entry.local {
            return None;
        }
        let Some((number, value)) = self.scope.earlier(entry.name) else {
            return self.scope.of_program(entry.name, wants);
        };
        self.bound[number] = true;
        Some(value)
    }

    fn bound_to(&self) -> Result<Vec<Shared<Object>>, TryReserveError> {
        let mut objects = Vec::new();
        objects.try_reserve_exact(self.bound.iter().filter(|bound| **bound).count())?;
        let loaded = self.scope.loaded.iter().zip(&self.bound).filter(|(_, bound)| **bound);
        objects.extend(loaded.map(|(loaded, _)| Shared::clone(&loaded.object)));
        Ok(objects)
    }
}

/// Whether a variable of a general dynamic access, or the unit's own block, does not lie at a
/// fixed distance from TP. All other calls of `__tls_get_addr` are removed.
fn calls_tls_get_addr(unit: &Unit<'_>, needs: &Needs, block: Block) -> bool {
    let dynamic = matches!(block, Block::Dynamic(_));
    let is_dynamic = |entry: &Entry<'_>| match entry.elsewhere {
        true => matches!(entry.value, Value::Dynamic { .. }),
        false => dynamic && entry.is_defined(),
    };
    needs.own_block_by_call && dynamic
        || unit.entries.iter().any(|entry| entry.by_call && is_dynamic(entry))
}

/// Whether an undefined symbol means something of the object itself.
fn is_own(entry: &Entry<'_>) -> bool {
    match entry.wants {
        Wants::Address => entry.name == DSO_HANDLE,
        Wants::Tls => entry.name == MODULE_BASE,
        Wants::Nothing => false,
    }
}

/// Gives every entry its value in an object at `base` whose TLS block is `block`.
pub(crate) fn evaluate(
    unit: &mut Unit<'_>,
    slots: &Slots,
    layout: &Layout,
    base: u64,
    block: Block,
) -> Result<(), LoadError> {
    for number in 0..unit.entries.len() {
        let entry = &unit.entries[number];
        if entry.elsewhere {
            continue;
        }
        let absent = || match (entry.name, entry.wants) {
            (DSO_HANDLE, Wants::Address) => Some(Value::Address(base)),
            (MODULE_BASE, Wants::Tls) => Some(block.base()),
            (_, Wants::Tls) => Some(Value::Tls(0)),
            (_, Wants::Nothing | Wants::Address) => Some(Value::ZERO),
        };
        let own = || unit.location_of(entry).value(layout, base, block);
        let stub = || match (entry.kind, slots.plt(entry.slots)) {
            // Where code is that jumps to the function.
            (elf::STT_GNU_IFUNC, Some(stub)) => Some(Value::Address(layout.plt_stub(base, stub))),
            _ => None,
        };
        let value = if entry.is_defined() { stub().or_else(own) } else { absent() };
        if value.is_none() && entry.wants != Wants::Nothing {
            return Err(not_in_memory(unit, entry));
        }
        unit.entries[number].value = value.unwrap_or(Value::ZERO);
    }
    Ok(())
}

fn not_in_memory(unit: &Unit<'_>, entry: &Entry<'_>) -> LoadError {
    let file = &unit.files[entry.file as usize];
    let symbol = file.elf.symbol_text(entry.symbol as usize);
    let section = match file.elf.symbol(entry.symbol as usize).definition {
        Definition::Section { index, .. } => file.elf.section_text(index),
        _ => "".into(),
    };
    file.error(Cause::SymbolNotInMemory { symbol, section })
}
