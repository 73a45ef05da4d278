//! The atomic types of what `models` checks with others.
#![forbid(unsafe_code)]

pub(crate) use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
