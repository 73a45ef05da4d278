//! The files of a set as one link unit: their sections, and what their symbols have in common.
//!
//! ```text
//!   file 0   sections 0 1 2 3        symbols 0 … 9      ─┐  entries: one for each global name
//!   file 1   sections 4 5 6          symbols 10 … 14    ─┼─► │ memcpy: file 1, symbol 3, strong │
//!   file 2   sections 7 8 9 10 11    symbols 15 … 40    ─┘   │ errno: undefined                 │ …
//!            │                       │
//!            places, by number       entry_of, by number: u32::MAX for what is local
//! ```
//!
//! Promise: of every COMDAT group one copy is kept, the first; of every name the strongest
//! definition; two strong ones are an error that names both files.
#![forbid(unsafe_code)]

use alloc::collections::TryReserveError;
use alloc::vec::Vec;

use object::elf;

use crate::elf::{Binding, Definition, Elf, Symbol, Visibility};
use crate::entry::{Common, Entry, Strength};
use crate::error::{Cause, LoadError};
use crate::placement::{Group, Layout, Place, group_of};
use crate::symbols::Value;
use crate::table::{Hash, Table};
use crate::text::Text;
use crate::tls::Block;

/// No entry: a symbol of one file alone.
const LOCAL: u32 = u32::MAX;

/// What a file is called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileName<'a> {
    pub file: &'a str,
    /// The member of the archive `file`.
    pub member: Option<&'a str>,
}

/// A file of a unit.
pub(crate) struct File<'a> {
    pub name: FileName<'a>,
    pub elf: Elf<'a>,
    /// The number of its section 0 in the unit.
    pub first_section: usize,
    /// The number of its symbol 0 in the unit.
    pub first_symbol: usize,
    /// Whether any of its sections was discarded.
    pub discards: bool,
}

/// Files that are linked together.
#[derive(Default)]
pub(crate) struct Unit<'a> {
    pub files: Vec<File<'a>>,
    /// Where each section goes.
    pub places: Vec<Place>,
    /// The entry of each symbol that is not local.
    entry_of: Vec<u32>,
    pub entries: Vec<Entry<'a>>,
    /// The tentative definitions of entries.
    pub commons: Vec<Common>,
    by_name: Table,
    /// Entries that were undefined at some time, for archives to look at.
    pub undefined: Vec<u32>,
    /// The first file that brought each COMDAT group.
    groups: Vec<&'a str>,
    by_signature: Table,
    /// Whether any symbol is an indirect function.
    pub has_indirect: bool,
}

/// A symbol of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Target {
    /// A name that files share, or a local symbol with slots: the entry's number.
    Entry(usize),
    /// A symbol of the file alone.
    Local,
}

/// Where a definition is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Location {
    Nowhere,
    Absolute(u64),
    /// Bytes from the start of what has this place.
    At(Place, u64),
}

impl Location {
    /// What it means in an object at `base` whose TLS block is `block`; nothing if it is not in
    /// memory.
    pub fn value(self, layout: &Layout, base: u64, block: Block) -> Option<Value> {
        match self {
            Self::Absolute(value) => Some(Value::Address(value)),
            Self::At(place, offset) if place.group.is_loaded() => {
                let start = layout.start(place) as u64 + offset;
                // Both are parts of a block that is smaller than MAX_SIZE.
                let tls = || block.at(start as i32);
                Some(if place.group.is_tls() { tls() } else { Value::Address(base + start) })
            }
            Self::Nowhere | Self::At(..) => None,
        }
    }
}

impl FileName<'_> {
    /// `archive(member)`, or the file.
    pub fn text(&self) -> Text {
        match self.member {
            None => self.file.into(),
            Some(member) => Text::concat(&[self.file, "(", member, ")"]),
        }
    }
}

impl File<'_> {
    /// An error that is this file's.
    pub fn error(&self, cause: Cause) -> LoadError {
        LoadError::new(self.name.text(), cause)
    }
}

impl<'a> Unit<'a> {
    /// Adds a file: its sections, but for copies of groups that are there; its global symbols.
    pub fn add(&mut self, name: FileName<'a>, bytes: &'a [u8]) -> Result<(), LoadError> {
        let in_file = |cause| LoadError::new(name.text(), cause);
        let elf = Elf::parse(bytes).map_err(in_file)?;
        let (first_section, first_symbol) = (self.places.len(), self.entry_of.len());
        let file = File { name, elf, first_section, first_symbol, discards: false };
        self.files.try_reserve(1).map_err(|error| in_file(error.into()))?;
        self.files.push(file);
        self.add_sections(&elf).map_err(in_file)?;
        let discards = self.discard_copies(&elf, first_section).map_err(in_file)?;
        let number = self.files.len() - 1;
        self.files[number].discards = discards;
        self.add_symbols(&elf)
    }

    fn add_sections(&mut self, elf: &Elf<'a>) -> Result<(), Cause> {
        self.places.try_reserve(elf.section_count())?;
        for section in elf.sections() {
            let group = group_of(elf, &section)?;
            self.places.push(Place { group, offset: 0 });
        }
        Ok(())
    }

    /// Leaves out the members of groups that another file has brought; whether there are any.
    fn discard_copies(&mut self, elf: &Elf<'a>, first_section: usize) -> Result<bool, Cause> {
        let mut discards = false;
        for group in elf.groups() {
            let group = group?;
            let hash = Hash::of(group.signature);
            let is_it = |number: u32| self.groups[number as usize] == group.signature;
            if self.by_signature.find(hash, is_it).is_none() {
                self.by_signature.add(hash, self.groups.len() as u32)?;
                self.groups.try_reserve(1)?;
                self.groups.push(group.signature);
                continue;
            }
            for member in group.members() {
                let place = &mut self.places[first_section + member];
                if place.group != Group::Skipped {
                    place.group = Group::Discarded;
                    discards = true;
                }
            }
        }
        Ok(discards)
    }

    fn add_symbols(&mut self, elf: &Elf<'a>) -> Result<(), LoadError> {
        let file = self.files.len() - 1;
        let (count, first) = (elf.symbol_count(), elf.first_global);
        let room = self.entry_of.try_reserve(count).and_then(|()| {
            self.by_name.reserve(count - first)?;
            self.entries.try_reserve(count - first)
        });
        room.map_err(|error| self.files[file].error(error.into()))?;
        self.entry_of.resize(self.entry_of.len() + first, LOCAL);
        for number in first..count {
            let symbol = elf.symbol(number);
            let name = elf.symbol_name(&symbol);
            let entry = if symbol.binding == Binding::Local || name.is_empty() {
                LOCAL
            } else {
                self.add_symbol(file, number, &symbol, name)?
            };
            self.entry_of.push(entry);
        }
        Ok(())
    }

    /// The entry of a global symbol, which is new or knows of this symbol now.
    fn add_symbol(
        &mut self,
        file: usize,
        number: usize,
        symbol: &Symbol,
        name: &'a str,
    ) -> Result<u32, LoadError> {
        let hash = Hash::of(name);
        let strength = self.strength(file, symbol);
        self.has_indirect |= symbol.kind == elf::STT_GNU_IFUNC;
        let error = |this: &Self, error: TryReserveError| this.files[file].error(error.into());
        let common = self.add_common(symbol).map_err(|reason| error(self, reason))?;
        let new = || Entry { common, ..Entry::new((name, hash), file, number, symbol, strength) };
        match self.find(hash, name) {
            Some(at) => self.meet(at, &new()),
            None => self.push(new()).map_err(|reason| error(self, reason)),
        }
    }

    /// Tells an entry what another symbol says; gives its number again.
    fn meet(&mut self, at: u32, new: &Entry<'a>) -> Result<u32, LoadError> {
        let strength = new.strength;
        let old = &mut self.entries[at as usize];
        let was_undefined = old.strength == Strength::Undefined;
        let both = (old.strength, strength);
        old.visibility = old.visibility.max(new.visibility);
        if both == (Strength::Strong, Strength::Strong) {
            return Err(self.duplicate(new, at));
        }
        if both == (Strength::Common, Strength::Common) {
            let other = self.commons[new.common as usize];
            self.commons[old.common as usize].widen(&other);
        } else if strength > old.strength {
            old.replace(new);
        }
        if strength == Strength::Undefined && !was_undefined && old.strength == strength {
            let noted = self.note_undefined(at);
            noted.map_err(|error| self.files[new.file as usize].error(error.into()))?;
        }
        Ok(at)
    }

    /// The number of the entry with this name.
    fn find(&self, hash: Hash, name: &str) -> Option<u32> {
        self.by_name.find(hash, |number| self.entries[number as usize].name == name)
    }

    /// Adds an entry, and gives its number.
    fn push(&mut self, new: Entry<'a>) -> Result<u32, TryReserveError> {
        let at = self.entries.len() as u32;
        self.by_name.add(new.hash, at)?;
        self.entries.try_reserve(1)?;
        if new.strength == Strength::Undefined {
            self.note_undefined(at)?;
        }
        self.entries.push(new);
        Ok(at)
    }

    /// Notes the tentative definition that a symbol may be.
    fn add_common(&mut self, symbol: &Symbol) -> Result<u32, TryReserveError> {
        let Some(common) = Common::of(symbol) else { return Ok(u32::MAX) };
        self.commons.try_reserve(1)?;
        self.commons.push(common);
        Ok((self.commons.len() - 1) as u32)
    }

    fn note_undefined(&mut self, entry: u32) -> Result<(), TryReserveError> {
        self.undefined.try_reserve(1)?;
        self.undefined.push(entry);
        Ok(())
    }

    /// Has the symbol of this name count as referred to.
    pub fn add_root(&mut self, name: &'a str) -> Result<(), TryReserveError> {
        let hash = Hash::of(name);
        let at = match self.find(hash, name) {
            Some(at) => at,
            None => self.push(Entry::root(name, hash))?,
        } as usize;
        if self.entries[at].strength == Strength::WeakReference {
            self.note_undefined(at as u32)?;
        }
        Ok(())
    }

    fn duplicate(&self, new: &Entry<'_>, first: u32) -> LoadError {
        let first = self.files[self.entries[first as usize].file as usize].name.text();
        let symbol = new.name.into();
        self.files[new.file as usize].error(Cause::Duplicate { symbol, first })
    }

    /// How much a symbol of this file counts. One in a discarded section refers to the copy.
    fn strength(&self, file: usize, symbol: &Symbol) -> Strength {
        let weak = symbol.binding == Binding::Weak;
        let undefined = match symbol.definition {
            Definition::Section { index, .. } => self.place(file, index).group == Group::Discarded,
            definition => definition == Definition::Undefined,
        };
        match symbol.definition {
            _ if undefined && weak => Strength::WeakReference,
            _ if undefined => Strength::Undefined,
            Definition::Common { .. } => Strength::Common,
            _ if weak => Strength::Weak,
            _ => Strength::Strong,
        }
    }

    /// Where a section of a file goes.
    pub fn place(&self, file: usize, section: usize) -> Place {
        self.places[self.files[file].first_section + section]
    }

    /// Whether a symbol of a file, if it exists, is in a section that was left out for a copy.
    pub fn is_discarded(&self, file: usize, symbol: usize) -> bool {
        let elf = &self.files[file].elf;
        symbol < elf.symbol_count()
            && match elf.definition_of(symbol) {
                Definition::Section { index, .. } => {
                    self.place(file, index).group == Group::Discarded
                }
                _ => false,
            }
    }

    /// The same for a symbol that no other file knows.
    pub fn is_discarded_local(&self, file: usize, symbol: usize) -> bool {
        self.files[file].discards
            && self.target(file, symbol) == Target::Local
            && self.is_discarded(file, symbol)
    }

    /// What a symbol of a file is in the unit.
    pub fn target(&self, file: usize, symbol: usize) -> Target {
        match self.entry_of[self.files[file].first_symbol + symbol] {
            LOCAL => Target::Local,
            entry => Target::Entry(entry as usize),
        }
    }

    /// The entry of a symbol, which is made if it is local.
    pub fn entry(&mut self, file: usize, symbol: usize) -> Result<usize, TryReserveError> {
        if let Target::Entry(entry) = self.target(file, symbol) {
            return Ok(entry);
        }
        let elf = self.files[file].elf;
        let known = elf.symbol(symbol);
        let strength = self.strength(file, &known);
        let name = elf.symbol_name(&known);
        let entry = Entry::new((name, Hash::NONE), file, symbol, &known, strength);
        let entry =
            Entry { visibility: Visibility::Hidden, common: self.add_common(&known)?, ..entry };
        self.has_indirect |= known.kind == elf::STT_GNU_IFUNC;
        self.entries.try_reserve(1)?;
        self.entries.push(entry);
        let number = self.entries.len() - 1;
        self.entry_of[self.files[file].first_symbol + symbol] = number as u32;
        Ok(number)
    }

    /// Where a file has a symbol.
    pub fn location(&self, file: usize, symbol: usize) -> Location {
        match self.files[file].elf.definition_of(symbol) {
            Definition::Absolute(value) => Location::Absolute(value),
            Definition::Section { index, offset } => Location::At(self.place(file, index), offset),
            Definition::Undefined | Definition::Common { .. } => Location::Nowhere,
        }
    }

    /// Where the unit has what an entry names.
    pub fn location_of(&self, entry: &Entry<'_>) -> Location {
        match entry.strength {
            Strength::WeakReference | Strength::Undefined => Location::Nowhere,
            Strength::Common => Location::At(self.commons[entry.common as usize].place, 0),
            _ => self.location(entry.file as usize, entry.symbol as usize),
        }
    }

    /// How many bytes what an entry names has, which the unit defines.
    pub fn size_of(&self, entry: &Entry<'_>) -> u64 {
        match self.commons.get(entry.common as usize) {
            Some(common) if entry.strength == Strength::Common => common.size,
            _ => self.files[entry.file as usize].elf.symbol(entry.symbol as usize).size,
        }
    }

    /// Whether an entry's definition is in the unit's memory, or will be.
    pub fn is_in_memory(&self, number: usize) -> bool {
        let entry = &self.entries[number];
        match self.location_of(entry) {
            Location::At(place, _) => entry.strength == Strength::Common || place.group.is_loaded(),
            _ => false,
        }
    }

    /// Whether a symbol is a thread-local variable.
    pub fn is_tls(&self, entry: &Entry<'_>) -> bool {
        entry.kind == elf::STT_TLS
    }

    /// All sections, with their files' and their own numbers.
    pub fn sections(&self) -> impl Iterator<Item = (usize, usize, Place)> {
        self.files.iter().enumerate().flat_map(|(number, file)| {
            let places = &self.places[file.first_section..][..file.elf.section_count()];
            places.iter().enumerate().map(move |(section, &place)| (number, section, place))
        })
    }
}
