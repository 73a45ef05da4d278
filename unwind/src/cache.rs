//! Remembers what the tables say of addresses that were asked for before.
//!
//! ```text
//!   ip ─ hash ─► entry, 64 bytes │ generation, sequence │ ip │ rule │ start │ LSDA │ personality │
//!                                  even: whole
//! ```
//!
//! A program unwinds through the same call sites again and again; finding their rule by DWARF
//! takes a hundred times what applying it takes. Entries are seqlocks: a reader never writes and
//! never waits, it takes an entry that is being written for absent; so does a writer, which makes
//! reading and writing safe in an NMI that interrupts either. A change of the table of modules
//! makes all entries stale at once, by its version.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU64, Ordering, fence};

use crate::encoding::Pointer;
use crate::in_flight::ModuleTag;
use crate::rule::Rule;

/// How many addresses are remembered: 64 KiB of them.
const ENTRIES: usize = 1024;
const WORDS: usize = 7;

/// What is known of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// How to get to the caller.
    pub(crate) rule: Rule,
    /// Whether the caller is to be looked up at its exact address.
    pub(crate) signal_frame: bool,
    /// The first address of the function.
    pub(crate) start: u64,
    /// The function's LSDA, to the end of the module's.
    pub(crate) lsda: Option<Lsda>,
    /// The function's personality routine.
    pub(crate) personality: Option<Pointer>,
    /// Tells its module from most others.
    pub(crate) module: ModuleTag,
}

/// Where an LSDA lies, and how many bytes its module has from there on; 0 if it lies elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lsda {
    pub(crate) pointer: Pointer,
    pub(crate) length: u32,
}

impl Known {
    /// Nothing: a place to put something.
    pub(crate) const NOTHING: Self = Self {
        rule: Rule::END_OF_STACK,
        signal_frame: false,
        start: 0,
        lsda: None,
        personality: None,
        module: ModuleTag::NONE,
    };
}

const SIGNAL_FRAME: u64 = 1 << 32;
const INDIRECT: u64 = 1 << 33;
const PERSONALITY: u64 = 1 << 34;
const HAS_LSDA: u64 = 1 << 35;
const INDIRECT_LSDA: u64 = 1 << 36;
/// Where the module's tag stands.
const MODULE: u32 = 40;

#[repr(align(64))]
struct Entry {
    /// The generation in the upper half, a counter in the lower one: odd while it is written.
    head: AtomicU64,
    words: [AtomicU64; WORDS],
}

static_assertions::const_assert_eq!(size_of::<Entry>(), 64);

/// A direct-mapped cache.
pub(crate) struct Cache {
    entries: [Entry; ENTRIES],
}

impl Cache {
    pub(crate) const fn new() -> Self {
        Self {
            entries: [const {
                Entry { head: AtomicU64::new(0), words: [const { AtomicU64::new(0) }; WORDS] }
            }; ENTRIES],
        }
    }

    fn entry(&self, address: u64) -> &Entry {
        // The upper bits of a product depend on all bits of the factor.
        let hash = address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - ENTRIES.ilog2());
        &self.entries[hash as usize % ENTRIES]
    }

    /// What is known of `address` in this generation.
    #[inline]
    pub(crate) fn recall(&self, address: u64, generation: u32) -> Option<Known> {
        self.read(address, generation, |word| {
            decode(&core::array::from_fn(|n| if n == 0 { address } else { word(n) }))
        })
    }

    /// The rule for `address` and whether it is that of a signal frame: all that a walk needs.
    #[inline]
    pub(crate) fn recall_rule(&self, address: u64, generation: u32) -> Option<(Rule, bool)> {
        self.read(address, generation, |word| {
            (Rule::from_words([word(1), word(2)]), word(WORDS - 1) & SIGNAL_FRAME != 0)
        })
    }

    #[inline(always)]
    fn read<T>(
        &self,
        address: u64,
        generation: u32,
        read: impl FnOnce(&dyn Fn(usize) -> u64) -> T,
    ) -> Option<T> {
        let entry = self.entry(address);
        let head = entry.head.load(Ordering::Acquire);
        let word = |n: usize| entry.words[n].load(Ordering::Relaxed);
        if head & 1 != 0 || (head >> 32) as u32 != generation || word(0) != address {
            return None;
        }
        let value = read(&word);
        // Loads before the fence belong to the head that was read, if it is still there after.
        fence(Ordering::Acquire);
        (entry.head.load(Ordering::Relaxed) == head).then_some(value)
    }

    /// Remembers `address`, unless its entry is being written.
    pub(crate) fn memorize(&self, address: u64, generation: u32, known: &Known) {
        let entry = self.entry(address);
        let head = entry.head.load(Ordering::Relaxed);
        let odd = head.wrapping_add(1);
        if head & 1 != 0
            || entry.head.compare_exchange(head, odd, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            return;
        }
        // Readers that see any of the words below see the odd head, too.
        fence(Ordering::Release);
        for (to, from) in entry.words.iter().zip(encode(address, known)) {
            to.store(from, Ordering::Relaxed);
        }
        let count = (head as u32).wrapping_add(2);
        let new = u64::from(generation) << 32 | u64::from(count);
        entry.head.store(new, Ordering::Release);
    }
}

fn encode(address: u64, known: &Known) -> [u64; WORDS] {
    let [first, second] = known.rule.to_words();
    let (lsda, mut flags) = match known.lsda {
        Some(Lsda { pointer, length }) => {
            let indirect = matches!(pointer, Pointer::Indirect(_));
            let kind = if indirect { HAS_LSDA | INDIRECT_LSDA } else { HAS_LSDA };
            (pointer.address(), u64::from(length) | kind)
        }
        None => (0, 0),
    };
    flags |= u64::from(known.module.number()) << MODULE;
    let personality = match known.personality {
        None => 0,
        Some(pointer) => {
            flags |= PERSONALITY;
            if matches!(pointer, Pointer::Indirect(_)) {
                flags |= INDIRECT;
            }
            pointer.address()
        }
    };
    if known.signal_frame {
        flags |= SIGNAL_FRAME;
    }
    [address, first, second, known.start, lsda, personality, flags]
}

fn decode(words: &[u64; WORDS]) -> Known {
    let [_, first, second, start, lsda, personality, flags] = *words;
    let pointer =
        |indirect| if flags & indirect != 0 { Pointer::Indirect } else { Pointer::Direct };
    Known {
        rule: Rule::from_words([first, second]),
        signal_frame: flags & SIGNAL_FRAME != 0,
        start,
        lsda: (flags & HAS_LSDA != 0)
            .then(|| Lsda { pointer: pointer(INDIRECT_LSDA)(lsda), length: flags as u32 }),
        personality: (flags & PERSONALITY != 0).then(|| pointer(INDIRECT)(personality)),
        module: ModuleTag::from_number((flags >> MODULE) as u8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(start: u64) -> Known {
        Known {
            signal_frame: start.is_multiple_of(2),
            start,
            lsda: Some(Lsda { pointer: Pointer::Indirect(start + 1), length: start as u32 }),
            personality: Some(Pointer::Indirect(start + 2)),
            module: ModuleTag::of(start << 12),
            ..Known::NOTHING
        }
    }

    #[test]
    fn what_was_memorized_is_recalled_whole() {
        let cache = Cache::new();
        assert_eq!(cache.recall(0x1000, 4), None);
        for each in [
            known(0x900),
            Known { personality: Some(Pointer::Direct(7)), lsda: None, ..known(0x901) },
            Known::NOTHING,
        ] {
            cache.memorize(0x1000, 4, &each);
            assert_eq!(cache.recall(0x1000, 4), Some(each));
        }
    }

    #[test]
    fn another_generation_or_address_knows_nothing() {
        let cache = Cache::new();
        cache.memorize(0x1000, 4, &known(0x900));
        assert_eq!(cache.recall(0x1000, 6), None);
        assert_eq!(cache.recall(0x1001, 4), None);
        // Address 0 in generation 0 is what fresh memory looks like.
        assert_eq!(cache.recall(0, 4), None);
    }

    #[test]
    fn an_entry_that_is_being_written_is_absent_and_is_not_written_by_others() {
        let cache = Cache::new();
        cache.memorize(0x1000, 4, &known(0x900));
        let head = &cache.entry(0x1000).head;
        head.fetch_add(1, Ordering::Relaxed);
        assert_eq!(cache.recall(0x1000, 4), None);
        cache.memorize(0x1000, 4, &known(0x901));
        head.fetch_sub(1, Ordering::Relaxed);
        assert_eq!(cache.recall(0x1000, 4), Some(known(0x900)));
    }

    #[test]
    fn readers_never_see_a_mixture() {
        static CACHE: Cache = Cache::new();
        std::thread::scope(|scope| {
            let writers: [_; 2] = std::array::from_fn(|_| {
                scope.spawn(|| {
                    for n in 1..100_000 {
                        CACHE.memorize(0x1000, 4, &known(n));
                    }
                })
            });
            let mut seen = 0u32;
            while !writers.iter().all(|writer| writer.is_finished()) || seen == 0 {
                if let Some(found) = CACHE.recall(0x1000, 4) {
                    assert_eq!(found, known(found.start));
                    seen += 1;
                }
            }
        });
    }
}
