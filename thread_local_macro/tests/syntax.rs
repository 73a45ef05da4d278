//! Everything `std::thread_local!` accepts, and how keys behave on values without drop glue.
//!
//! The host's thread control block is not ours, so nothing here registers a destructor.
#![forbid(unsafe_code)]
#![deny(missing_docs, warnings)]

use std::cell::{Cell, RefCell};
use std::thread;

use unspool_thread_local::thread_local;

/// Names that an expansion could confuse with its own.
struct LocalKey;
struct Storage;
struct Option;
#[allow(non_upper_case_globals)]
const given: u32 = 7;

thread_local! {}

thread_local! {
    static NAMES: (u32, bool) = {
        let (LocalKey, Storage, Option) = (LocalKey, Storage, Option);
        (given, true)
    }
}

thread_local! {
    /// Public, with documentation.
    #[doc(hidden)]
    #[cfg_attr(all(), cfg_attr(all(), allow(unused), doc = "nested"))]
    pub static PUBLIC: Cell<u8> = const { Cell::new(1) };
    pub(crate) static CRATE: Cell<u8> = Cell::new(2);
    #[cfg(any())]
    static ABSENT: Cell<NoSuchType> = const { no_such_function() };
    pub(self) static BLOCK: Cell<u8> = const {
        let four = 2 + 2;
        Cell::new(four)
    };
    static ELIDED: &str = "elided";
    static ELIDED_CONST: Cell<&[&str]> = const { Cell::new(&["a", "b"]) };
    static FUNCTION: fn(&str) -> &str = const { str::trim };
    static EARLY: u32 = {
        if given == 7 {
            return 70;
        }
        0
    }
}

thread_local! {
    static COERCED: fn(u8) -> u8 = |number| number + 1;
    static COERCED_SLICE: &[u8] = &[1, 2];
    static COERCED_BOX: Box<dyn Fn(u8) -> u8> = Box::new(|number| number + 1);
}

mod inner {
    unspool_thread_local::thread_local!(pub(in crate) static SUPER: u32 = const { 5 });
}

thread_local!(static ONE: u8 = 1);
thread_local!(
    static TWO: u8 = const { 2 };
);

#[repr(align(256))]
struct Wide(u8);

thread_local! {
    static WIDE: Wide = const { Wide(3) };
    static WIDE_LAZY: Wide = Wide(4);
}

macro_rules! many {
    ($($name:ident)*) => {
        thread_local! { $(
            /// A long comment.
            ///
            /// It goes on for a while,
            /// line after line,
            /// each of which is an attribute.
            static $name: Cell<u32> = const { Cell::new(0) };
        )* }

        fn count() -> u32 {
            $( $name.set($name.get() + 1); )*
            [$( $name.get() ),*].into_iter().sum()
        }
    };
}

many! {
    A00 A01 A02 A03 A04 A05 A06 A07 A08 A09 A10 A11 A12 A13 A14 A15 A16 A17 A18 A19
    B00 B01 B02 B03 B04 B05 B06 B07 B08 B09 B10 B11 B12 B13 B14 B15 B16 B17 B18 B19
    C00 C01 C02 C03 C04 C05 C06 C07 C08 C09 C10 C11 C12 C13 C14 C15 C16 C17 C18 C19
    D00 D01 D02 D03 D04 D05 D06 D07 D08 D09 D10 D11 D12 D13 D14 D15 D16 D17 D18 D19
    E00 E01 E02 E03 E04 E05 E06 E07 E08 E09 E10 E11 E12 E13 E14 E15 E16 E17 E18 E19
    F00 F01 F02 F03 F04 F05 F06 F07 F08 F09 F10 F11 F12 F13 F14 F15 F16 F17 F18 F19
    G00 G01 G02 G03 G04 G05 G06 G07 G08 G09 G10 G11 G12 G13 G14 G15 G16 G17 G18 G19
}

#[test]
fn a_list_longer_than_the_recursion_limit_expands() {
    assert_eq!(count(), 140);
}

#[test]
fn every_form_has_its_value() {
    assert_eq!(NAMES.with(|names| *names), (7, true));
    assert_eq!((PUBLIC.get(), CRATE.get(), BLOCK.get()), (1, 2, 4));
    assert_eq!(ELIDED.with(|text| text.len()), 6);
    assert_eq!(ELIDED_CONST.get(), ["a", "b"]);
    assert_eq!(FUNCTION.with(|trim| trim(" x ")), "x");
    assert_eq!(EARLY.with(|value| *value), 70);
    assert_eq!(inner::SUPER.with(|value| *value), 5);
    assert_eq!((ONE.with(|value| *value), TWO.with(|value| *value)), (1, 2));
}

#[test]
fn an_initialiser_is_coerced_to_the_type_of_its_key() {
    assert_eq!(COERCED.with(|call| call(6)), 7);
    assert_eq!(COERCED_SLICE.with(|slice| slice.len()), 2);
    // A use would register a destructor.
    assert_eq!(format!("{COERCED_BOX:?}"), "LocalKey { .. }");
}

#[test]
fn elided_lifetimes_are_static() {
    let text: &'static str = ELIDED.with(|text| *text);
    let words: &'static [&'static str] = ELIDED_CONST.get();
    assert_eq!((text, words[1]), ("elided", "b"));
}

#[test]
fn a_key_inside_a_function_keeps_its_value_between_calls() {
    fn next() -> u32 {
        thread_local!(static LAST: Cell<u32> = const { Cell::new(0) });
        LAST.set(LAST.get() + 1);
        LAST.get()
    }
    assert_eq!((next(), next(), next()), (1, 2, 3));
}

#[test]
fn values_are_aligned_as_their_types_ask() {
    let aligned = |wide: &Wide| (std::ptr::from_ref(wide).addr() % 256, wide.0);
    assert_eq!(WIDE.with(aligned), (0, 3));
    assert_eq!(WIDE_LAZY.with(aligned), (0, 4));
}

#[test]
fn each_thread_has_its_own_value() {
    thread_local! {
        static EAGER: Cell<u32> = const { Cell::new(1) };
        static LAZY: Cell<u32> = Cell::new(2);
    }
    EAGER.set(10);
    LAZY.set(20);
    thread::spawn(|| {
        assert_eq!((EAGER.get(), LAZY.get()), (1, 2));
        EAGER.set(11);
        LAZY.set(21);
    })
    .join()
    .unwrap();
    assert_eq!((EAGER.get(), LAZY.get()), (10, 20));
}

#[test]
fn set_on_first_access_skips_the_lazy_initialiser() {
    thread_local! {
        static CELL: Cell<u32> = panic!("initialised");
        static REF_CELL: RefCell<u32> = panic!("initialised");
    }
    CELL.set(1);
    REF_CELL.set(2);
    assert_eq!((CELL.get(), REF_CELL.with_borrow(|value| *value)), (1, 2));
}

#[test]
fn cell_keys_set_get_take_and_replace() {
    thread_local!(static KEY: Cell<u32> = Cell::new(1));
    assert_eq!(KEY.replace(2), 1);
    KEY.set(3);
    assert_eq!(KEY.get(), 3);
    assert_eq!(KEY.take(), 3);
    assert_eq!(KEY.get(), 0);
}

#[test]
fn ref_cell_keys_borrow_set_take_and_replace() {
    thread_local!(static KEY: RefCell<u32> = const { RefCell::new(1) });
    assert_eq!(KEY.replace(2), 1);
    KEY.with_borrow_mut(|value| *value += 1);
    assert_eq!(KEY.with_borrow(|value| *value), 3);
    KEY.set(4);
    assert_eq!(KEY.take(), 4);
    assert_eq!(KEY.with_borrow(|value| *value), 0);
}

#[test]
fn methods_take_the_type_arguments_of_std() {
    thread_local!(static KEY: RefCell<u32> = const { RefCell::new(5) });
    assert_eq!(KEY.with::<_, u32>(|value| *value.borrow()), 5);
    assert_eq!(KEY.try_with::<_, u32>(|value| *value.borrow()), Ok(5));
    assert_eq!(KEY.with_borrow::<_, u32>(|value| *value), 5);
    KEY.with_borrow_mut::<_, ()>(|value| *value = 6);
    assert_eq!(KEY.with_borrow::<fn(&u32) -> u32, _>(u32::clone), 6);
}

#[test]
fn an_initialiser_that_panics_is_tried_again() {
    thread_local! {
        static TRIES: Cell<u32> = const { Cell::new(0) };
        static KEY: u32 = {
            TRIES.set(TRIES.get() + 1);
            assert!(TRIES.get() > 1, "first try");
            TRIES.get()
        };
    }
    assert!(std::panic::catch_unwind(|| KEY.with(|_| ())).is_err());
    assert_eq!(KEY.with(|value| *value), 2);
    assert_eq!(TRIES.get(), 2);
}

#[test]
fn keys_and_errors_print_as_in_std() {
    assert_eq!(format!("{ONE:?}"), "LocalKey { .. }");
}

#[test]
fn a_key_in_a_generic_function_is_one_key() {
    fn next<T>(_: T) -> u32 {
        thread_local!(static LAST: Cell<u32> = const { Cell::new(0) });
        LAST.set(LAST.get() + 1);
        LAST.get()
    }
    assert_eq!((next(1u8), next("two"), next(3.0)), (1, 2, 3));
}

#[test]
fn keys_of_one_macro_on_one_line_are_different() {
    macro_rules! twice {
        ($initial:expr) => {{
            thread_local!(static KEY: Cell<u32> = const { Cell::new($initial) });
            KEY.replace(9)
        }};
    }
    let both = || (twice!(1), twice!(2));
    assert_eq!((both(), both()), ((1, 2), (9, 9)));
}
