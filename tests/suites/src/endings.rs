//! How tasks end: in one order, whatever ends them, and leaving nothing.
//!
//! ```text
//!   values of the body ─► thread-locals: wait, spawn, join, catch ─► finished ─► joiner ─► freed
//!     for: a return, a panic, a fault, a kill                          10,000 kills at random
//! ```

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::hint::black_box;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use unspool::panic::{AssertUnwindSafe, BacktraceStyle, catch_unwind, no_unwind, resume_unwind};
use unspool::panic::{get_backtrace_style, set_backtrace_style};
use unspool::thread_local;
use unspool_kernel::sync::Mutex;
use unspool_kernel::task::{self, Outcome, Task};

use crate::kills::Marks;
use crate::support::{Live, footprint};

crate::tests![
    tasks_that_end_in_all_four_ways_do_so_in_one_order,
    all_who_join_through_others_see_the_end_of_the_first,
    a_result_that_nobody_wants_is_dropped_before_thread_locals,
    a_kill_that_races_with_a_fault_or_a_panic_or_the_end_leaves_one_of_them,
    ten_thousand_kills_at_random_moments_leave_nothing_behind,
    a_kill_waits_until_a_frame_that_lets_nothing_through_has_left_its_catch,
];

/// What happens at the end of a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Event {
    ValueDropped,
    DestructorBegan,
    ChildRan,
    PanicCaught,
    DestructorEnded,
    EarlierDestructor,
    Joined,
}

/// What happened, in order.
#[derive(Clone, Default)]
struct History(Arc<Mutex<Vec<Event>>>);

impl History {
    fn note(&self, event: Event) {
        self.0.lock().push(event);
    }
}

/// Notes an event when it is dropped.
struct Noting(History, Event);

impl Drop for Noting {
    fn drop(&mut self) {
        self.0.note(self.1);
    }
}

/// Does in its destructor what any code may do.
struct Busy(History, u64);

impl Drop for Busy {
    fn drop(&mut self) {
        let Self(history, id) = self;
        history.note(Event::DestructorBegan);
        let here = task::current();
        assert!(here.id() == *id && !here.is_finished());
        // Somebody who waited for the end without the destructors would come in between.
        (0..20).for_each(|_| task::yield_now());
        let theirs = history.clone();
        let child = task::spawn("child", move || theirs.note(Event::ChildRan));
        assert!(child.join().is_completed());
        let caught = catch_unwind(AssertUnwindSafe(|| {
            let _noting = Noting(history.clone(), Event::PanicCaught);
            resume_unwind(Box::new(()));
        }));
        assert!(caught.is_err() && !here.is_finished());
        history.note(Event::DestructorEnded);
    }
}

thread_local! {
    static EARLIER: RefCell<Option<Noting>> = const { RefCell::new(None) };
    static BUSY: RefCell<Option<Busy>> = const { RefCell::new(None) };
}

/// The ways to end.
#[derive(Clone, Copy)]
enum Way {
    Return,
    Panic,
    Fault,
    Kill,
}

const WAYS: [Way; 4] = [Way::Return, Way::Panic, Way::Fault, Way::Kill];

#[inline(never)]
fn end(way: Way) -> u32 {
    match way {
        Way::Return => {}
        Way::Panic => resume_unwind(Box::new(3u8)),
        Way::Fault => {
            let byte = black_box(core::ptr::with_exposed_provenance::<u8>(8));
            // SAFETY: none: the access faults, which is what is wanted.
            unsafe { byte.read_volatile() };
        }
        Way::Kill => {
            task::current().kill();
            task::yield_now();
        }
    }
    7
}

/// Whether an outcome is what comes of that way to end.
fn is_of(way: Way, outcome: &Outcome<u32>) -> bool {
    match (way, outcome) {
        (Way::Return, Outcome::Completed(7)) | (Way::Fault, Outcome::Faulted(_)) => true,
        (Way::Panic, Outcome::Panicked(payload)) => payload.downcast_ref() == Some(&3u8),
        (Way::Kill, Outcome::Killed) => true,
        _ => false,
    }
}

/// Without traces: they are long, and there are many.
fn quietly(body: impl FnOnce()) {
    let style = get_backtrace_style().unwrap();
    set_backtrace_style(BacktraceStyle::Off);
    body();
    set_backtrace_style(style);
}

fn tasks_that_end_in_all_four_ways_do_so_in_one_order() {
    let run = || {
        for way in WAYS {
            let history = History::default();
            let theirs = history.clone();
            let task = task::spawn("ends", move || {
                EARLIER.set(Some(Noting(theirs.clone(), Event::EarlierDestructor)));
                BUSY.set(Some(Busy(theirs.clone(), task::current().id())));
                let _value = Noting(theirs, Event::ValueDropped);
                black_box(end as fn(Way) -> u32)(way)
            });
            let outcome = task.join();
            history.note(Event::Joined);
            assert!(is_of(way, &outcome), "{outcome:?}");
            let expected = [
                Event::ValueDropped,
                Event::DestructorBegan,
                Event::ChildRan,
                Event::PanicCaught,
                Event::DestructorEnded,
                Event::EarlierDestructor,
                Event::Joined,
            ];
            assert_eq!(*history.0.lock(), expected);
        }
    };
    quietly(|| {
        run();
        let before = footprint();
        run();
        assert_eq!(footprint(), before, "and stack and area are freed");
    });
}

fn all_who_join_through_others_see_the_end_of_the_first() {
    quietly(|| {
        for way in WAYS {
            let history = History::default();
            let theirs = history.clone();
            let first = task::spawn("first", move || {
                BUSY.set(Some(Busy(theirs, task::current().id())));
                black_box(end as fn(Way) -> u32)(way)
            });
            let seen = history.clone();
            let second = task::spawn("second", move || {
                let outcome = first.join();
                (is_of(way, &outcome), seen.0.lock().last().copied())
            });
            assert_eq!(second.join().ok(), Some((true, Some(Event::DestructorEnded))));
        }
    });
}

fn a_result_that_nobody_wants_is_dropped_before_thread_locals() {
    let history = History::default();
    let theirs = history.clone();
    let (go, told) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let (gone, telling) = (Arc::clone(&go), Arc::clone(&told));
    let task = task::spawn("detached", move || {
        while !gone.load(Ordering::Acquire) {
            task::yield_now();
        }
        EARLIER.set(Some(Noting(theirs.clone(), Event::EarlierDestructor)));
        telling.store(1, Ordering::Release);
        Noting(theirs, Event::ValueDropped)
    });
    drop(task);
    go.store(true, Ordering::Release);
    while history.0.lock().len() < 2 {
        task::yield_now();
    }
    assert_eq!(told.load(Ordering::Acquire), 1);
    assert_eq!(*history.0.lock(), [Event::ValueDropped, Event::EarlierDestructor]);
}

fn a_kill_that_races_with_a_fault_or_a_panic_or_the_end_leaves_one_of_them() {
    const ROUNDS: usize = 100;
    quietly(|| {
        for round in 0..ROUNDS {
            let way = WAYS[round % 3];
            let history = History::default();
            let value = Noting(history.clone(), Event::ValueDropped);
            let task = task::spawn("races", move || {
                let _value = value;
                task::yield_now();
                (0..round * 50).for_each(|n| _ = black_box(n));
                black_box(end as fn(Way) -> u32)(way)
            });
            (0..round * 100).for_each(|n| _ = black_box(n));
            task.task().kill();
            let outcome = task.join();
            assert!(outcome.is_killed() || is_of(way, &outcome), "{outcome:?}");
            assert_eq!(*history.0.lock(), [Event::ValueDropped], "round {round}");
        }
    });
}

/// What the victims of the churn use together.
#[derive(Default)]
struct Shared {
    pair: Mutex<(u64, u64)>,
}

/// Drops that come by safe points.
struct Slow(Live);

impl Drop for Slow {
    fn drop(&mut self) {
        task::yield_now();
        task::safe_point();
        assert!(self.0.is_alive());
    }
}

/// Goes on until it is killed, in one of several ways.
fn live_on(kind: u32, shared: &Shared) {
    thread_local! {
        static LAZY: RefCell<Vec<Live>> = RefCell::new(Vec::new());
        static SLOW: Cell<Option<Slow>> = const { Cell::new(None) };
    }
    let _live = Live::new();
    LAZY.with_borrow_mut(|list| list.push(Live::new()));
    SLOW.set(Some(Slow(Live::new())));
    loop {
        let _more = [Live::new(), Live::new()];
        match kind {
            0 => task::yield_now(),
            1 => task::park(),
            2 => {
                let mut pair = shared.pair.lock();
                let (a, b) = *pair;
                assert_eq!(a, b, "no kill comes in between");
                pair.0 += 1;
                pair.1 += 1;
            }
            3 => {
                let child = task::spawn("child", || {
                    SLOW.set(Some(Slow(Live::new())));
                    task::yield_now();
                });
                assert!(child.join().is_completed());
            }
            4 => {
                let caught = catch_unwind(|| {
                    let _slow = Slow(Live::new());
                    resume_unwind(Box::new(Live::new()));
                });
                assert!(caught.map(|(): ()| ()).is_err());
            }
            5 => {
                let _guard = no_unwind();
                let pair = [Live::new(), Live::new()];
                task::yield_now();
                drop(pair);
            }
            _ => {
                let _slow = Slow(Live::new());
                task::safe_point();
            }
        }
        task::yield_now();
    }
}

/// Kinds of [`live_on`].
const KINDS: u32 = 7;

/// Kills so many tasks, each a moment after it was spawned, sometimes twice.
fn kill_many(seed: u64, rounds: u32, shared: &Arc<Shared>) {
    let mut random = seed;
    let mut below = move |bound: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 16) % bound
    };
    for _ in 0..rounds {
        let (kind, theirs) = (below(KINDS.into()) as u32, Arc::clone(shared));
        let victim = task::spawn("victim", move || live_on(kind, &theirs));
        match below(3) {
            0 => {}
            1 => (0..below(20_000)).for_each(|n| _ = black_box(n)),
            _ => (0..below(6)).for_each(|_| task::yield_now()),
        }
        let task: &Task = victim.task();
        task.kill();
        if below(4) == 0 {
            task.unpark();
            task.kill();
        }
        assert!(victim.join().is_killed());
    }
}

fn ten_thousand_kills_at_random_moments_leave_nothing_behind() {
    const KILLERS: u32 = 4;
    let run = |rounds: u32| {
        // Without those that are only still to be freed.
        footprint();
        let tasks = task::count();
        let shared = Arc::new(Shared::default());
        let spawn = |n: u32| {
            let shared = Arc::clone(&shared);
            task::spawn("killer", move || kill_many(0x9e37_79b9 + u64::from(n), rounds, &shared))
        };
        let killers: Vec<_> = (0..KILLERS).map(spawn).collect();
        killers.into_iter().for_each(|killer| killer.join().unwrap());
        // Children whose parents were killed end by themselves.
        while task::count() != tasks {
            task::yield_now();
        }
        assert_eq!(Live::count(), 0);
        let pair = shared.pair.try_lock().expect("no dead task has it");
        assert_eq!(pair.0, pair.1);
    };
    // Whatever grows on first use has grown after this.
    run(50);
    let before = footprint();
    run(10_000 / KILLERS);
    assert_eq!(footprint(), before);
}

/// What it would unwind to in that frame, is part of the frame: nothing goes on from there.
fn a_kill_waits_until_a_frame_that_lets_nothing_through_has_left_its_catch() {
    extern "C" fn wall(reached: &Marks) {
        let waits = AssertUnwindSafe(|| {
            reached.mark();
            task::park();
            task::yield_now();
            reached.mark();
        });
        assert!(catch_unwind(waits).is_ok());
        reached.mark();
    }
    let reached = Marks::default();
    let here = reached.clone();
    let task = task::spawn("walled in", move || {
        black_box(wall as extern "C" fn(&Marks))(&here);
        task::yield_now();
        here.mark();
    });
    reached.wait_for(1);
    task.task().kill();
    (0..100).for_each(|_| task::yield_now());
    assert_eq!(reached.count(), 1);
    task.task().unpark();
    assert!(task.join().is_killed());
    assert_eq!(reached.count(), 3);
}
