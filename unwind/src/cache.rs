//! Remembers what the tables say of addresses that were asked for before.
//!
//! ```text
//!            index, by hash ─► place ─┐
//!   ip ─ the place after the callee's ┼─► hot, 32 bytes: generation │ ip │ rule │ next place
//!        the place that it says next ─┘   cold, as many: what raising needs besides
//! ```
//!
//! A program unwinds through the same call sites again and again; finding their rule by DWARF
//! takes a hundred times what applying it takes. Entries are seqlocks: a reader never writes what
//! another one waits for, and never waits; it takes an entry that is being written for absent; so
//! does a writer, which makes reading and writing safe in an NMI that interrupts either. A change
//! of the table of modules makes all entries stale at once, by its version.
//!
//! Entries lie in the order in which they were made, which is that of a walk: one that was taken
//! before reads them one after the other, and need not wait for one to know of the next. Where
//! walks part, the entry of the callee says where it goes on. Both are guesses, and checked by the
//! address. One is written when there is none yet, or its entry was just made, so that walks on
//! many CPUs write nothing.
//!
//! An entry is known by its address and by what code is there: where libraries come and go, nobody
//! is told, and what is remembered of one must not be taken for another's in its place.
#![forbid(unsafe_code)]

mod index;

use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crate::arch::prefetch;
use crate::encoding::Pointer;
use crate::known::Known;
use crate::rule::Rule;
use crate::variant::ENTRIES;
use index::{Index, Slot, Slots};

/// So many entries lie in the order in which they were made. Which entries are written over is
/// decided for so many at once.
const RUN: usize = if ENTRIES < 16 { ENTRIES } else { 16 };

/// Entries ahead of a walk that are fetched, in case they are in no cache of the CPU.
const AHEAD: usize = 16;

/// Nothing but the rule is known, and the cold half is not this entry's. A sign costs least to test.
const ONLY_RULE: u64 = 1 << 63;
/// One write, in the head's counter, and all of that.
const WRITE: u64 = 1 << 32;
const WRITES: u64 = ONLY_RULE - WRITE;

/// Where an entry is, in bytes from the first one: what adding it to an address takes. Any number
/// is some entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place(u32);

impl Place {
    /// No entry in particular. A guess like any other: memory that is zero has it.
    const NONE: Self = Self(0);
    const SIZE: usize = size_of::<Hot>();

    const fn of(index: usize) -> Self {
        Self((index % ENTRIES * Self::SIZE) as u32)
    }

    #[inline(always)]
    const fn index(self) -> usize {
        self.0 as usize / Self::SIZE % ENTRIES
    }

    #[inline(always)]
    const fn before(self) -> Self {
        Self(self.0.wrapping_sub(Self::SIZE as u32))
    }

    #[inline(always)]
    const fn after(self) -> Self {
        Self(self.0.wrapping_add(Self::SIZE as u32))
    }
}

/// Where the cache may have something: right after this place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hint(pub(crate) u32);

/// Where in the cache a walk is, and where it expects to go on.
#[derive(Clone, Copy, Debug)]
pub struct Trail {
    /// The last entry.
    last: Place,
    /// The length of the code that the walk is in, or −1 for all there is: a trail is kept on the stack,
    /// more than once.
    length: i32,
    /// Where the code begins, and what tells it from other code that may have been at its addresses.
    start: u64,
    identity: u64,
}

impl Trail {
    /// A walk that begins, nowhere yet.
    pub const START: Self = Self { last: Place::NONE, length: 0, start: 0, identity: 0 };

    /// Whether `address` lies in the code that was entered last.
    #[inline(always)]
    pub(crate) const fn covers(&self, address: u64) -> bool {
        address.wrapping_sub(self.start) < self.length as i64 as u64
    }

    /// From now on, what is remembered of addresses counts for code with this identity only. Of code
    /// beyond 2 GiB nothing is remembered.
    #[inline]
    pub(crate) const fn enter(&mut self, code: Range<u64>, identity: u64) {
        self.length = Self::length_of(&code);
        (self.start, self.identity) = (code.start, identity);
    }

    /// Whether code with this identity has the same `known` wherever it is: what its tables name lies in
    /// it. The dynamic linker may have written an address of other code into them, which goes its own way.
    pub(crate) fn vouches_for(&self, known: &Known) -> bool {
        let is_own = |pointer| !matches!(pointer, Pointer::Direct(at) if !self.covers(at));
        let lsda = known.lsda().map(|lsda| lsda.pointer);
        self.identity == 0 || [known.personality(), lsda].into_iter().flatten().all(is_own)
    }

    /// As [`enter`](Self::enter), of code of this [length](Self::length_of) that needs no identity; whether
    /// `address` is in it. If not, nothing is entered.
    #[inline(always)]
    pub(crate) const fn enter_always(&mut self, start: u64, length: i32, address: u64) -> bool {
        let there = Self { start, length, identity: 0, last: self.last };
        let covers = there.covers(address);
        if covers {
            *self = there;
        }
        covers
    }

    /// What comes after the last entry.
    #[inline(always)]
    pub(crate) const fn hint(&self) -> Hint {
        Hint(self.last.0)
    }

    /// The trail that leads to the last entry.
    #[inline(always)]
    pub(crate) const fn back(self) -> Self {
        Self { last: self.last.before(), ..self }
    }

    /// What comes after the entry that this leads to, if that is where it is expected.
    #[inline(always)]
    pub(crate) const fn hint_beyond(&self) -> Hint {
        Hint(self.last.after().0)
    }

    /// How the length of code is kept.
    pub(crate) const fn length_of(code: &Range<u64>) -> i32 {
        match code.end - code.start {
            u64::MAX => -1,
            length if length > i32::MAX as u64 => i32::MAX,
            length => length as i32,
        }
    }

    /// What an entry for `address` is known by.
    #[inline(always)]
    const fn key(&self, address: u64) -> u64 {
        address ^ self.identity
    }
}

/// What a walk reads of an entry.
#[repr(C, align(32))]
struct Hot {
    /// The generation in the lower half, odd while the entry is written; its [writes](WRITE); [`ONLY_RULE`].
    head: AtomicU64,
    /// The address and the code's identity.
    key: AtomicU64,
    /// The rule but for the size of arguments.
    places: AtomicU64,
    cfa: AtomicU32,
    /// The entry of the caller, maybe.
    next: AtomicU32,
}

/// What raising reads of it besides.
#[repr(C, align(32))]
struct Cold {
    personality: AtomicU64,
    /// How far away the start is (lower half) and the LSDA.
    distances: AtomicU64,
    flags: AtomicU64,
    /// How far away it is.
    landing_pad: AtomicU32,
    /// The rule's.
    args_size: AtomicU32,
}

static_assertions::const_assert_eq!(size_of::<Hot>(), 32);
static_assertions::const_assert_eq!(size_of::<Cold>(), 32);
static_assertions::const_assert!(ENTRIES.is_power_of_two() && ENTRIES <= 1 << 16);

impl Hot {
    const fn new() -> Self {
        Self {
            head: AtomicU64::new(0),
            key: AtomicU64::new(0),
            places: AtomicU64::new(0),
            cfa: AtomicU32::new(0),
            next: AtomicU32::new(Place::NONE.0),
        }
    }

    #[inline(always)]
    fn next(&self) -> Place {
        Place(self.next.load(Ordering::Relaxed))
    }

    /// Its head, if it is whole and has this key in this generation.
    #[inline(always)]
    fn head_for(&self, key: u64, generation: u32) -> Option<u64> {
        let head = self.head.load(Ordering::Acquire);
        let current = head as u32 == generation;
        (current && self.key.load(Ordering::Relaxed) == key).then_some(head)
    }

    /// Whether nobody has written the entry since its head was read.
    #[inline(always)]
    fn is_unchanged(&self, head: u64) -> bool {
        // Loads before the fence belong to the head that was read, if it is still there after.
        fence(Ordering::Acquire);
        self.head.load(Ordering::Relaxed) == head
    }
}

impl Cold {
    const fn new() -> Self {
        Self {
            personality: AtomicU64::new(0),
            distances: AtomicU64::new(0),
            flags: AtomicU64::new(0),
            landing_pad: AtomicU32::new(0),
            args_size: AtomicU32::new(0),
        }
    }
}

/// A cache of entries that are made in turn, and found by an index. Generations are even.
pub(crate) struct Cache {
    hot: [Hot; ENTRIES],
    cold: [Cold; ENTRIES],
    index: Index,
    /// How many entries have been made, more or less.
    made: AtomicU32,
}

impl Cache {
    pub(crate) const fn new() -> Self {
        Self {
            hot: [const { Hot::new() }; ENTRIES],
            cold: [const { Cold::new() }; ENTRIES],
            index: Index::new(),
            made: AtomicU32::new(0),
        }
    }

    #[inline(always)]
    fn at(&self, place: Place) -> &Hot {
        &self.hot[place.index()]
    }

    /// It, in this generation.
    #[inline]
    pub(crate) const fn memory(&self, generation: u32) -> Memory<'_> {
        Memory { cache: self, generation }
    }

    /// What is known of `address` in this generation, if that is all that there is to know.
    #[inline(always)]
    pub(crate) fn recall(
        &self,
        address: u64,
        generation: u32,
        trail: &mut Trail,
        known: &mut Known,
    ) -> bool {
        let before = trail.last;
        let Some((hot, head)) = self.find(address, generation, trail) else { return false };
        let cold = &self.cold[trail.last.index()];
        let near = |distance: u32| address.wrapping_add_signed(i64::from(distance as i32));
        let distances = cold.distances.load(Ordering::Relaxed);
        let args_size = u64::from(cold.args_size.load(Ordering::Relaxed));
        let [cfa, places] = words(hot);
        *known = Known {
            rule: Rule::from_words([args_size << 32 | cfa, places]),
            personality: cold.personality.load(Ordering::Relaxed),
            start: address.wrapping_sub(distances & u64::from(u32::MAX)),
            lsda: near((distances >> 32) as u32),
            landing_pad: near(cold.landing_pad.load(Ordering::Relaxed)),
            flags: cold.flags.load(Ordering::Relaxed),
        };
        if hot.is_unchanged(head) && head & ONLY_RULE == 0 {
            return true;
        }
        // It is found out again, and its entry must not come to expect itself.
        trail.last = before;
        false
    }

    /// The rule for `address` but for the size of arguments: all that a walk needs.
    #[inline(always)]
    pub(crate) fn recall_rule(
        &self,
        address: u64,
        generation: u32,
        trail: &mut Trail,
    ) -> Option<Rule> {
        let (hot, head) = self.find(address, generation, trail)?;
        let rule = Rule::from_words(words(hot));
        hot.is_unchanged(head).then_some(rule)
    }

    /// The entry of `address`, which is the last one of the trail then, and its head as it was.
    #[inline(always)]
    fn find(&self, address: u64, generation: u32, trail: &mut Trail) -> Option<(&Hot, u64)> {
        let key = trail.key(address);
        let mut place = trail.last.after();
        prefetch(core::ptr::from_ref(self.at(place)).wrapping_add(AHEAD));
        let mut entry = self.at(place);
        let mut head = entry.head_for(key, generation);
        if head.is_none() {
            place = self.at(trail.last).next();
            entry = self.at(place);
            head = entry.head_for(key, generation);
        }
        if head.is_none() {
            // By value: nobody else holds a pointer to it, so it may live in registers.
            place = self.search(key, generation, trail.last)?;
            entry = self.at(place);
            head = entry.head_for(key, generation);
        }
        let head = head?;
        trail.last = place;
        Some((entry, head))
    }

    #[cold]
    #[inline(never)]
    fn search(&self, key: u64, generation: u32, last: Place) -> Option<Place> {
        let knows = |place: Place| self.at(place).head_for(key, generation).is_some();
        let mut places = self.index.slots(key).places().map(|(place, _)| place);
        let place = places.find(|place| knows(*place))?;
        if self.at(last).next() == Place::NONE {
            self.expect(place, last);
        }
        Some(place)
    }

    /// Remembers `address`, unless its entry is being written, or something of it is too far away
    /// from it.
    #[inline]
    pub(crate) fn memorize(&self, address: u64, generation: u32, known: &Known, trail: &mut Trail) {
        let args_size = known.rule.args_size();
        let Some((distances, landing_pad)) = encode(address, known) else { return };
        let head = generation.into();
        self.write(trail.key(address), head, known.rule, trail, |cold| {
            cold.personality.store(known.personality, Ordering::Relaxed);
            cold.distances.store(distances, Ordering::Relaxed);
            cold.flags.store(known.flags, Ordering::Relaxed);
            cold.landing_pad.store(landing_pad, Ordering::Relaxed);
            cold.args_size.store(args_size, Ordering::Relaxed);
        });
    }

    /// Remembers the rule for `address` and nothing else, unless its entry is being written: half of
    /// what [`memorize`](Self::memorize) touches.
    #[inline]
    pub(crate) fn memorize_rule(
        &self,
        address: u64,
        generation: u32,
        rule: Rule,
        trail: &mut Trail,
    ) {
        let head = u64::from(generation) | ONLY_RULE;
        self.write(trail.key(address), head, rule, trail, |_| {});
    }

    /// Writes an entry, whose head begins like this, and has it found.
    #[inline(always)]
    fn write(
        &self,
        key: u64,
        new: u64,
        rule: Rule,
        trail: &mut Trail,
        write_cold: impl FnOnce(&Cold),
    ) {
        let slots = self.index.slots(key);
        let (place, slot) = match slots.unused() {
            Some(slot) => (self.next_place(), slot),
            None => self.place_among(slots, key, new as u32),
        };
        let hot = self.at(place);
        let head = hot.head.load(Ordering::Relaxed);
        let odd = head | 1;
        if head & 1 != 0
            || hot.head.compare_exchange(head, odd, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            return;
        }
        // Readers that see any of the words below see the odd head, too.
        fence(Ordering::Release);
        let [offsets, places] = rule.to_words();
        hot.key.store(key, Ordering::Relaxed);
        hot.places.store(places, Ordering::Relaxed);
        hot.cfa.store(offsets as u32, Ordering::Relaxed);
        hot.next.store(Place::NONE.0, Ordering::Relaxed);
        write_cold(&self.cold[place.index()]);
        hot.head.store(head.wrapping_add(WRITE) & WRITES | new, Ordering::Release);
        slot.set(place);
        self.expect(place, trail.last);
        trail.last = place;
    }

    /// Where to remember what has this key, and the slot that says so: where it was, or in the next
    /// entry in turn.
    #[cold]
    #[inline(never)]
    fn place_among<'c>(&'c self, slots: Slots<'c>, key: u64, generation: u32) -> (Place, Slot<'c>) {
        let is_at = |place: Place| self.at(place).key.load(Ordering::Relaxed) == key;
        slots.places().find(|(place, _)| is_at(*place)).unwrap_or_else(|| {
            let place = self.next_place();
            let slot = slots.slot_for(place, |place| {
                let entry = self.at(place);
                let is_used = entry.head.load(Ordering::Relaxed) as u32 == generation;
                is_used.then(|| entry.key.load(Ordering::Relaxed))
            });
            (place, slot)
        })
    }

    /// The next entry in turn.
    ///
    /// Two that ask at the same time may be given the same one, and what one of them remembers is lost. That
    /// is found out again; a locked addition would have every walk wait until all that it wrote before has
    /// reached the cache of the CPU.
    fn next_place(&self) -> Place {
        let turn = self.made.load(Ordering::Relaxed).wrapping_add(1);
        self.made.store(turn, Ordering::Relaxed);
        in_turn(turn as usize)
    }

    /// Forgets everything but what is just being written.
    #[cold]
    pub(crate) fn forget(&self) {
        for Hot { head, .. } in &self.hot {
            let old = head.load(Ordering::Relaxed);
            if old & 1 == 0 {
                // No generation is 0. If another one is written meanwhile, this has gone as well.
                let new = old.wrapping_add(WRITE) & WRITES;
                let _ = head.compare_exchange(old, new, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    /// Has the one that leads to an entry expect it from now on, if it does not anyway.
    fn expect(&self, place: Place, last: Place) {
        let is_after = last.after().index() == place.index();
        if last != Place::NONE && !is_after {
            self.at(last).next.store(place.0, Ordering::Relaxed);
        }
    }
}

/// Which entry is written when so many have been. Each time round in another order, a run as a
/// whole: a walk that is longer than the cache does not drive out what it needs next each time.
const fn in_turn(turn: usize) -> Place {
    const RUNS: usize = ENTRIES / RUN;
    let (round, run) = (turn / ENTRIES, turn / RUN % RUNS);
    let other = round.wrapping_mul(0x9e37_79b9) >> 16;
    Place::of((run ^ (other % RUNS)) * RUN + turn % RUN)
}

/// The cache as it is in one generation: what the code of frames that live is known by does not
/// change while they do.
#[derive(Clone, Copy)]
pub struct Memory<'m> {
    cache: &'m Cache,
    generation: u32,
}

impl Memory<'_> {
    /// The rule for `address` but for the size of arguments, and on to its entry; nothing in code that
    /// the walk has not entered.
    #[inline(always)]
    pub(crate) fn recall_rule(self, address: u64, trail: &mut Trail) -> Option<Rule> {
        if !trail.covers(address) {
            return None;
        }
        self.cache.recall_rule(address, self.generation, trail)
    }

    /// Has the trail of a walk that begins at `address` expect its entry next, if there is one.
    #[inline(always)]
    pub(crate) fn lead(self, address: u64, trail: &mut Trail) {
        let key = trail.key(address);
        let is_there = |place: Place| self.cache.at(place).key.load(Ordering::Relaxed) == key;
        if let Some(place) = self.cache.index.find(key, is_there) {
            trail.last = place.before();
        }
    }

    /// As [`lead`](Self::lead); the entry may be where the hint says.
    #[inline(always)]
    pub(crate) fn lead_by(self, hint: Hint, address: u64, trail: &mut Trail) {
        let last = Place(hint.0);
        let there = self.cache.at(last.after()).key.load(Ordering::Relaxed);
        if there == trail.key(address) {
            trail.last = last;
        } else {
            self.lead(address, trail);
        }
    }

    /// What is known of `address`, if that is all that there is to know, and on to its entry. Only in code
    /// that the walk has entered.
    #[inline(always)]
    pub(crate) fn recall(self, address: u64, trail: &mut Trail, known: &mut Known) -> bool {
        self.cache.recall(address, self.generation, trail, known)
    }
}

#[inline(always)]
fn words(hot: &Hot) -> [u64; 2] {
    [hot.cfa.load(Ordering::Relaxed).into(), hot.places.load(Ordering::Relaxed)]
}

/// The distances to the start and the LSDA as a word, and that to the landing pad; `None` if
/// something is too far away.
fn encode(address: u64, known: &Known) -> Option<(u64, u32)> {
    let near = |other: u64, matters: bool| {
        let distance = if matters { other.wrapping_sub(address) as i64 } else { 0 };
        Some(i32::try_from(distance).ok()? as u32)
    };
    let start = u32::try_from(address.wrapping_sub(known.start)).ok()?;
    let lsda = near(known.lsda, known.lsda().is_some())?;
    let landing_pad = near(known.landing_pad, known.landing_pad != 0)?;
    Some((u64::from(lsda) << 32 | u64::from(start), landing_pad))
}

#[cfg(test)]
mod tests;
