//! What an object offers by name, in twelve bytes or less for each symbol besides its name.
//!
//! ```text
//!   name ─► hash ─► bucket ─► ends │ 2 │ 3 │ 3 │ 6 │ …
//!                                ┌───┘   └──────┐
//!            globals │ name, at │ name, at │ name, at │ …          at: bytes into the object,
//!            others  │ value │ …                                       or a number in here
//! ```
//!
//! Promise: every symbol is found, after comparing its name with that of one or two others.
#![forbid(unsafe_code)]

use alloc::collections::TryReserveError;
use alloc::vec::Vec;

use crate::placement::MAX_SIZE;
use crate::symbols::Value;
use crate::table::Hash;

/// A global symbol.
#[derive(Clone, Copy, Default)]
struct Global {
    /// Where its name starts in the object's pool.
    name: u32,
    /// Bytes from the start of the object; from [`OTHER`](Self::OTHER) on the number of another
    /// value.
    at: u32,
}

impl Global {
    /// More than any object has bytes.
    const OTHER: u32 = 1 << 31;
}

const _: () = assert!(MAX_SIZE < Global::OTHER as u64);

/// The global symbols of an object.
pub(crate) struct Globals {
    /// The object's first byte.
    base: u64,
    /// Where the symbols of each bucket end; their number is a power of two.
    ends: Vec<u32>,
    globals: Vec<Global>,
    /// What is not an address in the object.
    others: Vec<Value>,
}

impl Globals {
    /// The symbols of an object at `base`, which come with hashes, places of names, and values. There
    /// should be about `expected`.
    pub fn new(
        base: u64,
        expected: usize,
        symbols: impl Iterator<Item = (Hash, u32, Value)> + Clone,
    ) -> Result<Self, TryReserveError> {
        // One or two symbols each.
        let ends = zeroes((expected / 2).next_power_of_two())?;
        let mut this = Self { base, ends, globals: Vec::new(), others: Vec::new() };
        for (hash, ..) in symbols.clone() {
            let bucket = this.bucket(hash);
            this.ends[bucket] += 1;
        }
        // Where each bucket starts; as its symbols are put there, that becomes where it ends.
        let mut start = 0;
        for end in &mut this.ends {
            start += core::mem::replace(end, start);
        }
        this.globals = zeroes(start as usize)?;
        for (hash, name, value) in symbols {
            let at = this.encode(value)?;
            let bucket = this.bucket(hash);
            let next = &mut this.ends[bucket];
            this.globals[*next as usize] = Global { name, at };
            *next += 1;
        }
        Ok(this)
    }

    fn bucket(&self, hash: Hash) -> usize {
        hash.number() as usize & (self.ends.len() - 1)
    }

    fn encode(&mut self, value: Value) -> Result<u32, TryReserveError> {
        if let Value::Address(address) = value
            && let Some(at) = address.checked_sub(self.base).filter(|&at| at <= MAX_SIZE)
        {
            return Ok(at as u32);
        }
        self.others.try_reserve(1)?;
        self.others.push(value);
        Ok(Global::OTHER + (self.others.len() - 1) as u32)
    }

    /// The value of the symbol with this hash whose name it is, as `is_it` says.
    pub fn find(&self, hash: Hash, is_it: impl Fn(u32) -> bool) -> Option<Value> {
        let bucket = self.bucket(hash);
        let start = bucket.checked_sub(1).map_or(0, |before| self.ends[before]);
        let globals = &self.globals[start as usize..self.ends[bucket] as usize];
        let Global { at, .. } = globals.iter().find(|global| is_it(global.name))?;
        match at.checked_sub(Global::OTHER) {
            Some(number) => Some(self.others[number as usize]),
            None => Some(Value::Address(self.base + u64::from(*at))),
        }
    }
}

fn zeroes<T: Clone + Default>(count: usize) -> Result<Vec<T>, TryReserveError> {
    let mut all = Vec::new();
    all.try_reserve_exact(count)?;
    all.resize(count, T::default());
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: u64 = 0xffff_8000_0000_1000;

    #[test]
    fn every_symbol_is_found_whatever_it_means() {
        for (count, expected) in [(1, 1), (2, 0), (3, 3), (1000, 1000), (1025, 5000)] {
            let names: Vec<_> = (0..count).map(|n| format!("symbol_{n}")).collect();
            let value = |n: u32| match n % 5 {
                0 => Value::Tls(-i64::from(n)),
                1 => Value::Address(n.into()),
                2 => Value::Address(BASE + MAX_SIZE + u64::from(n % 2)),
                _ => Value::Address(BASE + u64::from(n)),
            };
            let symbols = (0..).zip(&names).map(|(n, name)| (Hash::of(name), n, value(n)));
            let globals = Globals::new(BASE, expected, symbols).unwrap();
            for (n, name) in (0..).zip(&names) {
                assert_eq!(globals.find(Hash::of(name), |found| found == n), Some(value(n)));
                assert_eq!(globals.find(Hash::of(name), |_| false), None);
            }
        }
    }

    #[test]
    fn an_object_need_not_offer_anything() {
        let globals = Globals::new(BASE, 0, core::iter::empty()).unwrap();
        assert_eq!(globals.find(Hash::of("x"), |_| true), None);
    }

    #[test]
    fn symbols_with_one_hash_are_told_apart() {
        let hash = Hash::of("one");
        let symbols = (0..20).map(|n| (hash, n, Value::Tls(n.into())));
        let globals = Globals::new(BASE, 20, symbols).unwrap();
        for n in 0..20 {
            assert_eq!(globals.find(hash, |name| name == n), Some(Value::Tls(n.into())));
        }
    }
}
