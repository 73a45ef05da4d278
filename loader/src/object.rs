//! A loaded object: what it is called, where it lies, what it offers, what it holds.
//!
//! ```text
//!   Object ── names ── one string with all names
//!          ── functions  sorted by address   address ─► name      symbolize: no lock, no heap
//!          ── globals    sorted by name      name ─► value        symbol(), later objects
//!          ── sections   in file order       name ─► address      for debuggers
//!          ── unwind, tls, memory            given back in this order
//! ```

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use core::ptr::NonNull;

use object::elf;
use unspool_stack_trace::Symbol;
use unspool_tls::Published;
use unspool_unwind::{FdeEntry, FdeIndex, Module, Registration, Section as Bytes};

use crate::elf::{Binding, Definition, Elf};
use crate::error::LoadError;
use crate::memory::Sealed;
use crate::placement::{Layout, Place};
use crate::symbols::{self, Value};

/// A loaded object. It stays loaded as long as its [`Loader`](crate::Loader) lives.
pub struct Object<'k> {
    names: Names,
    text: Range<u64>,
    rodata: Range<u64>,
    data: Range<u64>,
    // Dropped in this order: nobody finds the unwind tables when the TLS block goes, nobody
    // addresses the TLS block when the code goes.
    _unwind: Option<Unwind>,
    _tls: Option<Published<'k>>,
    _memory: Sealed<'k>,
}

/// A section of a loaded object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section<'a> {
    /// Its name in the file.
    pub name: &'a str,
    /// Its address.
    pub address: u64,
    /// Its size in bytes.
    pub size: u64,
}

impl<'k> Object<'k> {
    pub(crate) fn new(
        names: Names,
        layout: &Layout,
        unwind: Option<Unwind>,
        tls: Option<Published<'k>>,
        memory: Sealed<'k>,
    ) -> Self {
        let base = memory.address();
        let range = |part: &Range<usize>| base + part.start as u64..base + part.end as u64;
        Self {
            names,
            text: range(&layout.text),
            rodata: range(&layout.rodata),
            data: range(&layout.data),
            _unwind: unwind,
            _tls: tls,
            _memory: memory,
        }
    }

    /// The name it was loaded under.
    pub fn name(&self) -> &str {
        self.names.text(&self.names.object)
    }

    /// The address of a global symbol: a function or a variable that is not thread-local.
    ///
    /// Of a symbol that is weak here and was defined by someone earlier, that is the earlier
    /// definition, which this object uses as well.
    pub fn symbol(&self, name: &str) -> Option<u64> {
        match self.value(name)? {
            Value::Address(address) => Some(address),
            Value::Tls(_) => None,
        }
    }

    /// Where a global thread-local variable lies, in bytes from TP (negative).
    pub fn tls_offset(&self, name: &str) -> Option<i32> {
        match self.value(name)? {
            Value::Address(_) => None,
            // Blocks lie where 32-bit offsets reach; only an end-of-block symbol might not.
            Value::Tls(offset) => i32::try_from(offset).ok(),
        }
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

    /// Its sections in memory (thread-local ones have no single address), as in the file.
    pub fn sections(&self) -> impl Iterator<Item = Section<'_>> {
        let names = &self.names;
        names.sections.iter().map(|section| names.section(section))
    }

    pub(crate) fn value(&self, name: &str) -> Option<Value> {
        self.names.global(name)
    }

    /// The nearest function at or below `address`, which must lie in the text.
    pub(crate) fn function(&self, address: u64) -> Option<Symbol<'_>> {
        if self.text.contains(&address) { self.names.function(address) } else { None }
    }
}

impl core::fmt::Debug for Object<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Object")
            .field("name", &self.name())
            .field("text", &self.text)
            .field("rodata", &self.rodata)
            .field("data", &self.data)
            .finish_non_exhaustive()
    }
}

/// A piece of the one string that holds all names.
type Name = Range<usize>;

struct Named<T> {
    name: Name,
    of: T,
}

/// Address and size.
struct Extent {
    address: u64,
    size: u64,
}

/// The names of an object and what they name.
pub(crate) struct Names {
    /// The file's string tables, and the object's own name.
    pool: String,
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
    ) -> Self {
        let mut pool = String::from(object);
        let in_table = |table: usize, at: usize, name: &str| table + at..table + at + name.len();
        let symbol_names = pool.len();
        pool.push_str(elf.symbol_names);
        // LLVM writes one string table for both.
        let shared = core::ptr::eq(elf.symbol_names, elf.section_names);
        let section_names = if shared { symbol_names } else { pool.len() };
        if !shared {
            pool.push_str(elf.section_names);
        }
        let (mut functions, mut globals, mut sections) = (Vec::new(), Vec::new(), Vec::new());
        for (symbol, &value) in elf.symbols.iter().zip(values) {
            // The own definition, even where the symbol means someone else's.
            let own = symbols::own_value(symbol, layout, base, 0);
            let Some(own) = own.filter(|_| !symbol.name.is_empty()) else { continue };
            let name = in_table(symbol_names, symbol.name_at, symbol.name);
            let in_section = matches!(symbol.definition, Definition::Section { .. });
            if let (elf::STT_FUNC, true, Value::Address(address)) = (symbol.kind, in_section, own) {
                let of = Extent { address, size: symbol.size };
                functions.push(Named { name: name.clone(), of });
            }
            if symbol.binding != Binding::Local {
                globals.push(Named { name, of: value });
            }
        }
        for (section, place) in elf.sections.iter().zip(&layout.places) {
            let Place::Memory(range) = place else { continue };
            let of = Extent { address: base + range.start as u64, size: range.len() as u64 };
            let name = in_table(section_names, section.name_at, section.name);
            sections.push(Named { name, of });
        }
        // Of several names for one place, the longest extent last: it is the one that is found.
        functions.sort_by_key(|function| (function.of.address, function.of.size));
        globals.sort_by(|a, b| pool[a.name.clone()].cmp(&pool[b.name.clone()]));
        Self { pool, object: 0..object.len(), functions, globals, sections }
    }

    fn text(&self, name: &Name) -> &str {
        &self.pool[name.clone()]
    }

    fn section(&self, section: &Named<Extent>) -> Section<'_> {
        let Extent { address, size } = section.of;
        Section { name: self.text(&section.name), address, size }
    }

    fn global(&self, name: &str) -> Option<Value> {
        let found = self.globals.binary_search_by(|global| self.text(&global.name).cmp(name));
        found.ok().map(|index| self.globals[index].of)
    }

    fn function(&self, address: u64) -> Option<Symbol<'_>> {
        let after = self.functions.partition_point(|function| function.of.address <= address);
        let found = self.functions[..after].last()?;
        let Extent { address, size } = found.of;
        Some(Symbol { name: self.text(&found.name), address, size })
    }
}

/// An object's unwind tables while they are registered.
pub(crate) struct Unwind {
    // Dropped before the index that it refers to.
    _registration: Registration<'static>,
    _index: Index,
}

/// A sorted table of an object's FDEs. Not a `Box`, whose moves would claim that nobody else reads
/// what is in it.
struct Index(NonNull<[FdeEntry]>);

// SAFETY: the entries are numbers that nobody changes.
unsafe impl Send for Index {}
// SAFETY: as above.
unsafe impl Sync for Index {}

impl Drop for Index {
    fn drop(&mut self) {
        // SAFETY: `new` took it from a box, and it is given back once.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl Index {
    fn new(entries: Box<[FdeEntry]>) -> Self {
        Self(NonNull::from(Box::leak(entries)))
    }

    /// # Safety
    ///
    /// The slice must not be used after this value is dropped.
    unsafe fn entries(&self) -> &'static [FdeEntry] {
        // SAFETY: leaked by `new` and freed by `drop`, before which the caller stops using it;
        // never written to.
        unsafe { self.0.as_ref() }
    }
}

impl Unwind {
    /// Indexes and registers the unwind tables of a sealed object, if it has code and tables.
    ///
    /// # Safety
    ///
    /// The result must be dropped before `memory`.
    pub unsafe fn register(
        layout: &Layout,
        memory: &Sealed<'_>,
    ) -> Result<Option<Self>, LoadError> {
        if layout.text.is_empty() || layout.eh_frame.is_empty() {
            return Ok(None);
        }
        // SAFETY:
        // 1. Layouts put these ranges into their read-only part.
        // 2. The caller drops the registration, the only holder of the slices, before `memory`.
        let bytes =
            |range: &Range<usize>| Bytes::in_memory(unsafe { memory.read_only(range.clone()) });
        let base = memory.address();
        let text = base + layout.text.start as u64..base + layout.text.end as u64;
        let module =
            Module::new(text, bytes(&layout.eh_frame)).with_lsda(bytes(&layout.except_table));
        let index = Index::new(sorted_entries(&module)?);
        // SAFETY: the registration, the only holder of the slice, is dropped before the index
        // (order of the fields; if there is none, it is never used).
        let entries = unsafe { index.entries() };
        let module = module.with_index(FdeIndex::Sorted(entries));
        // SAFETY:
        // 1. The tables are sealed; they and the index outlive the registration (above).
        // 2. Whether they describe the code matters once the code runs: whoever calls into an
        //    object (which takes `unsafe`) vouches for what was loaded.
        let registration = unsafe { unspool_unwind::register(module) }?;
        Ok(Some(Self { _registration: registration, _index: index }))
    }
}

fn sorted_entries(module: &Module<'_>) -> Result<Box<[FdeEntry]>, LoadError> {
    let mut entries = Vec::new();
    let read = module.for_each_entry(|entry| entries.push(entry));
    if read.is_err() {
        return Err(LoadError::BadUnwindEntry { after: entries.len() });
    }
    entries.sort_unstable();
    Ok(entries.into_boxed_slice())
}
