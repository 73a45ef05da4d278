//! The names of an object: of its functions for traces, of its symbols for others.
//!
//! ```text
//!   Names ── pool       one string with all names, shared with whoever was told one of them
//!         ── functions  sorted by address   address ─► name      symbolize: no lock, no heap
//!         ── globals    by name's hash      name ─► value        symbol(), later objects
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

use unspool_stack_trace::{Place as NamedPlace, Symbol};

use crate::elf::Definition;
use crate::error::Cause;
use crate::globals::Globals;
use crate::object::Section;
use crate::placement::Layout;
use crate::runs;
use crate::shared::Shared;
use crate::symbols::Value;
use crate::table::Hash;
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

/// Where a name starts in the one string that holds all; it ends with a zero, as in string tables.
#[derive(Clone, Copy)]
struct Name(u32);

/// A part of the object, in bytes from its start.
#[derive(Clone, Copy)]
struct Part {
    name: Name,
    at: u32,
    size: u32,
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
    globals: Globals,
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
        let mut builder = Builder::new(object, unit)?;
        let object = builder.add_text(&[object])?;
        for (number, file) in unit.files.iter().enumerate() {
            builder.add_file(number, file)?;
            builder.add_functions(number, file, layout)?;
            builder.add_sections(file, layout)?;
        }
        let Builder { text, tables, mut functions, sections, files, .. } = builder;
        // Of several names for one place, the longest extent last: it is the one that is found. Of
        // equal ones, that which comes last in the files.
        runs::sort(&mut functions, |it| u64::from(it.at) << u32::BITS | u64::from(it.size))?;
        keep_outermost(&mut functions);
        let offered = unit.entries.iter().filter(|entry| entry.is_offered());
        let globals = offered.map(|entry| {
            let file = entry.file as usize;
            let name_at = unit.files[file].elf.symbol_name_at(entry.symbol as usize);
            (entry.hash, tables[file] + name_at, entry.value)
        });
        let globals = Globals::new(base, unit.entries.len(), globals)?;
        let pool = Shared::try_new(Pool { text, lent: AtomicBool::new(false) })?;
        Ok(Self { pool, object, base, functions, globals, sections, files })
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
        let rest = &self.pool.text[name.0 as usize..];
        rest.split_once('\0').map_or(rest, |(name, _)| name)
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
        let pool = self.pool.text.as_bytes();
        let is_it = |at: u32| {
            let rest = pool.get(at as usize..).and_then(|rest| rest.strip_prefix(name.as_bytes()));
            // The pool has a zero behind each name, and none in it.
            rest.is_some_and(|rest| rest.first() == Some(&0)) && !name.contains('\0')
        };
        self.globals.find(hash, is_it)
    }

    /// The function around `address`. The pool remembers that it was asked.
    pub fn lend_function(&self, address: u64) -> Option<Lent> {
        let at = address.checked_sub(self.base)?;
        let after = self.functions.partition_point(|function| u64::from(function.at) <= at);
        let found = self.functions[..after].last()?;
        // Hand-written assembly may lack a size: it reaches to the next function.
        if found.size != 0 && at - u64::from(found.at) >= u64::from(found.size) {
            return None;
        }
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
    sections: Vec<Part>,
    files: Vec<File>,
    /// Where the section names of the last file start.
    section_names: u32,
}

impl<'u, 'a> Builder<'u, 'a> {
    /// With room for all there will be, and no more: it stays as long as the object.
    fn new(object: &str, unit: &'u Unit<'a>) -> Result<Self, Cause> {
        let mut text = object.len() + 1;
        let (mut functions, mut sections) = (0, 0);
        for file in &unit.files {
            functions += file.elf.functions;
            let member = file.name.member.map_or(0, |member| member.len() + 2);
            text += file.name.file.len() + member + 1 + file.elf.symbol_names.len() + 1;
            text += if shares_table(file) { 0 } else { file.elf.section_names.len() + 1 };
        }
        for (_, _, place) in unit.sections() {
            sections += usize::from(place.group.has_address());
        }
        let mut this = Self {
            unit,
            text: String::new(),
            tables: Vec::new(),
            functions: Vec::new(),
            sections: Vec::new(),
            files: Vec::new(),
            section_names: 0,
        };
        this.text.try_reserve_exact(text)?;
        this.tables.try_reserve_exact(unit.files.len())?;
        this.functions.try_reserve_exact(functions)?;
        this.sections.try_reserve_exact(sections)?;
        this.files.try_reserve_exact(unit.files.len())?;
        Ok(this)
    }

    fn add_text(&mut self, pieces: &[&str]) -> Result<Name, Cause> {
        let at = self.text.len();
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        self.text.try_reserve(len + 1)?;
        pieces.iter().for_each(|piece| self.text.push_str(piece));
        self.text.push('\0');
        let (needed, max) = (self.text.len() as u64, u32::MAX.into());
        if needed > max {
            return Err(Cause::TooLarge { needed, max });
        }
        Ok(Name(at as u32))
    }

    fn add_file(&mut self, number: usize, file: &UnitFile<'a>) -> Result<(), Cause> {
        debug_assert_eq!(self.tables.len(), number);
        let name = match file.name.member {
            None => self.add_text(&[file.name.file])?,
            Some(member) => self.add_text(&[file.name.file, "(", member, ")"])?,
        };
        self.files.try_reserve(1)?;
        self.files.push(File { name, sections: self.sections.len() });
        let symbol_names = self.add_text(&[file.elf.symbol_names])?.0;
        self.tables.try_reserve(1)?;
        self.tables.push(symbol_names);
        self.section_names = match shares_table(file) {
            true => symbol_names,
            false => self.add_text(&[file.elf.section_names])?.0,
        };
        Ok(())
    }

    fn add_functions(
        &mut self,
        number: usize,
        file: &UnitFile<'a>,
        layout: &Layout,
    ) -> Result<(), Cause> {
        let symbols = 0..file.elf.symbol_count();
        for symbol in symbols.filter(|&symbol| file.elf.is_named_function(symbol)) {
            let Definition::Section { index, offset } = file.elf.definition_of(symbol) else {
                continue;
            };
            let place = self.unit.place(number, index);
            if !place.group.has_address() {
                continue;
            }
            let at = (layout.start(place) as u64 + offset) as u32;
            let symbol = file.elf.symbol(symbol);
            // Whatever a symbol says, a function ends with its section.
            let size = symbol.size.min(file.elf.section(index).size - offset) as u32;
            let name = Name(self.tables[number] + symbol.name_at);
            self.functions.try_reserve(1)?;
            self.functions.push(Part { name, at, size });
        }
        Ok(())
    }

    fn add_sections(&mut self, file: &UnitFile<'a>, layout: &Layout) -> Result<(), Cause> {
        let places = &self.unit.places[file.first_section..];
        for (section, &place) in file.elf.sections().zip(places) {
            if !place.group.has_address() {
                continue;
            }
            let name = Name(self.section_names + section.name_at);
            let at = layout.start(place) as u32;
            self.sections.try_reserve(1)?;
            self.sections.push(Part { name, at, size: section.size as u32 });
        }
        Ok(())
    }
}

/// Leaves out, of sorted functions, those inside others: a label or a second entrance must not hide the
/// rest of a function. Several names for one place stay.
fn keep_outermost(functions: &mut Vec<Part>) {
    let (mut last, mut covered) = (None, 0);
    functions.retain(|function| {
        let end = u64::from(function.at) + u64::from(function.size);
        let inside = u64::from(function.at) < covered && end <= covered;
        let kept = !inside || last == Some(function.at);
        if kept {
            (last, covered) = (Some(function.at), covered.max(end));
        }
        kept
    });
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
    pub unsafe fn place<'a>(self) -> NamedPlace<'a> {
        // SAFETY: text of the pool, which never changes and stays for `'a` (contract).
        let file: &'a str = unsafe { &*self.file };
        // SAFETY: as above.
        let section: &'a str = unsafe { &*self.section };
        NamedPlace { module: file.into(), section: Some(section.into()), offset: self.offset }
    }
}
