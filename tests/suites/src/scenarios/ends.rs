//! Panics that end the program.

use alloc::boxed::Box;
use core::hint::black_box;

use super::{PanicsOnDrop, Worse, formatted, literal, with_any_payload};
use crate::on::{
    always_abort, catch_unwind, leave, panic_any, resume_unwind, set_hook, thread_local,
};

/// All of them.
pub const ALL: &[(&str, fn())] = named![
    drop_panics_during_cleanup,
    drop_panics_during_a_panics_cleanup,
    panic_leaves_extern_c,
    message_panics,
    message_panics_with_format,
    message_panics_with_a_hook,
    hook_panics,
    hook_panics_with_format,
    hook_panics_with_any_payload,
    hook_panics_with_a_literal_payload,
    hook_panics_outside_of_c,
    thread_local_panics_on_drop,
    panic_leaves_extern_c_in_a_drop,
    aborts_always,
    aborts_always_with_format,
    aborts_always_with_any_payload,
    result_panics_on_drop,
    payload_panics_on_drop,
    main_panics,
    main_panics_with_any_payload,
    main_payload_panics_on_drop,
    main_drop_panics_during_cleanup,
];

#[inline(never)]
fn drop_panics_during_cleanup() {
    let _ = catch_unwind(|| {
        let _bad = PanicsOnDrop;
        resume_unwind(Box::new(()));
    });
}

#[inline(never)]
fn drop_panics_during_a_panics_cleanup() {
    let _bad = PanicsOnDrop;
    formatted();
}

#[inline(never)]
extern "C" fn wall() {
    panic!("against the wall");
}

#[inline(never)]
fn panic_leaves_extern_c() {
    let _ = catch_unwind(|| black_box(wall as extern "C" fn())());
}

#[inline(never)]
fn panic_leaves_extern_c_in_a_drop() {
    struct Walls;
    impl Drop for Walls {
        #[inline(never)]
        fn drop(&mut self) {
            black_box(wall as extern "C" fn())();
        }
    }
    let _walls = Walls;
    literal();
}

#[inline(never)]
fn message_panics() {
    panic!("{}", black_box(Worse(None)));
}

#[inline(never)]
fn message_panics_with_format() {
    panic!("{}", black_box(Worse(Some(7))));
}

#[inline(never)]
fn message_panics_with_a_hook() {
    set_hook(Box::new(|_| ()));
    let _ = catch_unwind(message_panics);
}

/// That it would be caught there does not help.
#[inline(never)]
fn hook_panics() {
    set_hook(Box::new(|_| panic!("in the hook")));
    let _ = catch_unwind(literal);
}

#[inline(never)]
fn hook_panics_with_format() {
    set_hook(Box::new(|_| panic!("in the hook {}", black_box(7))));
    literal();
}

#[inline(never)]
fn hook_panics_with_any_payload() {
    set_hook(Box::new(|_| panic_any(7_u8)));
    with_any_payload();
}

#[inline(never)]
fn hook_panics_with_a_literal_payload() {
    set_hook(Box::new(|_| panic_any("in the hook")));
    literal();
}

#[inline(never)]
fn hook_panics_outside_of_c() {
    set_hook(Box::new(|info| assert!(info.payload_as_str() == Some("against the wall"))));
    panic_leaves_extern_c();
}

#[inline(never)]
fn thread_local_panics_on_drop() {
    thread_local! {
        static BAD: PanicsOnDrop = const { PanicsOnDrop };
    }
    BAD.with(|_| ());
}

#[inline(never)]
fn aborts_always() {
    always_abort();
    let _ = catch_unwind(literal);
}

#[inline(never)]
fn aborts_always_with_format() {
    always_abort();
    formatted();
}

#[inline(never)]
fn aborts_always_with_any_payload() {
    always_abort();
    with_any_payload();
}

#[inline(never)]
fn result_panics_on_drop() {
    leave(|| PanicsOnDrop);
}

#[inline(never)]
fn payload_panics_on_drop() {
    leave(|| panic_any(PanicsOnDrop));
}

#[inline(never)]
fn main_panics() {
    formatted();
}

#[inline(never)]
fn main_panics_with_any_payload() {
    with_any_payload();
}

#[inline(never)]
fn main_payload_panics_on_drop() {
    panic_any(PanicsOnDrop);
}

#[inline(never)]
fn main_drop_panics_during_cleanup() {
    let _bad = PanicsOnDrop;
    literal();
}
