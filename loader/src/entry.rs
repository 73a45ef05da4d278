//! What the files of a set say of one name.
//!
//! ```text
//!   extern int x __attribute__((weak))   weak reference  ┐
//!   extern int x                         undefined       │  the strongest counts;
//!   int x __attribute__((weak)) = 1      weak            │  of equals the first, but:
//!   int x         (-fcommon)             common          │   common ones are as large as the largest
//!   int x = 1                            strong          ┘   strong ones are an error
//! ```
#![forbid(unsafe_code)]

use object::elf;

use crate::elf::{Binding, Definition, Symbol, Visibility};
use crate::got::SlotNumber;
use crate::placement::{Group, Place};
use crate::reloc::Wants;
use crate::symbols::Value;
use crate::table::Hash;

/// How much a file knows of a name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Strength {
    /// Refers to it, and takes 0 if there is none.
    WeakReference,
    /// Refers to it.
    Undefined,
    /// Defines it, unless others do.
    Weak,
    /// Has a tentative definition of it.
    Common,
    /// Defines it.
    Strong,
}

/// A name, and what is known of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    /// Empty for a local symbol that has none.
    pub name: &'a str,
    pub hash: Hash,
    /// The file and the number of the symbol that counts.
    pub file: u32,
    pub symbol: u32,
    pub strength: Strength,
    /// Whether others can see it, and theirs may be used instead.
    pub visibility: Visibility,
    /// Whether it is the symbol of one file alone.
    pub local: bool,
    pub kind: elf::SymbolType,
    /// The number of its tentative definition, if it is one.
    pub common: u32,
    /// What the relocations want of it.
    pub wants: Wants,
    /// Whether there are general dynamic accesses to it.
    pub by_call: bool,
    /// The number of its slots, if it has any.
    pub slots: SlotNumber,
    /// Whether that was noted.
    pub has_slots: bool,
    /// Whether `value` is what it means elsewhere: in an earlier object, or in the program.
    pub elsewhere: bool,
    /// What it means, as soon as that is known.
    pub value: Value,
}

/// A tentative definition (gABI, `SHN_COMMON`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Common {
    /// Bytes.
    pub size: u64,
    pub align: u64,
    /// Where it goes, if nobody has made it definite.
    pub place: Place,
}

impl Common {
    /// What a symbol asks for, if it is one.
    pub fn of(symbol: &Symbol) -> Option<Self> {
        let Definition::Common { align } = symbol.definition else { return None };
        let place = Place { group: Group::Skipped, offset: 0 };
        Some(Self { size: symbol.size, align, place })
    }

    /// Grows to hold another one.
    pub fn widen(&mut self, other: &Self) {
        self.size = self.size.max(other.size);
        self.align = self.align.max(other.align);
    }
}

// There are many, and every step of a load walks them: a cache line each.
const _: () = assert!(size_of::<Entry<'_>>() <= 64);

impl<'a> Entry<'a> {
    /// What one symbol says.
    pub fn new(
        (name, hash): (&'a str, Hash),
        file: usize,
        number: usize,
        symbol: &Symbol,
        strength: Strength,
    ) -> Self {
        Self {
            name,
            file: file as u32,
            symbol: number as u32,
            strength,
            visibility: symbol.visibility,
            local: symbol.binding == Binding::Local,
            kind: symbol.kind,
            ..Self::root(name, hash)
        }
    }

    /// A name that no file says anything of.
    pub fn root(name: &'a str, hash: Hash) -> Self {
        Self {
            name,
            hash,
            file: u32::MAX,
            symbol: u32::MAX,
            strength: Strength::WeakReference,
            visibility: Visibility::Default,
            local: false,
            kind: elf::STT_NOTYPE,
            common: u32::MAX,
            wants: Wants::Nothing,
            by_call: false,
            slots: SlotNumber::NONE,
            has_slots: false,
            elsewhere: false,
            value: Value::ZERO,
        }
    }

    /// Takes what a stronger symbol says.
    pub fn replace(&mut self, stronger: &Self) {
        let visibility = self.visibility.max(stronger.visibility);
        *self = Self { visibility, ..*stronger };
    }

    /// Takes what it means elsewhere; whether it does.
    pub fn resolve(&mut self, elsewhere: Option<Value>) -> bool {
        if let Some(value) = elsewhere {
            (self.elsewhere, self.value) = (true, value);
        }
        self.elsewhere
    }

    /// Whether the files define it.
    pub fn is_defined(&self) -> bool {
        self.strength >= Strength::Weak
    }

    /// Whether others can see it.
    pub fn is_offered(&self) -> bool {
        self.is_defined() && self.visibility < Visibility::Hidden && !self.local
    }

    /// Whether it may turn out to mean something of another object or of the program.
    pub fn may_be_elsewhere(&self) -> bool {
        !self.is_defined() || self.yields()
    }

    /// Whether definitions that were there before count more.
    pub fn yields(&self) -> bool {
        self.strength == Strength::Weak && self.visibility == Visibility::Default && !self.local
    }
}
