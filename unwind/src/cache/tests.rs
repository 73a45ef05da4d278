//! The cache keeps what it was told, and tells nothing else.

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
    let all: Vec<u64> = (ADDRESS..).filter(|&each| Cache::places(each) == set).take(5).collect();
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
