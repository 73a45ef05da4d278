//! The symbol table that a program carries in its image.
//!
//! ```text
//!   "UNSPSYM1" │ length │ counts │ records, by address │ code │ by name │ names …
//!   8 bytes      u32      3 × u32  24 bytes each         u32s   u32s      u16 length, bytes
//! ```
//!
//! All numbers are little-endian and unaligned. The build writes the table from the linked ELF
//! file's `.symtab` (feature `build`); the program only reads it, in place, checking every offset, so that
//! a damaged table yields no names rather than wrong memory.
#![forbid(unsafe_code)]

use core::fmt;

use crate::symbolize::{Symbol, Symbolize};

#[cfg(feature = "build")]
pub use build::{Entry, build};

const MAGIC: [u8; 8] = *b"UNSPSYM1";
/// Magic, length, and the counts of records, code symbols and names.
const HEADER: usize = 8 + 4 * size_of::<u32>();
/// Address, size, offset of the name.
const RECORD: usize = 8 + 8 + 4 + 4;

/// How many bytes a program reserves for the header before its build has written the table.
pub const PLACEHOLDER: usize = HEADER;

/// Why bytes are not a symbol table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableError {
    /// The build put none in.
    Absent,
    /// It does not begin with the magic.
    BadMagic,
    /// It is longer than the bytes given.
    Truncated {
        /// What its header says, in bytes.
        needed: usize,
        /// What there is.
        available: usize,
    },
    /// Its counts do not fit its length.
    Inconsistent,
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("the build put no symbol table into the image"),
            Self::BadMagic => f.write_str("not a symbol table"),
            Self::Truncated { needed, available } => {
                write!(f, "the symbol table has {needed} bytes, of which {available} are there")
            }
            Self::Inconsistent => f.write_str("the symbol table's counts do not fit its length"),
        }
    }
}

impl core::error::Error for TableError {}

/// A table, read in place.
#[derive(Clone, Copy)]
pub struct SymbolTable<'a> {
    records: &'a [u8],
    code: &'a [u8],
    by_name: &'a [u8],
    names: &'a [u8],
}

impl<'a> SymbolTable<'a> {
    /// How long the table is that begins with this header, in bytes.
    ///
    /// # Errors
    ///
    /// [`TableError::Absent`] if the header is still the placeholder, [`TableError::BadMagic`] if
    /// it is something else.
    pub fn length(header: &[u8; PLACEHOLDER]) -> Result<usize, TableError> {
        if header.iter().all(|&byte| byte == 0) {
            return Err(TableError::Absent);
        }
        if header[..MAGIC.len()] != MAGIC {
            return Err(TableError::BadMagic);
        }
        word(header, 8).ok_or(TableError::Inconsistent)
    }

    /// Reads the table at the start of `bytes`.
    ///
    /// # Errors
    ///
    /// Says what is wrong with it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TableError> {
        let available = bytes.len();
        let header =
            bytes.first_chunk().ok_or(TableError::Truncated { needed: PLACEHOLDER, available })?;
        let needed = Self::length(header)?;
        let bytes = bytes.get(..needed).ok_or(TableError::Truncated { needed, available })?;
        let count = |at| word(bytes, at).ok_or(TableError::Inconsistent);
        let (records, code, names) = (count(12)?, count(16)?, count(20)?);
        let mut rest = bytes.get(HEADER..).ok_or(TableError::Inconsistent)?;
        let mut take = |count: usize, size: usize| {
            let length = count.checked_mul(size)?;
            let (taken, left) = rest.split_at_checked(length)?;
            rest = left;
            Some(taken)
        };
        let mut part = |count, size| take(count, size).ok_or(TableError::Inconsistent);
        let (records, code, by_name) = (part(records, RECORD)?, part(code, 4)?, part(names, 4)?);
        Ok(Self { records, code, by_name, names: rest })
    }

    /// The symbol of this name: a function or a variable, global or the only local one.
    pub fn by_name(&self, name: &str) -> Option<Symbol<'a>> {
        let at = partition(self.by_name, |symbol| symbol.name < name, |index| self.record(index));
        self.indexed(self.by_name, at).filter(|symbol| symbol.name == name)
    }

    /// How many symbols there are.
    pub const fn len(&self) -> usize {
        self.records.len() / RECORD
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    fn indexed(&self, list: &'a [u8], at: usize) -> Option<Symbol<'a>> {
        self.record(word(list, at.checked_mul(4)?)?)
    }

    fn record(&self, index: usize) -> Option<Symbol<'a>> {
        let record = self.records.get(index.checked_mul(RECORD)?..)?.get(..RECORD)?;
        let offset = word(record, 16)?;
        let length = u16::from_le_bytes(*self.names.get(offset..)?.first_chunk()?);
        let name = self.names.get(offset + 2..)?.get(..usize::from(length))?;
        Some(Symbol {
            name: core::str::from_utf8(name).ok()?,
            address: u64::from_le_bytes(*record.first_chunk()?),
            size: u64::from_le_bytes(*record.get(8..)?.first_chunk()?),
        })
    }
}

impl Symbolize for SymbolTable<'_> {
    fn symbolize(&self, address: u64) -> Option<Symbol<'_>> {
        let after =
            partition(self.code, |symbol| symbol.address <= address, |index| self.record(index));
        let symbol = self.indexed(self.code, after.checked_sub(1)?)?;
        // Hand-written assembly may lack a size: it reaches to the next symbol.
        (symbol.size == 0 || address - symbol.address < symbol.size).then_some(symbol)
    }
}

/// The first place in a sorted list of record numbers whose symbol is not `before`.
fn partition<'a>(
    list: &[u8],
    before: impl Fn(&Symbol<'a>) -> bool,
    record: impl Fn(usize) -> Option<Symbol<'a>>,
) -> usize {
    let (mut low, mut high) = (0, list.len() / 4);
    while low < high {
        let middle = low.midpoint(high);
        if word(list, middle * 4).and_then(&record).is_some_and(|symbol| before(&symbol)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let word = u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?);
    usize::try_from(word).ok()
}

#[cfg(feature = "build")]
mod build;
#[cfg(all(test, feature = "build"))]
mod tests;
