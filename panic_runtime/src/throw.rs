//! Throws a value without a heap: into the frame that catches it.
//!
//! ```text
//!   catch_thrown │ place for a T │ ◄── throw(value) puts it there, then unwinds
//!        └─► body(&Thrower) ─► … ─► … ─► drops run ─► Err(value)
//! ```
//!
//! Promise: as cheap as a panic can be. Nothing is allocated, printed, or asked of a hook; the value is
//! moved twice, whatever its type, which need be neither `Send` nor `'static`. Through six frames it
//! takes what a panic with an empty payload takes, nine tenths of one with a payload of 32 bytes in a
//! box.

use core::cell::Cell;
use core::fmt;
use core::marker::PhantomData;
use core::panic::AssertUnwindSafe;

use alloc::boxed::Box;

use crate::catch::{catch_exception, caught, raise_thrown, rethrow};
use crate::payload;

/// What [`catch_unwind`](crate::catch_unwind) gets for a payload if a value is thrown past it.
///
/// The value then stays with its [`catch_thrown`], which drops it if its body returns after all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thrown;

/// The way to the frame of a [`catch_thrown`].
pub struct Thrower<T> {
    value: Cell<Option<T>>,
    /// The stack it lies in is one task's.
    task: PhantomData<*mut ()>,
}

impl<T> Thrower<T> {
    /// Unwinds to the [`catch_thrown`] that this belongs to, which returns `value`.
    ///
    /// All values on the way are dropped; for them, the task is [`panicking`](crate::panicking). A
    /// [`catch_unwind`](crate::catch_unwind) on the way ends it: its payload is [`Thrown`].
    pub fn throw(&self, value: T) -> ! {
        drop(self.value.replace(Some(value)));
        raise_thrown(Box::new(Thrown), self.address())
    }

    fn address(&self) -> *const () {
        (&raw const *self).cast()
    }
}

impl<T> fmt::Debug for Thrower<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Thrower").finish_non_exhaustive()
    }
}

/// Runs `body`, which may [throw](Thrower::throw) a value.
///
/// Panics, kills, faults, and what is thrown to others, go on through this frame. It has to be entered
/// for that, so that a panic that nobody catches is found out here, after the drops of `body`.
///
/// ```no_run
/// use unspool_panic::{Thrower, catch_thrown};
///
/// fn digit(text: &str, bad: &Thrower<char>) -> u32 {
///     let first = text.chars().next().unwrap_or('\0');
///     first.to_digit(10).unwrap_or_else(|| bad.throw(first))
/// }
///
/// assert_eq!(catch_thrown(|bad| digit("7", bad)), Ok(7));
/// assert_eq!(catch_thrown(|bad| digit("x", bad)), Err('x'));
/// ```
///
/// # Errors
///
/// The value that was thrown.
pub fn catch_thrown<T, R>(body: impl FnOnce(&Thrower<T>) -> R) -> Result<R, T> {
    let thrower = Thrower { value: Cell::new(None), task: PhantomData };
    let exception = match catch_exception(AssertUnwindSafe(|| body(&thrower))) {
        Ok(result) => return Ok(result),
        Err(exception) => exception,
    };
    // SAFETY: a caught exception is valid until it is taken.
    let ours = core::ptr::eq(unsafe { payload::thrown_to(exception) }, thrower.address());
    match ours.then(|| thrower.value.take()).flatten() {
        Some(value) => {
            // SAFETY: it comes from the catch frame, and is used no more.
            drop(unsafe { caught(exception) });
            Err(value)
        }
        // SAFETY: it comes from the catch frame, and is used no more.
        None => unsafe { rethrow(exception) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_returns_gives_its_result() {
        let outcome = catch_thrown(|_: &Thrower<[u64; 100]>| 7);
        assert_eq!(outcome, Ok(7));
    }
}
