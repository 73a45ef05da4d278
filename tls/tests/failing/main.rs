//! Memory ends at every allocation in turn, and nothing else changes.
//!
//! ```text
//!  for n = 0, 1, 2, …   the n-th allocation fails, and all later ones ─► an error, and all is as it was
//!  until none failed    ─► done, and undone again without a byte left
//! ```

mod allocator;

use std::cell::Cell;
use std::fmt::Debug;
use std::ops::RangeInclusive;

use unspool_tls::{AccessError, Area, Dynamic, Published, Registry, Template};

use allocator::{bytes, failing, no_larger_than};

const SURPLUS: usize = 8192;

fn registry() -> Registry {
    Registry::new(Template::EMPTY, SURPLUS).unwrap()
}

/// What others see of a registry.
fn state(registry: &Registry) -> (usize, usize, usize) {
    (registry.live_areas(), registry.surplus_free(), registry.modules())
}

/// Acts with memory ending at every allocation in turn. Returns what comes of it when none fails, and
/// checks that there were as many to fail as expected.
fn fail_in_turn<R, E: Debug>(
    registry: &Registry,
    allocations: RangeInclusive<usize>,
    mut act: impl FnMut() -> Result<R, E>,
) -> R {
    let before = state(registry);
    for nth in 0.. {
        let (result, failed) = failing(nth, &mut act);
        match result {
            Ok(value) => {
                assert!(!failed, "allocation {nth} failed, and nobody said so");
                assert!(allocations.contains(&nth), "{nth} allocations, not {allocations:?}");
                return value;
            }
            Err(error) => {
                assert!(failed, "{error:?} with enough memory");
                assert_eq!(state(registry), before, "after {error:?}");
            }
        }
    }
    unreachable!()
}

/// Runs a test, and sees that all memory comes back.
fn without_leak(test: impl FnOnce(&Registry)) {
    let before = bytes();
    let registry = registry();
    test(&registry);
    assert_eq!(state(&registry), (0, SURPLUS, 0));
    drop(registry);
    assert_eq!(bytes(), before);
}

/// As many static modules as use up the numbers below `number`.
fn modules_below(registry: &Registry, number: usize) -> Vec<Published<'_>> {
    (1..number).map(|_| registry.reserve(8, 8).unwrap().publish(&[1; 8]).unwrap()).collect()
}

fn block(area: &Area<'_>, module: &Dynamic<'_>) -> u64 {
    let start = area.prepare(module.module()).unwrap();
    // SAFETY: The tests' blocks have eight bytes or more, and no task uses them.
    unsafe { start.cast::<u64>().read_unaligned() }
}

#[test]
fn creating_an_area() {
    without_leak(|registry| {
        let module = registry.reserve(8, 8).unwrap().publish(&[7; 8]).unwrap();
        let first = fail_in_turn(registry, 1..=1, || registry.new_area(1));
        drop(first);
        let again = fail_in_turn(registry, 0..=0, || registry.new_area(2));
        drop((again, module));
        assert_eq!(registry.trim(), 1);
        fail_in_turn(registry, 1..=1, || registry.new_area(1));
    });
}

/// Both steps. The error is only a word: making a box of it would need memory.
fn publish(registry: &Registry) -> Result<Published<'_>, &'static str> {
    let reserved = registry.reserve(16, 8).map_err(|_| "not reserved")?;
    reserved.publish(&[5; 16]).map_err(|_| "not published")
}

#[test]
fn reserving_and_publishing() {
    without_leak(|registry| {
        let area = registry.new_area(0).unwrap();
        let reserved = fail_in_turn(registry, 1..=2, || registry.reserve(16, 8));
        let published = {
            let mut reserved = Some(reserved);
            // A failure gives the space back, so it is reserved anew.
            let before = registry.modules() - 1;
            let published = failing(0, || reserved.take().unwrap().publish(&[5; 16]));
            assert!(published.1 && published.0.is_err());
            assert_eq!((registry.modules(), registry.surplus_free()), (before, SURPLUS));
            fail_in_turn(registry, 1..=3, || publish(registry))
        };
        // The image is there now.
        fail_in_turn(registry, 0..=2, || publish(registry));
        drop((published, area));
    });
}

#[test]
fn reserving_a_number_that_no_vector_has_room_for() {
    without_leak(|registry| {
        let modules = modules_below(registry, 31);
        let dynamic = registry.add_dynamic(&[3; 8], 8, 8).unwrap();
        let areas = [(); 3].map(|()| registry.new_area(0).unwrap());
        let values = areas.each_ref().map(|area| block(area, &dynamic));
        let without_block = registry.new_area(0).unwrap();
        // A vector for each area that has one (and keeps it when a later one fails), one for all
        // others, and the registry's records.
        let last = fail_in_turn(registry, 3..=7, || registry.add_dynamic(&[4; 8], 8, 8));
        assert_eq!(last.module().get(), 32);
        let addresses = areas.each_ref().map(|area| area.prepare(dynamic.module()).unwrap());
        assert_eq!(areas.each_ref().map(|area| block(area, &dynamic)), values);
        let again = areas.each_ref().map(|area| area.prepare(dynamic.module()).unwrap());
        assert_eq!(addresses, again, "blocks do not move");
        for area in areas.iter().chain([&without_block]) {
            assert_eq!(block(area, &last), u64::from_ne_bytes([4; 8]));
        }
        drop((areas, without_block, last, dynamic, modules));
    });
}

#[test]
fn adding_a_dynamic_module() {
    without_leak(|registry| {
        let module = fail_in_turn(registry, 2..=2, || registry.add_dynamic(&[1, 2], 100, 64));
        drop(module);
    });
}

#[test]
fn making_a_block() {
    without_leak(|registry| {
        let modules = modules_below(registry, 40);
        let module = registry.add_dynamic(&[9; 8], 320, 8).unwrap();
        let area = registry.new_area(0).unwrap();
        let prepare = || area.prepare(module.module());
        let start = fail_in_turn(registry, 2..=2, prepare);
        assert_eq!(fail_in_turn(registry, 0..=0, prepare), start);
        // An entry for a static module is not worth an error.
        let other = registry.new_area(0).unwrap();
        let (address, _) = failing(0, || other.prepare(modules[0].module()));
        assert_eq!(address.unwrap(), other.thread_pointer().block(modules[0].offset()));
        drop((other, area, module, modules));
    });
}

/// What a kernel does before a task runs: from here on, no access of it can fail.
fn spawn(registry: &Registry) -> Result<Area<'_>, &'static str> {
    let area = registry.new_area(1).map_err(|_| "no area")?;
    area.prepare_all().map_err(|_| "no blocks")?;
    Ok(area)
}

#[test]
fn spawning_a_task_whose_accesses_cannot_fail() {
    without_leak(|registry| {
        let modules = modules_below(registry, 40);
        let dynamic = [1, 2, 3].map(|n| registry.add_dynamic(&[n; 8], 1 << (4 * n), 8).unwrap());
        // The area (kept when there is no memory for more), a vector, a chunk for
        // each of the larger blocks.
        let area = fail_in_turn(registry, 3..=4, || spawn(registry));
        let (values, failed) = failing(0, || dynamic.each_ref().map(|module| block(&area, module)));
        assert_eq!((values, failed), ([1, 2, 3].map(|n| u64::from_ne_bytes([n; 8])), false));
        drop((area, dynamic, modules));
    });
}

#[test]
fn a_block_is_made_when_there_is_memory_for_no_more_than_it() {
    without_leak(|registry| {
        let numbers = [1, 2, 3, 4, 5, 6];
        let modules = numbers.map(|n| registry.add_dynamic(&[n; 8], 64, 64).unwrap());
        let area = registry.new_area(0).unwrap();
        let values = no_larger_than(300, || modules.each_ref().map(|module| block(&area, module)));
        assert_eq!(values, numbers.map(|n| u64::from_ne_bytes([n; 8])));
        drop((modules, area));
    });
}

#[test]
fn preparing_every_block_of_a_task_and_every_task_of_a_module() {
    without_leak(|registry| {
        let modules = [1, 2, 3].map(|n| registry.add_dynamic(&[n; 8], 8, 4096).unwrap());
        let area = registry.new_area(0).unwrap();
        // Blocks that were made stay, so there are ever fewer to make.
        fail_in_turn(registry, 2..=3, || area.prepare_all());
        fail_in_turn(registry, 0..=0, || area.prepare_all());
        let others = [(); 4].map(|()| registry.new_area(0).unwrap());
        fail_in_turn(registry, 2..=4, || modules[1].prepare_live());
        fail_in_turn(registry, 0..=0, || modules[1].prepare_live());
        for area in others.iter().chain([&area]) {
            let (value, _) = failing(0, || block(area, &modules[1]));
            assert_eq!(value, u64::from_ne_bytes([2; 8]));
        }
        drop((others, area, modules));
    });
}

#[test]
fn withdrawing_and_ending_need_no_memory() {
    without_leak(|registry| {
        let modules = modules_below(registry, 40);
        let dynamic = registry.add_dynamic(&[9; 8], 8, 8).unwrap();
        let areas = [(); 20].map(|()| registry.new_area(0).unwrap());
        dynamic.prepare_live().unwrap();
        let everything = Cell::new(Some((dynamic, modules, areas)));
        let ((), failed) = failing(0, || drop(everything.take()));
        assert!(!failed);
    });
}

#[test]
fn the_error_has_the_numbers() {
    without_leak(|registry| {
        let module = registry.add_dynamic(&[], 100_000, 64).unwrap();
        let area = registry.new_area(0).unwrap();
        let (result, _) = failing(0, || area.prepare(module.module()));
        let expected = AccessError::OutOfMemory { size: 100_000, align: 64 };
        assert_eq!(result, Err(expected));
        let text = "no memory for a TLS block of 100000 bytes aligned to 64";
        assert_eq!(expected.to_string(), text);
        drop((area, module));
    });
}
