//! What a panic needs when the heap has nothing: a place for the exception, and a message.
//!
//! ```text
//!   task: │ place │ place │ a boxed `&str` │ a boxed `String` with room for 256 bytes │
//!            └── taken first, no heap ──┘      └── taken when the heap refuses ──┘
//!   all:  │ place × 8 │   deeper nesting than that, with memory exhausted
//! ```
//!
//! Promise: with a task whose spares are [filled](crate::TaskState::prepare), a panic and one within
//! its cleanup need no allocation, and the first message is a payload as in std.
#![expect(
    clippy::box_collection,
    clippy::redundant_allocation,
    reason = "what a payload is: a box of a string, or of a reference to one"
)]

use alloc::alloc::{Layout, alloc};
use alloc::boxed::Box;
use alloc::string::String;
use core::cell::UnsafeCell;
use core::fmt;
use core::mem::MaybeUninit;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use crate::payload::RustException;

/// Bytes of a message that finds no memory. Most of std's own are shorter.
pub(crate) const MESSAGE: usize = 256;

/// Why a task's spares could not be filled: the heap has no room for so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// Bytes asked for.
    pub size: usize,
}

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no {} bytes are left on the heap for a task's panics", self.size)
    }
}

impl core::error::Error for OutOfMemory {}

/// A place for an exception that needs no heap.
pub(crate) struct Place {
    taken: AtomicBool,
    exception: UnsafeCell<MaybeUninit<RustException>>,
}

// SAFETY: `exception` is used only by whoever set `taken`, and payloads are `Send`.
unsafe impl Sync for Place {}
// SAFETY: a place is moved only while nobody has taken it: then it is bytes.
unsafe impl Send for Place {}

/// For panics that nest deeper than a task has places, with memory exhausted.
static COMMON: [Place; 8] = [const { Place::new() }; 8];

impl Place {
    const fn new() -> Self {
        Self { taken: AtomicBool::new(false), exception: UnsafeCell::new(MaybeUninit::uninit()) }
    }

    /// One of those that all tasks have in common.
    pub(crate) fn common() -> Option<&'static Self> {
        COMMON.iter().find(|place| place.take())
    }

    fn take(&self) -> bool {
        !self.taken.load(Ordering::Relaxed) && !self.taken.swap(true, Ordering::Acquire)
    }

    /// Where the exception goes, for whoever has taken it.
    pub(crate) fn address(&self) -> NonNull<RustException> {
        NonNull::from(&self.exception).cast()
    }

    /// Whoever has taken it needs it no longer.
    pub(crate) fn give_back(&self) {
        self.taken.store(false, Ordering::Release);
    }
}

/// A task's own.
pub(crate) struct Spares {
    /// For a panic, and for one in its cleanup that is caught there.
    places: [Place; 2],
    literal: AtomicPtr<&'static str>,
    text: AtomicPtr<String>,
    /// One was used, and may be made again.
    used: AtomicBool,
}

impl Spares {
    pub(crate) const fn new() -> Self {
        Self {
            places: [const { Place::new() }; 2],
            literal: AtomicPtr::new(null_mut()),
            text: AtomicPtr::new(null_mut()),
            used: AtomicBool::new(false),
        }
    }

    /// A place that nobody else has until it is given back.
    pub(crate) fn place(&self) -> Option<&Place> {
        self.places.iter().find(|place| place.take())
    }

    /// A box for a literal message.
    pub(crate) fn literal(&self, text: &'static str) -> Option<Box<&'static str>> {
        let mut spare = self.take(&self.literal)?;
        *spare = text;
        Some(spare)
    }

    /// An empty string that holds [`MESSAGE`] bytes without asking for more.
    pub(crate) fn text(&self) -> Option<Box<String>> {
        self.take(&self.text)
    }

    fn take<T>(&self, from: &AtomicPtr<T>) -> Option<Box<T>> {
        let spare = NonNull::new(from.swap(null_mut(), Ordering::Acquire))?;
        self.used.store(true, Ordering::Relaxed);
        // SAFETY: `fill` puts only what `Box::into_raw` returned there, and the swap gives it to one.
        Some(unsafe { Box::from_raw(spare.as_ptr()) })
    }

    /// Makes what is missing.
    pub(crate) fn fill(&self) -> Result<(), OutOfMemory> {
        put(&self.literal, || try_box(""))?;
        put(&self.text, || {
            let mut text = String::new();
            text.try_reserve_exact(MESSAGE).map_err(|_| OutOfMemory { size: MESSAGE })?;
            try_box(text)
        })
    }

    /// Makes what was used, if that can be.
    pub(crate) fn refill(&self) {
        if self.used.load(Ordering::Relaxed) && self.fill().is_ok() {
            self.used.store(false, Ordering::Relaxed);
        }
    }
}

fn put<T>(
    place: &AtomicPtr<T>,
    make: impl FnOnce() -> Result<Box<T>, OutOfMemory>,
) -> Result<(), OutOfMemory> {
    if !place.load(Ordering::Relaxed).is_null() {
        return Ok(());
    }
    let made = Box::into_raw(make()?);
    let was = place.compare_exchange(null_mut(), made, Ordering::Release, Ordering::Relaxed);
    if was.is_err() {
        // SAFETY: from `into_raw` above, and nobody else has seen it.
        drop(unsafe { Box::from_raw(made) });
    }
    Ok(())
}

impl Drop for Spares {
    fn drop(&mut self) {
        drop(self.take(&self.literal));
        drop(self.take(&self.text));
    }
}

impl Default for Spares {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Spares {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spares").field("used", &self.used).finish_non_exhaustive()
    }
}

/// `Box::new` that can fail.
pub(crate) fn try_box<T>(value: T) -> Result<Box<T>, OutOfMemory> {
    let layout = Layout::new::<T>();
    const { assert!(size_of::<T>() != 0, "a box of nothing needs no memory") };
    // SAFETY: the layout has a size, checked at compile time.
    let place = NonNull::new(unsafe { alloc(layout) }.cast::<T>());
    let place = place.ok_or(OutOfMemory { size: layout.size() })?;
    // SAFETY: just allocated with the layout of `T`.
    unsafe { place.write(value) };
    // SAFETY: a valid `T` from the global allocator, with `T`'s layout.
    Ok(unsafe { Box::from_raw(place.as_ptr()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_given_once_and_can_be_given_back() {
        let spares = Spares::new();
        let first = spares.place().unwrap();
        let second = spares.place().unwrap();
        assert!(!core::ptr::eq(first, second));
        assert!(spares.place().is_none());
        first.give_back();
        assert!(core::ptr::eq(spares.place().unwrap(), first));
    }

    #[test]
    fn a_spare_is_given_once_and_made_again() {
        let spares = Spares::new();
        assert!(spares.literal("never filled").is_none());
        spares.fill().unwrap();
        assert_eq!(spares.literal("words").as_deref(), Some(&"words"));
        assert!(spares.literal("more words").is_none());
        let text = spares.text().unwrap();
        assert!(text.is_empty() && text.capacity() >= MESSAGE);
        spares.refill();
        assert!(spares.literal("again").is_some() && spares.text().is_some());
    }

    #[test]
    fn what_was_never_used_is_not_filled_by_the_way() {
        let spares = Spares::new();
        spares.refill();
        assert!(spares.text().is_none());
    }
}
