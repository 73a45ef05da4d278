//! Modules come and go while tasks do, on all CPUs.
//!
//! ```text
//!   this task:   load ─ use ─ let a new task use it ─ unload        10,000 times
//!   four others: spawn ─ use thread-locals ─ join                   up to 64 times a round each
//! ```
//!
//! At the end every number is where it was at the start.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::mem::transmute;
use core::ptr::with_exposed_provenance;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use unspool::thread_local;
use unspool_kernel::{loader, task};

use crate::support::{footprint, module, unload_soon};

crate::tests![ten_thousand_modules_come_and_go_while_tasks_do_and_nothing_leaks];

const ROUNDS: u32 = 10_000;
/// Each of the others lets no more tasks come and go in a round: on a machine with fewer CPUs than
/// this one pretends to have, they would take all the time that there is.
const TASKS: u32 = 64;
/// Every so many rounds another task uses the object, too.
const SHARED: u32 = 16;

thread_local! {
    static COUNT: Cell<u32> = Cell::new(1);
}

fn spawn_and_join(stop: &AtomicBool, spawned: &AtomicU32) {
    let rounds = AtomicU32::new(0);
    while !stop.load(Ordering::Relaxed) {
        let value = task::spawn("short", || {
            COUNT.set(COUNT.get() + 1);
            task::yield_now();
            COUNT.get()
        });
        assert_eq!(value.join().unwrap(), 2);
        if (rounds.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(TASKS) {
            task::park();
        }
    }
    spawned.fetch_add(rounds.into_inner(), Ordering::Relaxed);
}

/// Loads the object, uses it in this task and maybe in another one, and unloads it.
fn round(number: u32, file: &[u8]) {
    let object = loader().load("churn.o", file).unwrap();
    let address = object.symbol("access_shared").expect("access.c has it");
    // SAFETY: that function of `tests/objects/models/access.c`, with its type.
    let shared = unsafe {
        transmute::<*const (), extern "C" fn(i32) -> i32>(with_exposed_provenance(address as usize))
    };
    assert_eq!(shared(1), 41, "a fresh block in round {number}");
    if number.is_multiple_of(SHARED) {
        assert_eq!(task::spawn("shares", move || shared(2)).join().unwrap(), 42);
    }
    assert_eq!(shared(1), 42);
    unload_soon(&object);
}

/// Loads and unloads so many times while four tasks spawn others.
fn churn(rounds: u32, files: &[&[u8]]) {
    let (stop, spawned) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let spawners: Vec<_> = (0..4)
        .map(|_| {
            let (stop, spawned) = (Arc::clone(&stop), Arc::clone(&spawned));
            task::spawn("spawner", move || spawn_and_join(&stop, &spawned))
        })
        .collect();
    for number in 0..rounds {
        for spawner in &spawners {
            spawner.task().unpark();
        }
        round(number, files[number as usize % files.len()]);
        task::yield_now();
    }
    stop.store(true, Ordering::Relaxed);
    for spawner in spawners {
        spawner.task().unpark();
        spawner.join().unwrap();
    }
    assert!(spawned.load(Ordering::Relaxed) > rounds);
}

fn ten_thousand_modules_come_and_go_while_tasks_do_and_nothing_leaks() {
    let files = ["access.gcc-gd-O2.o", "access.gcc-ie-O2.o", "access.rustc-ld-O2.o"].map(module);
    // Whatever grows on first use has grown after this.
    churn(ROUNDS / 50, &files);
    let before = footprint();
    churn(ROUNDS, &files);
    assert_eq!(footprint(), before);
}
