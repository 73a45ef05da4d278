//! How names are packed: as tokens, each of which stands for a character or for two other tokens.
//!
//! ```text
//!   rules   │ 'a' │ … │ (4, 9) │ (12, 7) │ …      three bytes each, the most used first
//!   name    │ 0 c │ 4 1 7 │ … │                   nibbles: two for the first 16 rules, else three
//!              └► (4, 9) ─► …
//! ```
//!
//! N. J. Larsson and A. Moffat, "Off-line dictionary-based compression" (Re-Pair), 1999. A stack of
//! [`DEPTH`] tokens unpacks any name; the build makes no rule that is deeper, and where one is
//! nevertheless, the name ends.
#![forbid(unsafe_code)]

/// How deep rules are nested at most.
pub(crate) const DEPTH: usize = 24;
/// First nibbles of the tokens that have two.
const SHORT: u16 = 1;
/// Tokens of two nibbles.
const SHORT_TOKENS: u16 = SHORT << 4;
/// All tokens there can be; in a rule there are twelve bits for one.
#[cfg(feature = "build")]
pub(crate) const MOST: usize = SHORT_TOKENS as usize + (16 - SHORT as usize) * 256;
/// Bytes of a rule: two tokens, little-endian.
pub(crate) const RULE: usize = 3;
/// In place of a rule's first token: the second is a character.
pub(crate) const CHARACTER: u16 = 0xfff;
/// No name is longer; a damaged table may have rules that go in circles.
const LONGEST: u16 = u16::MAX;

/// Unpacks a name, byte by byte.
pub struct Unpack<'a> {
    rules: &'a [u8],
    tokens: &'a [u8],
    /// The nibble of `tokens` that is next.
    at: u32,
    /// What is still to be unpacked before the next token.
    stack: [u16; DEPTH],
    depth: u8,
    left: u16,
}

impl<'a> Unpack<'a> {
    pub(crate) const fn new(rules: &'a [u8], tokens: &'a [u8]) -> Self {
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
        match first.checked_sub(SHORT) {
            None => Some(first << 4 | second),
            Some(high) => Some(SHORT_TOKENS + (high << 8 | second << 4 | self.nibble()?)),
        }
    }

    fn nibble(&mut self) -> Option<u16> {
        let byte = *self.tokens.get(self.at as usize / 2)?;
        self.at += 1;
        Some(u16::from(if self.at % 2 == 1 { byte & 0xf } else { byte >> 4 }))
    }

    fn rule(&self, token: u16) -> Option<(u16, u16)> {
        let rule = self.rules.get(usize::from(token) * RULE..)?.first_chunk::<RULE>()?;
        let [a, b, c] = *rule;
        Some((u16::from_le_bytes([a, b & 0xf]), u16::from_le_bytes([b >> 4 | c << 4, c >> 4])))
    }
}

impl Iterator for Unpack<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        self.left = self.left.checked_sub(1)?;
        let mut token = self.token()?;
        loop {
            let (first, second) = self.rule(token)?;
            if first == CHARACTER {
                return u8::try_from(second).ok();
            }
            *self.stack.get_mut(usize::from(self.depth))? = second;
            self.depth += 1;
            token = first;
        }
    }
}

/// Tokens as they are stored, a nibble a byte here.
#[cfg(feature = "build")]
pub(crate) fn nibbles(token: u16) -> impl Iterator<Item = u8> {
    let (count, bits) = match token.checked_sub(SHORT_TOKENS) {
        None => (2, token),
        Some(beyond) => (3, beyond + (SHORT << 8)),
    };
    (0..count).rev().map(move |nibble| (bits >> (4 * nibble) & 0xf) as u8)
}
