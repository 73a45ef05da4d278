//! Areas of tasks that have ended, for the next ones to use.
//!
//! ```text
//!  │ area │ – │ area │ – │ … │      keep: into an empty slot      take: out of a full one
//! ```
//!
//! A slot is emptied by exchanging it, so its area has one taker. There are few slots: memory for
//! that many areas at most stays with a registry that has no tasks.

use core::ptr::{self, NonNull};

use super::sync::{AtomicPtr, Ordering};

/// How many areas are kept.
pub(crate) const SLOTS: usize = 8;

/// Areas that no task has.
#[derive(Debug)]
pub(crate) struct Idle<T, const N: usize = SLOTS> {
    pub(crate) slots: [AtomicPtr<T>; N],
}

impl<T, const N: usize> Idle<T, N> {
    /// One of them, if there is any. What its keeper did is visible.
    #[inline]
    pub(crate) fn take(&self) -> Option<NonNull<T>> {
        self.slots.iter().find_map(|slot| {
            if slot.load(Ordering::Relaxed).is_null() {
                return None;
            }
            NonNull::new(slot.swap(ptr::null_mut(), Ordering::Acquire))
        })
    }

    /// Keeps `area`, which the caller gives up; or does not, because there are enough.
    pub(crate) fn keep(&self, area: NonNull<T>) -> bool {
        let empty = ptr::null_mut();
        self.slots.iter().any(|slot| {
            slot.load(Ordering::Relaxed).is_null()
                && slot
                    .compare_exchange(empty, area.as_ptr(), Ordering::Release, Ordering::Relaxed)
                    .is_ok()
        })
    }
}
