//! `thread_local!` with tasks that end.

use alloc::boxed::Box;
use alloc::string::ToString;
use alloc::sync::Arc;
use core::cell::{Cell, RefCell};
use core::ptr::with_exposed_provenance;
use core::sync::atomic::{AtomicU32, Ordering};

use unspool::panic::{catch_unwind, resume_unwind};
use unspool::thread_local;
use unspool_kernel::sync::Mutex;
use unspool_kernel::{loader, task};

use crate::support::module;

crate::tests![
    a_lazy_value_is_made_once_in_each_task,
    destructors_run_before_join_returns_last_registered_first,
    a_destructor_may_use_other_keys_also_for_the_first_time,
    a_destroyed_value_cannot_be_accessed,
    an_initializer_that_panics_can_be_retried,
    destructors_run_also_when_a_task_panics,
    a_destructor_may_yield,
    statics_as_on_stable_work_in_loaded_objects,
];

/// Events of the task under test, as decimal digits.
static EVENTS: AtomicU32 = AtomicU32::new(0);

fn note(digit: u32) {
    let shifted = EVENTS.load(Ordering::Relaxed) * 10;
    EVENTS.store(shifted + digit, Ordering::Relaxed);
}

/// The events of a task that runs `body`, after it has ended.
fn events_of(body: fn()) -> u32 {
    EVENTS.store(0, Ordering::Relaxed);
    let outcome = task::spawn("events", body).join();
    assert!(outcome.is_completed());
    EVENTS.load(Ordering::Relaxed)
}

struct Noting(u32);

impl Drop for Noting {
    fn drop(&mut self) {
        note(self.0);
    }
}

fn a_lazy_value_is_made_once_in_each_task() {
    static MADE: AtomicU32 = AtomicU32::new(0);
    thread_local! {
        static VALUE: u32 = MADE.fetch_add(1, Ordering::Relaxed);
    }
    let mine = VALUE.with(|value| *value);
    assert_eq!(VALUE.with(|value| *value), mine);
    let theirs = task::spawn("other", || VALUE.with(|value| *value)).join().unwrap();
    assert_eq!((mine, theirs), (0, 1));
}

fn destructors_run_before_join_returns_last_registered_first() {
    thread_local! {
        static FIRST: Noting = Noting(1);
        static SECOND: Noting = const { Noting(2) };
        static THIRD: RefCell<Option<Noting>> = const { RefCell::new(None) };
    }
    let events = events_of(|| {
        FIRST.with(|_| ());
        SECOND.with(|_| ());
        THIRD.replace(Some(Noting(3)));
    });
    assert_eq!(events, 321);
}

fn a_destructor_may_use_other_keys_also_for_the_first_time() {
    struct Late;
    impl Drop for Late {
        fn drop(&mut self) {
            note(1);
            OTHER.with(|_| ());
        }
    }
    thread_local! {
        static LATE: Late = const { Late };
        static OTHER: Noting = Noting(2);
    }
    assert_eq!(events_of(|| LATE.with(|_| ())), 12);
}

fn a_destroyed_value_cannot_be_accessed() {
    struct Looks;
    impl Drop for Looks {
        fn drop(&mut self) {
            let error = SELF.try_with(|_| ()).unwrap_err();
            note(if error.to_string() == "already destroyed" { 1 } else { 9 });
            note(if PLAIN.try_with(Cell::get) == Ok(7) { 2 } else { 9 });
        }
    }
    thread_local! {
        static SELF: Looks = const { Looks };
        static PLAIN: Cell<u32> = const { Cell::new(7) };
    }
    assert_eq!(events_of(|| SELF.with(|_| ())), 12);
}

fn an_initializer_that_panics_can_be_retried() {
    static TRIES: AtomicU32 = AtomicU32::new(0);
    thread_local! {
        static VALUE: u32 = match TRIES.fetch_add(1, Ordering::Relaxed) {
            0 => resume_unwind(Box::new("not yet")),
            tries => tries,
        };
    }
    assert!(catch_unwind(|| VALUE.with(|_| ())).is_err());
    assert_eq!(VALUE.with(|value| *value), 1);
}

fn destructors_run_also_when_a_task_panics() {
    thread_local! {
        static VALUE: Noting = const { Noting(2) };
    }
    EVENTS.store(0, Ordering::Relaxed);
    let task = task::spawn("panics", || {
        let _local = Noting(1);
        VALUE.with(|_| ());
        resume_unwind(Box::new(5u8));
    });
    let payload = task.join().panicked().unwrap();
    assert_eq!(payload.downcast_ref::<u8>(), Some(&5));
    assert_eq!(EVENTS.load(Ordering::Relaxed), 12);
}

fn a_destructor_may_yield() {
    struct Yields;
    impl Drop for Yields {
        fn drop(&mut self) {
            note(1);
            task::yield_now();
            note(2);
        }
    }
    thread_local! {
        static VALUE: Yields = const { Yields };
    }
    assert_eq!(events_of(|| VALUE.with(|_| ())), 12);
}

fn statics_as_on_stable_work_in_loaded_objects() {
    for name in ["stable_tls.static.o", "stable_tls.pic.o"] {
        let handed = Arc::new(Mutex::new(None::<extern "C" fn() -> u64>));
        let (started, theirs) = (Arc::new(AtomicU32::new(0)), Arc::clone(&handed));
        let running = Arc::clone(&started);
        let older = task::spawn("older", move || {
            running.store(1, Ordering::Release);
            loop {
                let next = *theirs.lock();
                match next {
                    Some(next) => return (next(), next()),
                    None => task::yield_now(),
                }
            }
        });
        while started.load(Ordering::Acquire) == 0 {
            task::yield_now();
        }
        let object = loader().load(name, module(name)).unwrap();
        let next =
            with_exposed_provenance::<()>(object.symbol("stable_tls_next").unwrap() as usize);
        // SAFETY: the function of `tests/objects/stable_tls.rs`, with its type.
        let next = unsafe { core::mem::transmute::<*const (), extern "C" fn() -> u64>(next) };
        assert_eq!((next(), next()), (41, 42));
        let newer = task::spawn("newer", move || next()).join();
        assert_eq!(newer.ok(), Some(41));
        *handed.lock() = Some(next);
        assert_eq!(older.join().ok(), Some((41, 42)));
    }
}
