//! What std's own tests ask of `thread_local!`, asked of ours.
//!
//! ```text
//!   body ─► destructors: one may wake another key, which is destroyed later in the same loop ─► join
//! ```
//!
//! | behaviour of std | our test |
//! |---|---|
//! | values of any kind: plain, in cells, collections, `UnsafeCell` | `values_of_any_kind_are_changed_in_place` |
//! | each thread has its own | `a_task_does_not_see_what_another_has_set` |
//! | a key is usable, then destroyed: `try_with` says so, nothing comes to life again | `a_destructor_that_looks_at_its_own_key_is_told`, `thread_locals::a_destroyed_value_cannot_be_accessed` |
//! | the state is "destroyed" before `drop` runs | the same; `eager`: `a_value_is_destroyed_before_its_drop_runs` |
//! | a destructor runs at the end of its thread | `thread_locals::destructors_run_before_join_returns_last_registered_first` |
//! | two keys that refer to each other in their destructors | `two_keys_may_look_at_each_other_from_their_destructors` |
//! | destructors in destructors in destructors, lazy and `const` | `destructors_in_destructors_in_destructors_all_run`, `…_of_const_values_all_run` |
//! | a key used for the first time in a destructor is destroyed in the same loop | `thread_locals::a_destructor_may_use_other_keys_also_for_the_first_time` |
//! | last registered, first destroyed | `many_destructors_run_in_reverse_order` |
//! | `join` comes after the destructors | `join_comes_after_the_destructors_and_sees_what_they_wrote` |
//! | the current thread is known in destructors | `a_destructor_knows_its_task_and_may_spawn_and_wait` |
//! | a panic may be caught in a destructor, and one that leaves it aborts | `a_destructor_may_catch_a_panic`; the death `thread_local_panics_on_drop` |
//! | destructors run also after a panic | `thread_locals::destructors_run_also_when_a_task_panics`; after a fault and a kill: `endings` |
//! | a value without drop glue registers nothing and lives to the end | `a_value_without_drop_glue_can_be_used_until_the_very_end`; `lazy`: `a_value_without_drop_glue_registers_nothing…` |
//! | an initializer may use other keys | `an_initializer_may_use_other_keys` |
//! | an initializer that comes back to its own key: the outer value wins | `an_initializer_that_initializes_its_own_key_wins` |
//! | an initializer that panics may be tried again | `thread_locals::an_initializer_that_panics_can_be_retried` |
//! | what is not used is neither made nor destroyed | `a_value_that_is_never_used_is_neither_made_nor_destroyed` |
//! | a value does not move | `a_value_does_not_move_between_its_first_use_and_its_end` |
//! | `set get take replace with_borrow with_borrow_mut`; `set` skips the initializer | `set_in_a_destructor_makes_a_new_value_of_another_key`; `syntax`: `cell_keys_…`, `ref_cell_keys_…`, `set_on_first_access_…` |
//! | `AccessError` and the panic: words, place, traits | `key`: `the_error_prints_as_in_std`, `the_panic_points_at_the_access`, `a_destroyed_value_is_an_error_or_a_panic_with_the_words_of_std` |
//! | syntax: none, many, attributes, visibility, blocks, lists beyond the recursion limit, names of the user | `syntax`: all |
//! | what accesses cost | `costs`: all |
//! | a global allocator that uses `thread_local!` | `allocator`: all |
//! | handles of a value's thread that outlive it, epochs, scopes, slots | `tests/std_users`: crates that others wrote |
//!
//! `eager`, `lazy` and `key` are the unit tests of `thread_local_macro/src`, `syntax` and `costs` the
//! files in its `tests`; names without a file are here, the others in the file beside this one.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell, UnsafeCell};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use unspool::panic::{catch_unwind, resume_unwind};
use unspool::thread::AccessError;
use unspool::{thread_local, tls};
use unspool_kernel::task;

use crate::support::{Log, Noting};

crate::tests![
    values_of_any_kind_are_changed_in_place,
    a_task_does_not_see_what_another_has_set,
    two_keys_may_look_at_each_other_from_their_destructors,
    a_destructor_that_looks_at_its_own_key_is_told,
    destructors_in_destructors_in_destructors_all_run,
    destructors_in_destructors_in_destructors_of_const_values_all_run,
    an_initializer_may_use_other_keys,
    an_initializer_that_initializes_its_own_key_wins,
    a_value_does_not_move_between_its_first_use_and_its_end,
    a_value_that_is_never_used_is_neither_made_nor_destroyed,
    join_comes_after_the_destructors_and_sees_what_they_wrote,
    a_destructor_knows_its_task_and_may_spawn_and_wait,
    a_destructor_may_catch_a_panic,
    many_destructors_run_in_reverse_order,
    a_value_without_drop_glue_can_be_used_until_the_very_end,
    set_in_a_destructor_makes_a_new_value_of_another_key,
];

/// What `body` left in the log that it was given, after its task has ended.
fn events_of(body: impl FnOnce(Log) + Send + 'static) -> Vec<u32> {
    /// Moves to the task and comes back with the join: one task at a time has it.
    struct Moved(Log);
    // SAFETY: the task that made the log does not touch it until the other has ended.
    unsafe impl Send for Moved {}

    let log = Log::default();
    let moved = Moved(log.clone());
    let task = task::spawn("events", move || {
        let moved = moved;
        body(moved.0);
    });
    assert!(task.join().is_completed());
    log.events()
}

fn values_of_any_kind_are_changed_in_place() {
    struct Point {
        x: i32,
    }
    thread_local! {
        static POINT: RefCell<Point> = RefCell::new(Point { x: 1 });
        static MAP: RefCell<BTreeMap<u32, &'static str>> =
            RefCell::new(BTreeMap::from([(1, "one")]));
        static LIST: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
        static RAW: UnsafeCell<i32> = const { UnsafeCell::new(3) };
    }
    POINT.with(|point| point.borrow_mut().x += 1);
    assert_eq!(POINT.with_borrow(|point| point.x), 2);
    MAP.with_borrow_mut(|map| assert_eq!(map.insert(2, "two"), None));
    assert_eq!(MAP.with_borrow(|map| (map[&1], map[&2])), ("one", "two"));
    LIST.with_borrow_mut(|list| list.extend([1, 2, 3]));
    assert_eq!(LIST.take(), [1, 2, 3]);
    assert_eq!(LIST.with_borrow(Vec::len), 0);
    // SAFETY: this task's own, and no reference to it is left.
    let raw = RAW.with(|raw| unsafe { raw.get().replace(4) });
    assert_eq!(raw, 3);
}

fn a_task_does_not_see_what_another_has_set() {
    thread_local! {
        static LAZY: Cell<u32> = Cell::new(1);
        static CONST: Cell<u32> = const { Cell::new(1) };
    }
    fn change() -> (u32, u32) {
        let before = (LAZY.get(), CONST.get());
        LAZY.set(2);
        CONST.set(3);
        before
    }
    assert_eq!(change(), (1, 1));
    assert_eq!(task::spawn("other", change).join().ok(), Some((1, 1)));
    assert_eq!(change(), (2, 3));
}

fn two_keys_may_look_at_each_other_from_their_destructors() {
    struct First(Log);
    struct Second(Log);
    thread_local! {
        static FIRST: RefCell<Option<First>> = const { RefCell::new(None) };
        static SECOND: RefCell<Option<Second>> = RefCell::new(None);
    }
    impl Drop for First {
        fn drop(&mut self) {
            self.0.note(1);
            match SECOND.try_with(|second| second.replace(Some(Second(self.0.clone())))) {
                Ok(previous) => assert!(previous.is_none()),
                Err(AccessError { .. }) => self.0.note(9),
            }
        }
    }
    impl Drop for Second {
        fn drop(&mut self) {
            self.0.note(2);
            if FIRST.try_with(|_| ()).is_err() {
                self.0.note(3);
            }
        }
    }
    let events = events_of(|log| {
        FIRST.set(Some(First(log)));
    });
    assert_eq!(events, [1, 2, 3]);
}

fn a_destructor_that_looks_at_its_own_key_is_told() {
    struct Looks(Log);
    thread_local! {
        static LAZY: RefCell<Option<Looks>> = RefCell::new(None);
        static CONST: RefCell<Option<Looks>> = const { RefCell::new(None) };
    }
    impl Drop for Looks {
        fn drop(&mut self) {
            self.0.note(u32::from(LAZY.try_with(|_| ()).is_err()));
            self.0.note(2 + u32::from(CONST.try_with(|_| ()).is_err()));
        }
    }
    let events = events_of(|log| {
        LAZY.set(Some(Looks(log.clone())));
        CONST.set(Some(Looks(log)));
    });
    // The last that was registered is the first to go.
    assert_eq!(events, [0, 3, 1, 3]);
}

/// Three keys, each of which is woken by the end of the one before.
macro_rules! chain {
    ($first:expr) => {{
        struct Link(Log, u32);
        thread_local! {
            static FIRST: RefCell<Option<Link>> = $first;
            static SECOND: RefCell<Option<Link>> = $first;
            static THIRD: RefCell<Option<Link>> = $first;
        }
        impl Drop for Link {
            fn drop(&mut self) {
                self.0.note(self.1);
                let next = Some(Link(self.0.clone(), self.1 + 1));
                match self.1 {
                    1 => SECOND.set(next),
                    2 => THIRD.set(next),
                    _ => core::mem::forget(next),
                }
            }
        }
        events_of(|log| FIRST.set(Some(Link(log, 1))))
    }};
}

fn destructors_in_destructors_in_destructors_all_run() {
    assert_eq!(chain!(RefCell::new(None)), [1, 2, 3]);
}

fn destructors_in_destructors_in_destructors_of_const_values_all_run() {
    assert_eq!(chain!(const { RefCell::new(None) }), [1, 2, 3]);
}

fn an_initializer_may_use_other_keys() {
    thread_local! {
        static INNER: Cell<u32> = Cell::new(20);
        static OUTER: u32 = INNER.get() + 1;
    }
    assert_eq!(OUTER.with(|value| *value), 21);
    INNER.set(0);
    assert_eq!(OUTER.with(|value| *value), 21);
}

fn an_initializer_that_initializes_its_own_key_wins() {
    thread_local! {
        static DEPTH: Cell<u32> = const { Cell::new(0) };
        static DROPPED: Cell<u32> = const { Cell::new(0) };
        static KEY: Counted = {
            let depth = DEPTH.replace(DEPTH.get() + 1);
            if depth < 2 {
                KEY.with(|inner| assert_eq!(inner.0, depth + 1));
            }
            Counted(depth)
        };
    }
    struct Counted(u32);
    impl Drop for Counted {
        fn drop(&mut self) {
            DROPPED.set(DROPPED.get() * 10 + self.0 + 1);
        }
    }
    assert_eq!(KEY.with(|value| value.0), 0);
    // The innermost first; what is left is the outermost.
    assert_eq!(DROPPED.get(), 32);
}

fn a_value_does_not_move_between_its_first_use_and_its_end() {
    struct Placed(Cell<usize>, Log);
    thread_local! {
        static KEY: RefCell<Option<Placed>> = RefCell::new(None);
    }
    impl Drop for Placed {
        fn drop(&mut self) {
            self.1.note(u32::from(self.0.get() == core::ptr::from_ref(self).addr()));
        }
    }
    let events = events_of(|log| {
        KEY.set(Some(Placed(Cell::new(0), log)));
        KEY.with_borrow(|placed| {
            let placed = placed.as_ref().expect("just set");
            placed.0.set(core::ptr::from_ref(placed).addr());
        });
    });
    assert_eq!(events, [1]);
}

fn a_value_that_is_never_used_is_neither_made_nor_destroyed() {
    static MADE: AtomicU32 = AtomicU32::new(0);
    static DROPPED: AtomicU32 = AtomicU32::new(0);
    struct Counted;
    impl Drop for Counted {
        fn drop(&mut self) {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
    }
    thread_local! {
        static LAZY: Counted = {
            MADE.fetch_add(1, Ordering::Relaxed);
            Counted
        };
        static CONST: Counted = const { Counted };
    }
    assert!(task::spawn("idle", || ()).join().is_completed());
    assert_eq!((MADE.load(Ordering::Relaxed), DROPPED.load(Ordering::Relaxed)), (0, 0));
    let both = || (LAZY.with(|_| ()), CONST.with(|_| ()));
    assert!(task::spawn("busy", both).join().is_completed());
    assert_eq!((MADE.load(Ordering::Relaxed), DROPPED.load(Ordering::Relaxed)), (1, 2));
}

fn join_comes_after_the_destructors_and_sees_what_they_wrote() {
    const TASKS: usize = 8;
    struct Slow(Arc<AtomicUsize>);
    impl Drop for Slow {
        fn drop(&mut self) {
            // Give everybody a chance to be told too early.
            (0..5).for_each(|_| task::yield_now());
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    thread_local! {
        static KEY: RefCell<Option<Slow>> = const { RefCell::new(None) };
    }
    let ended = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let ended = Arc::clone(&ended);
            task::spawn("slow", move || KEY.set(Some(Slow(ended))))
        })
        .collect();
    for (index, task) in tasks.into_iter().enumerate() {
        assert!(task.join().is_completed());
        assert!(ended.load(Ordering::Relaxed) > index);
    }
    assert_eq!(ended.load(Ordering::Relaxed), TASKS);
}

fn a_destructor_knows_its_task_and_may_spawn_and_wait() {
    static SEEN: AtomicBool = AtomicBool::new(false);
    struct Asks(u64);
    impl Drop for Asks {
        fn drop(&mut self) {
            let here = task::current();
            let child = task::spawn("child of a destructor", || task::current().id()).join();
            let right = here.id() == self.0
                && here.name() == "asked"
                && !here.is_finished()
                && child.ok().is_some_and(|child| child > self.0);
            SEEN.store(right, Ordering::Relaxed);
        }
    }
    thread_local! {
        static KEY: Asks = Asks(task::current().id());
    }
    assert!(task::spawn("asked", || KEY.with(|_| ())).join().is_completed());
    assert!(SEEN.load(Ordering::Relaxed));
}

fn a_destructor_may_catch_a_panic() {
    struct Catches(Log);
    impl Drop for Catches {
        fn drop(&mut self) {
            let caught = catch_unwind(|| resume_unwind(Box::new(7u32)));
            let payload = caught.map_or_else(|payload| payload.downcast::<u32>().ok(), |()| None);
            self.0.note(payload.map_or(0, |value| *value));
        }
    }
    thread_local! {
        static KEY: RefCell<Option<Catches>> = RefCell::new(None);
        static OTHER: RefCell<Option<Noting>> = RefCell::new(None);
    }
    let events = events_of(|log| {
        OTHER.set(Some(log.on_drop(8)));
        KEY.set(Some(Catches(log)));
    });
    assert_eq!(events, [7, 8]);
}

fn many_destructors_run_in_reverse_order() {
    macro_rules! keys {
        ($log:ident: $($number:literal)*) => { $( {
            thread_local!(static KEY: RefCell<Option<Noting>> = const { RefCell::new(None) });
            KEY.set(Some($log.on_drop($number)));
        } )* };
    }
    let events = events_of(|log| {
        // More than need no memory.
        const { assert!(tls::UNALLOCATED_DESTRUCTORS < 20) };
        keys!(log: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20);
    });
    assert!(events.iter().copied().eq((1..=20).rev()));
}

fn a_value_without_drop_glue_can_be_used_until_the_very_end() {
    struct Late(Log);
    thread_local! {
        static LAZY: Cell<u32> = Cell::new(1);
        static CONST: Cell<u32> = const { Cell::new(2) };
        static LATE: RefCell<Option<Late>> = const { RefCell::new(None) };
    }
    impl Drop for Late {
        fn drop(&mut self) {
            self.0.note(LAZY.replace(0));
            self.0.note(CONST.replace(0));
        }
    }
    let events = events_of(|log| {
        LATE.set(Some(Late(log)));
        LAZY.set(5);
        CONST.set(6);
    });
    assert_eq!(events, [5, 6]);
}

fn set_in_a_destructor_makes_a_new_value_of_another_key() {
    struct Sets(Log);
    thread_local! {
        static NEVER: RefCell<Option<Noting>> = panic!("set skips the initializer");
        static SETS: RefCell<Option<Sets>> = RefCell::new(None);
    }
    impl Drop for Sets {
        fn drop(&mut self) {
            self.0.note(1);
            NEVER.set(Some(self.0.on_drop(2)));
        }
    }
    assert_eq!(events_of(|log| SETS.set(Some(Sets(log)))), [1, 2]);
}
