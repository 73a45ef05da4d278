//! Where new areas announce themselves, without a lock.
//!
//! ```text
//!  push: head ─► new ─► … ─► none          drain: head ─► none, and the chain to the caller
//! ```
//!
//! Nothing is ever taken out of the middle, and only the whole chain is taken, so the usual trouble
//! with such lists (a head that comes back with another tail) cannot arise.

use core::ptr::{self, NonNull};

use super::sync::{AtomicPtr, Ordering};

/// Something that can be on one chain.
pub(crate) trait Link: Sized {
    /// The next on the chain. Only the chain uses it.
    fn next(&self) -> &AtomicPtr<Self>;
}

/// A chain that anyone may push to.
#[derive(Debug)]
pub(crate) struct Inbox<T> {
    pub(crate) head: AtomicPtr<T>,
}

impl<T: Link> Inbox<T> {
    /// Puts `new` on the chain. What its drainer did before it last drained is visible after.
    ///
    /// # Safety
    /// `new` is on no chain, and stays where it is while it is on this one.
    pub(crate) unsafe fn push(&self, new: NonNull<T>) {
        let mut head = self.head.load(Ordering::Relaxed);
        loop {
            // SAFETY: In place, and nobody else uses the link of what is on no chain (contract).
            unsafe { new.as_ref() }.next().store(head, Ordering::Relaxed);
            let pushed = self.head.compare_exchange_weak(
                head,
                new.as_ptr(),
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            match pushed {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Takes the whole chain off and hands its members to `receive`, whose links are free then.
    ///
    /// Always writes, even to an empty chain: whoever pushes afterwards synchronises with this, and
    /// so sees what the caller did before.
    pub(crate) fn drain(&self, mut receive: impl FnMut(NonNull<T>)) {
        let mut head = self.head.swap(ptr::null_mut(), Ordering::AcqRel);
        while let Some(member) = NonNull::new(head) {
            // SAFETY: What was on the chain is in place (contract of `push`).
            head = unsafe { member.as_ref() }.next().load(Ordering::Relaxed);
            receive(member);
        }
    }
}
