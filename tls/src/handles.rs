//! The life of a module in the registry, as values: dropping one undoes it.
//!
//! ```text
//!  static    reserve         ─► Reserved        ─► publish ─► Published
//!  dynamic   reserve_dynamic ─► ReservedDynamic ─► publish ─► Dynamic
//!            a number (and an offset)              blocks
//! ```

use core::alloc::Layout;
use core::ops::Range;

use alloc::vec::Vec;

use crate::area::AreaRef;
use crate::blocks;
use crate::destructors::Entry;
use crate::error::{AccessError, PublishError, ReserveError};
use crate::layout::{Block, TpOffset};
use crate::modules::{Image, Module, ModuleId};
use crate::registry::Registry;
use crate::spares::Spares;

/// Zero means one.
fn alignment(align: usize) -> Result<usize, ReserveError> {
    let align = align.max(1);
    if align.is_power_of_two() { Ok(align) } else { Err(ReserveError::BadAlignment(align)) }
}

/// The registry's own copy of an image, for a block of `size` bytes.
fn copy_of(tdata: &[u8], size: usize) -> Result<Vec<u8>, PublishError> {
    let image = tdata.len();
    if image > size {
        return Err(PublishError::ImageTooLarge { image, size });
    }
    let mut copy = Vec::new();
    copy.try_reserve_exact(image).map_err(|_| PublishError::OutOfMemory { image })?;
    copy.extend_from_slice(tdata);
    Ok(copy)
}

impl Registry {
    /// A number, and space for a later module's block of `size` bytes aligned to `align` (zero
    /// means one) in every area, those that exist and those to come.
    ///
    /// # Errors
    /// A bad alignment, or no space; see [`ReserveError`].
    pub fn reserve(&self, size: usize, align: usize) -> Result<Reserved<'_>, ReserveError> {
        let align = alignment(align)?;
        let area = self.layout.memory().align();
        if align > area {
            return Err(ReserveError::AlignmentTooLarge { needed: align, area });
        }
        let number = self.number()?;
        let block = self.lock().surplus.take(size, align)?;
        Ok(Reserved { number, block })
    }

    /// A number for a later module whose blocks of `size` bytes aligned to `align` (zero means
    /// one) are not part of areas, but made for each task when it needs them.
    ///
    /// # Errors
    /// A bad alignment, a block larger than any memory, or no memory for the record.
    pub fn reserve_dynamic(
        &self,
        size: usize,
        align: usize,
    ) -> Result<ReservedDynamic<'_>, ReserveError> {
        let align = alignment(align)?;
        let memory = blocks::memory(size, align).ok_or(ReserveError::TooLarge { size, align })?;
        Ok(ReservedDynamic { number: self.number()?, size, memory })
    }

    /// Reserves and publishes a dynamic module in one step, for code that needs no relocation in
    /// between.
    ///
    /// # Errors
    /// Those of [`reserve_dynamic`](Self::reserve_dynamic) and [`ReservedDynamic::publish`].
    pub fn add_dynamic(
        &self,
        tdata: &[u8],
        size: usize,
        align: usize,
    ) -> Result<Dynamic<'_>, PublishError> {
        self.reserve_dynamic(size, align)?.publish(tdata)
    }

    fn number(&self) -> Result<Number<'_>, ReserveError> {
        let id = self.claim().map_err(|_| ReserveError::OutOfMemory)?;
        Ok(Number { registry: self, id })
    }

    /// How many destructors that tasks still have to run belong to a module whose code and data
    /// lie in `memory`: their function is there, or the `dso_handle` they were registered with, or
    /// the object they destroy.
    ///
    /// A destructor that is running counts. Modules with thread-local variables ask
    /// [`Published::pending_destructors`] or [`Dynamic::pending_destructors`] instead, which know
    /// about objects in their blocks, too.
    ///
    /// The answer is of use to whoever wants to unload the module if nobody can enter it any more
    /// except by such destructors, and no frame of it was on a stack when this was called: then
    /// zero stays zero. Looking at the stacks first and asking this second is the right order.
    pub fn pending_destructors(&self, memory: &[Range<u64>]) -> usize {
        self.pending(memory, |_| None)
    }

    /// The same; `block` says which addresses of an area are the module's.
    fn pending(
        &self,
        memory: &[Range<u64>],
        block: impl Fn(AreaRef<'_>) -> Option<Range<u64>>,
    ) -> usize {
        let mut state = self.lock();
        state.live.settle(&self.inbox);
        let ready = state.live.iter().filter(|area| area.readiness.is_ready());
        let counts = ready.map(|area| {
            let block = block(area).unwrap_or_default();
            area.destructors.count(|entry: &Entry| {
                let object = entry.object.addr() as u64;
                let places = [entry.destructor as usize as u64, entry.module.addr() as u64, object];
                let there = |place| memory.iter().any(|range| range.contains(place));
                block.contains(&object) || places.iter().any(there)
            })
        });
        counts.sum()
    }
}

/// A number that was given out. Dropping it takes it back.
#[derive(Debug)]
struct Number<'r> {
    registry: &'r Registry,
    id: ModuleId,
}

impl Drop for Number<'_> {
    fn drop(&mut self) {
        let mut state = self.registry.lock();
        let released = state.modules.release(self.id);
        drop(state);
        drop(released);
    }
}

/// Space for a module's block. Dropping it gives the space back.
#[derive(Debug)]
pub struct Reserved<'r> {
    number: Number<'r>,
    block: Block,
}

impl<'r> Reserved<'r> {
    /// Where the block starts, in every area.
    pub fn offset(&self) -> TpOffset {
        self.block.offset()
    }

    /// The module's number.
    pub fn module(&self) -> ModuleId {
        self.number.id
    }

    /// Initialises the block in every live area, with `tdata` and zeroes after it, and has every
    /// later area start with it. The registry keeps a copy of `tdata`.
    ///
    /// # Errors
    /// `tdata` is longer than the block, or there is no memory for the image of new areas, which
    /// the first module needs. The space is given back then.
    pub fn publish(self, tdata: &[u8]) -> Result<Published<'r>, PublishError> {
        let Block { size, .. } = self.block;
        let image = tdata.len();
        if image > size {
            return Err(PublishError::ImageTooLarge { image, size });
        }
        let registry = self.number.registry;
        if size > 0 {
            registry.image.prepare().map_err(|_| PublishError::OutOfMemory { image })?;
        }
        let mut state = registry.lock();
        state.modules.set(self.number.id, Module::Static(self.block));
        registry.image.write(self.block, tdata);
        registry.image.set_used(state.modules.furthest());
        // After the image, so that no area falls between: one that is announced after this copies
        // the image as it is now.
        state.live.settle(&registry.inbox);
        for area in state.live.iter().filter(|area| area.readiness.visit()) {
            // SAFETY:
            // 1. The block is in the surplus, which every area has; `tdata` was checked above.
            // 2. The area is ready, so not its creator's, and cannot end while the lock is held;
            //    the block is reserved for a module whose code may not run before this returns.
            unsafe { area.fill(self.block, tdata) };
        }
        drop(state);
        Ok(Published { reserved: self })
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.number.registry.lock().surplus.give_back(self.block);
    }
}

/// A module whose block is in every area. Dropping it withdraws the module and gives its space
/// back, to be reserved by another; the module's code must not run any more by then.
#[derive(Debug)]
pub struct Published<'r> {
    reserved: Reserved<'r>,
}

impl Published<'_> {
    /// Where the block starts, in every area.
    pub fn offset(&self) -> TpOffset {
        self.reserved.offset()
    }

    /// The module's number, for code that asks `__tls_get_addr`.
    pub fn module(&self) -> ModuleId {
        self.reserved.module()
    }

    /// As [`Registry::pending_destructors`], those of objects in the module's blocks included,
    /// whoever's function destroys them.
    pub fn pending_destructors(&self, memory: &[Range<u64>]) -> usize {
        let Block { distance, size } = self.reserved.block;
        self.reserved.number.registry.pending(memory, |area| {
            let start = area.below(distance).addr() as u64;
            Some(start..start + size as u64)
        })
    }
}

impl Drop for Published<'_> {
    fn drop(&mut self) {
        let Number { registry, id } = self.reserved.number;
        registry.withdraw(id);
    }
}

/// A number for a dynamic module. Dropping it takes the number back.
#[derive(Debug)]
pub struct ReservedDynamic<'r> {
    number: Number<'r>,
    size: usize,
    memory: Layout,
}

impl<'r> ReservedDynamic<'r> {
    /// The module's number.
    pub fn module(&self) -> ModuleId {
        self.number.id
    }

    /// From now on, a task that accesses the module gets a block that starts with `tdata` and
    /// zeroes after it. The registry keeps a copy of `tdata`.
    ///
    /// # Errors
    /// `tdata` is longer than the block, or there is no memory for the copy. The number is taken
    /// back then.
    pub fn publish(self, tdata: &[u8]) -> Result<Dynamic<'r>, PublishError> {
        let tdata = copy_of(tdata, self.size)?;
        let image = Image { tdata, size: self.size, memory: self.memory };
        self.number.registry.lock().modules.set(self.number.id, Module::Dynamic(image));
        Ok(Dynamic { reserved: self })
    }
}

/// A module whose blocks are made when tasks need them. Dropping it withdraws the module and frees
/// its blocks; the module's code must not run any more by then.
#[derive(Debug)]
pub struct Dynamic<'r> {
    reserved: ReservedDynamic<'r>,
}

impl Dynamic<'_> {
    /// The module's number.
    pub fn module(&self) -> ModuleId {
        self.reserved.module()
    }

    /// Makes the module's block for every task that has an area, so that no access of those can
    /// fail for want of memory. Later tasks: [`Area::prepare_all`](crate::Area::prepare_all).
    ///
    /// # Errors
    /// There is no memory. Blocks that were made stay.
    pub fn prepare_live(&self) -> Result<(), AccessError> {
        let Number { registry, id } = self.reserved.number;
        registry.attempt(Spares::default(), |state, spares| {
            state.live.settle(&registry.inbox);
            let mut ready = state.live.iter().filter(|area| area.readiness.is_ready());
            ready.try_for_each(|area| registry.try_block(state, area, id, spares).map(|_| ()))
        })
    }

    /// As [`Registry::pending_destructors`], those of objects in the module's blocks included,
    /// whoever's function destroys them.
    pub fn pending_destructors(&self, memory: &[Range<u64>]) -> usize {
        let ReservedDynamic { number: Number { registry, id }, size, .. } = self.reserved;
        registry.pending(memory, |area| area.block_addresses(id, size))
    }
}

impl Drop for Dynamic<'_> {
    fn drop(&mut self) {
        let Number { registry, id } = self.reserved.number;
        registry.withdraw(id);
    }
}
