//! Brings modules × areas together: every module's block is in every area.
//!
//! ```text
//!              kernel   module A   module B
//!  area 1        ■         ■          ■      ▲ new_area fills a row: one copy, no lock
//!  area 2        ■         ■          ■      │
//!  area 3        ■         ■          ■      ▼
//!                          ◄─ publish fills a column ─►
//! ```
//!
//! A row and a column cross safely: `ready` says who fills the block where they meet. Everything
//! else happens under one lock, and none of it allocates memory for a block meanwhile.

use core::alloc::Layout;
use core::ptr::{self, NonNull};
use core::sync::atomic::AtomicPtr;

use alloc::vec::Vec;

use spin::{Mutex, MutexGuard};

use crate::area::{self, AreaRef, Tcb, ThreadPointer};
use crate::dtv::{self, Vector};
use crate::error::{AreaError, LayoutError};
use crate::idle::{Idle, SLOTS};
use crate::image::Image;
use crate::inbox::Inbox;
use crate::layout::{AreaLayout, Surplus, Template, TpOffset};
use crate::live::LiveList;
use crate::modules::Modules;

/// All modules with thread-local variables, and all areas that hold them.
#[derive(Debug)]
pub struct Registry {
    kernel: Template<'static>,
    pub(crate) layout: AreaLayout,
    /// Areas that the list of the state does not have yet.
    pub(crate) inbox: Inbox<Tcb>,
    /// Areas that no task has; they are on the list.
    idle: Idle<Tcb>,
    /// What new areas start with, besides the kernel's block.
    pub(crate) image: Image,
    /// The vector of areas without entries in one, as large as any.
    pub(crate) none: AtomicPtr<AtomicPtr<u8>>,
    state: Mutex<State>,
}

/// What the lock guards.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) surplus: Surplus,
    pub(crate) modules: Modules,
    pub(crate) live: LiveList,
    /// Vectors without entries; the last one is in use unless a static one is.
    pub(crate) vectors: Vec<Vector>,
}

impl Registry {
    /// A registry whose areas hold the program's own block, `kernel`, and `surplus` bytes for
    /// modules that come later.
    ///
    /// Areas are aligned to a page, or to more if the kernel's block is. The bytes that rounding
    /// adds are not part of the surplus, so that what fits does not depend on the kernel's size.
    ///
    /// # Errors
    /// The areas would be larger than 32-bit offsets reach.
    pub const fn new(kernel: Template<'static>, surplus: usize) -> Result<Self, LayoutError> {
        let layout = match AreaLayout::new(&kernel, surplus, Layout::new::<Tcb>()) {
            Ok(layout) => layout,
            Err(error) => return Err(error),
        };
        Ok(Self {
            kernel,
            layout,
            inbox: Inbox { head: AtomicPtr::new(ptr::null_mut()) },
            idle: Idle { slots: [const { AtomicPtr::new(ptr::null_mut()) }; SLOTS] },
            image: Image::new(layout.surplus()),
            none: AtomicPtr::new(dtv::none()),
            state: Mutex::new(State {
                surplus: Surplus::new(layout.surplus()),
                modules: Modules::new(),
                live: LiveList::new(),
                vectors: Vec::new(),
            }),
        })
    }

    /// An area for a new task, in one allocation or in the memory of a task that has ended: the
    /// kernel's block and those of all published modules in their initial state, `canary` at
    /// `fs:0x28`.
    ///
    /// Takes no lock. If a module is published at the same time, the area has its block when both
    /// have returned. Blocks of dynamic modules are made when they are needed;
    /// [`Area::prepare_all`] makes them beforehand.
    ///
    /// # Errors
    /// The allocator has no memory for it.
    pub fn new_area(&self, canary: u64) -> Result<Area<'_>, AreaError> {
        let tcb = match self.idle.take() {
            Some(tcb) => tcb,
            None => {
                let tcb = area::allocate(&self.layout)?;
                // SAFETY: New, and freed only after it has left the list.
                unsafe { self.inbox.push(tcb) };
                tcb
            }
        };
        // SAFETY: Idle or new, so this function's own, for as long as the `Area` is there.
        let area = unsafe { AreaRef::new(tcb) };
        area.begin(self, canary);
        area.readiness.complete(|| {
            // SAFETY: Areas that are not ready belong to their creators, publishers know that.
            unsafe { self.initialise(area) }
        });
        Ok(Area { registry: self, tcb })
    }

    /// Fills everything in an area that modules are to find in it.
    ///
    /// # Safety
    /// The area is of this registry, and nobody else uses its blocks.
    #[inline]
    unsafe fn initialise(&self, area: AreaRef<'_>) {
        let none = self.none.load(core::sync::atomic::Ordering::Acquire);
        // SAFETY: Vectors without entries stay for as long as the registry.
        unsafe { area.set_dtv(none) };
        // SAFETY: The contract is the same.
        unsafe { self.image.copy_to(area) };
        // SAFETY:
        // 1. The layout has this block in every area, and a template's image fits its size.
        // 2. Nobody else uses it (contract).
        unsafe { area.fill(self.layout.kernel(), self.kernel.tdata()) };
    }

    /// Where the kernel's own block starts: a variable of the kernel that lies `n` bytes into its
    /// `PT_TLS` segment (its `st_value`) is at this offset plus `n`.
    pub const fn kernel_offset(&self) -> TpOffset {
        self.layout.kernel().offset()
    }

    /// How many areas there are. One whose creation is under way may be counted or not.
    pub fn live_areas(&self) -> usize {
        let mut state = self.lock();
        state.live.settle(&self.inbox);
        state.live.iter().filter(|area| area.readiness.is_ready()).count()
    }

    /// Bytes of the surplus that are neither reserved nor published, all gaps together.
    pub fn surplus_free(&self) -> usize {
        self.lock().surplus.free()
    }

    /// How many modules are reserved or published, dynamic ones included, the kernel not.
    pub fn modules(&self) -> usize {
        self.lock().modules.len()
    }

    /// Frees the memory that is kept for new areas, and returns how many areas it was enough for.
    ///
    /// A few areas of tasks that have ended are kept; with this, a kernel that is short of memory,
    /// or that counts it, has it back.
    pub fn trim(&self) -> usize {
        core::iter::from_fn(|| self.idle.take()).map(|tcb| self.discard(tcb)).count()
    }

    /// Takes an area off the list and frees it.
    fn discard(&self, tcb: NonNull<Tcb>) {
        let mut state = self.lock();
        state.live.settle(&self.inbox);
        // SAFETY: All areas have been announced, and the list has settled.
        unsafe { state.live.leave(tcb) };
        drop(state);
        // SAFETY: `allocate` made it for this layout; no task has it, and no list.
        unsafe { area::free(tcb, &self.layout) };
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Takes an area away from its task.
    fn retire(&self, tcb: NonNull<Tcb>) {
        // SAFETY: The `Area` that is being dropped owns it.
        let area = unsafe { AreaRef::new(tcb) };
        let state = self.lock();
        // Nobody counts its destructors, fills its blocks or looks into its vector from here on.
        area.readiness.retire();
        drop(state);
        // SAFETY: The area is nobody's now, and its task has ended.
        unsafe { area.blocks.clear() };
        area.first_blocks.clear();
        area.vectors.clear();
        area.destructors.clear();
        if !self.idle.keep(tcb) {
            self.discard(tcb);
        }
    }

    /// Whether a vector is the one that areas without entries share.
    pub(crate) fn is_empty(&self, vector: &[AtomicPtr<u8>]) -> bool {
        ptr::eq(vector.as_ptr(), self.none.load(core::sync::atomic::Ordering::Acquire))
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Areas that were forgotten rather than dropped stay: their tasks may still run.
        self.trim();
    }
}

/// One task's area. Dropping it takes it off the registry and frees it or keeps it for the next
/// task; destructors that are still registered are forgotten, so run them first.
#[derive(Debug)]
pub struct Area<'r> {
    pub(crate) registry: &'r Registry,
    pub(crate) tcb: NonNull<Tcb>,
}

// SAFETY: An area is memory from the global allocator and belongs to no processor. What is
// confined to its task, the destructors, is out of reach from here; whoever loads the thread
// pointer promises not to drop the area while the task may use it.
unsafe impl Send for Area<'_> {}
// SAFETY: A shared area tells its thread pointer, and makes blocks under the registry's lock.
unsafe impl Sync for Area<'_> {}

impl Area<'_> {
    /// What makes this area the running task's own, once it is in the FS base.
    pub fn thread_pointer(&self) -> ThreadPointer {
        ThreadPointer::new(self.tcb)
    }
}

impl Drop for Area<'_> {
    fn drop(&mut self) {
        self.registry.retire(self.tcb);
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
