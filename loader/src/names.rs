//! The names of an object: of its functions for traces, of its symbols for others.
//!
//! ```text
//!   Names ── pool       one string with all names, shared with whoever was told one of them
//!         ── functions  sorted by address   address ─► name      symbolize: no lock, no heap
//!         ── globals    hashed by name      name ─► value        symbol(), later objects
//!         ── sections   in file order       name ─► address      for debuggers
//!         ── files      in their order      which section is whose
//! ```
//!
//! [`Symbolize`](unspool_stack_trace::Symbolize) hands names out for as long as the loader lives,
//! so a pool remembers whether it was asked: one that was stays when its object goes, and serves
//! again if the same object is loaded again.

use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};

use object::elf;
use unspool_stack_trace::{Place, Symbol};

use crate::elf::Definition;
use crate::entry::Entry;
use crate::error::Cause;
use crate::object::Section;
use crate::placement::Layout;
use crate::shared::Shared;
use crate::symbols::Value;
use crate::table::{Hash, Table};
use crate::unit::{File as UnitFile, Unit};

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

/// As [`Lent`]: the file and the section of an address, and how far it is from its start.
pub(crate) struct LentPlace {
    file: *const str,
    section: *const str,
    offset: u64,
}

/// A piece of the one string that holds all names.
#[derive(Clone, Copy)]
struct Name {
    at: u32,
    len: u32,
}

/// A part of the object, in bytes from its start.
struct Part {
    name: Name,
    at: u32,
    size: u32,
}

/// What is found by name.
struct Global {
    name: Name,
    value: Value,
}

/// A file of the object.
struct File {
    name: Name,
    /// How many of the object's sections come before its own.
    sections: usize,
}

/// Address and size.
#[derive(Clone, Copy)]
struct Extent {
    address: u64,
    size: u64,
}

/// The names of an object and what they name.
pub(crate) struct Names {
    /// The files' string tables and names, and the object's own.
    pool: Shared<Pool>,
    object: Name,
    base: u64,
    functions: Vec<Part>,
    globals: Vec<Global>,
    by_name: Table,
    sections: Vec<Part>,
    files: Vec<File>,
}

impl Names {
    /// The names that stay after loading, of a unit whose entries have values.
    pub fn collect(
        object: &str,
        unit: &Unit<'_>,
        layout: &Layout,
        base: u64,
    ) -> Result<Self, Cause> {
        let mut builder = Builder::new(unit)?;
        let object = builder.add_text(&[object])?;
        for (number, file) in unit.files.iter().enumerate() {
            builder.add_file(number, file)?;
            builder.add_functions(number, file, layout)?;
            builder.add_sections(file, layout)?;
        }
        for entry in unit.entries.iter().filter(|entry| entry.is_offered()) {
            builder.add_global(entry)?;
        }
        let Builder { text, mut functions, globals, by_name, sections, files, .. } = builder;
        // Of several names for one place, the longest extent last: it is the one that is found. Of
        // equal ones, that which comes last in the files.
        functions.sort_unstable_by_key(|function| (function.at, function.size, function.name.at));
        let pool = Shared::try_new(Pool { text, lent: AtomicBool::new(false) })?;
        Ok(Self { pool, object, base, functions, globals, by_name, sections, files })
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
        self.text(self.object)
    }

    fn text(&self, name: Name) -> &str {
        &self.pool.text[name.at as usize..][..name.len as usize]
    }

    fn extent(&self, part: &Part) -> Extent {
        Extent { address: self.base + u64::from(part.at), size: part.size.into() }
    }

    /// The files.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|file| self.text(file.name))
    }

    /// The sections in memory.
    pub fn sections(&self) -> impl Iterator<Item = Section<'_>> {
        let mut files = self.files.iter().peekable();
        let mut of = "";
        self.sections.iter().enumerate().map(move |(number, section)| {
            while let Some(file) = files.next_if(|file| file.sections <= number) {
                of = self.text(file.name);
            }
            let Extent { address, size } = self.extent(section);
            Section { name: self.text(section.name), file: of, address, size }
        })
    }

    /// What a global symbol means.
    pub fn global(&self, hash: Hash, name: &str) -> Option<Value> {
        let is_it = |number: u32| self.text(self.globals[number as usize].name) == name;
        let found = self.by_name.find(hash, is_it)?;
        Some(self.globals[found as usize].value)
    }

    /// The nearest function at or below `address`. The pool remembers that it was asked.
    pub fn lend_function(&self, address: u64) -> Option<Lent> {
        let at = address.checked_sub(self.base)?;
        let after = self.functions.partition_point(|function| u64::from(function.at) <= at);
        let found = self.functions[..after].last()?;
        self.pool.lent.store(true, Ordering::Relaxed);
        Some(Lent { name: self.text(found.name), of: self.extent(found) })
    }
}

impl Names {
    /// The section around `address`. The pool remembers that it was asked.
    pub fn lend_place(&self, address: u64) -> Option<LentPlace> {
        let holds = |section: &Section<'_>| {
            address.checked_sub(section.address).is_some_and(|offset| offset < section.size)
        };
        let found = self.sections().find(holds)?;
        self.pool.lent.store(true, Ordering::Relaxed);
        let offset = address - found.address;
        Some(LentPlace { file: found.file, section: found.name, offset })
    }
}

/// Names on their way.
struct Builder<'u, 'a> {
    unit: &'u Unit<'a>,
    text: String,
    /// Where the symbol names of each file start.
    tables: Vec<u32>,
    functions: Vec<Part>,
    globals: Vec<Global>,
    by_name: Table,
    sections: Vec<Part>,
    files: Vec<File>,
    /// Where the section names of the last file start.
    section_names: u32,
}

impl<'u, 'a> Builder<'u, 'a> {
    fn new(unit: &'u Unit<'a>) -> Result<Self, Cause> {
        let mut text = String::new();
        let tables = |file: &UnitFile<'_>| {
            let sections = if shares_table(file) { 0 } else { file.elf.section_names.len() };
            file.elf.symbol_names.len() + sections
        };
        text.try_reserve(unit.files.iter().map(tables).sum())?;
        let mut by_name = Table::default();
        let mut globals = Vec::new();
        let offered = unit.entries.iter().filter(|entry| entry.is_offered()).count();
        by_name.reserve(offered)?;
        globals.try_reserve_exact(offered)?;
        Ok(Self {
            unit,
            text,
            tables: Vec::new(),
            functions: Vec::new(),
            globals,
            by_name,
            sections: Vec::new(),
            files: Vec::new(),
            section_names: 0,
        })
    }

    fn add_text(&mut self, pieces: &[&str]) -> Result<Name, Cause> {
        let at = self.text.len();
        let len = pieces.iter().map(|piece| piece.len()).sum();
        self.text.try_reserve(len)?;
        pieces.iter().for_each(|piece| self.text.push_str(piece));
        let (needed, max) = (self.text.len() as u64, u32::MAX.into());
        if needed > max {
            return Err(Cause::TooLarge { needed, max });
        }
        Ok(Name { at: at as u32, len: len as u32 })
    }

    fn add_file(&mut self, number: usize, file: &UnitFile<'a>) -> Result<(), Cause> {
        debug_assert_eq!(self.tables.len(), number);
        let name = match file.name.member {
            None => self.add_text(&[file.name.file])?,
            Some(member) => self.add_text(&[file.name.file, "(", member, ")"])?,
        };
        self.files.try_reserve(1)?;
        self.files.push(File { name, sections: self.sections.len() });
        let symbol_names = self.add_text(&[file.elf.symbol_names])?.at;
        self.tables.try_reserve(1)?;
        self.tables.push(symbol_names);
        self.section_names = match shares_table(file) {
            true => symbol_names,
            false => self.add_text(&[file.elf.section_names])?.at,
        };
        Ok(())
    }

    fn add_functions(
        &mut self,
        number: usize,
        file: &UnitFile<'a>,
        layout: &Layout,
    ) -> Result<(), Cause> {
        let symbols = (0..file.elf.symbol_count()).map(|symbol| file.elf.symbol(symbol));
        for symbol in symbols.filter(|symbol| symbol.kind == elf::STT_FUNC) {
            let Definition::Section { index, offset } = symbol.definition else { continue };
            let place = self.unit.place(number, index);
            let name = file.elf.symbol_name(&symbol);
            if !place.group.is_loaded() || place.group.is_tls() || name.is_empty() {
                continue;
            }
            let at = (layout.start(place) as u64 + offset) as u32;
            let size = u32::try_from(symbol.size).unwrap_or(u32::MAX);
            let name = Name { at: self.tables[number] + symbol.name_at, len: name.len() as u32 };
            self.functions.try_reserve(1)?;
            self.functions.push(Part { name, at, size });
        }
        Ok(())
    }

    fn add_sections(&mut self, file: &UnitFile<'a>, layout: &Layout) -> Result<(), Cause> {
        let places = &self.unit.places[file.first_section..];
        for (section, &place) in file.elf.sections().zip(places) {
            if !place.group.is_loaded() || place.group.is_tls() {
                continue;
            }
            let len = file.elf.section_name(&section).len() as u32;
            let name = Name { at: self.section_names + section.name_at, len };
            let at = layout.start(place) as u32;
            self.sections.try_reserve(1)?;
            self.sections.push(Part { name, at, size: section.size as u32 });
        }
        Ok(())
    }

    fn add_global(&mut self, entry: &Entry<'a>) -> Result<(), Cause> {
        let file = &self.unit.files[entry.file as usize];
        let name_at = file.elf.symbol(entry.symbol as usize).name_at;
        let at = self.tables[entry.file as usize] + name_at;
        let name = Name { at, len: entry.name.len() as u32 };
        self.by_name.add(Hash::of(entry.name), self.globals.len() as u32)?;
        self.globals.try_reserve(1)?;
        self.globals.push(Global { name, value: entry.value });
        Ok(())
    }
}

/// Whether a file has one string table for both, as LLVM writes them.
fn shares_table(file: &UnitFile<'_>) -> bool {
    core::ptr::eq(file.elf.symbol_names, file.elf.section_names)
}

impl Lent {
    /// # Safety
    ///
    /// Somebody must keep the pool for `'a`.
    pub unsafe fn symbol<'a>(self) -> Symbol<'a> {
        let Extent { address, size } = self.of;
        // SAFETY: text of the pool, which never changes and stays for `'a` (contract).
        let name: &'a str = unsafe { &*self.name };
        Symbol { name: name.into(), address, size }
    }
}

impl LentPlace {
    /// # Safety
    ///
    /// Somebody must keep the pool for `'a`.
    pub unsafe fn place<'a>(self) -> Place<'a> {
        // SAFETY: text of the pool, which never changes and stays for `'a` (contract).
        let file: &'a str = unsafe { &*self.file };
        // SAFETY: as above.
        let section: &'a str = unsafe { &*self.section };
        Place { module: file.into(), section: Some(section.into()), offset: self.offset }
    }
}
