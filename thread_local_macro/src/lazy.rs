//! Storage of a value that is initialised on first access.
//!
//! ```text
//!             ┌─ initialiser panics, or no memory to register ─┐
//!             ▼                                                │
//!         Initial ──first access: initialise, then register────┴─► Alive ──task ends──► Destroyed
//!                                                                  │   ▲    (drop glue only)
//!                                                                  └───┘
//!                                         an initialiser that initialised its own key: replace
//! ```
//!
//! The state says `Alive` only when the value is there and its destructor is on the list, or on the
//! way there.

use core::cell::{Cell, UnsafeCell};
use core::mem::{MaybeUninit, needs_drop};
use core::ptr;

use crate::register::{CURRENT_TASK, Destroy, Register, no_memory, register};

#[derive(Clone, Copy)]
#[repr(u8)]
enum State {
    /// No value.
    Initial,
    /// A value, and its destructor registered if it has one.
    Alive,
    /// Destructor running or done.
    Destroyed,
}

/// Space for a value and one byte of state.
#[doc(hidden)]
pub struct Storage<T> {
    state: Cell<State>,
    value: UnsafeCell<MaybeUninit<T>>,
}

impl<T> Storage<T> {
    /// No value yet.
    pub const fn new() -> Self {
        Self { state: Cell::new(State::Initial), value: UnsafeCell::new(MaybeUninit::uninit()) }
    }

    /// The value, which is `given` or made by `init` if there is none yet; or null once its
    /// destruction has begun.
    ///
    /// `given` is left alone if there is a value already.
    ///
    /// # Safety
    /// `self` is a static of the task, so that it outlives the task's destructors, and the
    /// task runs in an `unspool_tls::Area` if `T` has drop glue.
    #[inline]
    pub unsafe fn get_or_init(&self, given: Option<&mut Option<T>>, init: fn() -> T) -> *const T {
        // SAFETY: In place until the task's destructors have run, in an area (contract).
        unsafe { self.get_or_init_on(given, init, CURRENT_TASK) }
    }

    /// `get_or_init`, with the destructor going to a list of choice.
    ///
    /// # Safety
    /// `self` is in place until its destructor has run; `register_on` may be called.
    #[inline(always)]
    unsafe fn get_or_init_on(
        &self,
        given: Option<&mut Option<T>>,
        init: fn() -> T,
        register_on: Register,
    ) -> *const T {
        match self.state.get() {
            State::Alive => self.value.get().cast(),
            // SAFETY: The caller's promise is what the function asks for.
            _ => unsafe { self.get_or_init_cold(given, init, register_on) },
        }
    }

    /// `get_or_init_on` when there is no value.
    ///
    /// # Safety
    /// `self` is in place until its destructor has run; `register_on` may be called.
    #[cold]
    #[inline(never)]
    unsafe fn get_or_init_cold(
        &self,
        given: Option<&mut Option<T>>,
        init: fn() -> T,
        register_on: Register,
    ) -> *const T {
        if let State::Destroyed = self.state.get() {
            return ptr::null();
        }
        let value = given.and_then(Option::take).unwrap_or_else(init);
        match self.state.get() {
            State::Initial => {
                // SAFETY: Without a value there are no references into the storage, and only its
                // own task can reach it.
                unsafe { (*self.value.get()).write(value) };
                // First, because registering may allocate, and the allocator may use this key.
                self.state.set(State::Alive);
                // SAFETY: The caller's promise is what the function asks for.
                if needs_drop::<T>() && unsafe { register(register_on, self) }.is_err() {
                    self.state.set(State::Initial);
                    // SAFETY: Written above, and not reachable any more. Whoever used it has
                    // returned, as `LocalKey` lends values to closures only.
                    let value = unsafe { self.value.get().cast::<T>().read() };
                    drop(value);
                    no_memory();
                }
            }
            State::Alive => {
                // SAFETY: `init` made a value itself and has returned. References to that one
                // ended within `init`, as `LocalKey` lends values to closures only.
                let inner = unsafe { ptr::replace(self.value.get().cast::<T>(), value) };
                drop(inner);
            }
            State::Destroyed => return ptr::null(),
        }
        self.value.get().cast()
    }
}

impl<T> Default for Storage<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Destroy for Storage<T> {
    unsafe fn destroy(&self) {
        self.state.set(State::Destroyed);
        // SAFETY: Alive and in use by nobody (contract); `Destroyed` lets nobody reach it again.
        unsafe { (*self.value.get()).assume_init_drop() };
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use unspool_tls::{Destructor, OutOfMemory};

    use super::*;
    use crate::register::testing::{
        Noisy, accept, end_task, events, note, panic_of, refuse, registered,
    };

    /// An access on the test's list.
    fn get<T>(storage: &Storage<T>, init: fn() -> T, register_on: Register) -> Option<&T> {
        // SAFETY: The tests end the task before the storage goes.
        let value = unsafe { storage.get_or_init_on(None, init, register_on) };
        // SAFETY: Null, or the storage's value, which the tests do not use after its end.
        unsafe { value.as_ref() }
    }

    fn noisy() -> Noisy {
        note("init");
        assert_eq!(registered(), 0, "registered before the initialiser");
        Noisy("drop")
    }

    #[test]
    fn a_value_is_initialised_then_registered_then_dropped() {
        let storage = Storage::new();
        assert_eq!(get(&storage, noisy, accept).unwrap().0, "drop");
        assert_eq!((registered(), events()), (1, std::vec!["init"]));
        // SAFETY: As in `get`; an access that finds a value registers nothing.
        assert!(!unsafe { storage.get_or_init(None, noisy) }.is_null());
        end_task();
        assert_eq!(events(), ["drop"]);
        assert!(get(&storage, noisy, accept).is_none());
        assert_eq!((registered(), events()), (0, std::vec![]));
    }

    #[test]
    fn a_value_without_drop_glue_registers_nothing_and_outlives_the_destructors() {
        let storage = Storage::new();
        assert_eq!(get(&storage, || 5, refuse), Some(&5));
        end_task();
        assert_eq!(get(&storage, || 6, refuse), Some(&5));
    }

    #[test]
    fn without_memory_the_value_is_dropped_and_the_next_access_tries_again() {
        let storage = Storage::new();
        let words = panic_of(|| {
            get(&storage, noisy, refuse);
        });
        assert_eq!(words, "cannot register a thread-local destructor: out of memory");
        assert_eq!(events(), ["init", "drop"]);
        assert!(get(&storage, noisy, accept).is_some());
        end_task();
        assert_eq!(events(), ["init", "drop"]);
    }

    #[test]
    fn an_initialiser_that_panics_leaves_the_key_as_it_was() {
        let storage = Storage::new();
        assert_eq!(
            panic_of(|| {
                _ = get(&storage, || panic!("first try"), accept);
            }),
            "first try"
        );
        assert_eq!(registered(), 0);
        assert!(get(&storage, noisy, accept).is_some());
        end_task();
        assert_eq!(events(), ["init", "drop"]);
    }

    #[test]
    fn an_allocator_that_uses_the_key_while_its_destructor_is_registered_finds_the_value() {
        std::thread_local!(static STORAGE: Rc<Storage<Noisy>> = Rc::default());
        /// A list that takes memory from an allocator that uses the key.
        unsafe fn allocate(object: *mut u8, destroy: Destructor) -> Result<(), OutOfMemory> {
            let storage = STORAGE.with(Rc::clone);
            assert_eq!(get(&storage, noisy, allocate).unwrap().0, "drop");
            // SAFETY: The contract is the same.
            unsafe { accept(object, destroy) }
        }
        let storage = STORAGE.with(Rc::clone);
        get(&storage, noisy, allocate);
        assert_eq!((registered(), events()), (1, std::vec!["init"]));
        end_task();
        assert_eq!(events(), ["drop"]);
    }

    #[test]
    fn a_given_value_is_used_only_if_there_is_none_yet() {
        let storage = Storage::new();
        let mut given = Some(Noisy("given"));
        // SAFETY: As in `get`.
        unsafe { storage.get_or_init_on(Some(&mut given), noisy, accept) };
        assert!(given.is_none());
        given = Some(Noisy("left alone"));
        // SAFETY: As in `get`; the value is there.
        unsafe { storage.get_or_init(Some(&mut given), noisy) };
        assert!(given.is_some());
        assert_eq!(events(), [""; 0]);
        end_task();
        assert_eq!(events(), ["given"]);
    }

    #[test]
    fn the_outer_value_of_a_recursive_initialisation_wins_and_the_inner_is_dropped() {
        std::thread_local!(static STORAGE: Rc<Storage<Noisy>> = Rc::default());
        let storage = STORAGE.with(Rc::clone);
        let outer = || {
            get(&STORAGE.with(Rc::clone), || Noisy("inner"), accept);
            Noisy("outer")
        };
        assert_eq!(get(&storage, outer, accept).unwrap().0, "outer");
        assert_eq!((registered(), events()), (1, std::vec!["inner"]));
        end_task();
        assert_eq!(events(), ["outer"]);
    }

    #[test]
    fn a_destructor_may_bring_another_value_to_life_which_is_destroyed_in_the_same_run() {
        struct Waker(Rc<Storage<Noisy>>);
        impl Drop for Waker {
            fn drop(&mut self) {
                note("waker");
                get(&self.0, || Noisy("late"), accept);
            }
        }
        std::thread_local!(static LATE: Rc<Storage<Noisy>> = Rc::default());
        let storage = Storage::new();
        get(&storage, || Waker(LATE.with(Rc::clone)), accept);
        end_task();
        assert_eq!(events(), ["waker", "late"]);
    }
}
