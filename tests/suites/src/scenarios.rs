//! Panics of every kind, for std and for the kernel: what both say must be the same.
//!
//! ```text
//!   this file ─┬─ on_std.rs: a program on std      ─► stderr ─┐
//!              └─ on.rs: a program on the kernel   ─► errors ─┴─► `cargo xtask test said`, line by line
//! ```
//!
//! It is compiled twice, so it names nothing but `core`, `alloc` and [`crate::on`]. To add a panic,
//! add a function and its name to the list of those that end the program, or of the others.

use alloc::boxed::Box;
use alloc::string::String;
use core::any::Any;
use core::cell::Cell;
use core::fmt;
use core::hint::black_box;
use core::panic::Location;

use self::calls::{index, unwrap_of_none};
use crate::on::{
    catch_unwind, eprint, eprintln, panic_any, panicking, resume_unwind, set_hook, take_hook,
    thread, thread_local, update_hook,
};

/// Functions with their names.
macro_rules! named {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), $name as fn())),*] };
}

// With their paths, because on std this file has one itself.
#[path = "scenarios/calls.rs"]
mod calls;
#[path = "scenarios/ends.rs"]
mod ends;

/// After these, the program goes on; after those of [`calls`], too.
const SURVIVED: &[(&str, fn())] = named![
    literal,
    formatted,
    formatted_as_nothing,
    formatted_as_a_literal,
    of_many_lines,
    of_many_bytes,
    with_any_payload,
    with_a_string,
    with_a_literal_payload,
    resumed,
    resumed_after_a_catch,
    deep_in_calls,
    caller_is_blamed,
    in_a_thread_without_a_name,
    in_a_thread_of_a_thread,
    in_a_drop,
    in_a_drop_during_unwinding_caught_there,
    in_a_thread_local_that_is_gone,
    in_a_thread_locals_initializer,
    while_printing,
    hook_of_ones_own,
    hook_sees_everything,
    hook_updated,
    hook_taken_and_called,
    hook_set_while_panicking,
    hook_yields_a_thread,
    hook_resumes_another,
    formatted_once,
];

/// Runs the one with this name, on the main thread if that is how its name begins; for `all`, all that are
/// survived; for `deadly`, names the others.
pub fn run(name: &str) {
    if name == "deadly" {
        ends::ALL.iter().for_each(|(name, _)| eprintln!("{name}"));
        return;
    }
    if name == "all" {
        for (name, body) in SURVIVED.iter().chain(calls::ALL) {
            eprintln!("== {name}");
            thread(Some(name), *body);
            drop(take_hook());
        }
        return;
    }
    let found = ends::ALL.iter().find(|(each, _)| *each == name);
    let (name, body) = *found.unwrap_or_else(|| panic!("no scenario {name}"));
    if name.starts_with("main_") {
        body();
    } else {
        thread(Some(name), body);
    }
    eprintln!("survived");
}

#[inline(never)]
fn literal() {
    panic!("a literal");
}

#[inline(never)]
fn formatted() {
    panic!("{} and {:#x}, {:?}", black_box("words"), black_box(42), black_box(Some('ü')));
}

#[inline(never)]
fn formatted_as_nothing() {
    panic!("{}", black_box(""));
}

#[inline(never)]
fn formatted_as_a_literal() {
    panic!("with {{braces}}");
}

#[inline(never)]
fn of_many_lines() {
    panic!("one\n\n{}\n", black_box("  three"));
}

#[inline(never)]
fn of_many_bytes() {
    panic!("{}, and {:>300}.", "long words ".repeat(black_box(100)), black_box("the end"));
}

#[inline(never)]
fn with_any_payload() {
    panic_any(black_box(7_u8));
}

#[inline(never)]
fn with_a_string() {
    panic_any(String::from("a string"));
}

#[inline(never)]
fn with_a_literal_payload() {
    panic_any("a literal payload");
}

#[inline(never)]
fn resumed() {
    resume_unwind(Box::new("silent"));
}

#[inline(never)]
fn resumed_after_a_catch() {
    let payload = catch_unwind(|| panic!("said once")).map(|(): ()| ()).unwrap_err();
    eprintln!("caught {:?}", payload.downcast_ref::<&str>());
    resume_unwind(payload);
}

#[inline(never)]
fn deep_in_calls() {
    #[inline(never)]
    fn middle(call: fn(u32) -> u32, depth: u32) -> u32 {
        black_box(call(depth)) + 1
    }
    #[inline(never)]
    fn deeper(depth: u32) -> u32 {
        if depth == 0 {
            panic!("at the bottom");
        }
        black_box(middle(black_box(deeper), depth - 1)) + 1
    }
    black_box(deeper(black_box(60)));
}

#[inline(never)]
fn caller_is_blamed() {
    #[track_caller]
    #[inline(never)]
    fn blames(at: &str) {
        panic!("{at}, {}", Location::caller().line());
    }
    blames(black_box("line"));
}

#[inline(never)]
fn in_a_thread_without_a_name() {
    thread(None, literal);
}

#[inline(never)]
fn in_a_thread_of_a_thread() {
    thread(Some("inner"), formatted);
    panic!("outer");
}

struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    #[inline(never)]
    fn drop(&mut self) {
        panic!("while dropping");
    }
}

#[inline(never)]
fn in_a_drop() {
    drop(black_box(PanicsOnDrop));
}

#[inline(never)]
fn in_a_drop_during_unwinding_caught_there() {
    struct Catches;
    impl Drop for Catches {
        #[inline(never)]
        fn drop(&mut self) {
            let caught = catch_unwind(literal);
            eprintln!("caught: {}", caught.is_err());
        }
    }
    let _catches = Catches;
    formatted();
}

#[inline(never)]
fn in_a_thread_local_that_is_gone() {
    struct Late;
    impl Drop for Late {
        #[inline(never)]
        fn drop(&mut self) {
            let caught = catch_unwind(|| LATE.with(|_| ()));
            eprintln!("caught: {}", caught.is_err());
        }
    }
    thread_local! {
        static LATE: Late = const { Late };
    }
    LATE.with(|_| ());
}

#[inline(never)]
fn in_a_thread_locals_initializer() {
    fn none() -> u8 {
        panic!("no first value");
    }
    thread_local! {
        static NEVER: u8 = none();
    }
    NEVER.with(|_| ());
}

/// Its text cannot be had.
struct Worse(Option<u8>);

impl fmt::Display for Worse {
    #[inline(never)]
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => panic!("while formatting"),
            Some(number) => panic!("while formatting {number}"),
        }
    }
}

#[inline(never)]
fn while_printing() {
    eprint!("{}", black_box(Worse(None)));
}

#[inline(never)]
fn hook_of_ones_own() {
    set_hook(Box::new(|info| eprintln!("hook: {info}")));
    for body in [literal as fn(), formatted, of_many_lines, with_any_payload, index, in_a_drop] {
        eprintln!("caught: {}", catch_unwind(body).is_err());
    }
    panic!("the last one");
}

#[inline(never)]
fn hook_sees_everything() {
    set_hook(Box::new(|info| {
        let at = info.location().map(|at| (at.file(), at.line(), at.column()));
        let number: Option<&u8> = info.payload().downcast_ref();
        let literal: Option<&&'static str> = info.payload().downcast_ref();
        let string: Option<&String> = info.payload().downcast_ref();
        eprintln!("{:?} {at:?} {number:?} {literal:?} {string:?}", info.payload_as_str());
    }));
    for body in [literal as fn(), formatted, with_any_payload, with_a_string, unwrap_of_none] {
        let payload = catch_unwind(body).unwrap_err();
        let kept: &(dyn Any + Send) = &*payload;
        eprintln!("{} {}", kept.is::<&'static str>(), kept.is::<String>());
    }
}

#[inline(never)]
fn hook_updated() {
    set_hook(Box::new(|info| eprintln!("before: {info}")));
    update_hook(|before, info| {
        eprintln!("after: {info}");
        before(info);
    });
    literal();
}

#[inline(never)]
fn hook_taken_and_called() {
    let standard = take_hook();
    set_hook(Box::new(move |info| {
        eprintln!("before the standard one");
        standard(info);
        eprintln!("after it");
    }));
    formatted();
}

#[inline(never)]
fn hook_set_while_panicking() {
    struct Sets;
    impl Drop for Sets {
        #[inline(never)]
        fn drop(&mut self) {
            let caught = catch_unwind(|| set_hook(Box::new(|_| ())));
            eprintln!("caught: {}", caught.is_err());
        }
    }
    let _sets = Sets;
    resume_unwind(Box::new(()));
}

/// Another thread may panic while the hook of this one runs.
#[inline(never)]
fn hook_yields_a_thread() {
    set_hook(Box::new(|info| {
        eprintln!("begin: {info}");
        if info.payload_as_str() == Some("a literal") {
            thread(Some("in the hook"), formatted);
        }
        eprintln!("end: {info}");
    }));
    literal();
}

/// What the hook resumes goes on in place of the panic, and the next panic is as the first.
#[inline(never)]
fn hook_resumes_another() {
    set_hook(Box::new(|info| {
        eprintln!("hook: {info}");
        resume_unwind(Box::new(7_u8));
    }));
    for body in [literal as fn(), formatted, with_any_payload] {
        let payload = catch_unwind(body).unwrap_err();
        eprintln!("caught {:?}, {}", payload.downcast_ref::<u8>(), panicking());
    }
    drop(take_hook());
    formatted();
}

/// Its text can be had once.
struct Once(Cell<bool>);

impl fmt::Display for Once {
    #[inline(never)]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        assert!(!self.0.replace(true), "formatted again");
        f.write_str("formatted")
    }
}

#[inline(never)]
fn formatted_once() {
    for long in [0, 300] {
        let caught = catch_unwind(|| panic!("{} {:long$}", Once(Cell::new(false)), "once"));
        let payload = caught.map(|(): ()| ()).unwrap_err();
        eprintln!("caught {:?}, {}", payload.downcast_ref::<String>(), panicking());
    }
}
