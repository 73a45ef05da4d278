//! Blocks of modules addressed by number: made when a task needs them.
//!
//! ```text
//!            module 1 (static)   module 2 (dynamic)
//!  vector    │ TP − 64           │ null ─► block, on first access or prepared
//!              ▼                         ▼
//!            at the module's offset    wherever the task has room for it (`blocks`)
//! ```
//!
//! All entries are written and cleared under the registry's lock; tasks read theirs without.

use core::alloc::Layout;
use core::ops::Range;
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::area::{self, AreaRef};
use crate::blocks::Blocks;
use crate::dtv::{self, Vector};
use crate::error::{AccessError, OutOfMemory};
use crate::modules::{Module, ModuleId};
use crate::registry::{Area, Registry, State};
use crate::spares::{Lack, Spares};

impl AreaRef<'_> {
    /// The block of a module, if the area's vector has it. The number may be any.
    pub(crate) fn entry(self, module: ModuleId) -> Option<*mut u8> {
        let entry = self.dtv().get(module.get())?.load(Ordering::Acquire);
        (!entry.is_null()).then_some(entry)
    }

    /// Where a task's block of a dynamic module lies, if it has one.
    pub(crate) fn block_addresses(self, module: ModuleId, size: usize) -> Option<Range<u64>> {
        let start = self.entry(module)?.addr() as u64;
        Some(start..start + size as u64)
    }
}

impl Registry {
    /// A task's block of a module. Makes it if need be.
    pub(crate) fn block(
        &self,
        area: AreaRef<'_>,
        module: ModuleId,
    ) -> Result<*mut u8, AccessError> {
        let spares = Spares::default();
        self.attempt(spares, |state, spares| self.try_block(state, area, module, spares))
    }

    /// An attempt to do that.
    pub(crate) fn try_block(
        &self,
        state: &State,
        area: AreaRef<'_>,
        id: ModuleId,
        spares: &mut Spares,
    ) -> Result<*mut u8, Lack> {
        match state.modules.get(id) {
            None | Some(Module::Reserved) => {
                Err(Lack::Final(AccessError::NoSuchModule { module: id.get() }))
            }
            Some(Module::Static(block)) => {
                let block = area.below(block.distance);
                // An entry makes the next access fast, but is not worth an error.
                if let Ok(vector) = self.own_vector(area, spares) {
                    vector[id.get()].store(block, Ordering::Release);
                }
                Ok(block)
            }
            Some(Module::Dynamic(image)) => {
                let entry = &self.own_vector(area, spares)?[id.get()];
                let block = entry.load(Ordering::Relaxed);
                if !block.is_null() {
                    return Ok(block);
                }
                let first = area.first_blocks.cut(image.memory);
                // SAFETY: The lock is held (`state`).
                let block = match first.or_else(|| unsafe { area.blocks.cut(image.memory) }) {
                    Some(block) => block,
                    None => {
                        let chunk = spares.chunk(image.memory)?;
                        // SAFETY: As above.
                        let block = unsafe { area.blocks.cut_new(chunk, image.memory) };
                        block.ok_or(Lack::Chunk(image.memory))?
                    }
                };
                // SAFETY: New memory of at least this size.
                unsafe { area::initialise(block.as_ptr(), &image.tdata, image.size) };
                entry.store(block.as_ptr(), Ordering::Release);
                Ok(block.as_ptr())
            }
        }
    }

    /// A vector of the area's own, which has an entry for every module.
    fn own_vector<'a>(
        &self,
        area: AreaRef<'a>,
        spares: &mut Spares,
    ) -> Result<&'a [AtomicPtr<u8>], Lack> {
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
        let freed = Blocks::new();
        let mut state = self.lock();
        state.live.settle(&self.inbox);
        let withdrawn = state.modules.set(id, Module::Reserved);
        let ready = state.live.iter().filter(|area| area.readiness.is_ready());
        for area in ready.filter(|area| !self.is_empty(area.dtv())) {
            let entry = &area.dtv()[id.get()];
            let block = entry.load(Ordering::Relaxed);
            entry.store(ptr::null_mut(), Ordering::Relaxed);
            if let Some(Module::Dynamic(_)) = withdrawn
                && !block.is_null()
                && !area.first_blocks.give_up(block)
            {
                // SAFETY: The lock is held, and the module's code does not run any more.
                unsafe { area.blocks.give_up(block, &freed) };
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
        match area.entry(module) {
            Some(block) => Ok(block),
            None => self.registry.block(area, module),
        }
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
