//! What several owners have together, made only if there is memory for it.
//!
//! ```text
//!   owner ──┐
//!   owner ──┼──► │ count of owners │ value │     the last one to go drops the value and frees it
//!   owner ──┘
//! ```
//!
//! Promise: as the standard's `Arc`, but [`try_new`](Shared::try_new) returns an error where that
//! ends the program. There are no weak owners. [`try_box`] is the same for a single owner.

use alloc::boxed::Box;
use alloc::collections::TryReserveError;
use alloc::vec::Vec;
use core::fmt;
use core::marker::PhantomData;
use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering, fence};

/// A box of `value`, if there is memory for it; if not, the value is dropped.
pub(crate) fn try_box<T>(value: T) -> Result<Box<T>, TryReserveError> {
    let mut one = Vec::new();
    // Exactly one, so that making a box of it does not allocate again.
    one.try_reserve_exact(1)?;
    one.push(value);
    let one = Box::into_raw(one.into_boxed_slice()).cast::<T>();
    // SAFETY: a box of a slice of one is laid out as a box of that one, and is ours.
    Ok(unsafe { Box::from_raw(one) })
}

/// A value that its owners share.
pub(crate) struct Shared<T> {
    inner: NonNull<Inner<T>>,
    /// An owner may be the one that drops the value.
    owns: PhantomData<Inner<T>>,
}

struct Inner<T> {
    owners: AtomicUsize,
    value: T,
}

// SAFETY: owners on several threads share the value (`Sync`), and any of them may be the one that
// drops it (`Send`); the count is atomic.
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: as above; whoever sees an owner may clone it.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// A value with one owner.
    ///
    /// # Errors
    ///
    /// There is no memory for it; the value is dropped.
    pub fn try_new(value: T) -> Result<Self, TryReserveError> {
        let inner = try_box(Inner { owners: AtomicUsize::new(1), value })?;
        // SAFETY: what was a box is not null.
        let inner = unsafe { NonNull::new_unchecked(Box::into_raw(inner)) };
        Ok(Self { inner, owns: PhantomData })
    }

    /// Whether both own the same value.
    pub fn ptr_eq(one: &Self, other: &Self) -> bool {
        one.inner == other.inner
    }

    fn inner(&self) -> &Inner<T> {
        // SAFETY: it was a box's, and is freed by the last owner; `self` is one. Nobody has it
        // mutably before that.
        unsafe { self.inner.as_ref() }
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inner().value
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        // Whoever clones is an owner and stays one meanwhile, so nothing needs to be ordered.
        let before = self.inner().owners.fetch_add(1, Ordering::Relaxed);
        // There is no room in memory for so many owners, unless they are forgotten.
        assert!(before < usize::MAX / 2, "owners were forgotten in a loop");
        Self { inner: self.inner, owns: PhantomData }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // What this owner did with the value was done before the last one drops it.
        if self.inner().owners.fetch_sub(1, Ordering::Release) != 1 {
            return;
        }
        // Pairs with the releases of all others.
        fence(Ordering::Acquire);
        // SAFETY: `try_new` made it from a box; this was the last owner, so nobody else frees it,
        // and nobody looks at it any more.
        drop(unsafe { Box::from_raw(self.inner.as_ptr()) });
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// Counts how often one is dropped.
    struct Counted<'c>(&'c AtomicUsize);

    impl Drop for Counted<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn boxes_hold_what_they_were_made_of() {
        assert_eq!(*try_box("x".to_string()).unwrap(), "x");
        try_box(()).unwrap();
    }

    #[test]
    fn the_last_owner_drops_the_value() {
        let drops = AtomicUsize::new(0);
        let one = Shared::try_new(Counted(&drops)).unwrap();
        let two = one.clone();
        assert!(Shared::ptr_eq(&one, &two));
        drop(one);
        assert_eq!(two.0.load(Ordering::Relaxed), 0);
        drop(two);
        assert_eq!(drops.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn equal_values_of_different_owners_are_not_the_same() {
        let (one, two) = (Shared::try_new(5).unwrap(), Shared::try_new(5).unwrap());
        assert_eq!((*one, Shared::ptr_eq(&one, &two)), (*two, false));
        assert_eq!(format!("{one:?}"), "5");
    }

    #[test]
    fn owners_on_many_threads_drop_it_once() {
        let drops = AtomicUsize::new(0);
        for round in 1..=20 {
            let first = Shared::try_new(Counted(&drops)).unwrap();
            thread::scope(|scope| {
                for _ in 0..4 {
                    let mine = first.clone();
                    scope.spawn(move || (0..50).for_each(|_| drop(mine.clone())));
                }
                drop(first);
            });
            assert_eq!(drops.load(Ordering::Relaxed), round);
        }
    }
}
