//! Vectors and strings that are made only if there is memory for them.
//!
//! ```text
//!   filled(value, n) ──► n values          push(to, value) ──► one more          or TryReserveError
//! ```
//!
//! Promise: nothing here panics for want of memory, which for a loader is an error like others.
#![forbid(unsafe_code)]

use alloc::collections::TryReserveError;
use alloc::string::String;
use alloc::vec::Vec;

/// An empty vector with room for exactly `count`.
pub(crate) fn room<T>(count: usize) -> Result<Vec<T>, TryReserveError> {
    let mut vector = Vec::new();
    vector.try_reserve_exact(count)?;
    Ok(vector)
}

/// So many copies of a value.
pub(crate) fn filled<T: Clone>(value: T, count: usize) -> Result<Vec<T>, TryReserveError> {
    let mut vector = room(count)?;
    vector.resize(count, value);
    Ok(vector)
}

/// Adds a value at the end.
pub(crate) fn push<T>(to: &mut Vec<T>, value: T) -> Result<(), TryReserveError> {
    to.try_reserve(1)?;
    to.push(value);
    Ok(())
}

/// Texts, one after the other.
pub(crate) fn joined(texts: &[&str]) -> Result<String, TryReserveError> {
    let mut all = String::new();
    all.try_reserve_exact(texts.iter().map(|text| text.len()).sum())?;
    texts.iter().for_each(|text| all.push_str(text));
    Ok(all)
}
