//! The list of all areas, through their TCBs.
//!
//! ```text
//!  inbox ─► Tcb ─► Tcb ─► none         new ones; anyone may push
//!             │ settle
//!             ▼
//!  head ─► Tcb ◄─► Tcb ◄─► Tcb ─► none         under the registry's lock
//! ```
//!
//! Joining and leaving take constant time and no memory, so a task can be created or ended when
//! the heap has nothing left but the area itself.

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::area::{AreaRef, Tcb};
use crate::inbox::{Inbox, Link};

impl Link for Tcb {
    fn next(&self) -> &AtomicPtr<Self> {
        &self.next
    }
}

/// The list; the registry's lock guards it and the links in the TCBs.
#[derive(Debug)]
pub(crate) struct LiveList {
    head: *mut Tcb,
}

// SAFETY: The TCBs belong to no particular processor or task as far as their links go, and those
// are all the list uses.
unsafe impl Send for LiveList {}

impl LiveList {
    /// No areas.
    pub(crate) const fn new() -> Self {
        Self { head: ptr::null_mut() }
    }

    /// All areas that have settled, the newest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = AreaRef<'_>> {
        core::iter::successors(self.member(self.head), |area| {
            self.member(area.next.load(Ordering::Relaxed))
        })
    }

    /// What a link leads to.
    fn member(&self, link: *mut Tcb) -> Option<AreaRef<'_>> {
        // SAFETY: A TCB on the list is in place until it leaves (contract of `Inbox::push`), which
        // takes the list exclusively.
        Some(unsafe { AreaRef::new(NonNull::new(link)?) })
    }

    /// Takes in what has been announced since the last time.
    pub(crate) fn settle(&mut self, inbox: &Inbox<Tcb>) {
        inbox.drain(|new| {
            // SAFETY: What was announced is in place, and is on this list from now on.
            let area = unsafe { AreaRef::new(new) };
            area.next.store(self.head, Ordering::Relaxed);
            area.previous.store(ptr::null_mut(), Ordering::Relaxed);
            if let Some(head) = self.member(self.head) {
                head.previous.store(new.as_ptr(), Ordering::Relaxed);
            }
            self.head = new.as_ptr();
        });
    }

    /// Takes an area off the list.
    ///
    /// # Safety
    /// `tcb` has settled on this list.
    pub(crate) unsafe fn leave(&mut self, tcb: NonNull<Tcb>) {
        // SAFETY: On the list (contract).
        let area = unsafe { AreaRef::new(tcb) };
        let next = area.next.load(Ordering::Relaxed);
        let previous = area.previous.load(Ordering::Relaxed);
        if let Some(next) = self.member(next) {
            next.previous.store(previous, Ordering::Relaxed);
        }
        match self.member(previous) {
            Some(previous) => previous.next.store(next, Ordering::Relaxed),
            None => self.head = next,
        }
    }
}
