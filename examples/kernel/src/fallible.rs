//! Memory for what a task is made of, or an error.
//!
//! ```text
//!   shared(task) ──► Arc<Task>       or OutOfMemory       nightly: Arc::try_new
//!   boxed(body)  ──► Box<Body>       or OutOfMemory       stable:  Arc::new, Box::new
//! ```
//!
//! Promise: with the feature `lang-items`, nothing here panics. Stable Rust has no `Arc` that says
//! there is no memory for it; a kernel on stable Rust ends there, with panics that abort anyway.

use alloc::boxed::Box;
use alloc::sync::Arc;

use crate::error::Error;

/// `value`, to be shared.
#[cfg(feature = "lang-items")]
pub(crate) fn shared<T>(value: T) -> Result<Arc<T>, Error> {
    Arc::try_new(value).map_err(|_| Error::out_of_memory_for::<T>())
}

/// `value`, in a box.
#[cfg(feature = "lang-items")]
pub(crate) fn boxed<T>(value: T) -> Result<Box<T>, Error> {
    Box::try_new(value).map_err(|_| Error::out_of_memory_for::<T>())
}

/// `value`, to be shared.
#[cfg(not(feature = "lang-items"))]
pub(crate) fn shared<T>(value: T) -> Result<Arc<T>, Error> {
    Ok(Arc::new(value))
}

/// `value`, in a box.
#[cfg(not(feature = "lang-items"))]
pub(crate) fn boxed<T>(value: T) -> Result<Box<T>, Error> {
    Ok(Box::new(value))
}
