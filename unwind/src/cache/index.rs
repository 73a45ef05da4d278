//! Finds the entry of an address by hash.
//!
//! ```text
//!   address ─ hash ─► set of eight │ tag, place │ tag, place │ …      tag: more bits of the hash
//! ```
//!
//! What it says is where to look, and no more: slots are written one by one, without order.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU32, Ordering};

use super::{ENTRIES, Place};

/// Slots that an address may be in.
const WAYS: usize = 8;
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
    pub(super) fn places(&self, address: u64) -> impl Iterator<Item = Place> {
        let (set, tag) = hash(address);
        let slots = self.sets[set].iter().map(|slot| slot.load(Ordering::Relaxed));
        // They are taken into use in order.
        let used = slots.take_while(|slot| *slot != 0);
        used.filter(move |slot| slot >> 16 == tag).map(place_in)
    }

    /// Where the entry of an address is, if it `is` at a place where it may be.
    ///
    /// A loop, which is compiled into its caller: the entry is nearly always the first.
    #[inline(always)]
    pub(super) fn find(&self, address: u64, is: impl Fn(Place) -> bool) -> Option<Place> {
        let (set, tag) = hash(address);
        for slot in &self.sets[set] {
            let slot = slot.load(Ordering::Relaxed);
            if slot >> 16 == tag && is(place_in(slot)) {
                return Some(place_in(slot));
            }
        }
        None
    }

    /// Has `address` found at `place` from now on; `address_at` says whose entry a place is.
    pub(super) fn insert(
        &self,
        address: u64,
        place: Place,
        address_at: impl Fn(Place) -> Option<u64>,
    ) {
        let (set, tag) = hash(address);
        let new = tag << 16 | place.index() as u32;
        let slots = &self.sets[set];
        let is_free = |slot: &&AtomicU32| {
            let slot = slot.load(Ordering::Relaxed);
            // Its entry may be another's by now.
            slot == 0
                || slot == new
                || address_at(place_in(slot)).is_none_or(|other| hash(other) != (set, slot >> 16))
        };
        // Another one each time, in no order.
        let any = &slots[(tag as usize ^ place.index()) % WAYS];
        slots.iter().find(is_free).unwrap_or(any).store(new, Ordering::Relaxed);
    }
}

const fn place_in(slot: u32) -> Place {
    Place::of((slot & 0xffff) as usize)
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
