//! Memory for one input, in which every step outside is a fault.
//!
//! ```text
//!   │ no access │        … input │ no access │     or     │ no access │ input …        │ no access │
//! ```

use std::ptr::{NonNull, null_mut};
use std::slice;

const PAGE: usize = 4096;
/// More than any input has.
pub const SIZE: usize = 16 * PAGE;

/// A place between two pages that nobody can touch.
pub struct Room(NonNull<u8>);

impl Room {
    pub fn new() -> Self {
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: a new mapping where nothing is.
        let all = unsafe { libc::mmap(null_mut(), SIZE + 2 * PAGE, libc::PROT_NONE, kind, -1, 0) };
        assert_ne!(all, libc::MAP_FAILED);
        // SAFETY: inside the mapping.
        let start = unsafe { all.byte_add(PAGE) };
        // SAFETY: pages of the mapping.
        let result = unsafe { libc::mprotect(start, SIZE, libc::PROT_READ | libc::PROT_WRITE) };
        assert_eq!(result, 0);
        Self(NonNull::new(start.cast()).expect("a mapping"))
    }

    /// Puts an input directly before the page behind, or directly behind the page before.
    pub fn put(&mut self, input: &[u8], at_the_end: bool) -> &[u8] {
        assert!(input.len() <= SIZE);
        let offset = if at_the_end { SIZE - input.len() } else { 0 };
        // SAFETY: inside the room, which is only borrowed here.
        let place = unsafe { slice::from_raw_parts_mut(self.0.add(offset).as_ptr(), input.len()) };
        place.copy_from_slice(input);
        place
    }
}
