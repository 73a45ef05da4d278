//! Memory at addresses of its own: task stacks and loaded objects.
//!
//! ```text
//!   1 GiB                       1.75 GiB          2 GiB
//!   │ OBJECTS                   │ STACKS          │     the same addresses on every machine
//! ```
//!
//! Both windows are in the low 2 GiB, like the image, so that code in one reaches all of them by
//! 32-bit relocations. What is mapped in a window is nowhere else.

use core::ops::Range;
use core::ptr::NonNull;

use unspool::loader::{self, Access as LoaderAccess, MapError as LoaderMapError};

use crate::lock::Lock;
use crate::machine::{Access, MapError, Pages, machine};
use crate::window::Window;

/// Where loaded objects lie.
pub const OBJECTS: Range<u64> = 0x4000_0000..0x7000_0000;
/// Where task stacks lie.
pub const STACKS: Range<u64> = 0x7000_0000..0x8000_0000;

static OBJECT_WINDOW: Lock<Window> = Lock::new(Window::new(OBJECTS));
static STACK_WINDOW: Lock<Window> = Lock::new(Window::new(STACKS));

/// Bytes of the address space that loaded objects take, guard pages included.
pub fn object_bytes() -> u64 {
    OBJECT_WINDOW.lock().used()
}

/// Whether this CPU was in the middle of taking or giving back addresses.
pub(crate) fn is_held_here() -> bool {
    OBJECT_WINDOW.is_held_here() || STACK_WINDOW.is_held_here() || SPARE.is_held_here()
}

/// Backs fresh pages of a window: zeroed, readable and writable.
fn map(window: &Lock<Window>, size: usize) -> Result<Pages, MapError> {
    let pages = window.lock().take(size)?;
    // SAFETY: the window gave the pages out to this call alone.
    let mapped = unsafe { back(pages) };
    mapped.inspect_err(|_| window.lock().give_back(pages))?;
    Ok(pages)
}

/// As [`Machine::map`](crate::machine::Machine::map); with the memory of spare stacks, if there is no
/// other.
///
/// # Safety
///
/// The same.
pub(crate) unsafe fn back(pages: Pages) -> Result<(), MapError> {
    // SAFETY: the caller's promise.
    let backed = unsafe { machine().map(pages) };
    match backed {
        Err(MapError::OutOfFrames { .. } | MapError::System { .. }) if give_up_spares() => {
            // SAFETY: as above; nothing was mapped.
            unsafe { machine().map(pages) }
        }
        backed => backed,
    }
}

/// # Safety
///
/// [`map`] returned `pages` for this window, and nobody uses them any more.
unsafe fn unmap(window: &Lock<Window>, pages: Pages) {
    // SAFETY: the caller's promise.
    unsafe { machine().unmap(pages) };
    window.lock().give_back(pages);
}

/// A task's stack, with an unmapped page below it.
#[derive(Debug)]
pub(crate) struct Stack(Pages);

impl Stack {
    /// A stack of at least `size` bytes, with anything in it.
    pub(crate) fn new(size: usize) -> Result<Self, MapError> {
        let fits = |pages: &Pages| pages.size() == size;
        let spare = SPARE.lock().iter_mut().find_map(|place| place.take_if(|pages| fits(pages)));
        let pages = match spare.map_or_else(|| map(&STACK_WINDOW, size), Ok) {
            Err(MapError::WindowFull { .. }) if give_up_spares() => map(&STACK_WINDOW, size),
            pages => pages,
        };
        pages.map(Self)
    }

    /// Its usable addresses.
    pub(crate) const fn range(&self) -> Range<u64> {
        self.0.start()..self.0.end()
    }
}

/// Stacks of tasks that have ended, for tasks to come: to take pages away, all CPUs must be asked
/// to forget them. Whoever finds no memory or no addresses without them [has them](give_up_spares).
static SPARE: Lock<[Option<Pages>; SPARE_STACKS]> = Lock::new([None; SPARE_STACKS]);
const SPARE_STACKS: usize = 16;

/// Takes away what spare stacks keep; whether there were any.
fn give_up_spares() -> bool {
    let spares = core::mem::replace(&mut *SPARE.lock(), [None; SPARE_STACKS]);
    // SAFETY: they were spare, so nobody uses them, and nobody else has them now.
    spares.into_iter().flatten().map(|pages| unsafe { unmap(&STACK_WINDOW, pages) }).count() != 0
}

impl Drop for Stack {
    fn drop(&mut self) {
        let mut spare = SPARE.lock();
        if let Some(place) = spare.iter_mut().find(|place| place.is_none()) {
            *place = Some(self.0);
            return;
        }
        drop(spare);
        // SAFETY: this value owned the pages; whoever drops it runs on another stack.
        unsafe { unmap(&STACK_WINDOW, self.0) };
    }
}

/// The memory of loaded objects.
pub(crate) struct ObjectMemory;

/// The pages of an object; the loader only names what it got from `map`.
fn pages(start: NonNull<u8>, size: usize) -> Option<Pages> {
    Pages::new(start.as_ptr().expose_provenance() as u64, size)
}

// SAFETY:
// 1. A window gives out pages to one owner at a time, and the machine backs them with zeroed
//    memory that is nowhere else.
// 2. Protecting and unmapping go to the named pages alone.
unsafe impl loader::Memory for ObjectMemory {
    fn map(&self, size: usize) -> Result<NonNull<u8>, LoaderMapError> {
        let exhausted = LoaderMapError::Exhausted { size };
        let pages = map(&OBJECT_WINDOW, size).map_err(|_| exhausted)?;
        NonNull::new(core::ptr::with_exposed_provenance_mut(pages.start() as usize))
            .ok_or(exhausted)
    }

    unsafe fn protect(
        &self,
        start: NonNull<u8>,
        size: usize,
        access: LoaderAccess,
    ) -> Result<(), LoaderMapError> {
        let wanted = match access {
            LoaderAccess::Read => Access::Read,
            LoaderAccess::ReadWrite => Access::ReadWrite,
            LoaderAccess::ReadExecute => Access::ReadExecute,
        };
        let Some(pages) = pages(start, size) else { return Ok(()) };
        // SAFETY: the caller owns the pages and vouches for their use.
        unsafe { machine().protect(pages, wanted) }.map_err(|_| LoaderMapError::Protect {
            start: pages.start(),
            size,
            access,
        })
    }

    unsafe fn unmap(&self, start: NonNull<u8>, size: usize) {
        let Some(pages) = pages(start, size) else { return };
        // SAFETY: the caller names a mapping of `map` that nobody uses any more.
        unsafe { unmap(&OBJECT_WINDOW, pages) };
    }
}
