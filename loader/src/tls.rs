//! Where an object's thread-local variables live: in the surplus, or in blocks made on first use.
//!
//! ```text
//!   needs ──► Space ─────────────── relocate ───────────► Storage            drop: withdrawn
//!             │ a fixed distance from TP: reserved ──────► published in every task
//!             └ none left, none needed: a number ──────► blocks made on first use
//! ```
//!
//! Promise: code that has a distance from TP in it gets one or is not loaded; code that asks
//! `__tls_get_addr` or a TLS descriptor is loaded also when the surplus is full, and asks then.

use core::ops::Range;
use core::ptr::with_exposed_provenance;

use unspool_tls::{
    Dynamic, ModuleId, Published, Registry, ReserveError, Reserved, ReservedDynamic, TpOffset,
};

use crate::error::Cause;
use crate::placement::TlsBlock;
use crate::symbols::Value;

/// Where the block of an object being loaded will be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Block {
    /// This many bytes from TP. An object without variables counts as one at TP.
    Static(i64),
    /// Somewhere else in every task.
    Dynamic(ModuleId),
}

impl Block {
    /// What a symbol means that lies `offset` bytes into the block.
    pub fn at(self, offset: i32) -> Value {
        match self {
            Self::Static(start) => Value::Tls(start + i64::from(offset)),
            Self::Dynamic(module) => Value::Dynamic { module, offset },
        }
    }

    /// What `x@dtpoff` is relative to in relocated code: TP, or the start of the block.
    pub fn base(self) -> Value {
        match self {
            Self::Static(_) => Value::Tls(0),
            Self::Dynamic(module) => Value::Dynamic { module, offset: 0 },
        }
    }
}

/// Space for the block of an object being loaded.
pub(crate) enum Space<'k> {
    /// None: there are no variables.
    Nothing(&'k Registry),
    /// In the surplus.
    Static(Reserved<'k>),
    /// Not in the surplus.
    Dynamic(ReservedDynamic<'k>),
}

impl<'k> Space<'k> {
    /// Finds space. `fixed`: whether the code needs it at a fixed distance from TP. `numbered`:
    /// whether it needs a module even if there are no variables.
    pub fn find(
        tls: &'k Registry,
        of: &TlsBlock,
        fixed: bool,
        numbered: bool,
    ) -> Result<Self, Cause> {
        if of.size == 0 && !numbered {
            return Ok(Self::Nothing(tls));
        }
        match tls.reserve(of.size, of.align) {
            Ok(reserved) => Ok(Self::Static(reserved)),
            Err(ReserveError::SurplusExhausted { .. }) if !fixed => {
                Ok(Self::Dynamic(tls.reserve_dynamic(of.size, of.align)?))
            }
            Err(error) => Err(error.into()),
        }
    }

    pub fn block(&self) -> Block {
        match self {
            Self::Nothing(_) => Block::Static(0),
            Self::Static(reserved) => Block::Static(reserved.offset().get().into()),
            Self::Dynamic(reserved) => Block::Dynamic(reserved.module()),
        }
    }

    /// The number of the module, if there is one.
    pub fn module(&self) -> Option<ModuleId> {
        match self {
            Self::Nothing(_) => None,
            Self::Static(reserved) => Some(reserved.module()),
            Self::Dynamic(reserved) => Some(reserved.module()),
        }
    }

    /// Hands the block to the tasks. `image` are its initial values.
    pub fn publish(self, image: &[u8]) -> Result<Storage<'k>, Cause> {
        Ok(match self {
            Self::Nothing(tls) => Storage::Nothing(tls),
            Self::Static(reserved) => Storage::Static(reserved.publish(image)?),
            Self::Dynamic(reserved) => Storage::Dynamic(reserved.publish(image)?),
        })
    }
}

/// The block of an object that is loaded. Dropping it withdraws the block.
pub(crate) enum Storage<'k> {
    Nothing(&'k Registry),
    Static(Published<'k>),
    Dynamic(Dynamic<'k>),
}

impl Storage<'_> {
    /// The number of the module, if there are variables.
    pub fn module(&self) -> Option<ModuleId> {
        match self {
            Self::Nothing(_) => None,
            Self::Static(module) => Some(module.module()),
            Self::Dynamic(module) => Some(module.module()),
        }
    }

    /// How many destructors tasks have yet to run, or are running, that belong to an object in
    /// this memory: by their code, by what they destroy, or by the object's `__dso_handle`.
    pub fn pending_destructors(&self, memory: Range<u64>) -> usize {
        match self {
            Self::Nothing(tls) => tls.pending_destructors(&[memory]),
            Self::Static(module) => module.pending_destructors(&[memory]),
            Self::Dynamic(module) => module.pending_destructors(&[memory]),
        }
    }
}

/// The descriptor of a variable this many bytes from TP.
pub(crate) fn static_descriptor(offset: i64) -> [u64; 2] {
    unspool_tls::static_descriptor(TpOffset::ZERO, offset.cast_unsigned())
}

/// The descriptor of a variable whose module and offset stand at the address `pair`.
pub(crate) fn dynamic_descriptor(pair: u64) -> [u64; 2] {
    unspool_tls::dynamic_descriptor(with_exposed_provenance(pair as usize))
}
