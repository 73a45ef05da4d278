//! Which module has which number.
//!
//! ```text
//!  number   1        2          3      4         …
//!           static   reserved   free   dynamic
//! ```
//!
//! Numbers are those of ELF (TLS module ids): from one, small, and given out again when a module
//! has left. No vector remembers a block of a number's former owner by then.
#![forbid(unsafe_code)]

use core::alloc::Layout;
use core::num::NonZeroUsize;

use alloc::vec::Vec;

use crate::error::OutOfMemory;
use crate::layout::Block;

/// A module's number: what `R_X86_64_DTPMOD64` stands for.
///
/// It is the module's from its reservation until it is dropped. A registry gives numbers of its
/// own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModuleId(NonZeroUsize);

impl ModuleId {
    /// The module with this number, if there can be one.
    pub const fn new(number: usize) -> Option<Self> {
        match NonZeroUsize::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The number.
    pub const fn get(self) -> usize {
        self.0.get()
    }
}

/// What a number stands for.
#[derive(Debug)]
pub(crate) enum Module {
    /// Not published yet, or withdrawn.
    Reserved,
    /// Its block is in every area.
    Static(Block),
    /// Its blocks are made when they are needed.
    Dynamic(Image),
}

/// What a block of a dynamic module starts with.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) tdata: Vec<u8>,
    /// In bytes, of `.tdata` and `.tbss`.
    pub(crate) size: usize,
    /// Of the memory of a block; not smaller than `size`.
    pub(crate) memory: Layout,
}

/// All modules by number.
#[derive(Debug)]
pub(crate) struct Modules {
    /// The module with number `n` is at `n − 1`.
    slots: Vec<Option<Module>>,
}

impl Modules {
    /// No modules.
    pub(crate) const fn new() -> Self {
        Self { slots: Vec::new() }
    }

    /// The number that is given out next.
    pub(crate) fn next(&self) -> ModuleId {
        let free = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        // No vector of words has as many entries as there are numbers.
        ModuleId(NonZeroUsize::MIN.saturating_add(free))
    }

    /// Gives out the next number.
    pub(crate) fn claim(&mut self) -> Result<ModuleId, OutOfMemory> {
        let id = self.next();
        match self.slots.get_mut(id.get() - 1) {
            Some(slot) => *slot = Some(Module::Reserved),
            None => {
                self.slots.try_reserve(1).map_err(|_| OutOfMemory)?;
                self.slots.push(Some(Module::Reserved));
            }
        }
        Ok(id)
    }

    /// The module with a number.
    pub(crate) fn get(&self, id: ModuleId) -> Option<&Module> {
        self.slots.get(id.get() - 1)?.as_ref()
    }

    /// Changes what a number that was given out stands for, and returns what it stood for.
    pub(crate) fn set(&mut self, id: ModuleId, module: Module) -> Option<Module> {
        self.slots.get_mut(id.get() - 1)?.replace(module)
    }

    /// Takes a number back.
    pub(crate) fn release(&mut self, id: ModuleId) -> Option<Module> {
        self.slots.get_mut(id.get() - 1)?.take()
    }

    /// The numbers of published dynamic modules.
    pub(crate) fn dynamic(&self) -> impl Iterator<Item = ModuleId> {
        let numbered = (1..).zip(&self.slots);
        numbered.filter_map(|(number, slot)| match slot {
            Some(Module::Dynamic(_)) => ModuleId::new(number),
            _ => None,
        })
    }

    /// How many numbers are given out.
    pub(crate) fn len(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    /// The distance of the furthest byte of a static module; zero if there is none.
    pub(crate) fn furthest(&self) -> usize {
        let distances = self.slots.iter().flatten().map(|module| match module {
            Module::Static(block) => block.distance,
            Module::Reserved | Module::Dynamic(_) => 0,
        });
        distances.max().unwrap_or(0)
    }
}
