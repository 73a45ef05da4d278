//! The relocations of an object, read where they lie.
//!
//! ```text
//!   SHT_RELA   │ r_offset │ r_info: symbol, type │ r_addend │ …  ──►  Relocation
//! ```
//!
//! Nothing is checked here but that there are whole entries: symbols may not exist, types may not be
//! known, places may lie outside.
#![forbid(unsafe_code)]

use object::elf::Rela64;
use object::endian::LittleEndian as LE;

use crate::error::{Cause, Field};
use crate::reloc::RelocationType;

/// The relocations of one section.
#[derive(Clone, Copy)]
pub(crate) struct RelocationTable<'a> {
    /// The number of the section that holds them.
    pub section: u32,
    /// The number of the section they apply to.
    pub target: usize,
    pub(super) entries: &'a [Rela64<LE>],
}

/// One relocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Relocation {
    /// Bytes from the start of the section it applies to.
    pub offset: u64,
    pub kind: RelocationType,
    /// The number of its symbol.
    pub symbol: usize,
    pub addend: i64,
}

impl RelocationTable<'_> {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The relocation at `index`, which must be below [`len`](Self::len). Its symbol may not exist.
    #[inline]
    pub fn get(&self, index: usize) -> Relocation {
        Relocation::new(&self.entries[index])
    }

    /// The relocations from number `next` on, which may be [`len`](Self::len).
    #[inline]
    pub fn from(&self, next: usize) -> impl Iterator<Item = Relocation> {
        self.entries[next..].iter().map(Relocation::new)
    }

    /// What to say if the symbol of a relocation does not exist.
    pub fn no_symbol(&self, index: usize) -> Cause {
        let field = Field::RelocationSymbol { section: self.section, entry: index as u32 };
        Cause::BadIndex { field, index: self.get(index).symbol as u32 }
    }
}

impl Relocation {
    #[inline]
    fn new(entry: &Rela64<LE>) -> Self {
        Self {
            offset: entry.r_offset.get(LE),
            kind: RelocationType(entry.r_type(LE, false).0),
            symbol: entry.r_sym(LE, false) as usize,
            addend: entry.r_addend.get(LE),
        }
    }
}
