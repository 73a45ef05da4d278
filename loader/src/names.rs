//! The names of an object: of its functions for traces, of its symbols for others.
//!
//! ```text
//!   Names ── pool       one string with all names, shared with whoever was told one of them
//!         ── functions  sorted by address   address ─► name      symbolize: no lock, no heap
//!         ── globals    sorted by name      name ─► value        symbol(), later objects
//!         ── sections   in file order       name ─► address      for debuggers
//! ```
//!
//! [`Symbolize`](unspool_stack_trace::Symbolize) hands names out for as long as the loader lives,
//! so a pool remembers whether it was asked: one that was stays when its object goes, and serves
//! again if the same object is loaded again.

use alloc::collections::TryReserveError;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};

use object::elf;
use unspool_stack_trace::Symbol;

use crate::elf::{Binding, Definition, Elf};
use crate::fallible::{joined, push};
use crate::object::Section;
use crate::placement::{Layout, Place};
use crate::shared::Shared;
use crate::symbols::{self, Value};
use crate::tls::Block;

/// All names of an object in one string.
pub(crate) struct Pool {
    text: String,
    /// Whether a name was handed out for as long as the loader lives.
    lent: AtomicBool,
}

/// A name out of a pool that remembers it, as long as somebody keeps the pool.
pub(crate) struct Lent {
    name: *const str,
    of: Extent,
}

/// A piece of the one string that holds all names.
type Name = Range<usize>;

struct Named<T> {
    name: Name,
    of: T,
}

/// Address and size.
#[derive(Clone, Copy)]
struct Extent {
    address: u64,
    size: u64,
}

/// The names of an object and what they name.
pub(crate) struct Names {
    /// The file's string tables, and the object's own name.
    pool: Shared<Pool>,
    object: Name,
    functions: Vec<Named<Extent>>,
    globals: Vec<Named<Value>>,
    sections: Vec<Named<Extent>>,
}

impl Names {
    /// The names that stay after loading. `values` are those of all symbols, as resolved.
    pub fn collect(
        object: &str,
        elf: &Elf<'_>,
        layout: &Layout,
        base: u64,
        values: &[Value],
    ) -> Result<Self, TryReserveError> {
        let in_table = |table: usize, at: usize, name: &str| table + at..table + at + name.len();
        let symbol_names = object.len();
        // LLVM writes one string table for both.
        let shared = core::ptr::eq(elf.symbol_names, elf.section_names);
        let (more, section_names) = match shared {
            true => ("", symbol_names),
            false => (elf.section_names, symbol_names + elf.symbol_names.len()),
        };
        let pool = joined(&[object, elf.symbol_names, more])?;
        let (mut functions, mut globals, mut sections) = (Vec::new(), Vec::new(), Vec::new());
        for (symbol, &value) in elf.symbols.iter().zip(values) {
            // The own definition, even where the symbol means someone else's.
            let own = symbols::own_value(symbol, layout, base, Block::Static(0));
            let Some(own) = own.filter(|_| !symbol.name.is_empty()) else { continue };
            let name = in_table(symbol_names, symbol.name_at, symbol.name);
            let in_section = matches!(symbol.definition, Definition::Section { .. });
            if let (elf::STT_FUNC, true, Value::Address(address)) = (symbol.kind, in_section, own) {
                let of = Extent { address, size: symbol.size };
                push(&mut functions, Named { name: name.clone(), of })?;
            }
            if symbol.binding != Binding::Local {
                push(&mut globals, Named { name, of: value })?;
            }
        }
        for (section, place) in elf.sections.iter().zip(&layout.places) {
            let Place::Memory(range) = place else { continue };
            let of = Extent { address: base + range.start as u64, size: range.len() as u64 };
            let name = in_table(section_names, section.name_at, section.name);
            push(&mut sections, Named { name, of })?;
        }
        // Of several names for one place, the longest extent last: it is the one that is found.
        // Names end the keys, so that sorting, which must not allocate, has one result.
        let key =
            |function: &Named<Extent>| (function.of.address, function.of.size, function.name.start);
        functions.sort_unstable_by_key(key);
        let text = |global: &Named<Value>| &pool[global.name.clone()];
        globals.sort_unstable_by(|a, b| text(a).cmp(text(b)));
        let pool = Shared::try_new(Pool { text: pool, lent: AtomicBool::new(false) })?;
        Ok(Self { pool, object: 0..object.len(), functions, globals, sections })
    }

    /// Uses one of these pools instead of its own, if it has the same names.
    pub fn share(&mut self, pools: &[Shared<Pool>]) {
        if let Some(same) = pools.iter().find(|pool| pool.text == self.pool.text) {
            self.pool = Shared::clone(same);
        }
    }

    /// The pool, if a name of it was handed out for as long as the loader lives.
    pub fn lent_pool(&self) -> Option<&Shared<Pool>> {
        self.pool.lent.load(Ordering::Relaxed).then_some(&self.pool)
    }

    /// The name that the object was loaded under.
    pub fn object(&self) -> &str {
        self.text(&self.object)
    }

    fn text(&self, name: &Name) -> &str {
        &self.pool.text[name.clone()]
    }

    /// The sections in memory.
    pub fn sections(&self) -> impl Iterator<Item = Section<'_>> {
        self.sections.iter().map(|section| self.section(section))
    }

    fn section(&self, section: &Named<Extent>) -> Section<'_> {
        let Extent { address, size } = section.of;
        Section { name: self.text(&section.name), address, size }
    }

    /// What a global symbol means.
    pub fn global(&self, name: &str) -> Option<Value> {
        let found = self.globals.binary_search_by(|global| self.text(&global.name).cmp(name));
        found.ok().map(|index| self.globals[index].of)
    }

    /// The nearest function at or below `address`. The pool remembers that it was asked.
    pub fn lend_function(&self, address: u64) -> Option<Lent> {
        let after = self.functions.partition_point(|function| function.of.address <= address);
        let found = self.functions[..after].last()?;
        self.pool.lent.store(true, Ordering::Relaxed);
        Some(Lent { name: self.text(&found.name), of: found.of })
    }
}

impl Lent {
    /// # Safety
    ///
    /// Somebody must keep the pool for `'a`.
    pub unsafe fn symbol<'a>(self) -> Symbol<'a> {
        let Extent { address, size } = self.of;
        // SAFETY: text of the pool, which never changes and stays for `'a` (contract).
        Symbol { name: unsafe { &*self.name }, address, size }
    }
}
