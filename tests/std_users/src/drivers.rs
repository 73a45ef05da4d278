//! What the users promise, asked of them: each relies on the order and the time of destructors.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::Cell;
use core::sync::atomic::{AtomicUsize, Ordering};

use unspool_kernel::task;

use crate::crossbeam_epoch::{self as epoch, Atomic, Owned};
use crate::fragile::{Fragile, Sticky};
use crate::scoped_tls::scoped_thread_local;
use crate::thread_local::ThreadLocal;

/// The tests, by name.
pub const TESTS: &[(&str, fn())] = &[
    ("scoped_tls_values_are_set_for_the_length_of_a_call", scoped_values),
    ("scoped_tls_values_are_restored_by_a_panic", scoped_panic),
    ("thread_local_gives_each_task_a_value_and_keeps_it", per_object),
    ("thread_local_uses_the_number_of_an_ended_task_again", numbers_again),
    ("fragile_values_refuse_other_tasks", fragile_elsewhere),
    ("fragile_sticky_values_are_dropped_at_the_end_of_their_task", sticky_end),
    ("crossbeam_epoch_pins_each_task_by_itself", pins),
    ("crossbeam_epoch_frees_what_ended_tasks_have_left", garbage),
];

/// Counts its drops.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

scoped_thread_local!(static SCOPED: Cell<u32>);

fn scoped_values() {
    assert!(!SCOPED.is_set());
    let (outer, inner) = (Cell::new(1), Cell::new(2));
    SCOPED.set(&outer, || {
        SCOPED.with(|value| value.set(value.get() + 10));
        SCOPED.set(&inner, || SCOPED.with(|value| value.set(value.get() + 20)));
        let other = task::spawn("other", || SCOPED.is_set()).join();
        assert_eq!(other.ok(), Some(false));
        SCOPED.with(|value| assert_eq!(value.get(), 11));
    });
    assert!(!SCOPED.is_set());
    assert_eq!((outer.get(), inner.get()), (11, 22));
}

fn scoped_panic() {
    let value = Cell::new(1);
    let caught = unspool::panic::catch_unwind(unspool::panic::AssertUnwindSafe(|| {
        SCOPED.set(&value, || unspool::panic::resume_unwind(alloc::boxed::Box::new(())));
    }));
    assert!(caught.is_err());
    assert!(!SCOPED.is_set());
}

fn per_object() {
    let counts = Arc::new(ThreadLocal::<Cell<usize>>::new());
    let tasks: Vec<_> = (1..=4)
        .map(|times| {
            let counts = Arc::clone(&counts);
            task::spawn("counts", move || {
                for _ in 0..times {
                    let count = counts.get_or_default();
                    count.set(count.get() + 1);
                    task::yield_now();
                }
                counts.get().map(Cell::get)
            })
        })
        .collect();
    for (times, task) in (1..).zip(tasks) {
        // A task that has ended leaves its number, and with it its value, to the next one.
        assert!(task.join().ok().flatten() >= Some(times));
    }
    let counts = Arc::into_inner(counts).expect("the tasks have ended");
    assert_eq!(counts.into_iter().map(Cell::into_inner).sum::<usize>(), 10);
}

fn numbers_again() {
    let slots = Arc::new(ThreadLocal::<Cell<u32>>::new());
    for _ in 0..50 {
        let slots = Arc::clone(&slots);
        let task = task::spawn("brief", move || _ = slots.get_or_default());
        assert!(task.join().is_completed());
    }
    let slots = Arc::into_inner(slots).expect("the tasks have ended");
    // One after the other: the destructor of each has given the number back before the next began.
    assert_eq!(slots.into_iter().count(), 1);
}

fn fragile_elsewhere() {
    let fragile = Fragile::new(Cell::new(5));
    let here = fragile.try_get().map(Cell::get).ok();
    let (fragile, there) = task::spawn("elsewhere", move || {
        let seen = fragile.try_get().is_ok();
        (fragile, seen)
    })
    .join()
    .unwrap();
    assert_eq!((here, there), (Some(5), false));
    assert_eq!(fragile.into_inner().get(), 5);
}

fn sticky_end() {
    let drops = Arc::new(AtomicUsize::new(0));
    let shared = Arc::clone(&drops);
    let sticky = task::spawn("owner", move || Sticky::new(Counted(shared))).join();
    // Its handle lives on, but its task's registry is gone.
    assert_eq!(drops.load(Ordering::SeqCst), 1);
    drop(sticky);
    assert_eq!(drops.load(Ordering::SeqCst), 1);
}

fn pins() {
    assert!(!epoch::is_pinned());
    let guard = epoch::pin();
    assert!(epoch::is_pinned());
    assert_eq!(task::spawn("other", epoch::is_pinned).join().ok(), Some(false));
    drop(guard);
    assert!(!epoch::is_pinned());
}

fn garbage() {
    const TASKS: usize = 4;
    const EACH: usize = 200;
    let drops = Arc::new(AtomicUsize::new(0));
    let shared = Arc::new(Atomic::<Counted>::null());
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (drops, shared) = (Arc::clone(&drops), Arc::clone(&shared));
            task::spawn("writer", move || {
                for _ in 0..EACH {
                    let guard = epoch::pin();
                    let new = Owned::new(Counted(Arc::clone(&drops)));
                    let old = shared.swap(new, Ordering::AcqRel, &guard);
                    if !old.is_null() {
                        // SAFETY: swapped out, so nobody finds it any more.
                        unsafe { guard.defer_destroy(old) };
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        assert!(task.join().is_completed());
    }
    // The tasks' destructors have handed over what was left; pinning again collects it.
    for _ in 0..10_000 {
        if drops.load(Ordering::SeqCst) == TASKS * EACH - 1 {
            break;
        }
        epoch::pin().flush();
    }
    assert_eq!(drops.load(Ordering::SeqCst), TASKS * EACH - 1);
    let guard = epoch::pin();
    let last = shared.swap(epoch::Shared::null(), Ordering::AcqRel, &guard);
    // SAFETY: the last one, and every other task has ended.
    drop(unsafe { last.into_owned() });
    assert_eq!(drops.load(Ordering::SeqCst), TASKS * EACH);
}
