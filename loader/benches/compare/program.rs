//! What a kernel supplies to the loader, on top of Linux.

use std::error::Error;
use std::ffi::c_int;
use std::ops::Range;
use std::ptr::{NonNull, null_mut};
use std::sync::Mutex;

use unspool_loader::{Access, MapError, Memory, Stacks, Symbols};

/// This process.
pub struct Process;

// SAFETY: `mmap` gives pages that nobody else has, zeroed; the other calls name pages of it.
unsafe impl Memory for Process {
    fn map(&self, size: usize) -> Result<NonNull<u8>, MapError> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // As a kernel's, the pages are there when they are mapped.
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
        // SAFETY: a new mapping where nothing is.
        let start = unsafe { libc::mmap(null_mut(), size, access, kind, -1, 0) };
        let start = Some(start).filter(|&start| start != libc::MAP_FAILED);
        start.and_then(|start| NonNull::new(start.cast())).ok_or(MapError::Exhausted { size })
    }

    unsafe fn protect(
        &self,
        start: NonNull<u8>,
        size: usize,
        access: Access,
    ) -> Result<(), MapError> {
        let flags: c_int = match access {
            Access::Read => libc::PROT_READ,
            Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
            Access::ReadExecute => libc::PROT_READ | libc::PROT_EXEC,
        };
        // SAFETY: the caller's promise: pages of one of our mappings.
        match unsafe { libc::mprotect(start.as_ptr().cast(), size, flags) } {
            0 => Ok(()),
            _ => Err(MapError::Protect { start: start.as_ptr().addr() as u64, size, access }),
        }
    }

    unsafe fn unmap(&self, start: NonNull<u8>, size: usize) {
        // SAFETY: the caller's promise: one whole mapping, no longer used.
        let result = unsafe { libc::munmap(start.as_ptr().cast(), size) };
        assert_eq!(result, 0);
    }
}

/// This process, which keeps the pages it got, as a kernel keeps its frames.
#[derive(Default)]
pub struct Keeping(Mutex<Vec<(usize, usize)>>);

// SAFETY: as for `Process`; what it kept is nobody's, and is zeroed before it is given out again.
unsafe impl Memory for Keeping {
    fn map(&self, size: usize) -> Result<NonNull<u8>, MapError> {
        let mut kept = self.0.lock().expect("nobody panics here");
        let Some(place) = kept.iter().position(|&(_, bytes)| bytes == size) else {
            return Process.map(size);
        };
        let (start, _) = kept.swap_remove(place);
        let start = NonNull::new(std::ptr::with_exposed_provenance_mut(start));
        let start = start.ok_or(MapError::Exhausted { size })?;
        // SAFETY: the pages of a mapping that nobody uses.
        unsafe { Process.protect(start, size, Access::ReadWrite)? };
        // SAFETY: as above, and writable now.
        unsafe { start.write_bytes(0, size) };
        Ok(start)
    }

    unsafe fn protect(
        &self,
        start: NonNull<u8>,
        size: usize,
        access: Access,
    ) -> Result<(), MapError> {
        // SAFETY: the caller's promise.
        unsafe { Process.protect(start, size, access) }
    }

    unsafe fn unmap(&self, start: NonNull<u8>, size: usize) {
        let address = start.as_ptr().expose_provenance();
        // SAFETY: the caller's promise; text must not be run any more.
        unsafe { Process.protect(start, size, Access::Read) }.expect("pages of ours");
        self.0.lock().expect("nobody panics here").push((address, size));
    }
}

impl Symbols for Process {
    /// What the dynamic linker finds, in the tables that it searches for libraries as well.
    fn address_of(&self, name: &str) -> Option<u64> {
        let mut text = [0u8; 512];
        text.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        // SAFETY: looks a name up, which ends with the zero behind it.
        let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, text.as_ptr().cast()) };
        (text[text.len() - 1] == 0 && !address.is_null()).then(|| address.addr() as u64)
    }
}

/// Nobody: the objects are not run.
pub struct NoStacks;

// SAFETY: nothing calls into the objects.
unsafe impl Stacks for NoStacks {
    fn anyone_in(&self, _: Range<u64>) -> bool {
        false
    }
}

/// What a failed load or unload is to a bench.
pub type Failure = Box<dyn Error>;
