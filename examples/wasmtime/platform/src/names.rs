//! Names of compiled functions, for traces.
//!
//! ```text
//!   places: │ text, functions │ free │ text, functions │ …      read without locks, in any handler
//! ```

use core::ops::Range;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};

use alloc::boxed::Box;
use alloc::vec::Vec;

use unspool::backtrace::{Symbol, Symbolize};

use crate::error::FramesError;
use crate::image::Function;

/// So many modules have names at once.
const CAPACITY: usize = 256;

/// Names of all modules that have [`JitFrames`](crate::JitFrames).
pub static NAMES: Names = Names { places: [const { Place::new() }; CAPACITY] };

/// Knows the names of functions of modules that are registered.
pub struct Names {
    places: [Place; CAPACITY],
}

struct Place {
    taken: AtomicBool,
    start: AtomicU64,
    /// Written last, and 0 while the others are not valid.
    end: AtomicU64,
    functions: AtomicPtr<Vec<Function<'static>>>,
}

impl Place {
    const fn new() -> Self {
        Self {
            taken: AtomicBool::new(false),
            start: AtomicU64::new(0),
            end: AtomicU64::new(0),
            functions: AtomicPtr::new(null_mut()),
        }
    }

    /// The functions, if `address` lies in the module's code.
    fn functions(&self, address: u64) -> Option<&[Function<'static>]> {
        let end = self.end.load(Ordering::SeqCst);
        let start = self.start.load(Ordering::SeqCst);
        let functions = self.functions.load(Ordering::SeqCst);
        if !(start..end).contains(&address) || self.end.load(Ordering::SeqCst) != end {
            return None;
        }
        // SAFETY: who registered the module promised that nobody asks for addresses in it any more
        // when the functions are freed; and the place had not changed.
        unsafe { functions.as_ref() }.map(Vec::as_slice)
    }
}

/// A place that is taken. Dropping it frees the names.
pub(crate) struct Named(&'static Place);

impl Named {
    /// Makes the functions of the code at `text` known.
    pub(crate) fn new(
        text: &Range<u64>,
        functions: Vec<Function<'static>>,
    ) -> Result<Self, FramesError> {
        let place = NAMES
            .places
            .iter()
            .find(|place| !place.taken.swap(true, Ordering::Acquire))
            .ok_or(FramesError::NamesFull { capacity: CAPACITY })?;
        place.functions.store(Box::into_raw(Box::new(functions)), Ordering::SeqCst);
        place.start.store(text.start, Ordering::SeqCst);
        place.end.store(text.end, Ordering::SeqCst);
        Ok(Self(place))
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        self.0.end.store(0, Ordering::SeqCst);
        let functions = self.0.functions.swap(null_mut(), Ordering::SeqCst);
        self.0.taken.store(false, Ordering::Release);
        // SAFETY: `new` made it of a box, and it was taken out once. Nobody looks at it: see `register`.
        drop(unsafe { Box::from_raw(functions) });
    }
}

impl Symbolize for Names {
    fn symbolize(&self, address: u64) -> Option<Symbol<'_>> {
        let functions = self.places.iter().find_map(|place| place.functions(address))?;
        let after = functions.partition_point(|function| function.start <= address);
        let found = functions[..after].last()?;
        (address - found.start < found.size).then_some(Symbol {
            name: found.name.into(),
            address: found.start,
            size: found.size,
        })
    }
}
