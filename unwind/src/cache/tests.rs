//! The cache keeps what it was told, and tells nothing else.

use core::ops::Range;

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

/// Whether a walk that is at the end of `trail` goes on to `address` without a search.
fn is_guessed(cache: &Cache, trail: Trail, address: u64) -> bool {
    [trail.last.after(), cache.at(trail.last).next()]
        .into_iter()
        .any(|place| cache.at(place).head_for(address, 4).is_some())
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
fn a_walk_begins_where_a_hint_leads_or_else_where_the_index_does() {
    if ENTRIES < 4 {
        // One drives out another.
        return;
    }
    let cache = Cache::new();
    let addresses = [ADDRESS, ADDRESS + 0x100, ADDRESS + 0x200];
    let mut trail = Trail::START;
    for address in addresses {
        cache.memorize(address, 4, &known(1), &mut trail);
    }
    let memory = cache.memory(4);
    let mut first = Trail::START;
    memory.lead(ADDRESS, &mut first);
    assert!(is_guessed(&cache, first, ADDRESS));
    for wrong in [first.hint(), trail.hint(), Hint(0), Hint(u32::MAX)] {
        for hint in [first.hint_beyond(), wrong] {
            let mut second = Trail::START;
            memory.lead_by(hint, addresses[1], &mut second);
            assert!(is_guessed(&cache, second, addresses[1]), "{hint:?}");
            assert_eq!(second.back().hint().0, first.back().hint_beyond().0);
        }
    }
    // It is asked before the index, which forgets.
    let forgetful = Cache { index: Index::new(), ..cache };
    let mut second = Trail::START;
    forgetful.memory(4).lead_by(first.hint_beyond(), addresses[1], &mut second);
    assert!(is_guessed(&forgetful, second, addresses[1]));
}

#[test]
fn what_is_known_of_code_is_not_taken_for_that_of_other_code_at_its_addresses() {
    let cache = Cache::new();
    let entered = |identity| {
        let mut trail = Trail::START;
        trail.enter(ADDRESS..ADDRESS + 0x100, identity);
        assert!(trail.covers(ADDRESS) && trail.covers(ADDRESS + 0xff));
        assert!(!trail.covers(ADDRESS - 1) && !trail.covers(ADDRESS + 0x100));
        trail
    };
    for identity in [7, 8] {
        cache.memorize(ADDRESS, 4, &known(0x900 + identity), &mut entered(identity));
    }
    for identity in [7, 8, 9, 0] {
        let mut found = Known::NOTHING;
        let is_known = cache.recall(ADDRESS, 4, &mut entered(identity), &mut found);
        let expected = [7, 8].contains(&identity).then(|| known(0x900 + identity));
        assert_eq!(is_known.then_some(found), expected);
    }
}

#[test]
fn an_identity_does_not_vouch_for_what_tables_name_in_other_code() {
    let entered = |identity| {
        let mut trail = Trail::START;
        trail.enter(ADDRESS..ADDRESS + 0x100, identity);
        trail
    };
    let with = |personality, lsda| {
        let mut known = Known { start: ADDRESS, ..Known::NOTHING };
        known.set_personality(Some(personality));
        known.set_lsda(Some(Lsda { pointer: lsda, length: 1 }));
        known
    };
    let own = Pointer::Direct(ADDRESS + 0x80);
    let others = Pointer::Direct(ADDRESS + 0x100);
    // A word of its own, which is read each time.
    let slot = Pointer::Indirect(ADDRESS + 0xf8);
    for (known, vouches) in [
        (Known::NOTHING, true),
        (with(own, own), true),
        (with(slot, own), true),
        (with(others, own), false),
        (with(slot, others), false),
    ] {
        assert_eq!(entered(7).vouches_for(&known), vouches, "{known:?}");
        // What has no identity is told from others by the generation.
        assert!(entered(0).vouches_for(&known));
    }
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

/// Nearly all: a set of the index may be full before all entries are.
fn nearly_all(cache: &Cache, addresses: Range<u64>, generation: u32) -> bool {
    let known = addresses.clone().filter(|&each| recall(cache, each, generation).is_some());
    known.count() > addresses.count() * 15 / 16
}

#[test]
fn as_many_addresses_as_there_are_entries_are_kept_and_then_old_ones_go() {
    let cache = Cache::new();
    let count = ENTRIES as u64;
    for generation in [4, 6] {
        let (old, new) = (ADDRESS..ADDRESS + count, ADDRESS + count..ADDRESS + 2 * count);
        for each in old.clone() {
            memorize(&cache, each, generation, &known(0x900));
        }
        assert!(nearly_all(&cache, old, generation));
        for each in new.clone() {
            memorize(&cache, each, generation, &known(0x900));
        }
        assert!(nearly_all(&cache, new, generation));
    }
}

#[test]
fn a_walk_longer_than_the_cache_finds_some_of_what_it_asks_for() {
    let cache = Cache::new();
    let all = ADDRESS..ADDRESS + ENTRIES as u64 * 5 / 4;
    let mut found = 0;
    for each in (0..8).flat_map(|_| all.clone()) {
        match recall(&cache, each, 4) {
            Some(_) => found += 1,
            None => memorize(&cache, each, 4, &known(0x900)),
        }
    }
    assert!(found > ENTRIES, "{found} of {} found", 8 * all.count());
}

#[test]
fn every_entry_has_its_turn_and_runs_lie_in_order() {
    for round in 0..3 {
        let turns = round * ENTRIES..(round + 1) * ENTRIES;
        let mut places: Vec<_> = turns.map(|turn| in_turn(turn).index()).collect();
        for run in places.chunks(RUN) {
            assert!(run.windows(2).all(|pair| pair[0] + 1 == pair[1]));
        }
        places.sort();
        assert!(places.into_iter().eq(0..ENTRIES));
    }
    assert!(ENTRIES == RUN || in_turn(ENTRIES) != in_turn(2 * ENTRIES));
}

#[test]
fn a_rule_alone_is_enough_for_a_walk_and_not_for_a_raise() {
    let cache = Cache::new();
    let rule = known(0x900).rule;
    let mut trail = Trail::START;
    for each in [ADDRESS, ADDRESS + 1] {
        cache.memorize_rule(each, 4, rule, &mut trail);
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
    assert!(is_guessed(&cache, trail, ADDRESS + 1));
    // What was known besides is not of this entry any more.
    cache.memorize_rule(ADDRESS, 4, rule, &mut { Trail::START });
    assert_eq!(recall(&cache, ADDRESS, 4), None);
    assert_eq!(cache.recall_rule(ADDRESS, 4, &mut { Trail::START }), Some(rule));
}

#[test]
fn a_walk_that_was_taken_before_is_guessed() {
    // A way and another one do not fit.
    if ENTRIES < 4 {
        return;
    }
    let cache = Cache::new();
    let path = [ADDRESS, ADDRESS + 0x40, ADDRESS + 0x77];
    let mut trail = Trail::START;
    for each in path {
        cache.memorize(each, 4, &known(each), &mut trail);
    }
    let mut trail = Trail::START;
    for (place, each) in path.into_iter().enumerate() {
        assert!(place == 0 || is_guessed(&cache, trail, each));
        assert!(cache.recall_rule(each, 4, &mut trail).is_some());
    }
    // Another way from the first one is found, too, and guessed from then on as well.
    let mut trail = Trail::START;
    for each in [path[0], path[2]] {
        assert!(cache.recall_rule(each, 4, &mut trail).is_some());
    }
    let mut trail = Trail::START;
    assert!(cache.recall_rule(path[0], 4, &mut trail).is_some());
    assert!(is_guessed(&cache, trail, path[1]) && is_guessed(&cache, trail, path[2]));
    // A third way changes neither.
    cache.memorize(ADDRESS + 0x99, 4, &known(0x900), &mut { Trail::START });
    assert!(cache.recall_rule(ADDRESS + 0x99, 4, &mut { trail }).is_some());
    assert!(is_guessed(&cache, trail, path[1]) && is_guessed(&cache, trail, path[2]));
}

#[test]
fn an_entry_that_is_being_written_is_absent_and_is_not_written_by_others() {
    let cache = Cache::new();
    memorize(&cache, ADDRESS, 4, &known(0x900));
    let (place, _) = cache.index.slots(ADDRESS).places().next().unwrap();
    let head = &cache.at(place).head;
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
                    // Which ends with all that is known, whoever is the last one.
                    CACHE.memorize_rule(ADDRESS, 4, known(n).rule, &mut { Trail::START });
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
