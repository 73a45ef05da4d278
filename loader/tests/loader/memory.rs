//! Memory from the host, low or far, with a record of what is mapped.

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use unspool_loader::{Access, MapError, Memory, PAGE};

/// Low memory from the host, with a record of what is mapped and of what never may happen.
#[derive(Default)]
pub struct HostMemory {
    /// Size and accesses (of each page) of each mapping.
    live: Mutex<BTreeMap<usize, Vec<Access>>>,
    pub maps: AtomicUsize,
    pub unmaps: AtomicUsize,
    /// Which call of `protect` fails, counted from 1.
    pub failing_protect: AtomicUsize,
    protects: AtomicUsize,
    /// Whether mappings lie far from each other, the program and low memory: beyond 32 bits.
    pub far: bool,
}

impl HostMemory {
    /// More than any test object needs, and little enough for a fuzzed size to be refused.
    const LIMIT: usize = 64 << 20;

    pub fn live(&self) -> usize {
        self.live.lock().unwrap().len()
    }

    /// The access of the page around `address`.
    pub fn access(&self, address: u64) -> Option<Access> {
        let live = self.live.lock().unwrap();
        let (start, pages) = live.range(..=address as usize).next_back()?;
        pages.get((address as usize - start) / PAGE).copied()
    }
}

// SAFETY: `mmap` gives pages that nobody else has, zeroed; the other calls name pages of it.
unsafe impl Memory for HostMemory {
    fn map(&self, size: usize) -> Result<NonNull<u8>, MapError> {
        assert!(size != 0 && size.is_multiple_of(PAGE));
        if size > Self::LIMIT {
            return Err(MapError::Exhausted { size });
        }
        let pages = if self.far { far_pages } else { low_pages };
        let start = pages(size).ok_or(MapError::Exhausted { size })?;
        self.maps.fetch_add(1, Ordering::Relaxed);
        let pages = vec![Access::ReadWrite; size / PAGE];
        self.live.lock().unwrap().insert(start.as_ptr() as usize, pages);
        Ok(start)
    }

    unsafe fn protect(
        &self,
        start: NonNull<u8>,
        size: usize,
        access: Access,
    ) -> Result<(), MapError> {
        let address = start.as_ptr() as usize;
        assert!(address.is_multiple_of(PAGE) && size.is_multiple_of(PAGE) && size != 0);
        let call = self.protects.fetch_add(1, Ordering::Relaxed) + 1;
        if call == self.failing_protect.load(Ordering::Relaxed) {
            return Err(MapError::Protect { start: address as u64, size, access });
        }
        let mut live = self.live.lock().unwrap();
        let (base, pages) = live.range_mut(..=address).next_back().unwrap();
        let first = (address - base) / PAGE;
        pages[first..first + size / PAGE].fill(access);
        let flags = match access {
            Access::Read => libc::PROT_READ,
            Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
            Access::ReadExecute => libc::PROT_READ | libc::PROT_EXEC,
        };
        // SAFETY: the caller's promise: pages of one of our mappings.
        let result = unsafe { libc::mprotect(start.as_ptr().cast(), size, flags) };
        assert_eq!(result, 0);
        Ok(())
    }

    unsafe fn unmap(&self, start: NonNull<u8>, size: usize) {
        let pages = self.live.lock().unwrap().remove(&(start.as_ptr() as usize));
        assert_eq!(pages.map(|pages| pages.len() * PAGE), Some(size), "not what was mapped");
        self.unmaps.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise: one whole mapping, no longer used.
        let result = unsafe { libc::munmap(start.as_ptr().cast(), size) };
        assert_eq!(result, 0);
    }
}

/// Fresh readable and writable pages below 2 GiB.
pub fn low_pages(size: usize) -> Option<NonNull<u8>> {
    let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
    pages(std::ptr::null_mut(), size, kind)
}

/// Fresh readable and writable pages, 8 GiB from others and farther from everything else.
fn far_pages(size: usize) -> Option<NonNull<u8>> {
    static NEXT: AtomicUsize = AtomicUsize::new(0x1234_5600_0000);
    let at = std::ptr::without_provenance_mut(NEXT.fetch_add(8 << 30, Ordering::Relaxed));
    let start = pages(at, size, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS)?;
    assert_eq!(start.as_ptr().addr(), at.addr(), "no place far from everything");
    Some(start)
}

fn pages(at: *mut libc::c_void, size: usize, kind: i32) -> Option<NonNull<u8>> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping where nothing is.
    let start = unsafe { libc::mmap(at, size, access, kind, -1, 0) };
    if start == libc::MAP_FAILED { None } else { NonNull::new(start.cast()) }
}
