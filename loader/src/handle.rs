//! What a caller has of a loaded object: it looks, and it holds.
//!
//! ```text
//!   load ──► 1 ── clone, object() ──► 2 ── drop ──► 1      unload with the last one:
//!                                                   │ ──► closed: no more handles
//!                                                   └◄── refused: open again
//! ```
//!
//! Promise: as long as there is a handle besides the one that [`unload`](crate::Loader::unload) is
//! asked with, the object stays, and so does its loader.

use core::fmt;
use core::marker::PhantomData;
use core::ops::Deref;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::object::Object;
use crate::shared::Shared;

/// A loaded object, and the right to have it stay loaded.
///
/// To keep one is how code that calls into the object sees to it that the object is there. The
/// handle that an object was unloaded with is an exception: it still tells names and addresses, but
/// there is nothing at these addresses any more.
pub struct Handle<'l> {
    object: Shared<Object>,
    loader: PhantomData<&'l ()>,
}

impl<'l> Handle<'l> {
    /// The handle that a new object counts from the start.
    pub(crate) fn first(object: &Shared<Object>) -> Self {
        Self { object: Shared::clone(object), loader: PhantomData }
    }

    /// A handle of an object that is not being unloaded.
    pub(crate) fn new(object: &Shared<Object>) -> Option<Self> {
        let held = object.holds.try_add();
        held.then(|| Self { object: Shared::clone(object), loader: PhantomData })
    }

    /// The object, without a hold on it.
    pub(crate) fn object(&self) -> &Shared<Object> {
        &self.object
    }
}

impl Deref for Handle<'_> {
    type Target = Object;

    fn deref(&self) -> &Object {
        &self.object
    }
}

impl Clone for Handle<'_> {
    fn clone(&self) -> Self {
        self.object.holds.add();
        Self { object: Shared::clone(&self.object), loader: PhantomData }
    }
}

impl Drop for Handle<'_> {
    fn drop(&mut self) {
        self.object.holds.remove();
    }
}

impl fmt::Debug for Handle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.object.fmt(f)
    }
}

/// How many handles of an object there are, and whether there may be more.
pub(crate) struct Holds(AtomicUsize);

/// Why holds were not closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotClosed {
    /// They are closed.
    Already,
    /// There are this many besides the asker's.
    Others(usize),
}

impl Holds {
    /// Set while there may be no new handles but clones of those that are.
    const CLOSED: usize = 1 << (usize::BITS - 1);

    /// Open, with one holder.
    pub const fn new() -> Self {
        Self(AtomicUsize::new(1))
    }

    /// One more, made of another. (There is no room in memory for so many that they overflow,
    /// unless they are forgotten.)
    fn add(&self) {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        assert!(before & !Self::CLOSED < Self::CLOSED / 2, "handles were forgotten in a loop");
    }

    /// One more, made of nothing, unless they are closed.
    fn try_add(&self) -> bool {
        let more = |count: usize| (count < Self::CLOSED / 2).then(|| count + 1);
        self.0.try_update(Ordering::Acquire, Ordering::Relaxed, more).is_ok()
    }

    /// How many there are, closed or not.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed) & !Self::CLOSED
    }

    fn remove(&self) {
        // What was done with the object was done before whoever closes the holds goes on.
        self.0.fetch_sub(1, Ordering::Release);
    }

    /// Closes the holds, if the asker's is the only one.
    pub fn close(&self) -> Result<(), NotClosed> {
        let only =
            self.0.compare_exchange(1, Self::CLOSED | 1, Ordering::Acquire, Ordering::Relaxed);
        match only {
            Ok(_) => Ok(()),
            Err(count) if count & Self::CLOSED != 0 => Err(NotClosed::Already),
            Err(count) => Err(NotClosed::Others(count.saturating_sub(1))),
        }
    }

    /// Whether they are closed.
    pub fn is_closed(&self) -> bool {
        self.0.load(Ordering::Relaxed) & Self::CLOSED != 0
    }

    /// Opens them again.
    pub fn open(&self) {
        self.0.fetch_and(!Self::CLOSED, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_holder_can_close_and_nobody_comes_after() {
        let holds = Holds::new();
        holds.add();
        assert_eq!(holds.close(), Err(NotClosed::Others(1)));
        holds.remove();
        assert_eq!(holds.close(), Ok(()));
        assert_eq!(holds.count(), 1);
        assert_eq!(holds.close(), Err(NotClosed::Already));
        assert!(!holds.try_add());
    }

    #[test]
    fn opened_again_they_are_as_before() {
        let holds = Holds::new();
        assert_eq!(holds.close(), Ok(()));
        holds.open();
        assert!(holds.try_add());
        assert_eq!(holds.close(), Err(NotClosed::Others(1)));
    }
}
