//! Objects: good ones run, bad ones leave nothing behind.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use unspool::loader::Object;
use unspool::panic::{catch_unwind, platform};
use unspool_kernel::platform::tls_registry;
use unspool_kernel::{loader, task};

use crate::support::{footprint, module};

crate::tests![
    code_with_stack_protectors_runs_in_every_task,
    c_objects_run,
    rust_objects_run_and_write_their_data,
    a_panic_in_an_object_is_caught_outside_and_drops_on_both_sides,
    a_trace_names_functions_of_an_object,
    every_truncation_is_an_error_that_leaves_nothing,
    an_object_for_another_machine_is_refused,
    an_unknown_relocation_is_refused,
    all_undefined_symbols_are_listed,
    thread_local_storage_that_does_not_fit_is_refused,
];

/// Loads what must not load: the error must have `words` in it, and nothing may be left behind.
fn refuse(bytes: &[u8], words: &[&str]) {
    // What grows with the first attempt stays.
    assert!(loader().load("refused.o", bytes).is_err());
    let before = footprint();
    let text =
        loader().load("refused.o", bytes).map(|object| object.text()).unwrap_err().to_string();
    for word in words {
        assert!(text.contains(word), "{text}");
    }
    drop(text);
    assert_eq!(footprint(), before);
}

/// A function of an object.
fn function(object: &Object, name: &str) -> *const () {
    let address = object.symbol(name).unwrap_or_else(|| panic!("no {name}"));
    core::ptr::with_exposed_provenance(address as usize)
}

fn code_with_stack_protectors_runs_in_every_task() {
    for name in ["protected.static.o", "protected.pic.o"] {
        let object = loader().load(name, module(name)).unwrap();
        let sum = function(&object, "protected_sum");
        // SAFETY: the function of `tests/objects/protected.c`, with its type.
        let sum =
            unsafe { core::mem::transmute::<*const (), extern "C" fn(*const u8, i32) -> i32>(sum) };
        let check = move || assert_eq!(sum(b"canary".as_ptr(), 6), 638);
        check();
        let tasks: Vec<_> = (0..4).map(|_| task::spawn("protected", check)).collect();
        tasks.into_iter().for_each(|task| task.join().unwrap());
    }
}

fn c_objects_run() {
    for name in ["plain.static.o", "plain.pic.o"] {
        let object = loader().load(name, module(name)).unwrap();
        // SAFETY: the functions of `tests/objects/plain.c`, with their types.
        let (prime, calls, fill) = unsafe {
            (
                core::mem::transmute::<*const (), extern "C" fn(u32) -> i32>(function(
                    &object,
                    "plain_prime",
                )),
                core::mem::transmute::<*const (), extern "C" fn() -> i32>(function(
                    &object,
                    "plain_calls",
                )),
                core::mem::transmute::<*const (), extern "C" fn(i32) -> i32>(function(
                    &object,
                    "plain_fill",
                )),
            )
        };
        assert_eq!([0, 3, 5, 6].map(|n| prime(n)), [2, 7, 13, -1]);
        assert_eq!(calls(), 104);
        assert_eq!(fill(3), 3 * 64);
    }
}

/// `tests/objects/panics.rs`.
struct Panics {
    drops: extern "C" fn() -> u32,
    call: extern "C-unwind" fn(usize, u32) -> u32,
    scratch: extern "C" fn(usize, u32) -> u32,
}

fn panics(name: &str) -> Panics {
    let object = match loader().objects().find(|object| object.name() == name) {
        Some(object) => object,
        None => loader().load(name, module(name)).unwrap(),
    };
    // SAFETY: the functions of `tests/objects/panics.rs`, with their types.
    unsafe {
        Panics {
            drops: core::mem::transmute::<*const (), extern "C" fn() -> u32>(function(
                &object,
                "object_drops",
            )),
            call: core::mem::transmute::<*const (), extern "C-unwind" fn(usize, u32) -> u32>(
                function(&object, "object_call"),
            ),
            scratch: core::mem::transmute::<*const (), extern "C" fn(usize, u32) -> u32>(function(
                &object,
                "object_scratch",
            )),
        }
    }
}

const PANICS: [&str; 2] = ["panics.static.o", "panics.pic.o"];

fn rust_objects_run_and_write_their_data() {
    for name in PANICS {
        let object = panics(name);
        assert_eq!(((object.call)(0, 21), (object.call)(1, 5)), (42, 15));
        assert_eq!((object.scratch)(3, 8), 3);
        assert_eq!((object.scratch)(3, 9), 8);
    }
}

fn a_panic_in_an_object_is_caught_outside_and_drops_on_both_sides() {
    for name in PANICS {
        let object = panics(name);
        let before = (object.drops)();
        let payload = catch_unwind(|| (object.call)(2, 5)).unwrap_err();
        let message = payload.downcast_ref::<String>().map(String::as_str);
        assert_eq!(message, Some("object asked to fail with 5"));
        assert_eq!((object.drops)() - before, 2);
        // A bounds check, in the object's own words for its own source.
        let payload = catch_unwind(|| (object.call)(3, 5)).unwrap_err();
        let message = payload.downcast_ref::<String>().unwrap();
        assert_eq!(message, "index out of bounds: the len is 3 but the index is 3");
    }
}

fn a_trace_names_functions_of_an_object() {
    let object = panics(PANICS[0]);
    let address = object.call as *const () as u64;
    let symbol = platform().symbols().symbolize(address + 1).unwrap();
    assert_eq!((symbol.name, symbol.address), ("object_call".into(), address));
}

fn every_truncation_is_an_error_that_leaves_nothing() {
    let whole = module("tls.pic.o");
    for length in (0..whole.len()).step_by(61) {
        refuse(&whole[..length], &[]);
    }
}

fn an_object_for_another_machine_is_refused() {
    let mut bytes = module("plain.pic.o").to_vec();
    // e_machine = EM_AARCH64.
    bytes[18..20].copy_from_slice(&183u16.to_le_bytes());
    refuse(&bytes, &["machine", "183"]);
}

/// The bytes of the n-th field of the first `.rela.text*` entry of an object.
fn first_relocation(bytes: &[u8]) -> usize {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
    let half = |at: usize| usize::from(u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()));
    let (headers, count) = (word(0x28), half(0x3c));
    let rela = (0..count).map(|n| headers + n * 64).find(|&header| {
        // SHT_RELA, for an executable section.
        let target = u32::from_le_bytes(bytes[header + 44..header + 48].try_into().unwrap());
        bytes[header + 4] == 4 && word(headers + target as usize * 64 + 8) & 4 != 0
    });
    word(rela.expect("code with relocations") + 24)
}

fn an_unknown_relocation_is_refused() {
    let mut bytes = module("plain.pic.o").to_vec();
    let info = first_relocation(&bytes) + 8;
    bytes[info..info + 4].copy_from_slice(&200u32.to_le_bytes());
    refuse(&bytes, &["200", ".text"]);
}

fn all_undefined_symbols_are_listed() {
    for name in ["undefined.static.o", "undefined.pic.o"] {
        let missing = ["function", "variable", "either"].map(|n| format!("nobody_has_this_{n}"));
        refuse(module(name), &missing.each_ref().map(String::as_str));
    }
}

fn thread_local_storage_that_does_not_fit_is_refused() {
    let needed = (8usize << 20).to_string();
    let free = tls_registry().surplus_free().to_string();
    refuse(module("large_tls.static.o"), &[&needed, &free]);
}
