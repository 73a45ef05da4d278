//! What objects want to have called before they are unloaded: `__cxa_atexit`, `atexit`.
//!
//! ```text
//!   __cxa_atexit(f, argument, &__dso_handle) ──► │ a1 │ b1 │ a2 │ …      one list for all objects
//!   atexit(f)                                                │
//!   unload a ──► a2, a1: last registered first ◄─────────────┘   who: where `__dso_handle` lies
//! ```
//!
//! Promise: a function is called once, when the object goes whose memory its handle is in; one that
//! is registered meanwhile is called next. Those of an object that goes without being unloaded are
//! forgotten. One that lets an exception out aborts (C++ [basic.start.term]). Reference: Itanium C++
//! ABI §3.3.6; C11 §7.22.4.2.
//!
//! C libraries link `atexit` into every object statically, because the function itself is not told
//! who calls. Here the object is that in which the function lies.

use alloc::vec::Vec;
use core::ffi::{c_int, c_void};
use core::ops::Range;

use spin::Mutex;

type WithArgument = unsafe extern "C-unwind" fn(*mut c_void);
type WithoutArgument = unsafe extern "C-unwind" fn();

#[derive(Clone, Copy)]
enum Function {
    WithArgument(WithArgument, *mut c_void),
    WithoutArgument(WithoutArgument),
}

// SAFETY: the functions are called by whoever unloads; it is their registration that says that the
// argument, which only they look at, may be used there.
unsafe impl Send for Function {}

struct Entry {
    function: Function,
    /// An address in the object that registered it.
    handle: u64,
}

/// In the order of registration.
static ENTRIES: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

/// The address of what is called by this name, if it is here.
pub(crate) fn address_of(name: &str) -> Option<u64> {
    match name {
        "__cxa_atexit" => Some(__cxa_atexit as *const () as u64),
        "atexit" => Some(atexit as *const () as u64),
        _ => None,
    }
}

/// Has `function` called with `argument` before the object goes in which `handle` lies. Not zero if
/// there is no memory to record it.
extern "C" fn __cxa_atexit(
    function: WithArgument,
    argument: *mut c_void,
    handle: *mut c_void,
) -> c_int {
    register(Function::WithArgument(function, argument), handle.addr() as u64)
}

/// Has `function` called before the object goes in which it lies. Not zero if there is no memory to
/// record it.
extern "C" fn atexit(function: WithoutArgument) -> c_int {
    register(Function::WithoutArgument(function), function as *const () as u64)
}

fn register(function: Function, handle: u64) -> c_int {
    let mut entries = ENTRIES.lock();
    if entries.try_reserve(1).is_err() {
        return -1;
    }
    entries.push(Entry { function, handle });
    0
}

/// Calls all functions that the object in `memory` has registered, last registered first, also what
/// they register themselves. The list is not locked meanwhile.
///
/// # Safety
///
/// The object is as loaded, and its code may be called here.
pub(crate) unsafe fn run(memory: &Range<u64>) {
    while let Some(function) = take_last(memory) {
        match function {
            Function::WithArgument(function, argument) => call_with(function, argument),
            Function::WithoutArgument(function) => call(function),
        }
    }
}

/// Calls a function. Nothing unwinds out of here: a function of this ABI aborts instead.
extern "C" fn call_with(function: WithArgument, argument: *mut c_void) {
    // SAFETY: the object registered it for this call, and is there (contract of `run`).
    unsafe { function(argument) }
}

/// The same for a function without an argument.
extern "C" fn call(function: WithoutArgument) {
    // SAFETY: as above.
    unsafe { function() }
}

fn take_last(memory: &Range<u64>) -> Option<Function> {
    let mut entries = ENTRIES.lock();
    let last = entries.iter().rposition(|entry| memory.contains(&entry.handle))?;
    let function = entries.remove(last).function;
    if entries.is_empty() {
        // So that nothing is held when nothing is registered.
        *entries = Vec::new();
    }
    Some(function)
}

/// What an object registers, as long as it is loaded; forgotten when this is dropped.
pub(crate) struct Registrations {
    /// The object's memory.
    memory: Range<u64>,
}

impl Registrations {
    /// Those of the object in this memory.
    pub fn of(memory: Range<u64>) -> Self {
        Self { memory }
    }
}

impl Drop for Registrations {
    fn drop(&mut self) {
        while take_last(&self.memory).is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr::without_provenance_mut;
    use std::sync::Mutex;

    /// What was called, of one test: each has its own numbers.
    static CALLS: Mutex<Vec<usize>> = Mutex::new(Vec::new());

    extern "C-unwind" fn note(argument: *mut c_void) {
        CALLS.lock().unwrap().push(argument.addr());
    }

    extern "C-unwind" fn plain() {
        note(without_provenance_mut(99));
    }

    extern "C-unwind" fn register_another(argument: *mut c_void) {
        note(argument);
        let next = without_provenance_mut(argument.addr() + 1);
        assert_eq!(__cxa_atexit(note, next, argument), 0);
    }

    fn calls(of: Range<usize>) -> Vec<usize> {
        let mut calls = CALLS.lock().unwrap();
        calls.extract_if(.., |call| of.contains(call)).collect()
    }

    fn add(function: WithArgument, argument: usize, handle: usize) {
        let result = __cxa_atexit(
            function,
            without_provenance_mut(argument),
            without_provenance_mut(handle),
        );
        assert_eq!(result, 0);
    }

    #[test]
    fn functions_are_called_once_last_first_for_their_object() {
        let (a, b) = (100..110, 110..120);
        for n in 100..106 {
            add(note, n, if n % 2 == 0 { 100 } else { 110 });
        }
        // SAFETY: all functions are this test's.
        unsafe { run(&a) };
        assert_eq!(calls(100..120), [104, 102, 100]);
        // SAFETY: as above.
        unsafe { (run(&a), run(&b)) };
        assert_eq!(calls(100..120), [105, 103, 101]);
    }

    #[test]
    fn what_is_registered_meanwhile_is_called_next() {
        let object = 200..210;
        add(note, 205, 200);
        add(register_another, 200, 209);
        // SAFETY: as above.
        unsafe { run(&object) };
        assert_eq!(calls(200..210), [200, 201, 205]);
    }

    #[test]
    fn an_object_that_goes_without_being_unloaded_is_forgotten() {
        add(note, 300, 300);
        drop(Registrations::of(300..310));
        // SAFETY: there is nothing to call.
        unsafe { run(&(300..310)) };
        assert_eq!(calls(300..310), []);
    }

    #[test]
    fn functions_without_a_handle_belong_where_they_lie() {
        let at = plain as *const () as u64;
        let object = at..at + 1;
        assert_eq!(atexit(plain), 0);
        // SAFETY: as above.
        unsafe { run(&object) };
        assert_eq!(calls(99..100), [99]);
    }

    #[test]
    fn the_names_are_those_of_c_and_cpp() {
        let address = |name| address_of(name).is_some();
        assert_eq!(["__cxa_atexit", "atexit", "exit"].map(address), [true, true, false]);
    }
}
