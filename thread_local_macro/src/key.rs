//! [`LocalKey`]: the handle through which a task reaches its value.
//!
//! ```text
//!  key.with(f) ─► storage of this task ─► &value ─► f(&value)
//!                          └─ destroyed ─► AccessError
//! ```
//!
//! A value is only ever lent to a closure, so no reference outlives the access.

use core::cell::{Cell, RefCell};
use core::error::Error;
use core::fmt;

/// A key to a value that every task has its own of; made by [`thread_local!`](crate::thread_local).
pub struct LocalKey<T: 'static> {
    /// Where this task's value is; null once it is destroyed. A value that does not exist yet is
    /// created from the argument, if there is one, which is left alone otherwise.
    find: Find<T>,
}

/// How a key finds the running task's value.
pub type Find<T> = unsafe fn(Option<&mut Option<T>>) -> *const T;

/// The value of a [`LocalKey`] was already destroyed.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AccessError;

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt("already destroyed", f)
    }
}

impl Error for AccessError {}

#[cold]
#[inline(never)]
#[track_caller]
fn panic_access_error(error: AccessError) -> ! {
    panic!("cannot access a Thread Local Storage value during or after destruction: {error:?}")
}

impl<T: 'static> LocalKey<T> {
    /// What the macro makes a key of.
    ///
    /// # Safety
    /// `find` returns null or a pointer to a value of the running task that is initialised and
    /// stays in place until the task's destructors have run.
    #[doc(hidden)]
    pub const unsafe fn new(find: Find<T>) -> Self {
        Self { find }
    }

    /// Lends this task's value to `f`, after initialising it if this is the first access.
    ///
    /// # Panics
    /// The value was destroyed, or the initialiser panics, or there is no memory to register the
    /// value's destructor.
    #[track_caller]
    pub fn with<F, R>(&'static self, f: F) -> R
    where
        F: FnOnce(&T) -> R,
    {
        match self.try_with(f) {
            Ok(result) => result,
            Err(error) => panic_access_error(error),
        }
    }

    /// As [`with`](Self::with), but a destroyed value is an error.
    ///
    /// # Errors
    /// The value was destroyed, or is being destroyed.
    ///
    /// # Panics
    /// The initialiser panics, or there is no memory to register the value's destructor.
    #[inline]
    pub fn try_with<F, R>(&'static self, f: F) -> Result<R, AccessError>
    where
        F: FnOnce(&T) -> R,
    {
        // SAFETY: `find` may be called on any task that uses the key (contract of `new`).
        let value = unsafe { (self.find)(None) };
        // SAFETY: Null or a value of this task; it stays while `f` runs, because destructors run
        // when the task uses no values.
        match unsafe { value.as_ref() } {
            Some(value) => Ok(f(value)),
            None => Err(AccessError),
        }
    }

    /// Lends this task's value to `f`. A value that does not exist yet is made of `initial`, not
    /// by the initialiser; otherwise `f` gets `initial` as well.
    #[track_caller]
    fn initialize_with<R>(&'static self, initial: T, f: impl FnOnce(Option<T>, &T) -> R) -> R {
        let mut initial = Some(initial);
        // SAFETY: As in `try_with`.
        let value = unsafe { (self.find)(Some(&mut initial)) };
        // SAFETY: As in `try_with`.
        match unsafe { value.as_ref() } {
            Some(value) => f(initial, value),
            None => panic_access_error(AccessError),
        }
    }
}

impl<T: 'static> fmt::Debug for LocalKey<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalKey").finish_non_exhaustive()
    }
}

/// # Panics
/// Each of these panics as [`with`](Self::with) does.
impl<T: 'static> LocalKey<Cell<T>> {
    /// Sets the value. On first access the initialiser is not called.
    #[track_caller]
    pub fn set(&'static self, value: T) {
        self.initialize_with(Cell::new(value), |value, cell| {
            if let Some(value) = value {
                cell.set(value.into_inner());
            }
        });
    }

    /// A copy of the value.
    #[track_caller]
    pub fn get(&'static self) -> T
    where
        T: Copy,
    {
        self.with(Cell::get)
    }

    /// Takes the value and leaves the default in its place.
    #[track_caller]
    pub fn take(&'static self) -> T
    where
        T: Default,
    {
        self.with(Cell::take)
    }

    /// Puts `value` in place of the value, which is returned.
    #[track_caller]
    pub fn replace(&'static self, value: T) -> T {
        self.with(|cell| cell.replace(value))
    }
}

/// # Panics
/// Each of these panics as [`with`](Self::with) does, and as [`RefCell`] does if the value is
/// borrowed already.
impl<T: 'static> LocalKey<RefCell<T>> {
    /// Lends the value to `f`.
    #[track_caller]
    pub fn with_borrow<F, R>(&'static self, f: F) -> R
    where
        F: FnOnce(&T) -> R,
    {
        self.with(|cell| f(&cell.borrow()))
    }

    /// Lends the value to `f`, to be changed.
    #[track_caller]
    pub fn with_borrow_mut<F, R>(&'static self, f: F) -> R
    where
        F: FnOnce(&mut T) -> R,
    {
        self.with(|cell| f(&mut cell.borrow_mut()))
    }

    /// Sets the value. On first access the initialiser is not called.
    #[track_caller]
    pub fn set(&'static self, value: T) {
        self.initialize_with(RefCell::new(value), |value, cell| {
            if let Some(value) = value {
                *cell.borrow_mut() = value.into_inner();
            }
        });
    }

    /// Takes the value and leaves the default in its place.
    #[track_caller]
    pub fn take(&'static self) -> T
    where
        T: Default,
    {
        self.with(RefCell::take)
    }

    /// Puts `value` in place of the value, which is returned.
    #[track_caller]
    pub fn replace(&'static self, value: T) -> T {
        self.with(|cell| cell.replace(value))
    }
}

#[cfg(test)]
mod tests {
    use std::boxed::Box;
    use std::string::String;
    use std::sync::Mutex;
    use std::{format, panic, thread};

    use super::*;
    use crate::register::testing::panic_of;

    static GONE: LocalKey<Cell<u8>> = {
        // SAFETY: It only ever returns null.
        unsafe { LocalKey::new(|_| core::ptr::null()) }
    };

    #[test]
    fn a_destroyed_value_is_an_error_or_a_panic_with_the_words_of_std() {
        assert_eq!(GONE.try_with(|_| ()), Err(AccessError));
        let words =
            "cannot access a Thread Local Storage value during or after destruction: AccessError";
        assert_eq!(panic_of(|| GONE.with(|_| ())), words);
        assert_eq!(panic_of(|| GONE.set(1)), words);
        assert_eq!(panic_of(|| _ = GONE.get()), words);
    }

    #[test]
    fn the_panic_points_at_the_access() {
        static PLACE: Mutex<Option<(String, u32)>> = Mutex::new(None);
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if thread::current().name() == Some("pointed") {
                let place = info.location().map(|at| (at.file().into(), at.line()));
                *PLACE.lock().unwrap() = place;
            }
            previous(info);
        }));
        let access = || (line!(), panic_of(|| GONE.with(|_| ())));
        let thread = thread::Builder::new().name("pointed".into()).spawn(access);
        let (line, _) = thread.unwrap().join().unwrap();
        assert_eq!(*PLACE.lock().unwrap(), Some((file!().into(), line)));
    }

    #[test]
    fn the_error_prints_as_in_std() {
        assert_eq!(format!("{AccessError} {AccessError:?}"), "already destroyed AccessError");
    }
}
