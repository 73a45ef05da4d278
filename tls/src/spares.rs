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

use crate::blocks::Chunk;
use crate::dtv::Vector;
use crate::error::AccessError;
use crate::registry::{Registry, State};

/// Why an attempt has to end.
#[derive(Debug)]
pub(crate) enum Lack {
    /// A vector of this capacity.
    Vector(usize),
    /// A chunk with room for a block with this layout.
    Chunk(Layout),
    /// Something that allocating does not help with.
    Final(AccessError),
}

/// What was allocated for the next attempt.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    vector: Option<Vector>,
    chunk: Option<Chunk>,
}

impl Spares {
    /// A vector of this capacity.
    pub(crate) fn vector(&mut self, capacity: usize) -> Result<Vector, Lack> {
        let fits = |vector: &mut Vector| vector.entries().len() == capacity;
        self.vector.take_if(fits).ok_or(Lack::Vector(capacity))
    }

    /// A chunk with room for a block of this layout.
    pub(crate) fn chunk(&mut self, block: Layout) -> Result<Chunk, Lack> {
        self.chunk.take_if(|chunk| chunk.fits(block)).ok_or(Lack::Chunk(block))
    }

    /// Allocates what was lacking. What is there but did not fit is freed.
    fn provide(&mut self, lack: Lack) -> Result<(), AccessError> {
        match lack {
            Lack::Vector(capacity) => self.vector = Some(Vector::allocate(capacity)?),
            Lack::Chunk(block) => self.chunk = Some(Chunk::allocate(block)?),
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
