//! Finds numbers by name.
//!
//! ```text
//!   name ─► hash ─► slot │ hash, number │ ─► is it the name of this number? ─► yes
//!                   next │ hash, number │ ◄─ no
//!                   next │              │ ─► nobody has the name
//! ```
//!
//! The names are wherever the caller has them; the table only asks whether a number's is the one.
//! It is at most half full, so a search ends after a few slots, however many names there are.
#![forbid(unsafe_code)]

use alloc::collections::TryReserveError;
use alloc::vec::Vec;

/// A hash of a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Hash(u32);

impl Hash {
    /// Of what nobody looks for.
    pub const NONE: Self = Self(0);

    /// Eight bytes at a time, as names of compilers are long and differ in the middle.
    pub fn of(name: &str) -> Self {
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        let mix = |hash: u64, word: u64| {
            let product = u128::from(hash ^ word) * u128::from(FACTOR);
            (product as u64) ^ (product >> 64) as u64
        };
        let (words, rest) = name.as_bytes().as_chunks::<8>();
        let hash = words
            .iter()
            .fold(name.len() as u64 ^ FACTOR, |hash, word| mix(hash, u64::from_le_bytes(*word)));
        let last = rest.iter().fold(0, |word, &byte| word << 8 | u64::from(byte));
        let hash = mix(hash, last);
        Self((hash ^ hash >> 32) as u32)
    }

    /// As a number.
    pub fn number(self) -> u32 {
        self.0
    }
}

#[derive(Clone, Copy)]
struct Slot {
    hash: Hash,
    number: u32,
}

impl Slot {
    const FREE: Self = Self { hash: Hash::NONE, number: u32::MAX };
}

/// Numbers (all but the largest) by the hashes of their names.
#[derive(Default)]
pub(crate) struct Table {
    /// None, or a power of two.
    slots: Vec<Slot>,
    len: usize,
}

impl Table {
    /// Makes room for `more` besides those that are there.
    pub fn reserve(&mut self, more: usize) -> Result<(), TryReserveError> {
        let needed = (self.len + more).saturating_mul(2);
        if needed <= self.slots.len() {
            return Ok(());
        }
        let mut slots = Vec::new();
        let count = needed.checked_next_power_of_two().unwrap_or(usize::MAX);
        slots.try_reserve_exact(count)?;
        slots.resize(count, Slot::FREE);
        for slot in core::mem::replace(&mut self.slots, slots) {
            if slot.number != Slot::FREE.number {
                self.put(slot);
            }
        }
        Ok(())
    }

    /// Adds a number whose name is not in the table.
    pub fn add(&mut self, hash: Hash, number: u32) -> Result<(), TryReserveError> {
        if self.slots.len() < 2 * (self.len + 1) {
            self.reserve(self.len.max(8))?;
        }
        self.len += 1;
        self.put(Slot { hash, number });
        Ok(())
    }

    fn put(&mut self, slot: Slot) {
        let mask = self.slots.len() - 1;
        let mut at = slot.hash.0 as usize & mask;
        while self.slots[at].number != Slot::FREE.number {
            at = (at + 1) & mask;
        }
        self.slots[at] = slot;
    }

    /// The number with this hash whose name it is, as `is_it` says.
    pub fn find(&self, hash: Hash, is_it: impl Fn(u32) -> bool) -> Option<u32> {
        let mask = self.slots.len().checked_sub(1)?;
        let mut at = hash.0 as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot.number == Slot::FREE.number {
                return None;
            }
            if slot.hash == hash && is_it(slot.number) {
                return Some(slot.number);
            }
            at = (at + 1) & mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_found_and_no_other() {
        let names: Vec<_> =
            (0..5000).map(|n| format!("{}_function_{n}", "x".repeat(n % 40))).collect();
        let mut table = Table::default();
        assert_eq!(table.find(Hash::of("x"), |_| true), None);
        for (number, name) in (0..).zip(&names) {
            table.add(Hash::of(name), number).unwrap();
        }
        let find = |name: &str| table.find(Hash::of(name), |number| names[number as usize] == name);
        for (number, name) in (0..).zip(&names) {
            assert_eq!(find(name), Some(number));
        }
        for name in ["", "x", "_function_", "_function_5001"] {
            assert_eq!(find(name), None);
        }
    }

    #[test]
    fn names_with_one_hash_are_told_apart() {
        let mut table = Table::default();
        let hash = Hash::of("one");
        (0..20).for_each(|number| table.add(hash, number).unwrap());
        (0..20)
            .for_each(|number| assert_eq!(table.find(hash, |found| found == number), Some(number)));
        assert_eq!(table.find(hash, |_| false), None);
    }

    #[test]
    fn hashes_depend_on_every_byte_and_on_the_length() {
        let name = "_ZN4core9panicking5panic17h0123456789abcdefE";
        let mut hashes: Vec<_> = (0..=name.len()).map(|len| Hash::of(&name[..len]).0).collect();
        for at in 0..name.len() {
            let mut other = name.as_bytes().to_vec();
            other[at] ^= 1;
            hashes.push(Hash::of(str::from_utf8(&other).unwrap()).0);
        }
        let count = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), count);
    }
}
