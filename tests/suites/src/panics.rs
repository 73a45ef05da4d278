//! Panics: what they carry, what they drop, who catches.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use unspool::panic::{AssertUnwindSafe, catch_unwind, panic_any, panicking, resume_unwind};
use unspool_kernel::task;

use crate::support::{Log, footprint};

crate::tests![
    a_literal_message_is_a_str,
    a_formatted_message_is_a_string,
    a_payload_of_any_type_arrives_as_it_was,
    resume_unwind_passes_the_same_box_on,
    drops_run_innermost_first_and_once,
    a_panic_inside_a_drop_may_be_caught_there,
    panicking_is_true_in_drops_and_false_after,
    a_panic_that_ends_a_task_is_its_outcome,
    many_panics_in_a_row_leave_nothing_behind,
    panics_of_several_tasks_interleave,
];

fn a_literal_message_is_a_str() {
    let payload = catch_unwind(|| panic!("a literal")).map(|(): ()| ()).unwrap_err();
    assert_eq!(payload.downcast_ref::<&'static str>(), Some(&"a literal"));
}

fn a_formatted_message_is_a_string() {
    let number = core::hint::black_box(42);
    let payload = catch_unwind(|| panic!("number {number}")).map(|(): ()| ()).unwrap_err();
    assert_eq!(payload.downcast_ref::<String>().map(String::as_str), Some("number 42"));
}

fn a_payload_of_any_type_arrives_as_it_was() {
    let payload = catch_unwind(|| panic_any([1u16, 2, 3])).map(|(): ()| ()).unwrap_err();
    assert_eq!(payload.downcast_ref::<[u16; 3]>(), Some(&[1, 2, 3]));
}

fn resume_unwind_passes_the_same_box_on() {
    let payload = Box::new(77u64);
    let address = (&raw const *payload).addr();
    let outer = catch_unwind(AssertUnwindSafe(|| {
        let inner = catch_unwind(AssertUnwindSafe(|| resume_unwind(payload)));
        resume_unwind(inner.map(|(): ()| ()).unwrap_err())
    }));
    let payload = outer.map(|(): ()| ()).unwrap_err().downcast::<u64>().unwrap();
    assert_eq!((*payload, (&raw const *payload).addr()), (77, address));
}

fn drops_run_innermost_first_and_once() {
    #[inline(never)]
    fn nest(log: &Log, depth: u32) {
        let _first = log.on_drop(depth * 10);
        let _second = log.on_drop(depth * 10 + 1);
        if depth == 3 {
            resume_unwind(Box::new(()));
        }
        nest(log, depth + 1);
        log.note(999);
    }
    let log = Log::default();
    assert!(catch_unwind(AssertUnwindSafe(|| nest(&log, 1))).is_err());
    assert_eq!(log.events(), [31, 30, 21, 20, 11, 10]);
}

fn a_panic_inside_a_drop_may_be_caught_there() {
    struct Catches(Log);
    impl Drop for Catches {
        fn drop(&mut self) {
            let caught = catch_unwind(|| resume_unwind(Box::new(2u8)));
            let payload = caught.map(|(): ()| ()).unwrap_err();
            self.0.note(u32::from(*payload.downcast::<u8>().unwrap()));
        }
    }
    let log = Log::default();
    let outer = catch_unwind(AssertUnwindSafe(|| {
        let _catches = Catches(log.clone());
        resume_unwind(Box::new(1u8));
    }));
    assert_eq!(*outer.unwrap_err().downcast::<u8>().unwrap(), 1);
    assert_eq!(log.events(), [2]);
    assert!(!panicking());
}

fn panicking_is_true_in_drops_and_false_after() {
    struct Asks(Log);
    impl Drop for Asks {
        fn drop(&mut self) {
            self.0.note(u32::from(panicking()));
        }
    }
    let log = Log::default();
    drop(Asks(log.clone()));
    let result = catch_unwind(AssertUnwindSafe(|| {
        let _asks = Asks(log.clone());
        resume_unwind(Box::new(()));
    }));
    assert!(result.is_err() && !panicking());
    assert_eq!(log.events(), [0, 1]);
}

fn a_panic_that_ends_a_task_is_its_outcome() {
    let what = core::hint::black_box("a task");
    let task = task::spawn("ends", move || -> u32 { panic!("the end of {what}") });
    let payload = task.join().panicked().unwrap();
    assert_eq!(payload.downcast_ref::<String>().map(String::as_str), Some("the end of a task"));
}

fn many_panics_in_a_row_leave_nothing_behind() {
    let before = footprint();
    for n in 0..10_000u32 {
        let payload = catch_unwind(|| resume_unwind(Box::new(n))).map(|(): ()| ()).unwrap_err();
        assert_eq!(*payload.downcast::<u32>().unwrap(), n);
    }
    assert_eq!(footprint(), before);
}

fn panics_of_several_tasks_interleave() {
    struct Yields;
    impl Drop for Yields {
        fn drop(&mut self) {
            // Others panic while this task's exception is in flight.
            task::yield_now();
        }
    }
    let tasks: Vec<_> = (0..8u32)
        .map(|n| {
            task::spawn("interleaved", move || {
                for round in 0..20 {
                    let caught = catch_unwind(|| {
                        let _yields = Yields;
                        resume_unwind(Box::new(format!("{n}/{round}")));
                    });
                    let payload = caught.unwrap_err().downcast::<String>().unwrap();
                    assert_eq!(*payload, format!("{n}/{round}"));
                }
            })
        })
        .collect();
    for task in tasks {
        task.join().unwrap();
    }
}
