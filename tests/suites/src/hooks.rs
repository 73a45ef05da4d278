//! Panic hooks, as in std.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use spin::Mutex;
use unspool::panic::{
    catch_unwind, panic_any, panics_in_flight, resume_unwind, set_hook, take_hook, update_hook,
};
use unspool_kernel::heap;

use crate::support::footprint;

crate::tests![
    a_hook_is_told_of_every_panic_but_not_of_resumed_ones,
    a_hook_sees_the_payload_and_the_location,
    a_hook_that_was_taken_can_be_called,
    an_updated_hook_is_given_the_one_before,
    an_update_that_finds_no_memory_leaves_the_hook,
    panics_that_hooks_replace_leave_nothing_behind,
    a_hook_cannot_be_set_while_panicking,
];

static HEARD: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn hear(text: &str) {
    HEARD.lock().push(text.to_string());
}

/// What the hooks heard while `body` ran; afterwards the default hook is back.
fn heard(body: fn()) -> Vec<String> {
    HEARD.lock().clear();
    body();
    drop(take_hook());
    core::mem::take(&mut *HEARD.lock())
}

fn a_hook_is_told_of_every_panic_but_not_of_resumed_ones() {
    let heard = heard(|| {
        set_hook(Box::new(|info| hear(info.payload_as_str().unwrap_or("no text"))));
        let number = core::hint::black_box(1);
        let _ = catch_unwind(|| panic!("literal")).map(|(): ()| ());
        let _ = catch_unwind(|| panic!("number {number}")).map(|(): ()| ());
        let _ = catch_unwind(|| panic_any(7u8)).map(|(): ()| ());
        let _ = catch_unwind(|| resume_unwind(Box::new("silent"))).map(|(): ()| ());
    });
    assert_eq!(heard, ["literal", "number 1", "no text"]);
}

fn a_hook_sees_the_payload_and_the_location() {
    let heard = heard(|| {
        set_hook(Box::new(|info| {
            assert_eq!(info.payload().downcast_ref(), Some(&[1u16, 2]));
            assert!(info.can_unwind());
            hear(info.location().unwrap().file());
        }));
        let _ = catch_unwind(|| panic_any([1u16, 2])).map(|(): ()| ());
    });
    assert_eq!(heard, [file!()]);
}

fn a_hook_that_was_taken_can_be_called() {
    let heard = heard(|| {
        set_hook(Box::new(|_| hear("first")));
        let first = take_hook();
        set_hook(Box::new(move |info| {
            hear("second");
            first(info);
        }));
        let _ = catch_unwind(|| panic!("words")).map(|(): ()| ());
    });
    assert_eq!(heard, ["second", "first"]);
}

fn an_updated_hook_is_given_the_one_before() {
    let heard = heard(|| {
        set_hook(Box::new(|_| hear("before")));
        update_hook(|before, info| {
            hear("after");
            before(info);
        });
        let _ = catch_unwind(|| panic!("words")).map(|(): ()| ());
    });
    assert_eq!(heard, ["after", "before"]);
}

fn an_update_that_finds_no_memory_leaves_the_hook() {
    let heard = heard(|| {
        set_hook(Box::new(|_| hear("before")));
        let failing = heap::fail(0, usize::MAX);
        let updated = catch_unwind(|| update_hook(|_, _| ()));
        drop(failing);
        assert!(updated.is_err());
        let _ = catch_unwind(|| panic!("words")).map(|(): ()| ());
    });
    assert_eq!(heard, ["before"]);
}

fn panics_that_hooks_replace_leave_nothing_behind() {
    let heard = heard(|| {
        set_hook(Box::new(|_| resume_unwind(Box::new(7_u8))));
        let before = footprint();
        for width in 0..1000 {
            let caught = catch_unwind(|| panic!("{:width$}", "words")).map(|(): ()| ());
            assert!(caught.unwrap_err().is::<u8>());
        }
        assert_eq!(footprint(), before);
    });
    assert_eq!((heard.len(), panics_in_flight()), (0, 0));
}

fn a_hook_cannot_be_set_while_panicking() {
    struct Sets;
    impl Drop for Sets {
        fn drop(&mut self) {
            let caught = catch_unwind(|| set_hook(Box::new(|_| ()))).unwrap_err();
            let words = caught.downcast_ref::<&'static str>();
            hear(words.expect("a literal"));
        }
    }
    let heard = heard(|| {
        let _ = catch_unwind(|| {
            let _sets = Sets;
            resume_unwind(Box::new(()));
        });
    });
    assert_eq!(heard, ["cannot modify the panic hook from a panicking thread"]);
}
