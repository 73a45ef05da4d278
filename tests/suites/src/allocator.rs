//! A global allocator that uses `thread_local!` itself.
//!
//! ```text
//!   any code ─► alloc ─► kernel's heap ─► counted, in thread-locals of the task
//!     └ thread_local!'s list of destructors, a block of a module, an exception, a task's own end
//! ```
//!
//! Std has a test for this (`tls-in-global-alloc`): an access must not need the allocator in a way
//! that comes back to it, and what is destroyed says so instead of coming to life again.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::Cell;
use core::mem::transmute;
use core::ptr::with_exposed_provenance;
use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use unspool::panic::{catch_unwind, resume_unwind};
use unspool::{thread_local, tls};
use unspool_kernel::heap::{self, Change};
use unspool_kernel::walk::AllStacks;
use unspool_kernel::{loader, task};

use crate::support::{footprint, module};

crate::tests![
    a_task_counts_what_it_allocates_and_its_counter_is_destroyed_once,
    the_list_of_destructors_may_grow_into_an_allocator_that_uses_it,
    tasks_that_end_in_all_ways_under_such_an_allocator_leave_nothing,
    blocks_of_loaded_modules_are_made_under_such_an_allocator,
];

/// Counters that tasks have made, and destroyed.
static MADE: AtomicU32 = AtomicU32::new(0);
static DESTROYED: AtomicU32 = AtomicU32::new(0);
/// Changes that came after a task's counter was destroyed.
static LATE: AtomicU64 = AtomicU64::new(0);
/// Bytes that are allocated, more than when counting began.
static BALANCE: AtomicI64 = AtomicI64::new(0);

/// A task's allocations.
struct Counter(Cell<u64>);

impl Drop for Counter {
    fn drop(&mut self) {
        // The allocator is used by the destructor of its own value.
        drop(core::hint::black_box(Box::new(self.0.get())));
        DESTROYED.fetch_add(1, Ordering::Relaxed);
    }
}

thread_local! {
    static COUNTER: Counter = {
        MADE.fetch_add(1, Ordering::Relaxed);
        Counter(Cell::new(0))
    };
    static NESTED: Cell<u32> = const { Cell::new(0) };
    static MOST_NESTED: Cell<u32> = const { Cell::new(0) };
}

/// What the allocator does besides: two plain values, and a lazy one with a destructor.
fn count(change: Change) {
    let nested = NESTED.get() + 1;
    NESTED.set(nested);
    MOST_NESTED.set(MOST_NESTED.get().max(nested));
    let bytes = match change {
        Change::Allocated(layout) => layout.size() as i64,
        Change::Freed(layout) => -(layout.size() as i64),
    };
    BALANCE.fetch_add(bytes, Ordering::Relaxed);
    if COUNTER.try_with(|counter| counter.0.set(counter.0.get() + 1)).is_err() {
        LATE.fetch_add(1, Ordering::Relaxed);
    }
    NESTED.set(nested - 1);
}

/// Runs `body` under the counting allocator, and compares what was made and destroyed.
fn counted(body: impl FnOnce()) {
    for counter in [&MADE, &DESTROYED] {
        counter.store(0, Ordering::Relaxed);
    }
    // This task's own is made before, and stays.
    COUNTER.with(|_| ());
    let mine = MADE.swap(0, Ordering::Relaxed);
    assert!(mine <= 1);
    let extended = heap::extend(count);
    body();
    footprint();
    drop(extended);
    assert_eq!(MADE.load(Ordering::Relaxed), DESTROYED.load(Ordering::Relaxed));
}

fn a_task_counts_what_it_allocates_and_its_counter_is_destroyed_once() {
    counted(|| {
        let late = LATE.load(Ordering::Relaxed);
        let changes = task::spawn("counts", || {
            let before = COUNTER.with(|counter| counter.0.get());
            for n in 0..100u64 {
                drop(core::hint::black_box(Box::new(n)));
            }
            COUNTER.with(|counter| counter.0.get()) - before
        });
        assert_eq!(changes.join().unwrap(), 200);
        assert!(MADE.load(Ordering::Relaxed) >= 1);
        // At least what its destructor did itself.
        assert!(LATE.load(Ordering::Relaxed) >= late + 2);
    });
}

fn the_list_of_destructors_may_grow_into_an_allocator_that_uses_it() {
    /// A key of its own for each digit, with a value that has drop glue.
    macro_rules! keys {
        ($($digit:literal)*) => { $( {
            thread_local!(static KEY: Cell<Option<Box<u32>>> = const { Cell::new(None) });
            KEY.set(None);
            KEYS.set(KEYS.get() + u32::from($digit == $digit));
        } )* };
    }
    thread_local!(static KEYS: Cell<u32> = const { Cell::new(0) });
    counted(|| {
        let grows = task::spawn("grows", || {
            // More than need no memory: the list asks for some while it registers one of these, and
            // the allocator's own counter may come in between.
            const { assert!(tls::UNALLOCATED_DESTRUCTORS < 28) };
            keys!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28);
            (KEYS.get(), MOST_NESTED.get())
        });
        let (keys, most) = grows.join().unwrap();
        assert_eq!(keys, 28);
        // An allocation in an allocation, and no more than that.
        assert!((1..=2).contains(&most), "{most}");
    });
}

fn tasks_that_end_in_all_ways_under_such_an_allocator_leave_nothing() {
    let run = |rounds: u32| {
        let spawn = |_| {
            task::spawn("spawner", move || {
                for round in 0..rounds {
                    let victim = task::spawn("victim", move || {
                        let held: Vec<Box<u32>> = (0..10).map(Box::new).collect();
                        match round % 3 {
                            0 => {}
                            1 => resume_unwind(Box::new(round)),
                            _ => task::current().kill(),
                        }
                        let caught = catch_unwind(|| resume_unwind(Box::new(round)));
                        assert!(caught.map(|(): ()| ()).is_err());
                        task::yield_now();
                        held.len()
                    });
                    let outcome = victim.join();
                    match round % 3 {
                        0 => assert_eq!(outcome.ok(), Some(10)),
                        1 => assert!(outcome.panicked().is_some()),
                        _ => assert!(outcome.is_killed()),
                    }
                }
            })
        };
        let spawners: Vec<_> = (0..4).map(spawn).collect();
        spawners.into_iter().for_each(|spawner| spawner.join().unwrap());
    };
    counted(|| {
        run(20);
        let (before, balance) = (footprint(), BALANCE.load(Ordering::Relaxed));
        run(300);
        assert_eq!(footprint(), before);
        assert!(MADE.load(Ordering::Relaxed) >= 4 * 300);
        // What idle CPUs free is not told.
        assert!(BALANCE.load(Ordering::Relaxed) >= balance);
    });
}

fn blocks_of_loaded_modules_are_made_under_such_an_allocator() {
    counted(|| {
        let object = loader().load("gd.o", module("access.gcc-gd-O2.o")).unwrap();
        let address = object.symbol("access_shared").expect("access.c has it");
        let address = with_exposed_provenance::<()>(address as usize);
        // SAFETY: that function of `tests/objects/models/access.c`, with its type.
        let shared = unsafe { transmute::<*const (), extern "C" fn(i32) -> i32>(address) };
        for _ in 0..20 {
            assert_eq!(task::spawn("shares", move || shared(2)).join().unwrap(), 42);
        }
        assert_eq!(shared(1), 41);
        while loader().unload(&object, &AllStacks).is_err() {
            task::yield_now();
        }
    });
}
