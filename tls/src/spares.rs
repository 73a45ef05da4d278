//! Allocates before the lock what is needed under it.
//!
//! ```text
//!  lock ─► attempt ─► done
//!   ▲         │ lacks a vector of 64 words
//!   └─ allocate it, without the lock
//! ```
//!
//! An attempt that lacks something leaves everything consistent and is made again from its start,
//! because all may have changed meanwhile.

use core::alloc::Layout;

use crate::blocks::OwnedBlock;
use crate::dtv::Vector;
use crate::error::AccessError;
use crate::registry::{Registry, State};

/// Why an attempt has to end.
#[derive(Debug)]
pub(crate) enum Lack {
    /// A vector of this capacity.
    Vector(usize),
    /// A block with this layout.
    Block(Layout),
    /// Something that allocating does not help with.
    Final(AccessError),
}

/// What was allocated for the next attempt.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    vector: Option<Vector>,
    block: Option<OwnedBlock>,
}

impl Spares {
    /// A vector of this capacity.
    pub(crate) fn vector(&mut self, capacity: usize) -> Result<Vector, Lack> {
        let fits = |vector: &mut Vector| vector.entries().len() == capacity;
        self.vector.take_if(fits).ok_or(Lack::Vector(capacity))
    }

    /// A block of this layout.
    pub(crate) fn block(&mut self, memory: Layout) -> Result<OwnedBlock, Lack> {
        let fits = |block: &mut OwnedBlock| block.memory() == memory;
        self.block.take_if(fits).ok_or(Lack::Block(memory))
    }

    /// A block beforehand. That there is no memory shows when it is lacking.
    pub(crate) fn guess(memory: Option<Layout>) -> Self {
        let block = memory.and_then(|memory| OwnedBlock::allocate(memory).ok());
        Self { vector: None, block }
    }

    /// Allocates what was lacking. What is there but did not fit is freed.
    fn provide(&mut self, lack: Lack) -> Result<(), AccessError> {
        match lack {
            Lack::Vector(capacity) => self.vector = Some(Vector::allocate(capacity)?),
            Lack::Block(memory) => self.block = Some(OwnedBlock::allocate(memory)?),
            Lack::Final(error) => return Err(error),
        }
        Ok(())
    }
}

impl Registry {
    /// Makes an attempt under the lock, again and again until it lacks nothing.
    pub(crate) fn attempt<R>(
        &self,
        mut spares: Spares,
        mut attempt: impl FnMut(&mut State, &mut Spares) -> Result<R, Lack>,
    ) -> Result<R, AccessError> {
        loop {
            let made = attempt(&mut self.lock(), &mut spares);
            match made {
                Ok(made) => return Ok(made),
                Err(lack) => spares.provide(lack)?,
            }
        }
    }
}
