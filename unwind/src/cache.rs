//! Remembers what the tables say of addresses that were asked for before.
//!
//! ```text
//!   ip ─ hash ─► set of four ─► entry, 64 bytes │ generation, sequence │ ip │ rule │ … │ next │
//!                                 ▲               even: whole                         │
//!                                 └── the caller's entry, as it was last time ────────┘
//! ```
//!
//! A program unwinds through the same call sites again and again; finding their rule by DWARF
//! takes a hundred times what applying it takes. Entries are seqlocks: a reader never writes what
//! another one waits for, and never waits; it takes an entry that is being written for absent; so
//! does a writer, which makes reading and writing safe in an NMI that interrupts either. A change
//! of the table of modules makes all entries stale at once, by its version.
//!
//! Which entry comes next is a guess, and checked by its address: a walk that was taken before
//! goes from entry to entry without waiting for return addresses. A guess is written when
//! there is none yet, or its entry was just made, so that walks on many CPUs write nothing.
//!
//! An entry is known by its address and by what code is there: where libraries come and go, nobody
//! is told, and what is remembered of one must not be taken for another's in its place.
#![forbid(unsafe_code)]

use core::ops::Range;
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use crate::arch::prefetch;
use crate::known::Known;
use crate::rule::Rule;

/// How many addresses are remembered: 64 KiB of them.
const ENTRIES: usize = 1024;
/// Entries that an address may be in: two call sites that are walked in turn must not drive each
/// other out.
const WAYS: usize = 4;
const WORDS: usize = 6;
/// No entry in particular. A guess like any other: memory that is zero has it.
const NONE: u16 = 0;
/// How many entries ahead one is fetched, in case none of them is in a cache of the CPU.
const AHEAD: usize = 4;

/// Where in the cache a walk is, and where it expects to go on.
#[derive(Clone, Copy, Debug)]
pub struct Trail {
    /// The last entries, the latest first.
    last: [u16; AHEAD],
    next: u16,
    /// The code that the walk is in, if that was asked for, and what tells it from other code that
    /// may have been at its addresses.
    start: u64,
    length: u64,
    identity: u64,
}

impl Trail {
    /// A walk that begins.
    pub const START: Self =
        Self { last: [NONE; AHEAD], next: NONE, start: 0, length: 0, identity: 0 };

    /// On to an entry, and what it expects to be next.
    #[inline(always)]
    const fn go(&mut self, place: u16, next: u16) {
        let [a, b, c, _] = self.last;
        (self.last, self.next) = ([place, a, b, c], next);
    }

    /// Whether `address` lies in the code that was entered last.
    #[inline(always)]
    pub(crate) const fn covers(&self, address: u64) -> bool {
        address.wrapping_sub(self.start) < self.length
    }

    /// From now on, what is remembered of addresses counts for code with this identity only.
    pub(crate) const fn enter(&mut self, code: Range<u64>, identity: u64) {
        (self.start, self.length) = (code.start, code.end - code.start);
        self.identity = identity;
    }

    /// What an entry for `address` is known by.
    #[inline(always)]
    const fn key(&self, address: u64) -> u64 {
        address ^ self.identity
    }
}

#[repr(align(64))]
struct Entry {
    /// The generation in the upper half, a counter in the lower one: odd while it is written.
    head: AtomicU64,
    /// The key, the rule, the personality, distances to it, flags.
    words: [AtomicU64; WORDS],
    /// How far away the landing pad is.
    landing_pad: AtomicU32,
    /// The entry of the caller, maybe.
    next: AtomicU16,
    /// The entry of so many callers up, maybe.
    ahead: AtomicU16,
}

static_assertions::const_assert_eq!(size_of::<Entry>(), 64);

impl Entry {
    const fn new() -> Self {
        Self {
            head: AtomicU64::new(0),
            words: [const { AtomicU64::new(0) }; WORDS],
            landing_pad: AtomicU32::new(0),
            next: AtomicU16::new(NONE),
            ahead: AtomicU16::new(NONE),
        }
    }

    #[inline(always)]
    fn word(&self, place: usize) -> u64 {
        self.words[place].load(Ordering::Relaxed)
    }

    /// Its head, if it is whole and has this key in this generation.
    #[inline(always)]
    fn head_for(&self, key: u64, generation: u32) -> Option<u64> {
        let head = self.head.load(Ordering::Acquire);
        let current = head & (u64::from(u32::MAX) << 32 | 1) == u64::from(generation) << 32;
        (current && self.word(0) == key).then_some(head)
    }
}

/// A cache of sets of entries.
pub(crate) struct Cache {
    entries: [Entry; ENTRIES],
}

impl Cache {
    pub(crate) const fn new() -> Self {
        Self { entries: [const { Entry::new() }; ENTRIES] }
    }

    /// The places of a key.
    fn places(key: u64) -> Range<usize> {
        const SETS: u32 = (ENTRIES / WAYS).ilog2();
        // The upper bits of a product depend on all bits of the factor. Twice, because functions of
        // the same size one after the other come together again after one multiplication.
        let once = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let twice = (once ^ once >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
        let first = (twice >> (64 - SETS)) as usize * WAYS;
        first..first + WAYS
    }

    fn at(&self, place: u16) -> &Entry {
        &self.entries[place as usize % ENTRIES]
    }

    /// What is known of `address` in this generation, if that is all that there is to know.
    #[inline]
    pub(crate) fn recall(
        &self,
        address: u64,
        generation: u32,
        trail: &mut Trail,
        known: &mut Known,
    ) -> bool {
        let (last, next) = (trail.last, trail.next);
        let Some((entry, head)) = self.find(address, generation, trail) else { return false };
        let near = |distance: u32| address.wrapping_add_signed(i64::from(distance as i32));
        let distances = entry.word(4);
        *known = Known {
            rule: Rule::from_words([entry.word(1), entry.word(2)]),
            personality: entry.word(3),
            start: address.wrapping_sub(distances & u64::from(u32::MAX)),
            lsda: near((distances >> 32) as u32),
            landing_pad: near(entry.landing_pad.load(Ordering::Relaxed)),
            flags: entry.word(5),
        };
        let recalled = unchanged(entry, head) && known.is_whole();
        if !recalled {
            // It is found out again, and its entry must not come to expect itself.
            (trail.last, trail.next) = (last, next);
        }
        recalled
    }

    /// The rule for `address`: all that a walk needs.
    #[inline]
    pub(crate) fn recall_rule(
        &self,
        address: u64,
        generation: u32,
        trail: &mut Trail,
    ) -> Option<Rule> {
        let (entry, head) = self.find(address, generation, trail)?;
        let rule = Rule::from_words([entry.word(1), entry.word(2)]);
        unchanged(entry, head).then_some(rule)
    }

    /// The entry of `address`, and its head as it was.
    #[inline(always)]
    fn find(&self, address: u64, generation: u32, trail: &mut Trail) -> Option<(&Entry, u64)> {
        let key = trail.key(address);
        let guess = self.at(trail.next);
        if let Some(head) = guess.head_for(key, generation) {
            prefetch(self.at(guess.ahead.load(Ordering::Relaxed)));
            trail.go(trail.next, guess.next.load(Ordering::Relaxed));
            return Some((guess, head));
        }
        // By value: nobody else holds a pointer to them, so they may live in registers.
        let place = self.search(key, generation, trail.last, trail.next)?;
        let entry = self.at(place);
        let head = entry.head_for(key, generation)?;
        trail.go(place, entry.next.load(Ordering::Relaxed));
        Some((entry, head))
    }

    #[inline(never)]
    fn search(&self, key: u64, generation: u32, last: [u16; AHEAD], next: u16) -> Option<u16> {
        let known = |place: &usize| self.entries[*place].head_for(key, generation).is_some();
        let place = Self::places(key).find(known)? as u16;
        if next == NONE {
            self.expect(place, last);
        }
        Some(place)
    }

    /// Remembers `address`, unless its entry is being written, or something of it is too far away
    /// from it.
    #[cold]
    pub(crate) fn memorize(&self, address: u64, generation: u32, known: &Known, trail: &mut Trail) {
        let Some((mut words, landing_pad)) = encode(address, known) else { return };
        words[0] = trail.key(address);
        let place = self.victim(words[0], generation);
        let entry = &self.entries[place];
        let head = entry.head.load(Ordering::Relaxed);
        let odd = head.wrapping_add(1);
        if head & 1 != 0
            || entry.head.compare_exchange(head, odd, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            return;
        }
        // Readers that see any of the words below see the odd head, too.
        fence(Ordering::Release);
        for (to, from) in entry.words.iter().zip(words) {
            to.store(from, Ordering::Relaxed);
        }
        entry.landing_pad.store(landing_pad, Ordering::Relaxed);
        entry.next.store(NONE, Ordering::Relaxed);
        entry.ahead.store(NONE, Ordering::Relaxed);
        let count = (head as u32).wrapping_add(2);
        let new = u64::from(generation) << 32 | u64::from(count);
        entry.head.store(new, Ordering::Release);
        self.expect(place as u16, trail.last);
        trail.go(place as u16, NONE);
    }

    /// Has those that lead to an entry expect it from now on.
    fn expect(&self, place: u16, last: [u16; AHEAD]) {
        let [last, .., first] = last;
        if last != NONE {
            self.at(last).next.store(place, Ordering::Relaxed);
        }
        if first != NONE {
            self.at(first).ahead.store(place, Ordering::Relaxed);
        }
    }

    /// Where to remember what has this key: where it was, where nothing is that still holds, or anywhere.
    fn victim(&self, key: u64, generation: u32) -> usize {
        let places = Self::places(key);
        let head = |place: usize| self.entries[place].head.load(Ordering::Relaxed);
        let is_at = |place: &usize| self.entries[*place].word(0) == key;
        let is_stale = |place: &usize| (head(*place) >> 32) as u32 != generation;
        // Another one each time, in no order: what is walked no more goes, what is walked in turn
        // is not driven out by the next each time.
        let counts = places.clone().fold(0, |sum: u32, place| sum.wrapping_add(head(place) as u32));
        let any = places.start + (counts.wrapping_mul(0x9e37_79b9) >> 16) as usize % WAYS;
        places.clone().find(is_at).or_else(|| places.clone().find(is_stale)).unwrap_or(any)
    }
}

/// Whether nobody has written the entry since its head was read.
#[inline(always)]
fn unchanged(entry: &Entry, head: u64) -> bool {
    // Loads before the fence belong to the head that was read, if it is still there after.
    fence(Ordering::Acquire);
    entry.head.load(Ordering::Relaxed) == head
}

/// As words, and the distance to the landing pad; `None` if something is too far away.
fn encode(address: u64, known: &Known) -> Option<([u64; WORDS], u32)> {
    let near = |other: u64, matters: bool| {
        let distance = if matters { other.wrapping_sub(address) as i64 } else { 0 };
        Some(i32::try_from(distance).ok()? as u32)
    };
    let start = u32::try_from(address.wrapping_sub(known.start)).ok()?;
    let lsda = near(known.lsda, known.lsda().is_some())?;
    let landing_pad = near(known.landing_pad, known.landing_pad != 0)?;
    let [first, second] = known.rule.to_words();
    let distances = u64::from(lsda) << 32 | u64::from(start);
    Some(([address, first, second, known.personality, distances, known.flags], landing_pad))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::Pointer;
    use crate::in_flight::ModuleTag;
    use crate::known::Lsda;
    use crate::lsda::Action;

    const ADDRESS: u64 = 0x10_0000;

    /// What can be told by a number below [`ADDRESS`].
    fn known(start: u64) -> Known {
        let mut known = Known { start, ..Known::NOTHING };
        known.set_lsda(Some(Lsda { pointer: Pointer::Indirect(start + 1), length: start as u32 }));
        known.set_personality(Some(Pointer::Indirect(start + 2)));
        known.set_module(ModuleTag::of(start << 12));
        known.set_action(Some(Action::Cleanup(start + 3)));
        known
    }

    fn recall(cache: &Cache, address: u64, generation: u32) -> Option<Known> {
        let mut known = Known::NOTHING;
        cache.recall(address, generation, &mut { Trail::START }, &mut known).then_some(known)
    }

    fn memorize(cache: &Cache, address: u64, generation: u32, known: &Known) {
        cache.memorize(address, generation, known, &mut { Trail::START });
    }

    #[test]
    fn what_was_memorized_is_recalled_whole() {
        let cache = Cache::new();
        assert_eq!(recall(&cache, ADDRESS, 4), None);
        let far = ADDRESS + (1 << 31) - 1;
        let mut other = known(far - (1 << 31));
        other.set_lsda(Some(Lsda { pointer: Pointer::Direct(far), length: 7 }));
        other.set_personality(Some(Pointer::Direct(u64::MAX)));
        other.set_action(Some(Action::Catch(ADDRESS - (1 << 19))));
        for each in [known(0x900), Known { start: ADDRESS, ..other }] {
            memorize(&cache, ADDRESS, 4, &each);
            assert_eq!(recall(&cache, ADDRESS, 4), Some(each));
        }
        memorize(&cache, ADDRESS, 4, &Known::NOTHING);
        let nothing = recall(&cache, ADDRESS, 4).unwrap();
        assert_eq!((nothing.lsda(), nothing.personality(), nothing.action()), (None, None, None));
    }

    #[test]
    fn what_is_too_far_away_is_not_memorized() {
        let cache = Cache::new();
        let mut far = known(0x900);
        far.set_action(Some(Action::Catch(ADDRESS + (1 << 31))));
        memorize(&cache, ADDRESS, 4, &far);
        memorize(&cache, ADDRESS + (1 << 32), 4, &known(0x900));
        assert_eq!(recall(&cache, ADDRESS, 4), None);
        assert_eq!(recall(&cache, ADDRESS + (1 << 32), 4), None);
    }

    #[test]
    fn another_generation_or_address_knows_nothing() {
        let cache = Cache::new();
        memorize(&cache, ADDRESS, 4, &known(0x900));
        assert_eq!(recall(&cache, ADDRESS, 6), None);
        assert_eq!(recall(&cache, ADDRESS + 1, 4), None);
        // Address 0 in generation 0 is what fresh memory looks like.
        assert_eq!(recall(&cache, 0, 4), None);
    }

    #[test]
    fn as_many_addresses_as_a_set_has_entries_are_kept_and_then_old_ones_go() {
        let cache = Cache::new();
        let set = Cache::places(ADDRESS);
        let all: Vec<u64> =
            (ADDRESS..).filter(|&each| Cache::places(each) == set).take(5).collect();
        for &each in &all[..WAYS] {
            memorize(&cache, each, 4, &known(0x900));
        }
        assert!(all[..WAYS].iter().all(|&each| recall(&cache, each, 4).is_some()));
        memorize(&cache, all[4], 4, &known(0x900));
        assert_eq!(all.iter().filter(|&&each| recall(&cache, each, 4).is_some()).count(), WAYS);
        memorize(&cache, all[0], 6, &known(0x900));
        memorize(&cache, all[1], 6, &known(0x900));
        assert!(recall(&cache, all[0], 6).is_some() && recall(&cache, all[1], 6).is_some());
    }

    #[test]
    fn a_rule_alone_is_enough_for_a_walk_and_not_for_a_raise() {
        let cache = Cache::new();
        let rule = known(0x900).rule;
        let mut trail = Trail::START;
        for each in [ADDRESS, ADDRESS + 1] {
            cache.memorize(each, 4, &Known::only_rule(each, rule), &mut trail);
        }
        assert_eq!(cache.recall_rule(ADDRESS, 4, &mut { Trail::START }), Some(rule));
        let mut trail = Trail::START;
        for each in [ADDRESS, ADDRESS + 1] {
            assert!(!cache.recall(each, 4, &mut trail, &mut { Known::NOTHING }));
            cache.memorize(each, 4, &known(0x900), &mut trail);
        }
        // Walks still go from one to the other.
        let mut trail = Trail::START;
        for each in [ADDRESS, ADDRESS + 1] {
            assert!(cache.recall(each, 4, &mut trail, &mut { Known::NOTHING }));
        }
        let mut trail = Trail::START;
        assert!(cache.recall_rule(ADDRESS, 4, &mut trail).is_some());
        assert_eq!(cache.at(trail.next).word(0), ADDRESS + 1);
    }

    #[test]
    fn a_walk_that_was_taken_before_is_guessed() {
        let cache = Cache::new();
        let path = [ADDRESS, ADDRESS + 0x40, ADDRESS + 0x77];
        let mut trail = Trail::START;
        for each in path {
            cache.memorize(each, 4, &known(each), &mut trail);
        }
        let mut trail = Trail::START;
        for (place, each) in path.into_iter().enumerate() {
            let guessed = cache.at(trail.next).word(0) == each;
            assert_eq!(guessed, place > 0);
            assert!(cache.recall_rule(each, 4, &mut trail).is_some());
        }
        // Another way from the first one is found, too, and does not change the guess.
        let mut trail = Trail::START;
        for each in [path[0], path[2]] {
            assert!(cache.recall_rule(each, 4, &mut trail).is_some());
        }
        let mut trail = Trail::START;
        assert!(cache.recall_rule(path[0], 4, &mut trail).is_some());
        assert_eq!(cache.at(trail.next).word(0), path[1]);
    }

    #[test]
    fn an_entry_that_is_being_written_is_absent_and_is_not_written_by_others() {
        let cache = Cache::new();
        memorize(&cache, ADDRESS, 4, &known(0x900));
        let head = &cache.entries[Cache::places(ADDRESS).start].head;
        head.fetch_add(1, Ordering::Relaxed);
        assert_eq!(recall(&cache, ADDRESS, 4), None);
        memorize(&cache, ADDRESS, 4, &known(0x901));
        head.fetch_sub(1, Ordering::Relaxed);
        assert_eq!(recall(&cache, ADDRESS, 4), Some(known(0x900)));
    }

    #[test]
    fn readers_never_see_a_mixture() {
        static CACHE: Cache = Cache::new();
        std::thread::scope(|scope| {
            let writers: [_; 2] = std::array::from_fn(|_| {
                scope.spawn(|| {
                    for n in 1..100_000 {
                        memorize(&CACHE, ADDRESS, 4, &known(n));
                    }
                })
            });
            let mut seen = 0u32;
            while !writers.iter().all(|writer| writer.is_finished()) || seen == 0 {
                if let Some(found) = recall(&CACHE, ADDRESS, 4) {
                    assert_eq!(found, known(found.start));
                    seen += 1;
                }
            }
        });
    }
}
