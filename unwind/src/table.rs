//! Rules that were worked out beforehand: a table of the addresses at which calls return.
//!
//! ```text
//!   "UNSPFRM3" │ lengths │ first │ counts │ rules │ groups             │ rows
//!   8 bytes      2 × u32   i64     2 × u32  16 B    u32 and 8 × u8       bytes, 8 of which are 0
//!                                           each    place, lengths of     │
//!                                                   8 blocks' rows        │
//!   the rows of a block, 512 bytes of code: ◄─────────────────────────────┘
//!   │ boundaries in its lower half │ boundary … │ rule, rule …   rules take turns with "ask DWARF"
//! ```
//!
//! A cold walk reads DWARF for each frame: the CIE, the FDE and its program. With this table it
//! reads a block's place, a few bytes of rows, and a rule: boundaries are compared eight at a time. What a row of the table says is what
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

const MAGIC: [u8; 8] = *b"UNSPFRM3";
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
#[cfg(feature = "build")]
const ASK: u32 = 0;
/// The length of rows from which on there are boundaries among them; below, they are a number.
const BOUNDED: usize = 3;
/// In the first byte of rows with boundaries: numbers have two bytes. The other bits are how many
/// boundaries are less than [`HALF`], of which each has its lowest byte.
const WIDE: u8 = 0x80;
const HALF: usize = BLOCK as usize / 2;
/// Boundaries that are compared at once. So many bytes follow all rows: they may be read.
const AT_ONCE: usize = size_of::<u64>();

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
        let rows = self.rows.get(start..)?;
        let number = number_at(rows, length, (offset % u64::from(BLOCK)) as usize)?;
        // There is none before the first one, which is number 1: that is what asks.
        let rule = self.rules.get(usize::from(number).wrapping_sub(1))?;
        let (low, high) = rule.split_at(RULE / 2);
        Rule::from_table([
            u64::from_le_bytes(*chunk(low, 0)?),
            u64::from_le_bytes(*chunk(high, 0)?),
        ])
    }
}

/// Where the rows of a block of a group begin, and their length.
#[inline(always)]
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

/// The number of the rule so many bytes into a block with rows of this length, which begin here;
/// `None`: ask DWARF.
#[inline(always)]
fn number_at(rows: &[u8], length: usize, offset: usize) -> Option<u16> {
    if length < BOUNDED {
        return number(rows, length.checked_sub(1)?);
    }
    let (&first, rest) = rows.split_first()?;
    let (wide, lower) = (usize::from(first / WIDE), usize::from(first % WIDE));
    // Every other one is followed by a number, and one number is before them all.
    let count = if wide == 0 { (2 * length - 3) / 3 } else { length / 2 - 1 };
    let (start, end) = if offset < HALF { (0, lower) } else { (lower, count) };
    let passed = start + up_to(rest.get(start..)?, end.saturating_sub(start), offset as u8)?;
    // Each number holds up to a boundary after which DWARF is asked, up to the next one.
    let place = (passed % 2 == 0).then_some(passed / 2)?;
    number(rest.get(count + (place << wide)..)?, wide)
}

/// How many of these bytes, `count` of which are sorted, are at most `limit`.
#[inline(always)]
fn up_to(sorted: &[u8], count: usize, limit: u8) -> Option<usize> {
    const LOWEST: u64 = 0x0101_0101_0101_0101;
    const HIGHEST: u64 = LOWEST << 7;
    let limits = u64::from(limit) * LOWEST;
    let mut passed = 0;
    loop {
        let bytes = u64::from_le_bytes(*chunk(sorted, passed)?);
        // The first byte that is greater is the first that borrows from the next one when all are
        // subtracted; what does is seen in its highest bit.
        let borrows = !limits & bytes | !(limits ^ bytes) & limits.wrapping_sub(bytes);
        let here = (borrows & HIGHEST).trailing_zeros() as usize / 8;
        passed += here;
        if here < AT_ONCE || passed >= count {
            return Some(passed.min(count));
        }
    }
}

/// The number at the start of these bytes, which has one byte, or is `wide`.
#[inline(always)]
fn number(bytes: &[u8], wide: usize) -> Option<u16> {
    let number = u16::from_le_bytes(*chunk(bytes, 0)?);
    Some(if wide == 0 { number & 0xff } else { number })
}

#[inline(always)]
fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<&[u8; N]> {
    bytes.get(at..)?.first_chunk()
}

#[inline(always)]
fn word(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(*chunk(bytes, at)?)).ok()
}

#[cfg(all(test, feature = "build"))]
mod tests;
