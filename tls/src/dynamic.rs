//! Blocks of modules addressed by number: made when a task needs them.
//!
//! ```text
//!            module 1 (static)   module 2 (dynamic)
//!  vector    │ TP − 64           │ 0 ─► block, on first access or prepared
//!              ▼                         ▼
//!            in the area               in memory of its own
//! ```
//!
//! All entries are written and cleared under the registry's lock; tasks read theirs without.

use core::alloc::Layout;
use core::ops::Range;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::area::{self, AreaRef};
use crate::blocks::Freed;
use crate::dtv::{self, Vector};
use crate::error::{AccessError, OutOfMemory};
use crate::modules::{Module, ModuleId};
use crate::registry::{Area, Registry, State};
use crate::spares::{Lack, Spares};

impl AreaRef<'_> {
    /// The entry of the area's vector for a module, if it has one. The number may be any.
    pub(crate) fn entry(self, module: ModuleId) -> Option<usize> {
        let entry = self.dtv().get(module.get())?.load(Ordering::Acquire);
        (entry != 0).then_some(entry)
    }

    /// What an entry of the area's vector refers to.
    pub(crate) fn at(self, entry: usize) -> *mut u8 {
        let tp = self.tcb().as_ptr().expose_provenance();
        ptr::with_exposed_provenance_mut(tp.wrapping_add(entry))
    }

    /// Where a task's block of a dynamic module lies, if it has one.
    pub(crate) fn block_addresses(self, module: ModuleId, size: usize) -> Option<Range<u64>> {
        let start = self.at(self.entry(module)?).addr() as u64;
        Some(start..start + size as u64)
    }

    /// Clears an entry of the area's vector, and has the block that it referred to freed.
    pub(crate) fn unlink_block(self, entry: &AtomicUsize, memory: Layout, freed: &mut Freed) {
        let block = entry.swap(0, Ordering::Relaxed);
        if block != 0 {
            // SAFETY: Entries of dynamic modules refer to blocks made with the module's layout,
            // which nobody else refers to; the module's code does not run any more, or the task
            // does not.
            unsafe { freed.add(self.at(block), memory) };
        }
    }
}

impl Registry {
    /// The offset of a task's block of a module from TP. Makes the block if need be.
    pub(crate) fn block_offset(
        &self,
        area: AreaRef<'_>,
        module: ModuleId,
    ) -> Result<usize, AccessError> {
        let spares = Spares::guess(self.shapes.guess(module));
        self.attempt(spares, |state, spares| self.try_block(state, area, module, spares))
    }

    /// An attempt to do that.
    pub(crate) fn try_block(
        &self,
        state: &State,
        area: AreaRef<'_>,
        id: ModuleId,
        spares: &mut Spares,
    ) -> Result<usize, Lack> {
        match state.modules.get(id) {
            None | Some(Module::Reserved) => {
                Err(Lack::Final(AccessError::NoSuchModule { module: id.get() }))
            }
            Some(Module::Static(block)) => {
                let offset = block.distance.wrapping_neg();
                // An entry makes the next access fast, but is not worth an error.
                if let Ok(vector) = self.own_vector(area, spares) {
                    vector[id.get()].store(offset, Ordering::Release);
                }
                Ok(offset)
            }
            Some(Module::Dynamic(image)) => {
                let entry = &self.own_vector(area, spares)?[id.get()];
                match entry.load(Ordering::Relaxed) {
                    0 => {}
                    offset => return Ok(offset),
                }
                let block = spares.block(image.memory)?.into_raw().as_ptr();
                // SAFETY: New memory of at least this size.
                unsafe { area::initialise(block, &image.tdata, image.size) };
                let tp = area.tcb().as_ptr().addr();
                let offset = block.expose_provenance().wrapping_sub(tp);
                entry.store(offset, Ordering::Release);
                Ok(offset)
            }
        }
    }

    /// A vector of the area's own, which has an entry for every module.
    fn own_vector<'a>(
        &self,
        area: AreaRef<'a>,
        spares: &mut Spares,
    ) -> Result<&'a [AtomicUsize], Lack> {
        let vector = area.dtv();
        if !self.is_empty(vector) {
            return Ok(vector);
        }
        let own = match vector.len() {
            dtv::INLINE => area.vectors.first(),
            capacity => area.vectors.adopt(spares.vector(capacity)?, vector),
        };
        // SAFETY: Stays until the area is taken from its task.
        unsafe { area.set_dtv(own) };
        Ok(area.dtv())
    }

    /// A number for a module, and an entry for it in every vector.
    pub(crate) fn claim(&self) -> Result<ModuleId, OutOfMemory> {
        let claimed = self.attempt(Spares::default(), |state, spares| {
            let needed = state.modules.next().get() + 1;
            let none = self.none.load(Ordering::Relaxed);
            // SAFETY: Vectors without entries stay for as long as the registry.
            let capacity = unsafe { dtv::entries(ptr::NonNull::new_unchecked(none)) }.len();
            if needed > capacity {
                self.grow_vectors(state, spares, needed.next_power_of_two())?;
            }
            state.modules.claim().map_err(|_| no_memory::<Module>())
        });
        claimed.map_err(|_| OutOfMemory)
    }

    /// Makes every vector that large.
    fn grow_vectors(
        &self,
        state: &mut State,
        spares: &mut Spares,
        capacity: usize,
    ) -> Result<(), Lack> {
        state.live.settle(&self.inbox);
        let ready = || state.live.iter().filter(|area| area.readiness.is_ready());
        for area in ready() {
            let outgrown = area.dtv();
            if !self.is_empty(outgrown) && outgrown.len() < capacity {
                let larger = area.vectors.adopt(spares.vector(capacity)?, outgrown);
                // SAFETY: Stays until the area is taken from its task.
                unsafe { area.set_dtv(larger) };
            }
        }
        state.vectors.try_reserve(1).map_err(|_| no_memory::<Vector>())?;
        let larger = spares.vector(capacity)?;
        let none = larger.as_ptr();
        state.vectors.push(larger);
        let outgrown = self.none.swap(none, Ordering::AcqRel);
        // Areas that come later, or are not ready, find the new one by themselves.
        state.live.settle(&self.inbox);
        for area in state.live.iter().filter(|area| area.readiness.visit()) {
            if ptr::eq(area.dtv().as_ptr(), outgrown) {
                // SAFETY: Vectors without entries stay for as long as the registry.
                unsafe { area.set_dtv(none) };
            }
        }
        Ok(())
    }

    /// Makes a number mean nothing again: clears its entries and has its blocks freed.
    pub(crate) fn withdraw(&self, id: ModuleId) {
        let mut freed = Freed::new();
        let mut state = self.lock();
        state.live.settle(&self.inbox);
        let withdrawn = state.modules.set(id, Module::Reserved);
        let ready = state.live.iter().filter(|area| area.readiness.is_ready());
        for area in ready.filter(|area| !self.is_empty(area.dtv())) {
            let entry = &area.dtv()[id.get()];
            match &withdrawn {
                Some(Module::Dynamic(image)) => area.unlink_block(entry, image.memory, &mut freed),
                _ => entry.store(0, Ordering::Relaxed),
            }
        }
        self.image.set_used(state.modules.furthest());
        drop(state);
        drop(freed);
        drop(withdrawn);
    }
}

/// No memory for one more of the registry's own records.
fn no_memory<T>() -> Lack {
    Lack::Final(AccessError::out_of_memory(Layout::new::<T>()))
}

impl Area<'_> {
    /// Makes this task's block of a module, unless it is there, and says where it starts. Accesses
    /// find it then without further ado.
    ///
    /// # Errors
    /// No published module has the number, or there is no memory.
    pub fn prepare(&self, module: ModuleId) -> Result<*mut u8, AccessError> {
        let area = self.area();
        let offset = match area.entry(module) {
            Some(offset) => offset,
            None => self.registry.block_offset(area, module)?,
        };
        Ok(area.at(offset))
    }

    /// Makes this task's blocks of all dynamic modules there are, so that no access to them can
    /// fail.
    ///
    /// # Errors
    /// There is no memory. Blocks that were made stay.
    pub fn prepare_all(&self) -> Result<(), AccessError> {
        self.registry.attempt(Spares::default(), |state, spares| {
            state.modules.dynamic().try_for_each(|id| {
                self.registry.try_block(state, self.area(), id, spares).map(|_| ())
            })
        })
    }

    fn area(&self) -> AreaRef<'_> {
        // SAFETY: The area is freed only after `self`.
        unsafe { AreaRef::new(self.tcb) }
    }
}
