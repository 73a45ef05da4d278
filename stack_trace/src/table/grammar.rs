//! How names are packed: as tokens, each of which stands for a character or for two other tokens.
//!
//! ```text
//!   tokens   │ 'a' │ 'b' │ … │ (0, 9) │ (0, 31) │ (1, 7) │ …   by their first token
//!   first      a one for each rule, a zero for each step of its first token:  1 1 0 1 …
//!   second     twelve bits each
//!   name     │ 0 c │ 4 1 7 │ … │        nibbles: two for the most used 16 tokens, else three
//!               └► common[c] ─► (0, 9) ─► …
//! ```
//!
//! N. J. Larsson and A. Moffat, "Off-line dictionary-based compression" (Re-Pair), 1999; P. Elias,
//! "Efficient storage and retrieval by content and address of static files", 1974, for the first tokens,
//! which never decrease. A stack of [`DEPTH`] tokens unpacks any name; the build makes no rule that is
//! deeper, and where one is nevertheless, the name ends.
#![forbid(unsafe_code)]

#[cfg(feature = "build")]
use alloc::vec::Vec;

/// How deep rules are nested at most.
pub(crate) const DEPTH: usize = 24;
/// Tokens of two nibbles, the first of which is zero.
pub(crate) const COMMON: usize = 16;
/// All tokens there can be: three nibbles, the first of which is not zero.
#[cfg(feature = "build")]
pub(crate) const MOST: usize = 15 * 256;
/// Where the rules' ones begin is noted for every so many of them.
pub(crate) const SAMPLE: usize = 16;
/// Counts of characters and rules, and the common tokens, two bytes each.
const HEADER: usize = 2 + 2 + 2 * COMMON;
/// No name is longer; a damaged table may have rules that go in circles.
const LONGEST: u16 = u16::MAX;

/// The tokens, read in place.
#[derive(Clone, Copy, Default)]
struct Rules<'a> {
    common: &'a [u8],
    characters: &'a [u8],
    /// Where ones are among `firsts`, two bytes each.
    samples: &'a [u8],
    seconds: &'a [u8],
    /// Bits, and seven bytes more: they are read eight at a time.
    firsts: &'a [u8],
}

impl<'a> Rules<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, rest) = bytes.split_at_checked(HEADER)?;
        let (characters, rules) = (half(header, 0)?, usize::from(half(header, 1)?));
        let (characters, rest) = rest.split_at_checked(characters.into())?;
        let (samples, rest) = rest.split_at_checked(rules.div_ceil(SAMPLE) * 2)?;
        let (seconds, firsts) = rest.split_at_checked(seconds_size(rules))?;
        Some(Self { common: &header[4..], characters, samples, seconds, firsts })
    }

    /// The two tokens of a rule.
    fn pair(&self, rule: u16) -> Option<(u16, u16)> {
        let at = usize::from(rule);
        let second = u16::from_le_bytes(*self.seconds.get(at * 3 / 2..)?.first_chunk()?);
        let second = if at % 2 == 0 { second & 0xfff } else { second >> 4 };
        Some((self.one(at)?.checked_sub(rule)?, second))
    }

    /// Where the one of a rule is.
    fn one(&self, rule: usize) -> Option<u16> {
        let mut at = usize::from(half(self.samples, rule / SAMPLE)?);
        let mut skipped = rule % SAMPLE;
        loop {
            let word = u64::from_le_bytes(*self.firsts.get(at / 8..)?.first_chunk()?);
            let mut word = word >> (at % 8) << (at % 8);
            at = at / 8 * 8;
            match skipped.checked_sub(word.count_ones() as usize) {
                Some(left) => skipped = left,
                None => {
                    (0..skipped).for_each(|_| word &= word - 1);
                    return u16::try_from(at + word.trailing_zeros() as usize).ok();
                }
            }
            at += u64::BITS as usize;
        }
    }
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(2 * at..)?.first_chunk()?))
}

/// Bytes of so many rules' second tokens.
const fn seconds_size(rules: usize) -> usize {
    (rules * 3).div_ceil(2)
}

/// Unpacks a name, byte by byte.
pub struct Unpack<'a> {
    rules: Rules<'a>,
    tokens: &'a [u8],
    /// The nibble of `tokens` that is next.
    at: u32,
    /// What is still to be unpacked before the next token.
    stack: [u16; DEPTH],
    depth: u8,
    left: u16,
}

impl<'a> Unpack<'a> {
    pub(crate) fn new(rules: &'a [u8], tokens: &'a [u8]) -> Self {
        let rules = Rules::parse(rules).unwrap_or_default();
        Self { rules, tokens, at: 0, stack: [0; DEPTH], depth: 0, left: LONGEST }
    }

    fn token(&mut self) -> Option<u16> {
        if self.depth > 0 {
            self.depth -= 1;
            return self.stack.get(usize::from(self.depth)).copied();
        }
        let first = self.nibble()?;
        // One alone fills the last byte.
        let second = self.nibble()?;
        match first.checked_sub(1) {
            None => half(self.rules.common, second.into()),
            Some(high) => Some(high << 8 | second << 4 | self.nibble()?),
        }
    }

    fn nibble(&mut self) -> Option<u16> {
        let byte = *self.tokens.get(self.at as usize / 2)?;
        self.at += 1;
        Some(u16::from(if self.at % 2 == 1 { byte & 0xf } else { byte >> 4 }))
    }
}

impl Iterator for Unpack<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        self.left = self.left.checked_sub(1)?;
        let mut token = self.token()?;
        loop {
            let characters = self.rules.characters;
            if let Some(&character) = characters.get(usize::from(token)) {
                return Some(character);
            }
            let (first, second) = self.rules.pair(token - characters.len() as u16)?;
            *self.stack.get_mut(usize::from(self.depth))? = second;
            self.depth += 1;
            token = first;
        }
    }
}

/// A token as it is stored, a nibble a byte here.
#[cfg(feature = "build")]
pub(crate) fn nibbles(token: u16, common: &[u16]) -> impl Iterator<Item = u8> {
    let (count, bits) = match common.iter().position(|&each| each == token) {
        Some(at) => (2, at as u16),
        None => (3, token + 0x100),
    };
    (0..count).rev().map(move |nibble| (bits >> (4 * nibble) & 0xf) as u8)
}

/// The tokens as they are stored: the most used ones, characters, and rules, by their first token.
#[cfg(feature = "build")]
pub(crate) fn stored(common: &[u16], characters: &[u8], rules: &[(u16, u16)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut common = [common, &[0; COMMON]].concat();
    common.truncate(COMMON);
    for half in [characters.len() as u16, rules.len() as u16].into_iter().chain(common) {
        bytes.extend(half.to_le_bytes());
    }
    bytes.extend(characters);
    let ones = rules.iter().enumerate().map(|(at, &(first, _))| at + usize::from(first));
    ones.clone().step_by(SAMPLE).for_each(|one| bytes.extend((one as u16).to_le_bytes()));
    let at = bytes.len();
    bytes.resize(at + seconds_size(rules.len()), 0);
    for (rule, &(_, second)) in rules.iter().enumerate() {
        let pair = (second << (rule % 2 * 4)).to_le_bytes();
        bytes[at + rule * 3 / 2..].iter_mut().zip(pair).for_each(|(to, from)| *to |= from);
    }
    let at = bytes.len();
    let bits = ones.clone().next_back().map_or(0, |last| last + 1);
    bytes.resize(at + bits.div_ceil(8) + size_of::<u64>() - 1, 0);
    ones.for_each(|one| bytes[at + one / 8] |= 1 << (one % 8));
    bytes
}
