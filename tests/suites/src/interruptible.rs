//! Regions in which a task dies at any instruction, and what holds that off.
//!
//! ```text
//!   victim ── says where it is, spins ──► test: kill ──► tick, call ──► Killed, or not before …
//! ```

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::arch::naked_asm;
use core::cell::RefCell;
use core::hint::black_box;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use unspool::panic::{
    AssertUnwindSafe, Unwound, catch_all, catch_unwind, interruptible, no_unwind, resume_unwind,
    uninterruptible,
};
use unspool::thread_local;
use unspool_kernel::cpu::{self, NoPreemption};
use unspool_kernel::machine::machine;
use unspool_kernel::task::{self, JoinHandle};

use crate::kills::{Marks, MarksDrop};
use crate::support::{PATIENCE, footprint};

crate::tests![
    an_endless_loop_dies_at_any_instruction_and_its_callers_drop_everything,
    outside_a_region_no_interrupt_kills,
    a_region_ends_where_it_is_left_and_where_a_kill_is_caught,
    nested_regions_end_with_the_outermost,
    a_region_that_a_panic_leaves_is_over,
    no_unwind_in_a_region_holds_a_kill_off,
    no_preemption_in_a_region_holds_a_kill_off,
    uninterruptible_code_in_a_region_dies_at_safe_points_only,
    a_drop_during_a_panic_in_a_region_comes_to_its_end,
    a_frame_that_lets_nothing_through_holds_off_an_interrupt_too,
    code_without_tables_is_not_killed_but_what_it_returns_to,
    callers_in_a_region_drop_what_their_tables_name,
    regions_are_preempted_and_die_where_they_were,
    a_victim_dies_within_a_tick_or_so,
    a_victim_on_another_cpu_does_not_wait_for_its_tick_to_die,
    safe_points_in_a_region_leave_nothing_behind,
];

/// As [`interruptible`], for the tests: what they do in there owns nothing, but where they say so.
pub fn region<R>(body: impl FnOnce() -> R) -> R {
    // SAFETY: the tests keep their values outside.
    unsafe { interruptible(body) }
}

/// Never ends, and comes by no safe point.
pub fn spin() -> ! {
    let mut rounds = 0u64;
    loop {
        rounds = black_box(rounds + 1);
    }
}

/// Long enough for some ticks.
fn spin_for_ticks() {
    const TICKS: u64 = 10;
    let end = machine().now() + TICKS * 1_000_000_000 / u64::from(machine().tick_hertz());
    while machine().now() < end {
        core::hint::spin_loop();
    }
}

/// A task that marks and goes on with `body`, is killed then, and ends so; with a value to drop in each
/// of two frames, and a thread-local one.
fn dies_in(body: impl FnOnce(&Marks) + Send + 'static) {
    thread_local! {
        static LOCAL: RefCell<Option<MarksDrop>> = const { RefCell::new(None) };
    }
    #[inline(never)]
    fn inner(reached: &Marks, drops: &Marks, body: impl FnOnce(&Marks)) {
        let _dropped = drops.on_drop();
        body(reached);
        black_box(());
    }
    let (reached, drops) = (Marks::default(), Marks::default());
    let (here, dropped) = (reached.clone(), drops.clone());
    let task = task::spawn("victim", move || {
        let _dropped = dropped.on_drop();
        LOCAL.set(Some(dropped.on_drop()));
        inner(&here, &dropped, body);
    });
    reached.wait_for(1);
    task.task().kill();
    assert!(task.join().is_killed());
    assert_eq!(drops.count(), 3);
}

fn an_endless_loop_dies_at_any_instruction_and_its_callers_drop_everything() {
    const ROUNDS: u32 = 20;
    for _ in 0..ROUNDS {
        dies_in(|reached| {
            reached.mark();
            region(|| spin());
        });
    }
}

/// A task that kills itself and does `body`, which may mark; then it dies.
fn lives_through(marks: u32, body: impl FnOnce(&Marks) + Send + 'static) {
    let reached = Marks::default();
    let here = reached.clone();
    let task = task::spawn("stays", move || {
        task::current().kill();
        body(&here);
        task::safe_point();
        here.mark();
    });
    assert!(task.join().is_killed());
    assert_eq!(reached.count(), marks);
}

fn outside_a_region_no_interrupt_kills() {
    lives_through(1, |here| {
        spin_for_ticks();
        here.mark();
    });
}

fn a_region_ends_where_it_is_left_and_where_a_kill_is_caught() {
    lives_through(3, |here| {
        let kept = black_box([3u64, 5, 7]);
        let caught = catch_all(|| region(|| spin()));
        assert!(matches!(caught, Err(Unwound::Killed)) && kept == [3, 5, 7]);
        task::current().kill();
        spin_for_ticks();
        here.mark();
        // Too short for most ticks; one may come.
        let caught = catch_all(|| region(|| 5));
        if caught.is_err() {
            task::current().kill();
        }
        spin_for_ticks();
        here.mark();
        let caught = catch_all(|| {
            region(|| {
                // What is caught inside leaves the region as it was.
                let caught = catch_all(|| spin());
                assert!(matches!(caught, Err(Unwound::Killed)));
                here.mark();
                uninterruptible(|| task::current().kill());
                spin()
            })
        });
        assert!(matches!(caught, Err(Unwound::Killed)));
        task::current().kill();
    });
}

fn nested_regions_end_with_the_outermost() {
    dies_in(|reached| {
        region(|| {
            region(|| black_box(()));
            reached.mark();
            spin();
        });
    });
    dies_in(|reached| {
        region(|| {
            uninterruptible(|| {
                region(|| {
                    reached.mark();
                    spin();
                });
            });
        });
    });
    lives_through(1, |here| {
        let _ = catch_all(|| region(|| region(|| black_box(()))));
        task::current().kill();
        spin_for_ticks();
        here.mark();
    });
}

fn a_region_that_a_panic_leaves_is_over() {
    lives_through(1, |here| {
        // From before the region on: a tick may come at its first instruction.
        let guard = no_unwind();
        let caught = catch_unwind(AssertUnwindSafe(|| {
            let payload = Box::new(4u8);
            region(|| {
                // The guard is dropped on the way, when the panic is in flight.
                let _guard = guard;
                resume_unwind(payload);
            });
        }));
        assert!(caught.unwrap_err().is::<u8>());
        spin_for_ticks();
        here.mark();
    });
}

fn no_unwind_in_a_region_holds_a_kill_off() {
    lives_through(2, |here| {
        let caught = catch_all(AssertUnwindSafe(|| {
            let guard = no_unwind();
            region(|| {
                let inner = no_unwind();
                drop(guard);
                spin_for_ticks();
                here.mark();
                drop(inner);
                spin();
            });
        }));
        assert!(matches!(caught, Err(Unwound::Killed)));
        here.mark();
        task::current().kill();
    });
}

fn no_preemption_in_a_region_holds_a_kill_off() {
    lives_through(2, |here| {
        let caught = catch_all(AssertUnwindSafe(|| {
            let outer = no_unwind();
            region(|| {
                let preemption = NoPreemption::new();
                drop(outer);
                spin_for_ticks();
                here.mark();
                drop(preemption);
                spin();
            });
        }));
        assert!(matches!(caught, Err(Unwound::Killed)));
        here.mark();
        task::current().kill();
    });
}

fn uninterruptible_code_in_a_region_dies_at_safe_points_only() {
    let marks = Marks::default();
    let theirs = marks.clone();
    dies_in(move |reached| {
        let held = no_unwind();
        region(|| {
            uninterruptible(|| {
                drop(held);
                let _dropped = theirs.on_drop();
                let memory = Box::new(black_box(5));
                reached.mark();
                // Until somebody has killed it.
                spin_for_ticks();
                spin_for_ticks();
                theirs.mark();
                drop(memory);
                loop {
                    task::safe_point();
                }
            });
        });
    });
    assert_eq!(marks.count(), 2);
}

/// Does something when it is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn a_drop_during_a_panic_in_a_region_comes_to_its_end() {
    lives_through(2, |here| {
        let guard = no_unwind();
        let caught = catch_all(AssertUnwindSafe(|| {
            let payload = Box::new(());
            region(|| {
                let _lingers = OnDrop(|| {
                    // Not even where the kill could end.
                    assert!(catch_all(task::safe_point).is_ok());
                    assert!(catch_all(|| region(spin_for_ticks)).is_ok());
                    here.mark();
                });
                let _guard = guard;
                resume_unwind(payload);
            });
        }));
        assert!(matches!(caught, Err(Unwound::Panicked(_))));
        spin_for_ticks();
        here.mark();
    });
}

fn a_frame_that_lets_nothing_through_holds_off_an_interrupt_too() {
    extern "C" fn wall(reached: &Marks) {
        let stop = AtomicBool::new(false);
        region(|| {
            reached.mark();
            spin_for_ticks();
            reached.mark();
            stop.store(true, Ordering::Relaxed);
        });
        assert!(stop.into_inner());
    }
    let (reached, after) = (Marks::default(), Marks::default());
    let (here, there) = (reached.clone(), after.clone());
    let task = task::spawn("walled in", move || {
        task::current().kill();
        black_box(wall as extern "C" fn(&Marks))(&here);
        there.mark();
        region(|| spin());
    });
    assert!(task.join().is_killed());
    assert_eq!((reached.count(), after.count()), (2, 1));
}

/// Says that it is there, and spins until `*word` is not 0.
#[unsafe(naked)]
unsafe extern "C-unwind" fn spin_without_tables(word: *const u32, there: *mut u32) {
    naked_asm!("mov dword ptr [rsi], 1", "2:", "pause", "cmp dword ptr [rdi], 0", "je 2b", "ret")
}

fn code_without_tables_is_not_killed_but_what_it_returns_to() {
    static GO_ON: AtomicU32 = AtomicU32::new(0);
    static THERE: AtomicU32 = AtomicU32::new(0);
    GO_ON.store(0, Ordering::SeqCst);
    THERE.store(0, Ordering::SeqCst);
    let task = task::spawn("bare", || {
        region(|| {
            // SAFETY: reads the one word and writes the other.
            unsafe { spin_without_tables(GO_ON.as_ptr(), THERE.as_ptr()) };
            spin();
        });
    });
    while THERE.load(Ordering::SeqCst) == 0 {
        task::yield_now();
    }
    task.task().kill();
    (0..10).for_each(|_| task::yield_now());
    spin_for_ticks();
    assert!(!task.is_finished());
    GO_ON.store(1, Ordering::SeqCst);
    assert!(task.join().is_killed());
}

fn callers_in_a_region_drop_what_their_tables_name() {
    #[inline(never)]
    fn middle(drops: &Marks, inner: &mut dyn FnMut()) {
        let _dropped = drops.on_drop();
        black_box(inner)();
        black_box(());
    }
    let drops = Marks::default();
    let theirs = drops.clone();
    dies_in(move |reached| {
        let mut held = Some(no_unwind());
        region(|| {
            let _value = theirs.on_drop();
            middle(&theirs, &mut || {
                drop(held.take());
                reached.mark();
                spin();
            });
        });
    });
    assert_eq!(drops.count(), 2);
}

fn regions_are_preempted_and_die_where_they_were() {
    const TASKS: usize = 12;
    static ROUNDS: [AtomicU64; TASKS] = [const { AtomicU64::new(0) }; TASKS];
    ROUNDS.iter().for_each(|rounds| rounds.store(0, Ordering::SeqCst));
    let drops = Marks::default();
    let spawn = |n: usize| {
        let dropped = drops.on_drop();
        task::spawn("spins", move || {
            let _dropped = dropped;
            region(|| {
                let mut sum = 0.0_f64;
                loop {
                    sum = black_box(sum + 0.5);
                    let rounds = ROUNDS[n].fetch_add(1, Ordering::Relaxed) + 1;
                    // Who was preempted goes on with all its registers.
                    assert!(sum.to_bits() == (rounds as f64 * 0.5).to_bits());
                }
            });
        })
    };
    let tasks: Vec<JoinHandle<()>> = (0..TASKS).map(spawn).collect();
    for rounds in &ROUNDS {
        while rounds.load(Ordering::Relaxed) == 0 {
            task::yield_now();
        }
    }
    let before: Vec<u64> = ROUNDS.iter().map(|rounds| rounds.load(Ordering::Relaxed)).collect();
    for (rounds, before) in ROUNDS.iter().zip(before) {
        while rounds.load(Ordering::Relaxed) == before {
            task::yield_now();
        }
    }
    tasks.iter().for_each(|task| task.task().kill());
    assert!(tasks.into_iter().all(|task| task.join().is_killed()));
    assert_eq!(drops.count() as usize, TASKS);
}

fn a_victim_dies_within_a_tick_or_so() {
    const ROUNDS: usize = 50;
    static DROPPED: AtomicU64 = AtomicU64::new(0);
    let mut latencies: Vec<u64> = Vec::new();
    // The best of many: who else uses the processors is not this test's business.
    let best = |latencies: &[u64]| latencies.iter().copied().min().unwrap_or(u64::MAX);
    let (tick, start) = (1_000_000_000 / u64::from(machine().tick_hertz()), machine().now());
    while latencies.len() < ROUNDS
        || best(&latencies) >= 2 * tick && machine().now() - start < PATIENCE
    {
        let reached = Marks::default();
        let here = reached.clone();
        let task = task::spawn("victim", move || {
            let _notes = OnDrop(|| DROPPED.store(machine().now(), Ordering::SeqCst));
            region(|| {
                here.mark();
                spin();
            });
        });
        reached.wait_for(1);
        (0..latencies.len() % ROUNDS * 500).for_each(|n| _ = black_box(n));
        let begin = machine().now();
        task.task().kill();
        assert!(task.join().is_killed());
        latencies.push(DROPPED.load(Ordering::SeqCst).saturating_sub(begin));
    }
    assert!(best(&latencies) < 2 * tick, "{latencies:?}");
}

/// Makes the ticks of the CPU that the caller runs on come so often a second; which CPU that is.
fn set_ticks(hertz: u32) -> usize {
    let _stays = NoPreemption::new();
    machine().set_timer(hertz);
    cpu::current()
}

fn a_victim_on_another_cpu_does_not_wait_for_its_tick_to_die() {
    const SLOW: u32 = 1;
    /// Before its CPU's next tick, which is a second away; clocks may differ a little.
    const SOON: u64 = 750_000_000;
    static BEGUN: AtomicU64 = AtomicU64::new(0);
    static DROPPED: AtomicU64 = AtomicU64::new(0);
    if cpu::count() == 1 {
        // Who kills it has its CPU, so a tick has come in between.
        return;
    }
    let latency = || {
        let reached = Marks::default();
        let here = reached.clone();
        let task = task::spawn("victim", move || {
            BEGUN.store(machine().now(), Ordering::SeqCst);
            let slow = set_ticks(SLOW);
            let _notes = OnDrop(|| {
                DROPPED.store(machine().now(), Ordering::SeqCst);
                while set_ticks(machine().tick_hertz()) != slow {
                    task::yield_now();
                }
            });
            region(|| {
                here.mark();
                spin();
            });
        });
        reached.wait_for(1);
        task.task().kill();
        assert!(task.join().is_killed());
        DROPPED.load(Ordering::SeqCst) - BEGUN.load(Ordering::SeqCst)
    };
    let (mut latencies, start) = (Vec::new(), machine().now());
    // No tick had come yet: one round says so, however long a processor was away in others.
    let soon = |latencies: &[u64]| latencies.iter().any(|latency| *latency < SOON);
    while !soon(&latencies) && machine().now() - start < PATIENCE {
        latencies.push(latency());
    }
    assert!(soon(&latencies), "{latencies:?}");
}

fn safe_points_in_a_region_leave_nothing_behind() {
    const ROUNDS: u32 = 300;
    let run = |rounds: u32| {
        for round in 0..rounds {
            let reached = Marks::default();
            let here = reached.clone();
            let task = task::spawn("busy", move || {
                region(|| {
                    loop {
                        here.mark();
                        task::yield_now();
                    }
                });
            });
            reached.wait_for(1 + round % 7);
            // There is something to free where it yields.
            drop(task::spawn("ends", || ()));
            task.task().kill();
            assert!(task.join().is_killed());
        }
    };
    run(20);
    let before = footprint();
    run(ROUNDS);
    assert_eq!(footprint(), before);
}
