//! Values thrown into the frame that catches them.

use alloc::boxed::Box;
use alloc::rc::Rc;
use core::cell::Cell;

use unspool::panic::{
    AssertUnwindSafe, Thrower, Thrown, catch_thrown, catch_unwind, panic_any, panicking,
    resume_unwind,
};
use unspool_kernel::{heap, task};

use crate::support::{Log, footprint};

crate::tests![
    a_value_arrives_where_it_was_thrown_to,
    drops_run_on_the_way,
    nothing_is_allocated,
    a_value_goes_past_the_catches_of_others,
    panics_go_past,
    a_kill_goes_past,
    a_value_that_is_caught_on_the_way_is_dropped_with_its_catch,
    a_value_may_be_thrown_in_a_cleanup,
    thrown_values_leave_nothing_behind,
];

#[inline(never)]
fn deep<T>(depth: u32, log: &Log, to: &Thrower<T>, value: T) {
    let _noting = log.on_drop(depth);
    if depth == 0 {
        to.throw(value);
    }
    deep(depth - 1, log, to, value);
    log.note(999);
}

fn a_value_arrives_where_it_was_thrown_to() {
    // Neither `Send` nor `'static`.
    let (log, local) = (Log::default(), Cell::new(5));
    let caught = catch_thrown(|to| deep(3, &log, to, (Rc::new(7), &local)));
    let (seven, place) = caught.unwrap_err();
    assert_eq!((*seven, place.get(), Rc::strong_count(&seven)), (7, 5, 1));
    assert_eq!(catch_thrown(|_: &Thrower<u8>| "returned"), Ok("returned"));
}

fn drops_run_on_the_way() {
    struct Asks(Log);
    impl Drop for Asks {
        fn drop(&mut self) {
            self.0.note(100 + u32::from(panicking()));
        }
    }
    let log = Log::default();
    let caught = catch_thrown(|to| {
        let _asks = Asks(log.clone());
        deep(2, &log, to, [1u64; 20]);
    });
    assert_eq!(caught, Err([1; 20]));
    assert_eq!(log.events(), [0, 1, 2, 101]);
    assert!(!panicking());
}

fn nothing_is_allocated() {
    let log = Log::default();
    (0..4).for_each(|n| log.note(n));
    let failing = heap::fail(0, usize::MAX);
    let caught = catch_thrown(|to: &Thrower<[u64; 100]>| {
        // The list of events would grow.
        if !core::hint::black_box(false) {
            to.throw([3; 100]);
        }
    });
    assert_eq!((caught, failing.failed()), (Err([3; 100]), 0));
}

fn a_value_goes_past_the_catches_of_others() {
    let outer = catch_thrown(|outer: &Thrower<&str>| {
        let inner = catch_thrown(|_inner: &Thrower<&str>| outer.throw("to the outer one"));
        unreachable!("{inner:?}");
    });
    assert_eq!(outer, Err("to the outer one"));
    let outer = catch_thrown(|_: &Thrower<&str>| {
        catch_thrown(|inner: &Thrower<&str>| inner.throw("to the inner one")).map(|(): ()| ())
    });
    assert_eq!(outer, Ok(Err("to the inner one")));
}

fn panics_go_past() {
    let log = Log::default();
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let _ = catch_thrown(|_: &Thrower<u8>| {
            let _noting = log.on_drop(1);
            resume_unwind(Box::new(77u64));
        })
        .map(|(): ()| ());
        log.note(999);
    }));
    assert_eq!(caught.unwrap_err().downcast_ref(), Some(&77u64));
    assert_eq!(log.events(), [1]);
    assert!(!panicking());
}

fn a_kill_goes_past() {
    let outcome = task::spawn("killed", || {
        let _ = catch_thrown(|_: &Thrower<u8>| {
            task::current().kill();
            task::yield_now();
        });
    });
    assert!(outcome.join().is_killed());
}

fn a_value_that_is_caught_on_the_way_is_dropped_with_its_catch() {
    let log = Log::default();
    let outcome = catch_thrown(|to| {
        let caught = catch_unwind(AssertUnwindSafe(|| to.throw(log.on_drop(1))));
        let payload = caught.map(|(): ()| ()).unwrap_err();
        assert!(payload.is::<Thrown>() && !panicking());
        log.note(0);
        2
    });
    assert_eq!((outcome.ok(), log.events()), (Some(2), [0, 1].to_vec()));
    // Passed on, it is a panic as any other.
    let caught = catch_unwind(|| {
        let _ = catch_thrown(|to: &Thrower<u8>| {
            let caught = catch_unwind(AssertUnwindSafe(|| to.throw(1)));
            resume_unwind(caught.map(|(): ()| ()).unwrap_err())
        })
        .map(|(): ()| ());
    });
    assert!(caught.unwrap_err().is::<Thrown>());
}

fn a_value_may_be_thrown_in_a_cleanup() {
    struct Throws(Log);
    impl Drop for Throws {
        fn drop(&mut self) {
            let caught = catch_thrown(|to: &Thrower<u32>| to.throw(5)).map(|(): ()| ());
            self.0.note(caught.unwrap_err());
        }
    }
    let log = Log::default();
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let _throws = Throws(log.clone());
        panic_any(6u8);
    }));
    assert_eq!(caught.map(|(): ()| ()).unwrap_err().downcast_ref(), Some(&6u8));
    assert_eq!(log.events(), [5]);
}

fn thrown_values_leave_nothing_behind() {
    let before = footprint();
    for n in 0..10_000u32 {
        let caught = catch_thrown(|to: &Thrower<Box<u32>>| to.throw(Box::new(n)));
        assert_eq!(*caught.map(|(): ()| ()).unwrap_err(), n);
    }
    assert_eq!(footprint(), before);
}
