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

    /// The slots that an address may be in.
    #[inline(always)]
    pub(super) fn slots(&self, address: u64) -> Slots<'_> {
        let hash = Hash::of(address);
        Slots { slots: &self.sets[hash.set()], hash }
    }

    /// Where the entry of an address is, if it `is` at a place where it may be.
    ///
    /// A loop, which is compiled into its caller: the entry is nearly always the first.
    #[inline(always)]
    pub(super) fn find(&self, address: u64, is: impl Fn(Place) -> bool) -> Option<Place> {
        let Slots { slots, hash } = self.slots(address);
        for slot in slots {
            let slot = slot.load(Ordering::Relaxed);
            if tag_in(slot) == hash.tag() && is(place_in(slot)) {
                return Some(place_in(slot));
            }
        }
        None
    }
}

/// The slots that an address may be in.
#[derive(Clone, Copy)]
pub(super) struct Slots<'i> {
    slots: &'i [AtomicU32; WAYS],
    hash: Hash,
}

impl<'i> Slots<'i> {
    /// Where the entry of the address may be, and the slots that say so.
    #[inline(always)]
    pub(super) fn places(self) -> impl Iterator<Item = (Place, Slot<'i>)> {
        let slots = self.slots.iter().map(|slot| (slot, slot.load(Ordering::Relaxed)));
        // They are taken into use in order.
        let used = slots.take_while(|(_, value)| *value != 0);
        let same = used.filter(move |(_, value)| tag_in(*value) == self.hash.tag());
        same.map(move |(slot, value)| (place_in(value), Slot { slot, tag: self.hash.tag() }))
    }

    /// The first one, if none has been used yet.
    #[inline(always)]
    pub(super) fn unused(self) -> Option<Slot<'i>> {
        let slot = &self.slots[0];
        (slot.load(Ordering::Relaxed) == 0).then_some(Slot { slot, tag: self.hash.tag() })
    }

    /// The one in which `place` may be from now on; `address_at` says whose entry a place is.
    pub(super) fn slot_for(
        self,
        place: Place,
        address_at: impl Fn(Place) -> Option<u64>,
    ) -> Slot<'i> {
        let tag = self.hash.tag();
        let is_free = |slot: &&AtomicU32| {
            let slot = slot.load(Ordering::Relaxed);
            let is_here =
                |other: Hash| other.set() == self.hash.set() && other.tag() == tag_in(slot);
            // Its entry may be another's by now.
            slot == 0 || !address_at(place_in(slot)).map(Hash::of).is_some_and(is_here)
        };
        // Another one each time, in no order.
        let any = &self.slots[(tag as usize ^ place.index()) % WAYS];
        Slot { slot: self.slots.iter().find(is_free).unwrap_or(any), tag }
    }
}

/// A slot for an address.
#[derive(Clone, Copy)]
pub(super) struct Slot<'i> {
    slot: &'i AtomicU32,
    tag: u32,
}

impl Slot<'_> {
    /// Has the address found at `place` from now on.
    #[inline(always)]
    pub(super) fn set(self, place: Place) {
        self.slot.store(self.tag << 16 | place.index() as u32, Ordering::Relaxed);
    }
}

const fn place_in(slot: u32) -> Place {
    Place::of((slot & 0xffff) as usize)
}

const fn tag_in(slot: u32) -> u32 {
    slot >> 16
}

/// What an address is found by: its set in the upper half, and its tag.
#[derive(Clone, Copy)]
struct Hash(u32);

impl Hash {
    #[inline(always)]
    const fn of(address: u64) -> Self {
        // The upper bits of a product depend on all bits of the factor. Twice, because functions of
        // the same size one after the other come together again after one multiplication.
        let once = address.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let twice = (once ^ once >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
        Self((twice >> 32) as u32 | 1)
    }

    #[inline(always)]
    const fn set(self) -> usize {
        (self.0 >> 16) as usize % SETS
    }

    #[inline(always)]
    const fn tag(self) -> u32 {
        self.0 & 0xffff
    }
}
