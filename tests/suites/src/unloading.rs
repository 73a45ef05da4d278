//! Objects go, unless somebody still needs them.

use alloc::sync::Arc;
use core::mem::transmute;
use core::ptr::with_exposed_provenance;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use unspool::loader::{Handle, UnloadError};
use unspool::panic::{AssertUnwindSafe, catch_unwind};
use unspool_kernel::walk::AllStacks;
use unspool_kernel::{loader, task};

use crate::support::{footprint, module, unload_soon};

crate::tests![
    an_unloaded_object_leaves_nothing,
    an_object_stays_while_its_caller_is_in_it,
    an_object_stays_while_a_suspended_task_is_in_it,
    an_object_stays_while_an_exception_has_come_through_it,
    an_object_stays_while_an_exception_is_beyond_frames_of_it_that_had_nothing_to_do,
    an_object_stays_while_tasks_have_its_destructors,
];

const OBJECTS: [&str; 2] = ["calls.static.o", "calls.pic.o"];

type Back = extern "C-unwind" fn(usize);

/// `tests/objects/calls.rs`.
#[derive(Clone, Copy)]
struct Calls {
    back: extern "C-unwind" fn(Back, usize) -> u64,
    straight: extern "C-unwind" fn(Back, usize) -> u64,
    marks: extern "C" fn() -> u64,
    at_end: extern "C" fn() -> bool,
    ended: extern "C" fn() -> u64,
}

fn load(name: &str) -> (Handle<'static>, Calls) {
    let object = loader().load(name, module(name)).unwrap();
    let function = |name: &str| {
        let address = object.symbol(name).unwrap_or_else(|| panic!("no {name}"));
        with_exposed_provenance::<()>(address as usize)
    };
    // SAFETY: the functions of `tests/objects/calls.rs`, with their types.
    let calls = unsafe {
        Calls {
            back: transmute::<*const (), extern "C-unwind" fn(Back, usize) -> u64>(function(
                "calls_back",
            )),
            straight: transmute::<*const (), extern "C-unwind" fn(Back, usize) -> u64>(function(
                "calls_straight",
            )),
            marks: transmute::<*const (), extern "C" fn() -> u64>(function("calls_marks")),
            at_end: transmute::<*const (), extern "C" fn() -> bool>(function("calls_at_end")),
            ended: transmute::<*const (), extern "C" fn() -> u64>(function("calls_ended")),
        }
    };
    (object, calls)
}

fn unload(object: &Handle<'_>) -> Result<(), UnloadError> {
    loader().unload(object, &AllStacks)
}

fn an_unloaded_object_leaves_nothing() {
    // What grows with the first object stays.
    unload_soon(&load(OBJECTS[0]).0);
    for name in OBJECTS {
        let before = footprint();
        let (object, calls) = load(name);
        assert_eq!(task::spawn("other", move || (calls.marks)()).join().unwrap(), 100);
        assert_eq!((calls.marks)(), 100);
        unload_soon(&object);
        assert_eq!(unload(&object), Err(UnloadError::NotLoaded));
        drop(object);
        assert_eq!(footprint(), before);
    }
}

fn an_object_stays_while_its_caller_is_in_it() {
    extern "C-unwind" fn try_it(object: usize) {
        // SAFETY: the test passes its handle, and waits.
        let object = unsafe { &*with_exposed_provenance::<Handle<'static>>(object) };
        assert_eq!(unload(object), Err(UnloadError::OnStack));
    }
    for name in OBJECTS {
        let (object, calls) = load(name);
        assert_eq!((calls.back)(try_it, (&raw const object).expose_provenance()), 100);
        unload_soon(&object);
    }
}

fn an_object_stays_while_a_suspended_task_is_in_it() {
    static STATE: AtomicUsize = AtomicUsize::new(0);
    extern "C-unwind" fn wait(_: usize) {
        STATE.store(1, Ordering::Relaxed);
        while STATE.load(Ordering::Relaxed) == 1 {
            task::yield_now();
        }
    }
    for name in OBJECTS {
        let (object, calls) = load(name);
        STATE.store(0, Ordering::Relaxed);
        let inside = task::spawn("inside", move || (calls.back)(wait, 0));
        while STATE.load(Ordering::Relaxed) == 0 {
            task::yield_now();
        }
        for _ in 0..10 {
            assert_eq!(unload(&object), Err(UnloadError::OnStack));
            task::yield_now();
        }
        STATE.store(2, Ordering::Relaxed);
        assert_eq!(inside.join().unwrap(), 100);
        unload_soon(&object);
    }
}

/// Is dropped while an exception is on its way that has come through frames of the object.
struct OnTheWay<'h>(&'h Handle<'static>, &'h AtomicBool);

impl Drop for OnTheWay<'_> {
    fn drop(&mut self) {
        // The frames of the object are gone; what has come through them is not.
        assert_eq!(unload(self.0), Err(UnloadError::ExceptionInFlight));
        self.1.store(true, Ordering::Relaxed);
    }
}

extern "C-unwind" fn fail(number: usize) {
    panic!("number {number}");
}

fn an_object_stays_while_an_exception_has_come_through_it() {
    for name in OBJECTS {
        let (object, calls) = load(name);
        let asked = AtomicBool::new(false);
        let caught = catch_unwind(AssertUnwindSafe(|| {
            let _on_the_way = OnTheWay(&object, &asked);
            (calls.back)(fail, 7)
        }));
        assert!(asked.load(Ordering::Relaxed) && caught.is_err());
        assert_eq!((calls.marks)(), 101);
        unload_soon(&object);
    }
}

/// Frames of which all is remembered are gone through fast; whose they were must not be forgotten where
/// that ends.
fn an_object_stays_while_an_exception_is_beyond_frames_of_it_that_had_nothing_to_do() {
    for name in OBJECTS {
        let (object, calls) = load(name);
        let asked = AtomicBool::new(false);
        // They are remembered from now on; what is around them below is not.
        assert!(catch_unwind(|| (calls.straight)(fail, 1)).is_err());
        let caught = catch_unwind(AssertUnwindSafe(|| {
            let _on_the_way = OnTheWay(&object, &asked);
            (calls.straight)(fail, 2)
        }));
        assert!(asked.load(Ordering::Relaxed) && caught.is_err());
        unload_soon(&object);
    }
}

fn an_object_stays_while_tasks_have_its_destructors() {
    for name in OBJECTS {
        let (object, calls) = load(name);
        let (go, ready) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let tasks = [(); 3].map(|()| {
            let (go, ready) = (Arc::clone(&go), Arc::clone(&ready));
            task::spawn("ends later", move || {
                assert!((calls.at_end)());
                ready.fetch_add(1, Ordering::Relaxed);
                while !go.load(Ordering::Relaxed) {
                    task::yield_now();
                }
            })
        });
        while ready.load(Ordering::Relaxed) < 3 {
            task::yield_now();
        }
        assert_eq!(unload(&object), Err(UnloadError::PendingDestructors { count: 3 }));
        go.store(true, Ordering::Relaxed);
        for task in tasks {
            task.join().unwrap();
        }
        assert_eq!((calls.ended)(), 300);
        unload_soon(&object);
    }
}
