//! The list of live areas, through their TCBs.
//!
//! ```text
//!  head ─► Tcb ◄─► Tcb ◄─► Tcb ─► none
//! ```
//!
//! Joining and leaving take constant time and no memory, so a task can be created or ended when
//! the heap has nothing left but the area itself.

use core::ptr::NonNull;

use crate::area::Tcb;

/// The list; whoever holds it exclusively (the registry's lock) may use the links in the TCBs.
#[derive(Debug)]
pub(crate) struct LiveList {
    head: Option<NonNull<Tcb>>,
    len: usize,
}

// SAFETY: The TCBs belong to no particular processor or task as far as their links go, and those
// are all the list uses.
unsafe impl Send for LiveList {}

impl LiveList {
    /// No areas.
    pub(crate) const fn new() -> Self {
        Self { head: None, len: 0 }
    }

    /// How many areas there are.
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// All areas, newest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = NonNull<Tcb>> {
        core::iter::successors(self.head, |tcb| {
            // SAFETY: A TCB on the list is live (contract of `join`), and the list is borrowed,
            // so nobody changes its links.
            unsafe { (*tcb.as_ptr()).next }
        })
    }

    /// Puts an area on the list.
    ///
    /// # Safety
    /// `tcb` is initialised, on no list, and stays where it is until it has left this one.
    pub(crate) unsafe fn join(&mut self, tcb: NonNull<Tcb>) {
        // SAFETY: Initialised, and on no list that could use the links meanwhile (contract).
        unsafe { (*tcb.as_ptr()).next = self.head };
        // SAFETY: As above.
        unsafe { (*tcb.as_ptr()).previous = None };
        if let Some(head) = self.head {
            // SAFETY: On the list, so live; borrowed exclusively.
            unsafe { (*head.as_ptr()).previous = Some(tcb) };
        }
        self.head = Some(tcb);
        self.len += 1;
    }

    /// Takes an area off the list.
    ///
    /// # Safety
    /// `tcb` is on this list.
    pub(crate) unsafe fn leave(&mut self, tcb: NonNull<Tcb>) {
        // SAFETY: On the list (contract), so live; borrowed exclusively.
        let next = unsafe { (*tcb.as_ptr()).next };
        // SAFETY: As above.
        let previous = unsafe { (*tcb.as_ptr()).previous };
        match previous {
            // SAFETY: A neighbour on the list is live; borrowed exclusively.
            Some(previous) => unsafe { (*previous.as_ptr()).next = next },
            None => self.head = next,
        }
        if let Some(next) = next {
            // SAFETY: As above.
            unsafe { (*next.as_ptr()).previous = previous };
        }
        self.len -= 1;
    }
}
