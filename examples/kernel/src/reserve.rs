//! Addresses that are reserved first and backed by memory later: what language runtimes want.
//!
//! ```text
//!   16 TiB                                                              24 TiB
//!   │ guard │ backed, RW │ reserved: faults …   │ guard │ backed, RX │ … │
//!             └────────── one reservation ─────┘
//! ```
//!
//! Promise: a reservation costs a record and no memory; what was never backed, or was given back,
//! faults; every failure is an error, and leaves what there was.

use core::ops::Range;

use alloc::vec::Vec;

use crate::extents::Extents;
use crate::lock::Lock;
use crate::machine::{Access, MapError, Pages, machine};
use crate::memory;
use crate::sync::Mutex;
use crate::window::Window;

/// Where reservations lie.
pub const RUNTIMES: Range<u64> = 0x1000_0000_0000..0x1800_0000_0000;

static WINDOW: Lock<Window> = Lock::new(Window::new(RUNTIMES));
/// By whom a page is changed, one at a time: tasks wait for each other asleep.
static RESERVATIONS: Mutex<Vec<Reservation>> = Mutex::new(Vec::new());

struct Reservation {
    pages: Pages,
    backed: Extents,
}

/// Whether this CPU was in the middle of taking or giving back addresses.
pub(crate) fn is_held_here() -> bool {
    WINDOW.is_held_here()
}

/// Reserves at least `size` bytes: an access to them faults.
///
/// # Errors
///
/// No such gap, or no memory for the record.
pub fn reserve(size: usize) -> Result<Pages, MapError> {
    let mut reservations = RESERVATIONS.lock();
    reservations.try_reserve(1).map_err(|_| MapError::OutOfRecords)?;
    let pages = WINDOW.lock().take(size)?;
    let at = reservations.partition_point(|other| other.pages.start() < pages.start());
    reservations.insert(at, Reservation { pages, backed: Extents::new() });
    Ok(pages)
}

/// Sets what may be done with pages of a reservation. Those that have no memory yet get some, zeroed,
/// unless nothing may be done with them.
///
/// # Errors
///
/// They are not pages of one reservation; or out of memory: some may have been backed then.
///
/// # Safety
///
/// The pages belong to the caller, and nothing relies on what `access` takes away.
pub unsafe fn protect(pages: Pages, access: Access) -> Result<(), MapError> {
    // SAFETY: the caller's promise.
    with(pages, |reservation| unsafe { reservation.protect(pages, access) })
}

/// Gives the memory of pages of a reservation back: an access to them faults, and if they are backed
/// again, they are zeroed.
///
/// # Errors
///
/// They are not pages of one reservation, or they are the middle of backed ones and there is no memory
/// for the record; nothing has changed then.
///
/// # Safety
///
/// The pages belong to the caller, who needs nothing of what they contain.
pub unsafe fn decommit(pages: Pages) -> Result<(), MapError> {
    // SAFETY: the caller's promise.
    with(pages, |reservation| unsafe { reservation.decommit(pages) })
}

/// Gives a reservation back, with the memory behind it.
///
/// # Errors
///
/// `pages` is not a whole reservation; nothing has changed then.
///
/// # Safety
///
/// The caller made the reservation, and nobody uses its addresses any more.
pub unsafe fn release(pages: Pages) -> Result<(), MapError> {
    let mut reservations = RESERVATIONS.lock();
    let index = find(&reservations, pages)?;
    if reservations[index].pages != pages {
        return Err(MapError::Unexpected { page: pages.start() });
    }
    // SAFETY: the caller's promise.
    unsafe { reservations[index].decommit(pages) }?;
    reservations.remove(index);
    WINDOW.lock().give_back(pages);
    Ok(())
}

/// Changes the reservation that has `pages`.
fn with(
    pages: Pages,
    change: impl FnOnce(&mut Reservation) -> Result<(), MapError>,
) -> Result<(), MapError> {
    let mut reservations = RESERVATIONS.lock();
    let index = find(&reservations, pages)?;
    change(&mut reservations[index])
}

/// The reservation that has `pages`.
fn find(reservations: &[Reservation], pages: Pages) -> Result<usize, MapError> {
    let after = reservations.partition_point(|other| other.pages.start() <= pages.start());
    after
        .checked_sub(1)
        .filter(|&index| pages.end() <= reservations[index].pages.end())
        .ok_or(MapError::Unexpected { page: pages.start() })
}

/// The pages of a range that is not empty, between bounds of pages.
fn whole(range: &Range<u64>) -> Result<Pages, MapError> {
    let unexpected = MapError::Unexpected { page: range.start };
    Pages::new(range.start, (range.end - range.start) as usize).ok_or(unexpected)
}

impl Reservation {
    /// # Safety
    ///
    /// As [`protect`]; the pages are of this reservation.
    unsafe fn protect(&mut self, pages: Pages, access: Access) -> Result<(), MapError> {
        let range = pages.start()..pages.end();
        let old = self.backed.first_in(&range).is_some();
        while access != Access::None
            && let Some(gap) = self.backed.first_gap(&range)
        {
            self.backed.make_room()?;
            // SAFETY: the window gave the pages to this reservation, and it has no memory there.
            unsafe { memory::back(whole(&gap)?) }?;
            self.backed.insert(gap);
        }
        if !old && access == Access::ReadWrite {
            return Ok(());
        }
        let mut rest = range.clone();
        while let Some(piece) = self.backed.first_in(&rest) {
            // SAFETY: these are backed; the caller vouches for their use.
            unsafe { machine().protect(whole(&piece)?, access) }?;
            rest.start = piece.end;
        }
        Ok(())
    }

    /// # Safety
    ///
    /// As [`decommit`]; the pages are of this reservation.
    unsafe fn decommit(&mut self, pages: Pages) -> Result<(), MapError> {
        let range = pages.start()..pages.end();
        while let Some(piece) = self.backed.first_in(&range) {
            self.backed.make_room_without(&piece)?;
            // SAFETY: `protect` had exactly these mapped, and the caller gives them up.
            unsafe { machine().unmap(whole(&piece)?) };
            self.backed.remove(&piece);
        }
        Ok(())
    }
}
