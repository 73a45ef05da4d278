//! Ten thousand kills at random moments, of tasks that are in regions and out of them.
//!
//! ```text
//!   4 killers ─► 5 victims each: region, no_unwind, uninterruptible, panics, values between them
//!                  └─ killed at random ─► joined ─► every value dropped once, no memory left
//! ```

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::hint::black_box;
use core::sync::atomic::{AtomicU64, Ordering};

use unspool::panic::{catch_all, catch_unwind, no_unwind, resume_unwind, uninterruptible};
use unspool::thread_local;
use unspool_kernel::task::{self, JoinHandle};

use crate::interruptible::{region, spin};
use crate::support::{Live, footprint};

crate::tests![ten_thousand_kills_in_regions_leave_nothing_behind];

/// Two numbers that are the same whenever the task may die, and that more than one task changes.
#[derive(Default)]
struct Pair(AtomicU64, AtomicU64);

impl Pair {
    fn add(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
        (0..20).for_each(|n| _ = black_box(n));
        self.1.fetch_add(1, Ordering::SeqCst);
    }
}

/// Goes on until it is killed: in regions, with what holds a kill off in them, and between them.
fn live_on(kind: u32, rounds: u64, pair: &Pair) {
    thread_local! {
        static LOCAL: RefCell<Vec<Live>> = const { RefCell::new(Vec::new()) };
    }
    let _live = Live::new();
    LOCAL.with_borrow_mut(|list| list.push(Live::new()));
    loop {
        let more = [Live::new(), Live::new()];
        pair.add();
        match kind {
            0 => region(|| (0..rounds).for_each(|n| _ = black_box(n))),
            1 => region(|| {
                for _ in 0..rounds / 50 {
                    let _held = no_unwind();
                    let _live = Live::new();
                    pair.add();
                }
            }),
            2 => region(|| {
                for _ in 0..rounds / 200 {
                    uninterruptible(|| {
                        let _live = Live::new();
                        pair.add();
                        task::yield_now();
                    });
                }
            }),
            3 => {
                let caught = catch_unwind(|| {
                    region(|| {
                        (0..rounds).for_each(|n| _ = black_box(n));
                        let _held = no_unwind();
                        let payload = Box::new(Live::new());
                        resume_unwind(payload);
                    });
                });
                assert!(caught.unwrap_err().is::<Live>());
            }
            4 => region(|| region(|| region(|| (0..rounds).for_each(|n| _ = black_box(n))))),
            5 => {
                let caught = catch_all(|| region(|| (0..rounds).for_each(|n| _ = black_box(n))));
                if caught.is_err() {
                    task::current().kill();
                }
            }
            _ => region(|| spin()),
        }
        drop(more);
        if rounds.is_multiple_of(2) {
            task::yield_now();
        }
        task::safe_point();
    }
}

/// Kinds of [`live_on`].
const KINDS: u64 = 7;

/// Kills so many tasks, some at a time, each a moment after it was spawned.
fn kill_many(seed: u64, count: u32, pair: &Arc<Pair>) {
    const TOGETHER: u32 = 5;
    let mut random = seed;
    let mut below = move |bound: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 16) % bound
    };
    for _ in 0..count / TOGETHER {
        let mut spawn = |_| {
            let (kind, rounds) = (below(KINDS) as u32, 100 + below(3000));
            let theirs = Arc::clone(pair);
            task::spawn("victim", move || live_on(kind, rounds, &theirs))
        };
        let victims: Vec<JoinHandle<()>> = (0..TOGETHER).map(&mut spawn).collect();
        for victim in &victims {
            match below(4) {
                0 => task::yield_now(),
                1 => (0..below(20_000)).for_each(|n| _ = black_box(n)),
                _ => {}
            }
            victim.task().kill();
            if below(8) == 0 {
                victim.task().kill();
            }
        }
        assert!(victims.into_iter().all(|victim| victim.join().is_killed()));
    }
}

fn ten_thousand_kills_in_regions_leave_nothing_behind() {
    const KILLERS: u32 = 4;
    let run = |count: u32| {
        footprint();
        let tasks = task::count();
        let pair = Arc::new(Pair::default());
        let spawn = |n: u32| {
            let pair = Arc::clone(&pair);
            task::spawn("killer", move || kill_many(0x9e37_79b9 + u64::from(n), count, &pair))
        };
        let killers: Vec<_> = (0..KILLERS).map(spawn).collect();
        killers.into_iter().for_each(|killer| killer.join().unwrap());
        while task::count() != tasks {
            task::yield_now();
        }
        assert_eq!(Live::count(), 0);
        assert_eq!(pair.0.load(Ordering::SeqCst), pair.1.load(Ordering::SeqCst));
    };
    // Whatever grows on first use has grown after this.
    run(50);
    let before = footprint();
    run(10_000 / KILLERS);
    assert_eq!(footprint(), before);
}
