//! What becomes of things when memory runs out: an error, and everything is as before.
//!
//! ```text
//!   0, 1, 2, … allocations succeed ─► one fails, or all from there on ─► error, nothing is left
//!                                                                      └► until none has failed
//! ```

use core::fmt::Debug;

use unspool::loader::{Input, LoadError, Set};
use unspool_kernel::machine::PAGE;
use unspool_kernel::memory::STACKS;
use unspool_kernel::platform::tls_registry;
use unspool_kernel::task::Builder;
use unspool_kernel::{heap, loader, task};

use crate::support::{footprint, module, unload_soon};

crate::tests![
    a_task_that_cannot_be_made_is_an_error_and_leaves_nothing,
    an_object_that_cannot_be_loaded_is_an_error_and_leaves_nothing,
    a_set_that_cannot_be_loaded_is_an_error_and_leaves_nothing,
    stacks_of_ended_tasks_are_in_nobodys_way,
];

/// Allocations that any of this may need; more is a loop.
const MANY: usize = 1000;

/// Lets each allocation of `attempt` fail in turn, alone and with all after it. `attempt` gives back
/// what it made, unless it fails; returns how many allocations it makes.
fn each_allocation_fails<E: Debug>(attempt: impl Fn() -> Result<(), E>) -> usize {
    // What grows on first use has grown after this.
    (0..2).for_each(|_| attempt().unwrap());
    let mut allocations = 0;
    for count in [1, usize::MAX] {
        allocations = 0;
        loop {
            let before = footprint();
            let failing = heap::fail(allocations, count);
            let outcome = attempt();
            let failed = failing.failed();
            drop(failing);
            assert_eq!(outcome.is_err(), failed > 0, "allocation {allocations}: {outcome:?}");
            drop(outcome);
            assert_eq!(footprint(), before, "allocation {allocations}");
            if failed == 0 {
                break;
            }
            allocations += 1;
            assert!(allocations < MANY);
        }
        attempt().unwrap();
    }
    allocations
}

fn a_task_that_cannot_be_made_is_an_error_and_leaves_nothing() {
    let numbers = [7u64; 32];
    let allocations = each_allocation_fails(|| {
        let builder = Builder::new("a name of its own").stack_size(3 * 4096);
        let task = builder.spawn(move || numbers.iter().sum::<u64>())?;
        assert_eq!(task.join().unwrap(), 7 * 32);
        // An area that was kept would need no memory.
        tls_registry().trim();
        Ok::<(), unspool_kernel::Error>(())
    });
    // Name, packet, body, area, task.
    assert!(allocations >= 5, "only {allocations}");
}

fn an_object_that_cannot_be_loaded_is_an_error_and_leaves_nothing() {
    for name in ["panics.pic.o", "access.gcc-ie-O2.o", "access.rustc-gd-O0.o", "tls.static.o"] {
        let file = module(name);
        let allocations = each_allocation_fails(|| {
            unload_soon(&loader().load("short.o", file)?);
            Ok::<(), LoadError>(())
        });
        assert!(allocations >= 5, "only {allocations}");
    }
}

fn a_set_that_cannot_be_loaded_is_an_error_and_leaves_nothing() {
    let names = ["plain.pic.o", "panics.pic.o", "access.gcc-gd-O2.o"];
    let inputs = names.map(|name| Input::new(name, module(name)));
    each_allocation_fails(|| {
        unload_soon(&loader().load_set(&Set::new("short", &inputs))?);
        Ok::<(), LoadError>(())
    });
}

/// Whether a task with such a stack can be made; it ends at once, and is freed.
fn has_stack(bytes: usize) -> bool {
    let spawned = Builder::new("large").stack_size(bytes).spawn(|| ());
    let is_there = spawned.map(|task| task.join().unwrap()).is_ok();
    while task::unfreed() != 0 {
        task::yield_now();
    }
    is_there
}

/// They are kept for tasks to come.
fn stacks_of_ended_tasks_are_in_nobodys_way() {
    const WINDOW: usize = (STACKS.end - STACKS.start) as usize;
    // One of more than half of the addresses, and then another one.
    assert!(has_stack(WINDOW / 2) && has_stack(WINDOW / 2 + PAGE));
}
