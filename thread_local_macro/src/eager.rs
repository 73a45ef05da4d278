//! Storage of a `const`-initialised value with drop glue.
//!
//! ```text
//!  Initial ──first access: register──► Alive ──task ends──► Destroyed
//! ```
//!
//! The value is in the TLS image; only the destructor has to be arranged. Without drop glue there
//! is nothing to arrange, and the macro uses a plain static instead.

use core::cell::{Cell, UnsafeCell};
use core::mem::ManuallyDrop;
use core::ptr;

use crate::register::{CURRENT_TASK, Destroy, Register, no_memory, register};

#[derive(Clone, Copy)]
#[repr(u8)]
enum State {
    /// Initialised by the image, destructor not registered.
    Initial,
    /// Destructor registered.
    Alive,
    /// Destructor running or done.
    Destroyed,
}

/// A value from the TLS image and one byte of state.
#[doc(hidden)]
pub struct Storage<T> {
    state: Cell<State>,
    value: UnsafeCell<ManuallyDrop<T>>,
}

impl<T> Storage<T> {
    /// The initial state.
    pub const fn new(value: T) -> Self {
        Self { state: Cell::new(State::Initial), value: UnsafeCell::new(ManuallyDrop::new(value)) }
    }

    /// The value, or null once its destruction has begun.
    ///
    /// # Safety
    /// `self` is a static of the task, so that it outlives the task's destructors, and the
    /// task runs in an `unspool_tls::Area`.
    #[inline]
    pub unsafe fn get(&self) -> *const T {
        // SAFETY: In place until the task's destructors have run, in an area (contract).
        unsafe { self.get_on(CURRENT_TASK) }
    }

    /// `get`, with the destructor going to a list of choice.
    ///
    /// # Safety
    /// `self` is in place until its destructor has run; `register_on` may be called.
    #[inline(always)]
    unsafe fn get_on(&self, register_on: Register) -> *const T {
        match self.state.get() {
            State::Alive => self.value.get().cast(),
            // SAFETY: The caller's promise is what the function asks for.
            _ => unsafe { self.get_cold(register_on) },
        }
    }

    /// `get_on` when the destructor is not registered yet, or not any more.
    ///
    /// # Safety
    /// As for `get_on`.
    #[cold]
    #[inline(never)]
    unsafe fn get_cold(&self, register_on: Register) -> *const T {
        if let State::Destroyed = self.state.get() {
            return ptr::null();
        }
        // First, because registering may allocate, and the allocator may use this very key.
        self.state.set(State::Alive);
        // SAFETY: The caller's promise is what the function asks for.
        if unsafe { register(register_on, self) }.is_err() {
            self.state.set(State::Initial);
            no_memory();
        }
        self.value.get().cast()
    }
}

impl<T> Destroy for Storage<T> {
    unsafe fn destroy(&self) {
        self.state.set(State::Destroyed);
        // SAFETY: Alive and in use by nobody (contract); `Destroyed` lets nobody reach it again.
        unsafe { ManuallyDrop::drop(&mut *self.value.get()) };
    }
}

#[cfg(test)]
mod tests {
    use std::cell::OnceCell;
    use std::rc::Rc;

    use unspool_tls::{Destructor, OutOfMemory};

    use super::*;
    use crate::register::testing::{Noisy, accept, end_task, events, panic_of, refuse, registered};

    /// An access on the test's list.
    fn get<T>(storage: &Storage<T>, register_on: Register) -> Option<&T> {
        // SAFETY: The tests end the task before the storage goes.
        let value = unsafe { storage.get_on(register_on) };
        // SAFETY: Null, or the storage's value, which the tests do not use after its end.
        unsafe { value.as_ref() }
    }

    #[test]
    fn the_destructor_is_registered_once_on_first_access() {
        let storage = Storage::new(Noisy("value"));
        assert_eq!(registered(), 0);
        assert_eq!(get(&storage, accept).unwrap().0, "value");
        assert_eq!(get(&storage, accept).unwrap().0, "value");
        assert_eq!(registered(), 1);
        end_task();
        assert_eq!(events(), ["value"]);
    }

    #[test]
    fn a_destroyed_value_stays_away() {
        let storage = Storage::new(Noisy("value"));
        get(&storage, accept);
        end_task();
        assert!(get(&storage, accept).is_none());
        assert_eq!(registered(), 0);
    }

    #[test]
    fn a_value_that_was_never_accessed_is_not_dropped() {
        {
            let _storage = Storage::new(Noisy("value"));
            end_task();
        }
        assert_eq!(events(), [""; 0]);
    }

    #[test]
    fn without_memory_the_access_panics_and_the_next_one_tries_again() {
        let storage = Storage::new(Noisy("value"));
        let words = panic_of(|| {
            get(&storage, refuse);
        });
        assert_eq!(words, "cannot register a thread-local destructor: out of memory");
        assert!(get(&storage, accept).is_some());
        end_task();
        assert_eq!(events(), ["value"]);
    }

    #[test]
    fn an_allocator_that_uses_the_key_while_its_destructor_is_registered_finds_the_value() {
        std::thread_local! {
            static STORAGE: OnceCell<Rc<Storage<Noisy>>> = const { OnceCell::new() };
        }
        /// A list that takes memory from an allocator that uses the key.
        unsafe fn allocate(object: *mut u8, destroy: Destructor) -> Result<(), OutOfMemory> {
            let storage = STORAGE.with(|storage| storage.get().unwrap().clone());
            assert_eq!(get(&storage, allocate).unwrap().0, "value");
            // SAFETY: The contract is the same.
            unsafe { accept(object, destroy) }
        }
        let storage = Rc::new(Storage::new(Noisy("value")));
        assert!(STORAGE.with(|shared| shared.set(storage.clone()).is_ok()));
        get(&storage, allocate);
        assert_eq!(registered(), 1);
        end_task();
        assert_eq!(events(), ["value"]);
    }

    #[test]
    fn a_value_is_destroyed_before_its_drop_runs() {
        struct Looks(OnceCell<Rc<Storage<Looks>>>);
        impl Drop for Looks {
            fn drop(&mut self) {
                let storage = self.0.take().unwrap();
                assert!(get(&storage, accept).is_none());
                crate::register::testing::note("looked");
            }
        }
        let storage = Rc::new(Storage::new(Looks(OnceCell::new())));
        let value = get(&storage, accept).unwrap();
        assert!(value.0.set(storage.clone()).is_ok());
        end_task();
        assert_eq!(events(), ["looked"]);
    }
}
