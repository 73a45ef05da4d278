//! Finds the entry of an address by hash.
//!
//! ```text
//!   address ─ hash ─► set of four │ tag, place │ tag, place │ …      tag: more bits of the hash
//! ```
//!
//! What it says is where to look, and no more: slots are written one by one, without order.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU32, Ordering};

use super::ENTRIES;

/// Slots that an address may be in.
const WAYS: usize = 4;
/// Twice as many slots as entries: few sets are full before all entries are.
const SETS: usize = (2 * ENTRIES).div_ceil(WAYS);

/// From addresses to places.
pub(super) struct Index {
    /// The tag in the upper half, which is not zero if the slot is used; the place.
    sets: [[AtomicU32; WAYS]; SETS],
}

impl Index {
    pub(super) const fn new() -> Self {
        Self { sets: [const { [const { AtomicU32::new(0) }; WAYS] }; SETS] }
    }

    /// Where the entry of an address may be.
    #[inline(always)]
    pub(super) fn places(&self, address: u64) -> impl Iterator<Item = u16> {
        let (set, tag) = hash(address);
        let slots = self.sets[set].iter().map(|slot| slot.load(Ordering::Relaxed));
        slots.filter(move |slot| slot >> 16 == tag).map(|slot| slot as u16)
    }

    /// Has `address` found at `place` from now on; `address_at` says whose entry a place is.
    pub(super) fn insert(&self, address: u64, place: u16, address_at: impl Fn(u16) -> Option<u64>) {
        let (set, tag) = hash(address);
        let new = tag << 16 | u32::from(place);
        let slots = &self.sets[set];
        let is = |slot: &&AtomicU32| slot.load(Ordering::Relaxed) == new;
        if slots.iter().any(|slot| is(&slot)) {
            return;
        }
        let is_free = |slot: &&AtomicU32| {
            let slot = slot.load(Ordering::Relaxed);
            // Its entry may be another's by now.
            slot == 0
                || address_at(slot as u16).is_none_or(|other| hash(other) != (set, slot >> 16))
        };
        // Another one each time, in no order.
        let any = &slots[(tag as usize ^ usize::from(place)) % WAYS];
        slots.iter().find(is_free).unwrap_or(any).store(new, Ordering::Relaxed);
    }
}

/// The set of an address, and its tag.
#[inline(always)]
fn hash(address: u64) -> (usize, u32) {
    // The upper bits of a product depend on all bits of the factor. Twice, because functions of
    // the same size one after the other come together again after one multiplication.
    let once = address.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let twice = (once ^ once >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    ((twice >> 48) as usize % SETS, (twice >> 32) as u32 & 0xffff | 1)
}
