//! Calls of the library that panic, and operators.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::hint::black_box;
use core::time::Duration;

/// All of them are survived.
pub const ALL: &[(&str, fn())] = named![
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
];

#[inline(never)]
pub fn index() {
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
pub fn unwrap_of_none() {
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
