//! A loaded object: what it is called, where it lies, what it offers, what it holds.
//!
//! ```text
//!   loaded  ── object ─┬─ names       lock-free readers and handles see this part
//!                      ├─ text, rodata, data, TLS module
//!                      └─ holds       how many handles there are
//!           ── bound to               others that it must not outlive
//!           ── unwind, tls, memory    given back in this order
//! ```

use alloc::vec::Vec;
use core::ops::Range;

use unspool_tls::ModuleId;

use crate::atexit::Registrations;
use crate::handle::Holds;
use crate::initializers::Functions;
use crate::memory::Sealed;
use crate::names::{Lent, LentPlace, Names};
use crate::placement::Layout;
use crate::shared::Shared;
use crate::symbols::Value;
use crate::table::Hash;
use crate::tls::Storage;
use crate::unwind::Unwind;

/// A loaded object. One that was unloaded still tells its names and where it was.
pub struct Object {
    names: Names,
    all: Range<u64>,
    text: Range<u64>,
    rodata: Range<u64>,
    data: Range<u64>,
    tls: Option<TlsBlock>,
    pub(crate) holds: Holds,
}

/// An object and all that it holds.
pub(crate) struct Loaded<'k> {
    pub object: Shared<Object>,
    /// The objects whose symbols it uses.
    pub bound_to: Vec<Shared<Object>>,
    /// What it wants to have called before it goes, besides what it registered.
    pub finalizers: Functions,
    pub _at_exit: Registrations,
    // Dropped in this order: nobody finds the unwind tables when the TLS block goes, nobody
    // addresses the TLS block when the code goes.
    pub _unwind: Option<Unwind>,
    pub tls: Storage<'k>,
    pub _memory: Sealed<'k>,
}

/// What an object has in every task's thread-local storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsBlock {
    /// The number of its module.
    pub module: ModuleId,
    /// Bytes of the block.
    pub size: usize,
    /// Whether it lies at the same distance from TP in all tasks, in the surplus. Otherwise, a task
    /// gets one when it first uses it.
    pub is_static: bool,
}

/// A section of a loaded object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section<'a> {
    /// Its name in the file.
    pub name: &'a str,
    /// The file it is from, as [`Object::files`] calls it.
    pub file: &'a str,
    /// Its address.
    pub address: u64,
    /// Its size in bytes.
    pub size: u64,
}

impl Object {
    pub(crate) fn new(names: Names, layout: &Layout, base: u64, tls: &Storage<'_>) -> Self {
        let range = |part: &Range<usize>| base + part.start as u64..base + part.end as u64;
        Self {
            names,
            all: range(&(0..layout.size)),
            text: range(&layout.text),
            rodata: range(&layout.rodata),
            data: range(&layout.data),
            tls: tls.module().map(|module| TlsBlock {
                module,
                size: layout.tls.size,
                is_static: matches!(tls, Storage::Static(_)),
            }),
            holds: Holds::new(),
        }
    }

    /// The name it was loaded under.
    pub fn name(&self) -> &str {
        self.names.object()
    }

    /// The address of a global symbol: a function or a variable that is not thread-local.
    ///
    /// Of a symbol that is weak here and was defined by someone earlier, that is the earlier
    /// definition, which this object uses as well.
    pub fn symbol(&self, name: &str) -> Option<u64> {
        match self.value(name)? {
            Value::Address(address) => Some(address),
            Value::Tls(_) | Value::Dynamic { .. } => None,
        }
    }

    /// Where a global thread-local variable lies, in bytes from TP (negative), if it is at the
    /// same distance in all tasks.
    pub fn tls_offset(&self, name: &str) -> Option<i32> {
        match self.value(name)? {
            // Blocks lie where 32-bit offsets reach; only an end-of-block symbol might not.
            Value::Tls(offset) => i32::try_from(offset).ok(),
            Value::Address(_) | Value::Dynamic { .. } => None,
        }
    }

    /// The number of its TLS module, if it has thread-local variables.
    pub fn tls_module(&self) -> Option<ModuleId> {
        Some(self.tls?.module)
    }

    /// What it adds to every task's thread-local storage, if anything.
    pub fn tls_block(&self) -> Option<TlsBlock> {
        self.tls
    }

    /// How many handles of it there are, the one that is asked through included.
    pub fn handles(&self) -> usize {
        self.holds.count()
    }

    /// Where its code lies; executable, not writable.
    pub fn text(&self) -> Range<u64> {
        self.text.clone()
    }

    /// Where its read-only data lies, unwind tables and GOT included.
    pub fn rodata(&self) -> Range<u64> {
        self.rodata.clone()
    }

    /// Where its writable data lies; not executable.
    pub fn data(&self) -> Range<u64> {
        self.data.clone()
    }

    /// The files it was made of: objects by the names that the set gave them, members of archives as
    /// `archive(member)`.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.names.files()
    }

    /// Its sections in memory (thread-local ones have no single address), as in the file.
    pub fn sections(&self) -> impl Iterator<Item = Section<'_>> {
        self.names.sections()
    }

    /// All of its memory, code and data.
    pub(crate) fn all(&self) -> Range<u64> {
        self.all.clone()
    }

    pub(crate) fn names(&self) -> &Names {
        &self.names
    }

    pub(crate) fn value(&self, name: &str) -> Option<Value> {
        self.names.global(Hash::of(name), name)
    }

    /// The function around `address`, which must lie in the text.
    pub(crate) fn lend_function(&self, address: u64) -> Option<Lent> {
        if self.text.contains(&address) { self.names.lend_function(address) } else { None }
    }

    /// The section around `address`.
    pub(crate) fn lend_place(&self, address: u64) -> Option<LentPlace> {
        if self.all.contains(&address) { self.names.lend_place(address) } else { None }
    }
}

impl core::fmt::Debug for Object {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Object")
            .field("name", &self.name())
            .field("text", &self.text)
            .field("rodata", &self.rodata)
            .field("data", &self.data)
            .finish_non_exhaustive()
    }
}
