//! Memory in which every step outside is a fault.
//!
//! ```text
//!   │ no access │ a loaded object │ no access │         │ … a file │ no access │
//! ```
//!
//! What is loaded here is not run: text is mapped as if it were read-only data.

use std::collections::BTreeMap;
use std::ptr::{NonNull, null_mut};
use std::sync::Mutex;

use unspool_loader::{Access, MapError, Memory, PAGE};

use crate::heap;

/// Pages for objects, and which of the calls to get or protect them is to fail.
#[derive(Default)]
pub struct Guarded(Mutex<State>);

#[derive(Default)]
struct State {
    /// Sizes of the mappings.
    live: BTreeMap<usize, usize>,
    calls: usize,
    failing: Option<usize>,
}

impl Guarded {
    /// More than any of the objects needs.
    const LIMIT: usize = 16 << 20;

    /// The call with number `failing` (from 1) fails.
    pub fn new(failing: Option<usize>) -> Self {
        Self(Mutex::new(State { failing, ..State::default() }))
    }

    /// How many mappings there are.
    pub fn live(&self) -> usize {
        self.0.lock().unwrap().live.len()
    }

    /// Whether the byte belongs to a mapping.
    pub fn has(&self, address: u64) -> bool {
        let state = self.0.lock().unwrap();
        let below = state.live.range(..=address as usize).next_back();
        below.is_some_and(|(start, size)| (address as usize) < start + size)
    }
}

impl State {
    fn fails(&mut self) -> bool {
        self.calls += 1;
        self.failing == Some(self.calls)
    }
}

/// `size` bytes below 2 GiB between pages that nobody can touch.
pub fn low_pages(size: usize) -> Option<NonNull<u8>> {
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT | libc::MAP_NORESERVE;
    // SAFETY: a new mapping where nothing is.
    let all = unsafe { libc::mmap(null_mut(), size + 2 * PAGE, libc::PROT_NONE, kind, -1, 0) };
    let all = NonNull::new(all.cast::<u8>()).filter(|_| all != libc::MAP_FAILED)?;
    // SAFETY: inside the mapping.
    let start = unsafe { all.add(PAGE) };
    protect(start, size, libc::PROT_READ | libc::PROT_WRITE);
    Some(start)
}

fn protect(start: NonNull<u8>, size: usize, access: libc::c_int) {
    // SAFETY: pages of a mapping of `low_pages`, as its callers see to.
    assert_eq!(unsafe { libc::mprotect(start.as_ptr().cast(), size, access) }, 0);
}

// SAFETY: `mmap` gives pages that nobody else has, zeroed; the other calls name pages of it.
unsafe impl Memory for Guarded {
    fn map(&self, size: usize) -> Result<NonNull<u8>, MapError> {
        assert!(size != 0 && size.is_multiple_of(PAGE));
        let mut state = self.0.lock().unwrap();
        if state.fails() || size > Self::LIMIT {
            return Err(MapError::Exhausted { size });
        }
        let start = low_pages(size).ok_or(MapError::Exhausted { size })?;
        // Its records are not the loader's.
        heap::untouched(|| state.live.insert(start.addr().get(), size));
        Ok(start)
    }

    unsafe fn protect(
        &self,
        start: NonNull<u8>,
        size: usize,
        access: Access,
    ) -> Result<(), MapError> {
        let address = start.addr().get();
        assert!(address.is_multiple_of(PAGE) && size.is_multiple_of(PAGE) && size != 0);
        let mut state = self.0.lock().unwrap();
        let (base, all) = state.live.range(..=address).next_back().expect("it is mapped");
        assert!(address + size <= base + all, "more than was mapped");
        if state.fails() {
            return Err(MapError::Protect { start: address as u64, size, access });
        }
        let read = libc::PROT_READ;
        protect(
            start,
            size,
            if access == Access::ReadWrite { read | libc::PROT_WRITE } else { read },
        );
        Ok(())
    }

    unsafe fn unmap(&self, start: NonNull<u8>, size: usize) {
        let found = self.0.lock().unwrap().live.remove(&start.addr().get());
        assert_eq!(found, Some(size), "not what was mapped");
        // SAFETY: the page that `low_pages` mapped before it.
        let all = unsafe { start.sub(PAGE) };
        // SAFETY: the caller's promise: no longer used; with the pages around it.
        assert_eq!(unsafe { libc::munmap(all.as_ptr().cast(), size + 2 * PAGE) }, 0);
    }
}

/// Room for a file at the very end of what may be read.
pub struct Room {
    start: NonNull<u8>,
    size: usize,
}

impl Room {
    /// For files of up to `size` bytes.
    pub fn new(size: usize) -> Self {
        let size = size.next_multiple_of(PAGE);
        Self { start: low_pages(size).expect("there is memory"), size }
    }

    /// Puts a file there, as much of it as there is room for.
    pub fn put(&mut self, file: &[u8]) -> &[u8] {
        let len = file.len().min(self.size);
        // SAFETY: the mapping is ours alone, and as large as that.
        let all = unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.size) };
        let end = &mut all[self.size - len..];
        end.copy_from_slice(&file[..len]);
        end
    }
}
