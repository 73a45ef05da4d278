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
use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::any::Any;
use core::cell::RefCell;
use core::fmt;
use core::hint::black_box;
use core::panic::Location;
use core::time::Duration;

use crate::on::{
    always_abort, catch_unwind, eprint, eprintln, leave, panic_any, resume_unwind, set_hook,
    take_hook, thread, thread_local, update_hook,
};

/// Functions with their names.
macro_rules! named {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), $name as fn())),*] };
}

/// After these, the program goes on.
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
    index,
    index_of_a_vector,
    slice_starts_late,
    slice_ends_late,
    slice_is_backwards,
    slice_inside_a_character,
    slices_of_two_lengths,
    chunks_of_nothing,
    steps_of_nothing,
    addition_overflows,
    negation_overflows,
    division_overflows,
    division_by_zero,
    remainder_of_zero,
    duration_overflows,
    unwrap_of_none,
    expect_of_none,
    unwrap_of_an_error,
    expect_of_an_error,
    unwrap_error_of_a_value,
    expect_error_of_a_value,
    cell_borrowed_twice,
    cell_borrowed_for_change_and_for_reading,
    asserted,
    asserted_with_words,
    asserted_equal,
    asserted_equal_with_words,
    asserted_different,
    not_reachable,
    not_reachable_with_words,
    yet_to_do,
    yet_to_do_with_words,
    not_implemented,
    key_of_a_map,
    removed_from_a_vector,
    swapped_in_a_queue,
    string_split_inside_a_character,
    vector_too_large,
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
];

/// These end it.
const DEADLY: &[(&str, fn())] = named![
    drop_panics_during_cleanup,
    drop_panics_during_a_panics_cleanup,
    panic_leaves_extern_c,
    message_panics,
    message_panics_with_format,
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

/// Runs the one with this name, on the main thread if that is how its name begins; for `all`, all that are
/// survived; for `deadly`, names the others.
pub fn run(name: &str) {
    if name == "deadly" {
        DEADLY.iter().for_each(|(name, _)| eprintln!("{name}"));
        return;
    }
    if name == "all" {
        for (name, body) in SURVIVED {
            eprintln!("== {name}");
            thread(Some(name), *body);
            drop(take_hook());
        }
        return;
    }
    let found = DEADLY.iter().find(|(each, _)| *each == name);
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
fn index() {
    black_box([1, 2, 3][black_box(3)]);
}

#[inline(never)]
fn index_of_a_vector() {
    black_box(vec![1; black_box(3)][black_box(usize::MAX)]);
}

#[inline(never)]
fn slice_starts_late() {
    black_box(&black_box([1, 2, 3])[black_box(4)..]);
}

#[inline(never)]
fn slice_ends_late() {
    black_box(&black_box([1, 2, 3])[1..=black_box(3)]);
}

#[inline(never)]
fn slice_is_backwards() {
    black_box(&black_box([1, 2, 3])[black_box(3)..black_box(2)]);
}

#[inline(never)]
fn slice_inside_a_character() {
    black_box(&black_box("grüße")[..black_box(3)]);
}

#[inline(never)]
fn slices_of_two_lengths() {
    black_box([0; 3]).copy_from_slice(&[1; 4][..black_box(4)]);
}

#[inline(never)]
fn chunks_of_nothing() {
    let _ = black_box(black_box([1, 2]).chunks(black_box(0)));
}

#[inline(never)]
fn steps_of_nothing() {
    let _ = black_box((0..9).step_by(black_box(0)));
}

#[inline(never)]
fn addition_overflows() {
    black_box(black_box(u8::MAX).strict_add(1));
}

#[inline(never)]
fn negation_overflows() {
    black_box(black_box(i8::MIN).strict_neg());
}

#[inline(never)]
fn division_overflows() {
    black_box(black_box(i32::MIN) / black_box(-1));
}

#[inline(never)]
fn division_by_zero() {
    black_box(7 / black_box(0));
}

#[inline(never)]
fn remainder_of_zero() {
    black_box(7 % black_box(0));
}

#[inline(never)]
fn duration_overflows() {
    black_box(black_box(Duration::MAX) + Duration::from_nanos(1));
}

#[inline(never)]
fn unwrap_of_none() {
    black_box(None::<u8>).unwrap();
}

#[inline(never)]
fn expect_of_none() {
    black_box(None::<u8>).expect("a value");
}

#[inline(never)]
fn unwrap_of_an_error() {
    black_box("x".parse::<u8>()).unwrap();
}

#[inline(never)]
fn expect_of_an_error() {
    black_box("".parse::<u8>()).expect("a number");
}

#[inline(never)]
fn unwrap_error_of_a_value() {
    black_box("7".parse::<u8>()).unwrap_err();
}

#[inline(never)]
fn expect_error_of_a_value() {
    black_box("7".parse::<u8>()).expect_err("no number");
}

#[inline(never)]
fn cell_borrowed_twice() {
    let cell = black_box(RefCell::new(0));
    let _first = cell.borrow_mut();
    black_box(cell.borrow_mut());
}

#[inline(never)]
fn cell_borrowed_for_change_and_for_reading() {
    let cell = black_box(Rc::new(RefCell::new(0)));
    let _first = cell.borrow_mut();
    black_box(cell.borrow());
}

#[inline(never)]
fn asserted() {
    assert!(black_box(2) < 1);
}

#[inline(never)]
fn asserted_with_words() {
    assert!(black_box(2) < 1, "two is {}", black_box("more"));
}

#[inline(never)]
fn asserted_equal() {
    assert_eq!(black_box("left"), "right");
}

#[inline(never)]
fn asserted_equal_with_words() {
    assert_eq!(black_box(&[1, 2][..]), [3, 4], "they are {}", black_box("not"));
}

#[inline(never)]
fn asserted_different() {
    assert_ne!(black_box(Some(1.5)), Some(1.5));
}

#[inline(never)]
fn not_reachable() {
    assert!(black_box(true));
    unreachable!();
}

#[inline(never)]
fn not_reachable_with_words() {
    unreachable!("from {}", black_box("here"));
}

#[inline(never)]
fn yet_to_do() {
    todo!();
}

#[inline(never)]
fn yet_to_do_with_words() {
    todo!("before {}", black_box(2030));
}

#[inline(never)]
fn not_implemented() {
    unimplemented!();
}

#[inline(never)]
fn key_of_a_map() {
    black_box(BTreeMap::from([(1, 2)])[&black_box(3)]);
}

#[inline(never)]
fn removed_from_a_vector() {
    black_box(Vec::from([1, 2]).remove(black_box(5)));
}

#[inline(never)]
fn swapped_in_a_queue() {
    VecDeque::from([1, 2]).swap(black_box(0), black_box(2));
}

#[inline(never)]
fn string_split_inside_a_character() {
    black_box(String::from("grüße").split_off(black_box(3)));
}

#[inline(never)]
fn vector_too_large() {
    black_box(Vec::<u64>::with_capacity(black_box(usize::MAX)));
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
