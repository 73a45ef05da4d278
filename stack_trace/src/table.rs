//! The symbol table that a program carries in its image.
//!
//! ```text
//!   "UNSPSYM4" │ length │ counts │ base │ rules │ blocks           │ by name │ symbols …
//!   8 bytes      u32      3 × u32  u64            u32 u32, one for   hashed    address, size,
//!                                                 16 symbols         numbers   packed name
//! ```
//!
//! Symbols stand by address, each relative to the end of the one before it, and names are packed by
//! rules: the table takes a seventh of `.symtab` and `.strtab`. All numbers are little-endian and
//! unaligned. The build writes the table from the linked ELF file's `.symtab` (feature `build`); the
//! program only reads it, in place, checking every offset, so that a damaged table yields no names
//! rather than wrong memory.
#![forbid(unsafe_code)]

use core::fmt;

use crate::name::Name;
use crate::symbolize::{Symbol, Symbolize};

#[cfg(feature = "build")]
pub use build::{Entry, build};
pub(crate) use grammar::Unpack;

const MAGIC: [u8; 8] = *b"UNSPSYM4";
/// Magic, length, and the counts of symbols, bytes of rules and places in the hash table.
const HEADER: usize = 8 + 4 * size_of::<u32>();
/// Address relative to the base, offset of the first symbol.
const BLOCK: usize = 4 + 4;
/// Symbols of a block.
const TOGETHER: usize = 16;
/// Where symbols start mostly.
const ALIGN: u64 = 16;

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
    base: u64,
    count: usize,
    rules: &'a [u8],
    blocks: &'a [u8],
    /// How many places the hash table has.
    places: usize,
    by_name: &'a [u8],
    symbols: &'a [u8],
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
        Self::parts(bytes).ok_or(TableError::Inconsistent)
    }

    fn parts(bytes: &'a [u8]) -> Option<Self> {
        let (count, rules, places) = (word(bytes, 12)?, word(bytes, 16)?, word(bytes, 20)?);
        let mut rest = bytes.get(HEADER..)?;
        let mut take = |count: usize, size: usize| {
            let (taken, left) = rest.split_at_checked(count.checked_mul(size)?)?;
            rest = left;
            Some(taken)
        };
        let base = u64::from_le_bytes(*take(1, size_of::<u64>())?.first_chunk()?);
        let rules = take(rules, 1)?;
        let blocks = take(count.div_ceil(TOGETHER), BLOCK)?;
        let by_name = take(places_size(places, place_bits(count))?, 1)?;
        Some(Self { base, count, rules, blocks, places, by_name, symbols: rest })
    }

    /// The symbol of this name: a function or a variable, global or the only local one.
    pub fn by_name(&self, name: &str) -> Option<Symbol<'a>> {
        let bits = place_bits(self.count);
        let first = (hash(name) as usize).checked_rem(self.places)?;
        for place in (first..self.places).chain(0..first) {
            // Zero: nobody is here, and so nobody further on.
            let number = place_at(self.by_name, place, bits)?.checked_sub(1)?;
            let found = self.block(number / TOGETHER)?.nth(number % TOGETHER)?;
            if found.name == *name {
                return Some(self.symbol(&found));
            }
        }
        None
    }

    /// How many symbols there are.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn symbol(&self, of: &Stored<'a>) -> Symbol<'a> {
        Symbol { name: of.name, address: of.address, size: of.size }
    }

    /// The symbols of a block.
    fn block(&self, number: usize) -> Option<impl Iterator<Item = Stored<'a>> + use<'a>> {
        let mut end = self.block_start(number)?;
        let at = word(self.blocks, number * BLOCK + 4)?;
        let (mut bytes, rules) = (self.symbols.get(at..)?, self.rules);
        let count = self.count.checked_sub(number * TOGETHER)?.min(TOGETHER);
        Some((0..count).map_while(move |_| {
            let stored = Stored::read(&mut bytes, rules, end)?;
            end = stored.address.wrapping_add(stored.size);
            Some(stored)
        }))
    }

    fn block_start(&self, number: usize) -> Option<u64> {
        Some(self.base.wrapping_add(word(self.blocks, number * BLOCK)? as u64))
    }

    /// The last code symbol of a block at or below `address`.
    fn code_in(&self, block: usize, address: u64) -> Option<Stored<'a>> {
        let below = self.block(block)?.take_while(|stored| stored.address <= address);
        below.filter(|stored| stored.code).last()
    }
}

impl Symbolize for SymbolTable<'_> {
    fn symbolize(&self, address: u64) -> Option<Symbol<'_>> {
        let (mut low, mut high) = (0, self.blocks.len() / BLOCK);
        while low < high {
            let middle = low.midpoint(high);
            if self.block_start(middle)? <= address { low = middle + 1 } else { high = middle }
        }
        // A block may begin with variables, or have none but these.
        let found = (0..low).rev().find_map(|block| self.code_in(block, address))?;
        // Hand-written assembly may lack a size: it reaches to the next symbol.
        let inside = found.size == 0 || address - found.address < found.size;
        inside.then(|| self.symbol(&found))
    }
}

/// A symbol as it was read.
struct Stored<'a> {
    address: u64,
    size: u64,
    /// Whether addresses are named by it.
    code: bool,
    name: Name<'a>,
}

impl<'a> Stored<'a> {
    /// Reads the symbol at the start of `bytes`, and moves on; the one before it has its end at
    /// `end`.
    fn read(bytes: &mut &'a [u8], rules: &'a [u8], end: u64) -> Option<Self> {
        let flags = number(bytes)?;
        let address = match flags & 2 {
            0 => {
                let distance = number(bytes)?;
                // Zigzag: symbols may lie in others.
                end.wrapping_add((distance >> 1) ^ (distance & 1).wrapping_neg())
            }
            // As compilers align functions.
            _ => end.checked_next_multiple_of(ALIGN)?,
        };
        let length = usize::try_from(number(bytes)?).ok()?;
        let (tokens, rest) = bytes.split_at_checked(length)?;
        *bytes = rest;
        Some(Self {
            address,
            size: flags >> 2,
            code: flags & 1 != 0,
            name: Name::packed(rules, tokens),
        })
    }
}

/// Reads seven bits a byte, the lowest first (LEB128, DWARF 5 §7.6).
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..u64::BITS).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// Bits of a place in the hash table: a symbol's number and one, or zero.
const fn place_bits(symbols: usize) -> u32 {
    usize::BITS - symbols.leading_zeros()
}

/// Bytes of so many places, and of what a place is read with at once.
fn places_size(places: usize, bits: u32) -> Option<usize> {
    places.checked_mul(bits as usize)?.div_ceil(8).checked_add(size_of::<u64>() - 1)
}

/// What stands in a place, the lowest bit first. Numbers have 32 bits, and begin within a byte.
fn place_at(places: &[u8], place: usize, bits: u32) -> Option<usize> {
    let at = place.checked_mul(bits as usize)?;
    let word = u64::from_le_bytes(*places.get(at / 8..)?.first_chunk()?);
    usize::try_from(word >> (at % 8) & !(u64::MAX << bits)).ok()
}

/// Where a name's place is looked for (FNV-1a).
fn hash(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    let word = u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?);
    usize::try_from(word).ok()
}

#[cfg(feature = "build")]
mod build;
mod grammar;
#[cfg(all(test, feature = "build"))]
mod tests;
