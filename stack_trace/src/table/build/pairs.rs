//! Finds the rules that make names short: what stands side by side most often becomes one token.
//!
//! ```text
//!   _ R N v N t C s …  ─► count pairs ─► the most frequent ones become tokens ─► again
//!                                        until none is worth the bytes of its rule
//! ```
#![forbid(unsafe_code)]

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::super::grammar::{COMMON, DEPTH, MOST, nibbles, stored};

/// Names as tokens, and what the tokens stand for.
pub(super) struct Packed {
    /// What tokens stand for, as it is stored.
    pub rules: Vec<u8>,
    /// Each name's tokens as they are stored.
    pub names: Vec<Vec<u8>>,
}

/// A pair that occurs less often is not worth a rule.
const WORTH: usize = 4;
/// Of the pairs of one round, those that are as frequent as this part of the most frequent one.
const TOGETHER: usize = 7;

type Token = u32;

/// Characters are tokens as they are; rules come after them.
const FIRST_RULE: Token = 256;

/// Packs names.
pub(super) fn pack(names: &[&str]) -> Packed {
    let mut texts: Vec<Vec<Token>> =
        names.iter().map(|name| name.bytes().map(Token::from).collect()).collect();
    let characters: BTreeSet<_> = names.iter().flat_map(|name| name.bytes()).collect();
    let mut rules = Rules { most: MOST - characters.len(), ..Rules::default() };
    while rules.round(&mut texts) {}
    rules.number(&texts)
}

#[derive(Default)]
struct Rules {
    /// How many there may be.
    most: usize,
    pairs: Vec<(Token, Token)>,
    depths: Vec<u8>,
}

impl Rules {
    /// Replaces the most frequent pairs; whether there were any.
    fn round(&mut self, texts: &mut [Vec<Token>]) -> bool {
        let mut pairs: Vec<_> =
            texts.iter().flat_map(|text| text.windows(2)).map(|two| (two[0], two[1])).collect();
        pairs.sort_unstable();
        let mut counted: Vec<_> = pairs
            .chunk_by(|a, b| a == b)
            .filter(|same| same.len() >= WORTH && self.depth(same[0]) < DEPTH)
            .map(|same| (same.len(), same[0]))
            .collect();
        counted.sort_unstable_by(|a, b| b.cmp(a));
        let Some(&(most, _)) = counted.first() else { return false };
        let mut chosen = BTreeMap::new();
        // A pair that shares a token with one before it may no longer be there afterwards.
        let (mut firsts, mut seconds) = (BTreeSet::new(), BTreeSet::new());
        for &(count, pair) in &counted {
            if count * 8 < most * TOGETHER || self.pairs.len() >= self.most {
                break;
            }
            if seconds.contains(&pair.0)
                || firsts.contains(&pair.1)
                || pair.0 == pair.1 && !chosen.is_empty()
            {
                continue;
            }
            firsts.insert(pair.0);
            seconds.insert(pair.1);
            chosen.insert(pair, self.add(pair));
        }
        texts.iter_mut().for_each(|text| replace(text, &chosen));
        !chosen.is_empty()
    }

    fn depth_of(&self, token: Token) -> usize {
        match token.checked_sub(FIRST_RULE) {
            Some(rule) => self.depths[rule as usize].into(),
            None => 0,
        }
    }

    fn depth(&self, (first, second): (Token, Token)) -> usize {
        self.depth_of(first).max(self.depth_of(second)) + 1
    }

    fn add(&mut self, pair: (Token, Token)) -> Token {
        let depth = self.depth(pair);
        self.depths.push(depth as u8);
        self.pairs.push(pair);
        FIRST_RULE + self.pairs.len() as Token - 1
    }

    /// Numbers the tokens that are used: characters, then rules in the order of their first tokens.
    fn number(&self, texts: &[Vec<Token>]) -> Packed {
        let mut used = BTreeMap::<Token, usize>::new();
        texts.iter().flatten().for_each(|&token| *used.entry(token).or_default() += 1);
        // What a rule is made of was there before it.
        for (rule, &(first, second)) in self.pairs.iter().enumerate().rev() {
            if used.contains_key(&(FIRST_RULE + rule as Token)) {
                used.entry(first).or_default();
                used.entry(second).or_default();
            }
        }
        let characters: Vec<u8> = used.range(..FIRST_RULE).map(|(&token, _)| token as u8).collect();
        let mut beginning = BTreeMap::<Token, Vec<Token>>::new();
        for (&token, _) in used.range(FIRST_RULE..) {
            beginning.entry(self.pair(token).0).or_default().push(token);
        }
        let mut order: Vec<Token> = characters.iter().copied().map(Token::from).collect();
        let mut at = 0;
        while let Some(first) = order.get(at) {
            order.extend(beginning.remove(first).unwrap_or_default());
            at += 1;
        }
        let numbers: BTreeMap<Token, u16> =
            order.iter().enumerate().map(|(at, &token)| (token, at as u16)).collect();
        let pair = |&token: &Token| {
            let (first, second) = self.pair(token);
            (numbers[&first], numbers[&second])
        };
        let rules: Vec<_> = order[characters.len()..].iter().map(pair).collect();
        order.sort_by_key(|token| (core::cmp::Reverse(used[token]), *token));
        let common: Vec<u16> = order.iter().take(COMMON).map(|token| numbers[token]).collect();
        let names = texts.iter().map(|text| name(text, &numbers, &common)).collect();
        Packed { rules: stored(&common, &characters, &rules), names }
    }

    fn pair(&self, rule: Token) -> (Token, Token) {
        self.pairs[(rule - FIRST_RULE) as usize]
    }
}

fn replace(text: &mut Vec<Token>, chosen: &BTreeMap<(Token, Token), Token>) {
    let (mut from, mut to) = (0, 0);
    while from < text.len() {
        let pair = text.get(from + 1).and_then(|&second| chosen.get(&(text[from], second)));
        text[to] = pair.copied().unwrap_or(text[from]);
        from += if pair.is_some() { 2 } else { 1 };
        to += 1;
    }
    text.truncate(to);
}

fn name(text: &[Token], numbers: &BTreeMap<Token, u16>, common: &[u16]) -> Vec<u8> {
    let tokens = text.iter().flat_map(|token| nibbles(numbers[token], common));
    let nibbles: Vec<u8> = tokens.collect();
    nibbles.chunks(2).map(|two| two[0] | two.get(1).copied().unwrap_or_default() << 4).collect()
}
