//! Rules that were worked out beforehand: a table of the addresses at which calls return.
//!
//! ```text
//!   "UNSPFRM2" │ lengths │ first │ counts │ rules │ groups             │ rows
//!   8 bytes      2 × u32   i64     2 × u32  16 B    u32 and 8 × u8       bytes
//!                                           each    place, lengths of     │
//!                                                   8 blocks' rows        │
//!   the rows of a block, 512 bytes of code: rule │ boundary, rule │ … ◄───┘
//! ```
//!
//! A cold walk reads DWARF for each frame: the CIE, the FDE and its program. With this table it
//! reads a block's place, a few bytes of rows, and a rule. What a row of the table says is what
//! DWARF says, for interrupted instructions as well; where the table has none (code that calls
//! nothing, as prologues and epilogues, and rows that do not fit a [`Rule`]) DWARF is asked. That
//! is how it stays below a fifth of `.eh_frame`. It is only for walking: what a function's LSDA and
//! personality are, the raise of an exception asks the FDE.
//!
//! All numbers are little-endian and unaligned, and addresses relative to `.eh_frame`, so that a
//! table is a constant of the linked file. The build makes it (feature `build`); it is read in place,
//! every offset checked: a damaged table gives wrong rules or none, and never faults or loops.
#![forbid(unsafe_code)]

use core::fmt;
use core::ops::Range;

use crate::module::Section;
use crate::rule::Rule;

#[cfg(feature = "build")]
mod build;
#[cfg(feature = "build")]
mod code;

#[cfg(feature = "build")]
pub use build::{BuildError, build};

const MAGIC: [u8; 8] = *b"UNSPFRM2";
/// Where the numbers of the header stand.
const LENGTH: usize = 8;
const EH_FRAME_LENGTH: usize = 12;
const FIRST: usize = 16;
const BLOCKS: usize = 24;
const RULES: usize = 28;
const HEADER: usize = 32;

/// Bytes of a rule: its two words.
const RULE: usize = 16;
/// Bytes of a group's place among the rows.
const PLACE: usize = 4;
/// Blocks of a group: each has a byte for the length of its rows.
const BLOCKS_OF_GROUP: usize = 8;
const GROUP: usize = PLACE + BLOCKS_OF_GROUP;
/// The logarithm of how many bytes of code a block is for.
const SHIFT: u32 = 9;
const BLOCK: u32 = 1 << SHIFT;

/// Stands for "ask DWARF"; rule `n` of the table is number `n + 1`.
const ASK: u32 = 0;
/// Numbers from here on take two bytes.
const LONG: u32 = 0xf0;
/// The greatest number that two bytes can say.
#[cfg(feature = "build")]
const MOST: u32 = LONG + 0xfff;

/// How many bytes tell the length of a table, see [`FrameTable::length`].
pub const PLACEHOLDER: usize = HEADER;

/// Why bytes are not a table of frames, or not the one of this module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableError {
    /// Nothing but zeros: the build put none in.
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
    /// It was made from another `.eh_frame`.
    OtherFrames {
        /// The length of the one it was made from, in bytes.
        made_from: usize,
        /// The length of the module's.
        module: usize,
    },
}

impl fmt::Display for TableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("the build put no table of frames into the image"),
            Self::BadMagic => f.write_str("not a table of frames"),
            Self::Truncated { needed, available } => {
                write!(f, "the table of frames has {needed} bytes, of which {available} are there")
            }
            Self::Inconsistent => f.write_str("the table of frames' counts do not fit its length"),
            Self::OtherFrames { made_from, module } => write!(
                f,
                "the table of frames is of another .eh_frame: of one of {made_from} bytes, not \
                 {module}"
            ),
        }
    }
}

impl core::error::Error for TableError {}

/// A table of frames, read in place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FrameTable<'t> {
    bytes: &'t [u8],
}

impl fmt::Debug for FrameTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameTable").field("length", &self.bytes.len()).finish()
    }
}

impl<'t> FrameTable<'t> {
    /// No table: it has a rule for no address.
    pub const NONE: Self = Self { bytes: &[] };

    /// How long the table is that begins with this header, in bytes.
    ///
    /// # Errors
    ///
    /// [`TableError::Absent`] if the header is all zeros, [`TableError::BadMagic`] if it is
    /// something else.
    pub fn length(header: &[u8; PLACEHOLDER]) -> Result<usize, TableError> {
        if header.iter().all(|&byte| byte == 0) {
            return Err(TableError::Absent);
        }
        if header[..MAGIC.len()] != MAGIC {
            return Err(TableError::BadMagic);
        }
        word(header, LENGTH).ok_or(TableError::Inconsistent)
    }

    /// Reads the table at the start of `bytes`, which was made from `eh_frame`.
    ///
    /// # Errors
    ///
    /// Says what is wrong with it.
    pub fn parse(bytes: &'t [u8], eh_frame: &Section<'_>) -> Result<Self, TableError> {
        let available = bytes.len();
        let header =
            bytes.first_chunk().ok_or(TableError::Truncated { needed: HEADER, available })?;
        let needed = Self::length(header)?;
        let bytes = bytes.get(..needed).ok_or(TableError::Truncated { needed, available })?;
        let table = Self { bytes };
        table.reader(0..0, 0).ok_or(TableError::Inconsistent)?;
        let made_from = word(header, EH_FRAME_LENGTH).ok_or(TableError::Inconsistent)?;
        let module = eh_frame.data.len();
        if made_from != module {
            return Err(TableError::OtherFrames { made_from, module });
        }
        Ok(table)
    }

    /// The bytes of a table that was parsed before.
    pub(crate) const fn from_bytes(bytes: &'t [u8]) -> Self {
        Self { bytes }
    }

    /// The whole table.
    pub const fn bytes(&self) -> &'t [u8] {
        self.bytes
    }

    /// How many rules it has.
    pub fn rules(&self) -> usize {
        word(self.bytes, RULES).unwrap_or(0)
    }

    /// To be asked for addresses in `text`, where `.eh_frame` lies at `eh_frame`; `None` if it is
    /// empty, or damaged.
    #[inline]
    pub fn reader(&self, text: Range<u64>, eh_frame: u64) -> Option<Reader<'t>> {
        let (header, rest) = self.bytes.split_first_chunk::<HEADER>()?;
        let (rules, rest) = rest.split_at_checked(word(header, RULES)?.checked_mul(RULE)?)?;
        let blocks = word(header, BLOCKS)?;
        let groups = blocks.div_ceil(BLOCKS_OF_GROUP);
        let (groups, rows) = rest.split_at_checked(groups.checked_mul(GROUP)?)?;
        let first = eh_frame.wrapping_add(u64::from_le_bytes(*chunk(header, FIRST)?));
        let (rules, groups) = (rules.as_chunks().0, groups.as_chunks().0);
        Some(Reader { text: (text.start, text.end), first, blocks, rules, groups, rows })
    }

    /// The rule at `address`, where `.eh_frame` lies at `eh_frame`; `None`: ask DWARF.
    #[inline]
    pub fn rule(&self, address: u64, eh_frame: u64) -> Option<Rule> {
        self.reader(0..u64::MAX, eh_frame)?.rule(address)
    }
}

/// The parts of a table, found once for many addresses.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'t> {
    text: (u64, u64),
    /// The first address that it has a rule for.
    first: u64,
    blocks: usize,
    rules: &'t [[u8; RULE]],
    groups: &'t [[u8; GROUP]],
    rows: &'t [u8],
}

impl Reader<'_> {
    /// Whether it is the one to be asked for this address.
    #[inline(always)]
    pub const fn covers(&self, address: u64) -> bool {
        self.text.0 <= address && address < self.text.1
    }

    /// The rule at `address`; `None`: ask DWARF.
    #[inline]
    pub fn rule(&self, address: u64) -> Option<Rule> {
        let offset = address.wrapping_sub(self.first);
        let block = usize::try_from(offset >> SHIFT).ok().filter(|&block| block < self.blocks)?;
        let group = self.groups.get(block / BLOCKS_OF_GROUP)?;
        let (start, length) = rows_of(group, block % BLOCKS_OF_GROUP)?;
        let rows = self.rows.get(start..)?.get(..length)?;
        let number = number_at(rows, (offset % u64::from(BLOCK)) as usize)?;
        // There is none before the first one, which is number 1: that is what asks.
        let rule = self.rules.get((number as usize).wrapping_sub(1))?;
        let (low, high) = (chunk(rule, 0)?, chunk(rule, RULE / 2)?);
        Rule::from_table([u64::from_le_bytes(*low), u64::from_le_bytes(*high)])
    }
}

/// Where the rows of a block of a group begin, and their length.
#[inline]
fn rows_of(group: &[u8; GROUP], block: usize) -> Option<(usize, usize)> {
    /// Every other byte of a word.
    const EVEN: u64 = 0x00ff_00ff_00ff_00ff;
    let lengths = u64::from_le_bytes(*chunk(group, PLACE)?);
    let before = lengths & ((1 << (8 * block)) - 1);
    // The sum of the bytes: four lanes of 16 bits, which a product adds up in its highest lane.
    let lanes = (before & EVEN) + (before >> 8 & EVEN);
    let sum = lanes.wrapping_mul(0x0001_0001_0001_0001) >> 48;
    let length = (lengths >> (8 * block)) as u8;
    Some((word(group, 0)?.checked_add(sum as usize)?, length.into()))
}

/// The number of the rule so many bytes into a block with these rows.
#[inline]
fn number_at(rows: &[u8], offset: usize) -> Option<u32> {
    // Of the number that holds where the search is; blocks without any rule have no bytes.
    let (mut at, mut asks) = (0, false);
    let mut next = after_number(*rows.first()?, at);
    let mut left = offset;
    while let Some(&low) = rows.get(next) {
        let mut step = usize::from(low);
        let mut after = next + 1;
        if low >= 0x80 {
            step = step & 0x7f | usize::from(*rows.get(after)?) << 7;
            after += 1;
        }
        match left.checked_sub(step >> 1) {
            Some(rest) => left = rest,
            None => break,
        }
        asks = step & 1 == 1;
        if !asks {
            at = after;
            after = after_number(*rows.get(after)?, at);
        }
        next = after;
    }
    if asks { Some(ASK) } else { number(rows.get(at..)?) }
}

/// What follows the number at `at` that begins with this byte.
#[inline(always)]
fn after_number(byte: u8, at: usize) -> usize {
    at + 1 + usize::from(u32::from(byte) >= LONG)
}

/// The number of a rule at the start of these bytes.
#[inline(always)]
fn number(bytes: &[u8]) -> Option<u32> {
    match *bytes {
        [byte, ..] if u32::from(byte) < LONG => Some(byte.into()),
        [high, low, ..] => Some(LONG + ((u32::from(high) - LONG) << 8 | u32::from(low))),
        _ => None,
    }
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<&[u8; N]> {
    bytes.get(at..)?.first_chunk()
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(*chunk(bytes, at)?)).ok()
}

#[cfg(all(test, feature = "build"))]
mod tests;
