//! Brings modules × live areas together: every module's block is in every area.
//!
//! ```text
//!              kernel   module A   module B
//!  area 1        ■         ■          ■      ▲ new_area fills a row
//!  area 2        ■         ■          ■      │
//!  area 3        ■         ■          ■      ▼
//!                          ◄─ publish fills a column ─►
//! ```
//!
//! Both happen under one lock, so that no area can miss a module or a module an area.

use core::alloc::Layout;

use alloc::vec::Vec;

use spin::Mutex;

use crate::area::{AreaMemory, Tcb, ThreadPointer, fill};
use crate::error::{AreaError, LayoutError, PublishError, ReserveError};
use crate::layout::{AreaLayout, Block, Surplus, Template, TpOffset};
use crate::live::LiveList;

/// All modules with thread-local variables, and all areas that hold them.
#[derive(Debug)]
pub struct Registry {
    kernel: Template<'static>,
    layout: AreaLayout,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    surplus: Surplus,
    /// Published, with at least one byte each, in no particular order.
    modules: Vec<Module>,
    live: LiveList,
}

/// A published module: what its block in a new area starts with.
#[derive(Debug)]
struct Module {
    block: Block,
    tdata: Vec<u8>,
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
        match AreaLayout::new(&kernel, surplus, Layout::new::<Tcb>()) {
            Ok(layout) => {
                let surplus = Surplus::new(layout.surplus());
                let state = State { surplus, modules: Vec::new(), live: LiveList::new() };
                Ok(Self { kernel, layout, state: Mutex::new(state) })
            }
            Err(error) => Err(error),
        }
    }

    /// An area for a new task, in one allocation: the kernel's block and those of all published
    /// modules in their initial state, `canary` at `fs:0x28`.
    ///
    /// # Errors
    /// The allocator has no memory for it.
    pub fn new_area(&self, canary: u64) -> Result<Area<'_>, AreaError> {
        let memory = AreaMemory::allocate(&self.layout, canary)?;
        let tcb = memory.thread_pointer().tcb();
        // SAFETY:
        // 1. The layout has this block in every area, and a template's image fits its size.
        // 2. The area is new, so nobody else knows it.
        unsafe { fill(tcb, self.layout.kernel(), self.kernel.tdata()) };
        let mut state = self.state.lock();
        for module in &state.modules {
            // SAFETY: As above; a module's block is in the surplus, and `publish` checked the
            // image against it.
            unsafe { fill(tcb, module.block, &module.tdata) };
        }
        // SAFETY: `allocate` initialised the TCB; `Area` owns its memory, and leaves the list
        // before giving it back.
        unsafe { state.live.join(tcb) };
        drop(state);
        Ok(Area { registry: self, memory })
    }

    /// Space for a later module's block of `size` bytes aligned to `align` (zero means one) in
    /// every area, those that exist and those to come.
    ///
    /// # Errors
    /// A bad alignment, or no space; see [`ReserveError`].
    pub fn reserve(&self, size: usize, align: usize) -> Result<Reserved<'_>, ReserveError> {
        let align = align.max(1);
        if !align.is_power_of_two() {
            return Err(ReserveError::BadAlignment(align));
        }
        let area = self.layout.memory().align();
        if align > area {
            return Err(ReserveError::AlignmentTooLarge { needed: align, area });
        }
        let block = self.state.lock().surplus.take(size, align)?;
        Ok(Reserved { registry: self, block })
    }

    /// Where the kernel's own block starts: a variable of the kernel that lies `n` bytes into its
    /// `PT_TLS` segment (its `st_value`) is at this offset plus `n`.
    pub const fn kernel_offset(&self) -> TpOffset {
        self.layout.kernel().offset()
    }

    /// How many areas there are.
    pub fn live_areas(&self) -> usize {
        self.state.lock().live.len()
    }

    /// Bytes of the surplus that are neither reserved nor published, all gaps together.
    pub fn surplus_free(&self) -> usize {
        self.state.lock().surplus.free()
    }
}

/// One task's area. Dropping it takes it off the registry and frees it; destructors that are
/// still registered are forgotten, so run them first.
#[derive(Debug)]
pub struct Area<'r> {
    registry: &'r Registry,
    memory: AreaMemory,
}

// SAFETY: An area is memory from the global allocator and belongs to no processor. What is
// confined to its task, the destructors, is out of reach from here; whoever loads the thread
// pointer promises not to drop the area while the task may use it.
unsafe impl Send for Area<'_> {}
// SAFETY: A shared area only tells its thread pointer.
unsafe impl Sync for Area<'_> {}

impl Area<'_> {
    /// What makes this area the running task's own, once it is in the FS base.
    pub fn thread_pointer(&self) -> ThreadPointer {
        self.memory.thread_pointer()
    }
}

impl Drop for Area<'_> {
    fn drop(&mut self) {
        let tcb = self.memory.thread_pointer().tcb();
        // SAFETY: `new_area` put it on the list of the same registry, and only this takes it off.
        unsafe { self.registry.state.lock().live.leave(tcb) };
    }
}

/// Space for a module's block. Dropping it gives the space back.
#[derive(Debug)]
pub struct Reserved<'r> {
    registry: &'r Registry,
    block: Block,
}

impl<'r> Reserved<'r> {
    /// Where the block starts, in every area.
    pub fn offset(&self) -> TpOffset {
        self.block.offset()
    }

    /// Initialises the block in every live area, with `tdata` and zeroes after it, and has every
    /// later area start with it. The registry keeps a copy of `tdata`.
    ///
    /// # Errors
    /// `tdata` is longer than the block, or there is no memory for the copy. The space is given
    /// back then.
    pub fn publish(self, tdata: &[u8]) -> Result<Published<'r>, PublishError> {
        let Block { size, .. } = self.block;
        let image = tdata.len();
        if image > size {
            return Err(PublishError::ImageTooLarge { image, size });
        }
        if size == 0 {
            return Ok(Published { reserved: self });
        }
        let no_memory = |_| PublishError::OutOfMemory { image };
        let mut copy = Vec::new();
        copy.try_reserve_exact(image).map_err(no_memory)?;
        copy.extend_from_slice(tdata);
        let mut state = self.registry.state.lock();
        state.modules.try_reserve(1).map_err(no_memory)?;
        state.modules.push(Module { block: self.block, tdata: copy });
        for tcb in state.live.iter() {
            // SAFETY:
            // 1. The block is in the surplus, which every area has; `tdata` was checked above.
            // 2. The block is reserved for a module whose code may not run before this returns.
            unsafe { fill(tcb, self.block, tdata) };
        }
        drop(state);
        Ok(Published { reserved: self })
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.registry.state.lock().surplus.give_back(self.block);
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
}

impl Drop for Published<'_> {
    fn drop(&mut self) {
        let Reserved { registry, block } = self.reserved;
        let mut state = registry.state.lock();
        let module = state.modules.iter().position(|module| module.block == block);
        let withdrawn = module.map(|index| state.modules.swap_remove(index));
        drop(state);
        drop(withdrawn);
    }
}

#[cfg(test)]
mod tests;
