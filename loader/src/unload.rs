//! Whether an object can go, asked of everyone who may still need it.
//!
//! ```text
//!   handles ──► objects bound to it ──► stacks ──► exceptions ──► destructors ──► it can go
//!      │                │                 │            │              │
//!   Held             BoundBy           OnStack  ExceptionInFlight  PendingDestructors
//! ```
//!
//! The order matters, because tasks go on meanwhile. Once there is no other handle and nothing is
//! bound to the object, nobody begins to call it but destructors, and nobody else registers any.
//! Then a frame of it leaves its stack by returning, or as an exception, which is known before
//! the frame is gone. And a destructor that runs counts as pending until it is done.

use core::ops::Range;

use crate::error::UnloadError;
use crate::handle::NotClosed;
use crate::object::{Loaded, Object};
use crate::shared::Shared;

/// The kernel's part in unloading: it knows all stacks.
///
/// # Safety
///
/// [`anyone_in`](Self::anyone_in) says no only if that is so: what it overlooks will be
/// executing memory that is gone.
pub unsafe trait Stacks: Sync {
    /// Whether, at some moment during the call, a frame of code in `text` is on any stack: those of
    /// all tasks, the one that asks included, of what runs on the other CPUs, and of interrupts.
    ///
    /// The address where a frame goes on counts, as do the registers of what was interrupted.
    /// A stack that cannot be walked to its end counts as a yes.
    fn anyone_in(&self, text: Range<u64>) -> bool;
}

/// The right to take an object away, as long as nobody else gets a handle.
pub(crate) struct Closed<'o>(Option<&'o Object>);

impl Closed<'_> {
    /// The object has gone; it stays closed.
    pub fn gone(mut self) {
        self.0 = None;
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        if let Some(object) = self.0 {
            object.holds.open();
        }
    }
}

/// Sees to it that nobody gets a handle of `object`; the caller's must be the only one.
pub(crate) fn close<'o>(
    object: &'o Shared<Object>,
    loaded: &[Loaded<'_>],
) -> Result<Closed<'o>, UnloadError> {
    let here = loaded.iter().any(|one| Shared::ptr_eq(&one.object, object));
    if !here {
        return Err(UnloadError::NotLoaded);
    }
    object.holds.close().map_err(|why| match why {
        NotClosed::Already => UnloadError::NotLoaded,
        NotClosed::Others(handles) => UnloadError::Held { handles },
    })?;
    Ok(Closed(Some(object)))
}

/// Checks that nobody needs `object`, which is closed.
pub(crate) fn check(
    object: &Shared<Object>,
    loaded: &[Loaded<'_>],
    stacks: &dyn Stacks,
) -> Result<(), UnloadError> {
    let is_it = |other: &Shared<Object>| Shared::ptr_eq(other, object);
    let it = loaded.iter().find(|one| is_it(&one.object)).ok_or(UnloadError::NotLoaded)?;
    if let Some(user) = loaded.iter().find(|one| one.bound_to.iter().any(is_it)) {
        return Err(UnloadError::BoundBy { object: user.object.name().into() });
    }
    let text = object.text();
    if !text.is_empty() && stacks.anyone_in(text.clone()) {
        return Err(UnloadError::OnStack);
    }
    if unspool_unwind::in_flight_in(text) {
        return Err(UnloadError::ExceptionInFlight);
    }
    match it.tls.pending_destructors(object.all()) {
        0 => Ok(()),
        count => Err(UnloadError::PendingDestructors { count }),
    }
}
