//! Tasks that others want dead: they die whole, at a safe point, and not before.
//!
//! ```text
//!   victim ── says where it is ──► test: kill, let it go on ──► join: Killed, everything dropped
//! ```

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::cell::RefCell;
use core::hint::black_box;
use core::mem::forget;
use core::sync::atomic::{AtomicU32, Ordering};

use unspool::panic::{
    AssertUnwindSafe, Thrower, Unwound, catch_all, catch_thrown, catch_unwind, no_unwind,
    panicking, resume_unwind,
};
use unspool::thread_local;
use unspool_kernel::cpu::NoPreemption;
use unspool_kernel::fault::FaultInfo;
use unspool_kernel::heap;
use unspool_kernel::sync::Mutex;
use unspool_kernel::task::{self, JoinHandle};

use crate::support::footprint;

crate::tests![
    a_killed_task_drops_everything_where_it_yields,
    a_loop_dies_at_a_safe_point_that_it_asks_for,
    a_parked_task_is_woken_to_die,
    a_task_that_waits_for_a_mutex_is_woken_to_die,
    a_task_that_joins_another_is_woken_to_die_and_the_other_goes_on,
    a_waiter_that_dies_passes_the_mutex_on,
    a_killed_holder_frees_its_mutex,
    catch_unwind_does_not_keep_a_killed_task_alive,
    a_kill_goes_through_callers_of_catch_unwind_that_have_values_to_drop,
    catch_all_does_and_the_task_can_be_killed_again,
    a_panic_in_catch_all_is_a_panic,
    a_task_is_not_killed_while_a_panic_unwinds_it,
    a_task_is_not_killed_in_destructors_of_thread_locals,
    no_unwind_holds_a_kill_off_until_the_last_guard_is_gone,
    a_task_that_may_not_die_sleeps_on,
    a_frame_that_lets_nothing_through_holds_a_kill_off,
    with_preemption_off_nothing_dies,
    a_task_that_is_killed_before_it_begins_drops_its_body,
    a_task_can_kill_itself,
    a_drop_may_panic_and_catch_while_its_task_is_killed,
    a_drop_may_fault_and_catch_while_its_task_is_killed,
    a_killed_task_that_panics_first_has_panicked,
    killing_what_has_ended_does_nothing,
    a_task_dies_also_without_memory,
];

/// What several tasks note.
#[derive(Clone, Default)]
pub struct Marks(Arc<AtomicU32>);

impl Marks {
    /// One more.
    pub fn mark(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    /// Yields until there are so many.
    pub fn wait_for(&self, count: u32) {
        while self.count() < count {
            task::yield_now();
        }
    }

    /// A value that marks when it is dropped.
    pub fn on_drop(&self) -> MarksDrop {
        MarksDrop(self.clone())
    }
}

/// See [`Marks::on_drop`].
pub struct MarksDrop(Marks);

impl Drop for MarksDrop {
    fn drop(&mut self) {
        self.0.mark();
    }
}

thread_local! {
    static LOCAL: RefCell<Option<MarksDrop>> = const { RefCell::new(None) };
}

/// A task that marks `reached` and then does `wait`, with three values to drop: one in each of two
/// frames, one thread-local.
fn victim(reached: &Marks, drops: &Marks, wait: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    #[inline(never)]
    fn inner(drops: &Marks, wait: impl FnOnce()) {
        let _dropped = drops.on_drop();
        wait();
        black_box(());
    }
    let (reached, drops) = (reached.clone(), drops.clone());
    task::spawn("victim", move || {
        let _dropped = drops.on_drop();
        LOCAL.set(Some(drops.on_drop()));
        reached.mark();
        inner(&drops, wait);
    })
}

/// Kills a [`victim`] that does `wait`, which must not return.
fn dies_in(wait: impl FnOnce() + Send + 'static) {
    let (reached, drops) = (Marks::default(), Marks::default());
    let task = victim(&reached, &drops, wait);
    reached.wait_for(1);
    // It may be waiting already, or not yet.
    (0..reached.count() % 3).for_each(|_| task::yield_now());
    task.task().kill();
    assert!(task.join().is_killed());
    assert_eq!(drops.count(), 3);
}

fn a_killed_task_drops_everything_where_it_yields() {
    dies_in(|| {
        loop {
            task::yield_now();
        }
    });
}

fn a_loop_dies_at_a_safe_point_that_it_asks_for() {
    dies_in(|| {
        let mut rounds = 0u64;
        loop {
            rounds = black_box(rounds + 1);
            if rounds.is_multiple_of(1024) {
                task::safe_point();
            }
        }
    });
}

fn a_parked_task_is_woken_to_die() {
    dies_in(|| {
        loop {
            task::park();
        }
    });
}

fn a_task_that_waits_for_a_mutex_is_woken_to_die() {
    let mutex = Arc::new(Mutex::new(()));
    let theirs = Arc::clone(&mutex);
    let held = mutex.lock();
    dies_in(move || drop(theirs.lock()));
    drop(held);
    assert!(mutex.try_lock().is_some());
}

fn a_task_that_joins_another_is_woken_to_die_and_the_other_goes_on() {
    let (stop, done) = (Marks::default(), Marks::default());
    let (until, end) = (stop.clone(), done.clone());
    let other = task::spawn("other", move || {
        until.wait_for(1);
        end.mark();
    });
    dies_in(move || other.join().unwrap());
    stop.mark();
    done.wait_for(1);
}

fn a_waiter_that_dies_passes_the_mutex_on() {
    const ROUNDS: u32 = 200;
    for round in 0..ROUNDS {
        let mutex = Arc::new(Mutex::new(0u32));
        let held = mutex.lock();
        let spawn = |_| {
            let mutex = Arc::clone(&mutex);
            task::spawn("waits", move || *mutex.lock() += 1)
        };
        let tasks: [JoinHandle<()>; 4] = core::array::from_fn(spawn);
        (0..8).for_each(|_| task::yield_now());
        // The first that waits gets the mutex and the kill at about the same time.
        let victim = tasks[0].task();
        if round.is_multiple_of(2) {
            drop(held);
            victim.kill();
        } else {
            victim.kill();
            drop(held);
        }
        let ended = tasks.map(JoinHandle::join);
        let taken = ended.iter().filter(|outcome| outcome.is_completed()).count();
        assert!(taken >= 3, "the others all got it");
        assert_eq!(*mutex.lock() as usize, taken);
    }
}

fn a_killed_holder_frees_its_mutex() {
    let mutex = Arc::new(Mutex::new(()));
    let theirs = Arc::clone(&mutex);
    dies_in(move || {
        let _held = theirs.lock();
        loop {
            task::yield_now();
        }
    });
    assert!(mutex.try_lock().is_some());
}

fn catch_unwind_does_not_keep_a_killed_task_alive() {
    dies_in(|| {
        let outer = catch_unwind(|| {
            let _ = catch_unwind(|| {
                loop {
                    task::park();
                }
            });
            unreachable!("the inner one has caught it");
        });
        unreachable!("the outer one has caught it: {}", outer.is_ok());
    });
}

/// The catch frame is called by whatever `catch_unwind` became part of: that needs a call site there.
fn a_kill_goes_through_callers_of_catch_unwind_that_have_values_to_drop() {
    /// Has a table in any case, for the first call. None with the same landing pad comes after that of
    /// the catch frame, which would share a range with it.
    #[inline(never)]
    fn catches(drops: &Marks) {
        let _outer = drops.on_drop();
        black_box(task::yield_now as fn())();
        let caught = catch_unwind(AssertUnwindSafe(|| {
            let _inner = drops.on_drop();
            task::current().kill();
            black_box(task::safe_point as fn())();
        }));
        drops.mark();
        forget(caught);
    }
    let drops = Marks::default();
    let theirs = drops.clone();
    let task = task::spawn("catches", move || {
        let _outermost = theirs.on_drop();
        black_box(task::yield_now as fn())();
        let _ = catch_thrown(|_: &Thrower<()>| catches(&theirs));
        theirs.mark();
    });
    assert!(task.join().is_killed());
    assert_eq!(drops.count(), 3);
}

fn catch_all_does_and_the_task_can_be_killed_again() {
    let (reached, drops) = (Marks::default(), Marks::default());
    let (here, dropped) = (reached.clone(), drops.clone());
    let task = task::spawn("survivor", move || {
        for _ in 0..2 {
            let caught = catch_all(AssertUnwindSafe(|| {
                let _dropped = dropped.on_drop();
                here.mark();
                loop {
                    task::park();
                }
            }));
            assert!(matches!(caught, Err(Unwound::Killed)) && !panicking());
            // Nobody has killed it since.
            task::yield_now();
        }
        here.mark();
        loop {
            task::park();
        }
    });
    for time in 1..=3 {
        reached.wait_for(time);
        assert_eq!(drops.count(), time - 1);
        task.task().kill();
    }
    assert!(task.join().is_killed());
    assert_eq!(drops.count(), 2);
}

fn a_panic_in_catch_all_is_a_panic() {
    let caught = catch_all(|| resume_unwind(Box::new(5u8)));
    let Err(Unwound::Panicked(payload)) = caught.map(|(): ()| ()) else { panic!("not a panic") };
    assert_eq!(payload.downcast_ref::<u8>(), Some(&5));
    assert_eq!(catch_all(|| 5).ok(), Some(5));
}

/// When it is dropped, it marks that and comes by many safe points until its task has been killed,
/// and after that; at the end, it marks the other.
struct Lingers(Marks, Marks);

impl Drop for Lingers {
    fn drop(&mut self) {
        self.0.mark();
        self.0.wait_for(2);
        for _ in 0..50 {
            task::yield_now();
            task::safe_point();
        }
        assert!(catch_all(task::safe_point).is_ok(), "not even where the kill could end");
        assert!(task::spawn("child of a drop", || ()).join().is_completed());
        self.1.mark();
    }
}

fn a_task_is_not_killed_while_a_panic_unwinds_it() {
    let (reached, marks) = (Marks::default(), Marks::default());
    let (lingers, after) = (Lingers(reached.clone(), marks.clone()), marks.clone());
    let task = task::spawn("panics", move || {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            let _lingers = lingers;
            resume_unwind(Box::new(()));
        }));
        assert!(caught.is_err());
        after.mark();
        task::yield_now();
        after.mark();
    });
    reached.wait_for(1);
    task.task().kill();
    reached.mark();
    assert!(task.join().is_killed());
    assert_eq!(marks.count(), 2, "the drop came to its end, and the task to its safe point");
}

fn a_task_is_not_killed_in_destructors_of_thread_locals() {
    thread_local! {
        static LINGERS: RefCell<Option<Lingers>> = const { RefCell::new(None) };
    }
    for first in [false, true] {
        let (reached, after) = (Marks::default(), Marks::default());
        let lingers = Lingers(reached.clone(), after.clone());
        let task = task::spawn("lingers", move || {
            LINGERS.set(Some(lingers));
            if first {
                task::current().kill();
                task::yield_now();
            }
            7
        });
        reached.wait_for(1);
        task.task().kill();
        reached.mark();
        let outcome = task.join();
        assert_eq!(after.count(), 1, "its destructor has come to its end");
        assert!(if first { outcome.is_killed() } else { outcome.ok() == Some(7) });
    }
}

fn no_unwind_holds_a_kill_off_until_the_last_guard_is_gone() {
    let (reached, steps) = (Marks::default(), Marks::default());
    let (here, step) = (reached.clone(), steps.clone());
    let task = task::spawn("guarded", move || {
        let outer = no_unwind();
        let inner = no_unwind();
        here.mark();
        task::park();
        step.mark();
        drop(outer);
        task::yield_now();
        step.mark();
        drop(inner);
        step.mark();
        task::yield_now();
        step.mark();
    });
    reached.wait_for(1);
    task.task().kill();
    (0..10).for_each(|_| task::yield_now());
    assert!(!task.is_finished() && steps.count() == 0, "it is parked");
    task.task().unpark();
    assert!(task.join().is_killed());
    assert_eq!(steps.count(), 3);
}

fn a_task_that_may_not_die_sleeps_on() {
    let reached = Marks::default();
    let here = reached.clone();
    let task = task::spawn("guarded", move || {
        let _guard = no_unwind();
        task::current().kill();
        here.mark();
        // One that span here would not let the other one on this CPU.
        task::park();
        here.mark();
    });
    reached.wait_for(1);
    (0..100).for_each(|_| task::yield_now());
    assert_eq!(reached.count(), 1);
    task.task().unpark();
    assert!(task.join().is_completed(), "it came by no safe point after the guard");
    assert_eq!(reached.count(), 2);
}

fn a_frame_that_lets_nothing_through_holds_a_kill_off() {
    extern "C" fn wall(reached: &Marks) {
        reached.mark();
        task::park();
        task::yield_now();
        reached.mark();
    }
    let (reached, after) = (Marks::default(), Marks::default());
    let (here, there) = (reached.clone(), after.clone());
    let task = task::spawn("walled in", move || {
        black_box(wall as extern "C" fn(&Marks))(&here);
        there.mark();
        task::yield_now();
        there.mark();
    });
    reached.wait_for(1);
    // Whether it is parked by now or not.
    task.task().kill();
    (0..100).for_each(|_| task::yield_now());
    assert_eq!((reached.count(), after.count()), (1, 0));
    task.task().unpark();
    assert!(task.join().is_killed());
    assert_eq!((reached.count(), after.count()), (2, 1));
}

fn with_preemption_off_nothing_dies() {
    static LIVED: AtomicU32 = AtomicU32::new(0);
    LIVED.store(0, Ordering::SeqCst);
    let task = task::spawn("stays", || {
        task::current().kill();
        let preemption = NoPreemption::new();
        task::yield_now();
        task::safe_point();
        let alive = Marks::default();
        alive.mark();
        drop(preemption);
        LIVED.store(alive.count(), Ordering::SeqCst);
        task::safe_point();
        LIVED.store(9, Ordering::SeqCst);
    });
    assert!(task.join().is_killed());
    assert_eq!(LIVED.load(Ordering::SeqCst), 1);
}

fn a_task_that_is_killed_before_it_begins_drops_its_body() {
    let drops = Marks::default();
    let captured = drops.on_drop();
    let task = {
        // It cannot begin: on one CPU because this task keeps it, on others perhaps.
        let body = move || drop(captured);
        let task = task::spawn("stillborn", body);
        task.task().kill();
        task
    };
    let outcome = task.join();
    assert!(outcome.is_killed() || outcome.is_completed());
    assert_eq!(drops.count(), 1);
}

fn a_task_can_kill_itself() {
    let drops = Marks::default();
    let dropped = drops.on_drop();
    let task = task::spawn("suicide", move || {
        let _dropped = dropped;
        task::current().kill();
        task::current().kill();
        task::safe_point();
    });
    assert!(task.join().is_killed());
    assert_eq!(drops.count(), 1);
}

/// Does something when it is dropped.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn a_drop_may_panic_and_catch_while_its_task_is_killed() {
    let marks = Marks::default();
    let theirs = marks.clone();
    dies_in(move || {
        let _catches = OnDrop(|| {
            assert!(panicking());
            let caught = catch_unwind(|| resume_unwind(Box::new(())));
            assert!(caught.map(|(): ()| ()).is_err() && panicking());
            theirs.mark();
        });
        loop {
            task::yield_now();
        }
    });
    assert_eq!(marks.count(), 1);
}

fn a_drop_may_fault_and_catch_while_its_task_is_killed() {
    let marks = Marks::default();
    let theirs = marks.clone();
    dies_in(move || {
        let _catches = OnDrop(|| {
            let byte = black_box(core::ptr::with_exposed_provenance::<u8>(8));
            // SAFETY: none: the fault is what is tested.
            let caught = catch_unwind(|| unsafe { black_box(byte).read_volatile() });
            assert!(caught.unwrap_err().is::<FaultInfo>());
            theirs.mark();
        });
        loop {
            task::park();
        }
    });
    assert_eq!(marks.count(), 1);
}

fn a_killed_task_that_panics_first_has_panicked() {
    let task = task::spawn("panics", || {
        task::current().kill();
        resume_unwind(Box::new(3u8));
    });
    let payload = task.join().panicked().expect("it came by no safe point");
    assert_eq!(payload.downcast_ref::<u8>(), Some(&3));
}

fn killing_what_has_ended_does_nothing() {
    let before = footprint();
    let done = Marks::default();
    let theirs = done.clone();
    let task = task::spawn("ends", move || theirs.mark());
    while !task.is_finished() {
        task::yield_now();
    }
    task.task().kill();
    task.task().kill();
    assert!(task.join().is_completed());
    assert_eq!(done.count(), 1);
    drop(done);
    assert_eq!(footprint(), before);
}

fn a_task_dies_also_without_memory() {
    let task = task::spawn("poor", || {
        // Also while its values are dropped.
        let _failing = heap::fail(0, usize::MAX);
        task::current().kill();
        task::safe_point();
    });
    assert!(task.join().is_killed());
}
