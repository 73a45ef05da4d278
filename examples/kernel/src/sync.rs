//! A mutex whose waiters sleep.
//!
//! ```text
//!   0 free ──lock──► 1 held ──somebody waits──► 2 held, and wake one when it is freed
//! ```
//!
//! As `std::sync::Mutex`, with poisoning left out: a panic frees the mutex.

use core::cell::UnsafeCell;
use core::fmt;
use core::mem;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

use crate::scheduler::{self, Cause, Wake};

const FREE: u32 = 0;
const HELD: u32 = 1;
const AWAITED: u32 = 2;

/// Waits until somebody [wakes](wake_all) those who wait for `word`, unless it is not `expected`. May
/// return early. For locks of others' making.
///
/// # Panics
///
/// If preemption is off.
pub fn wait(word: &AtomicU32, expected: u32) {
    scheduler::wait(word, expected, Cause::Mutex);
}

/// Lets all go on that wait for `word`.
pub fn wake_all(word: &AtomicU32) {
    scheduler::wake(word, Wake::All);
}

/// A value that one task at a time may use.
pub struct Mutex<T: ?Sized> {
    state: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the value is used by whoever holds the mutex, on any CPU, one at a time.
unsafe impl<T: ?Sized + Send> Send for Mutex<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    /// A free mutex.
    pub const fn new(value: T) -> Self {
        Self { state: AtomicU32::new(FREE), value: UnsafeCell::new(value) }
    }

    /// The value.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits until nobody holds the mutex, and takes it. A task that waits can be killed.
    ///
    /// # Panics
    ///
    /// If the caller must wait with preemption off.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        if !self.take() {
            // Whoever dies here may be the one that was woken.
            let turn = Turn(&self.state);
            while self.state.swap(AWAITED, Ordering::Acquire) != FREE {
                scheduler::wait(&self.state, AWAITED, Cause::Mutex);
            }
            // It is taken, and whoever frees it sees that somebody may wait.
            mem::forget(turn);
        }
        MutexGuard(self)
    }

    /// Takes the mutex if nobody holds it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.take().then(|| MutexGuard(self))
    }

    /// The value; nobody else has the mutex.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }

    fn take(&self) -> bool {
        self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }
}

/// The turn of a task that waits; dropped, it goes to the next.
struct Turn<'m>(&'m AtomicU32);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        scheduler::wake(self.0, Wake::One);
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.try_lock() {
            Some(value) => f.debug_tuple("Mutex").field(&&*value).finish(),
            None => f.write_str("Mutex(<locked>)"),
        }
    }
}

impl<T: Default> Default for Mutex<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

/// A held [`Mutex`], freed when this is dropped.
#[must_use]
pub struct MutexGuard<'m, T: ?Sized>(&'m Mutex<T>);

// SAFETY: a shared guard only lends the value.
unsafe impl<T: ?Sized + Sync> Sync for MutexGuard<'_, T> {}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the mutex is held.
        unsafe { &*self.0.value.get() }
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the mutex is held, and this guard borrowed mutably.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for MutexGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        if self.0.state.swap(FREE, Ordering::Release) == AWAITED {
            scheduler::wake(&self.0.state, Wake::One);
        }
    }
}
