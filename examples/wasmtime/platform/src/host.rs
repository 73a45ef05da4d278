//! The one trait that a kernel implements.
//!
//! ```text
//!   reserve ─► protect (backs what is not) ─► decommit ─► protect ─► … ─► release
//! ```

use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::AtomicU32;
use core::sync::atomic::{AtomicPtr, Ordering};

/// What code may do with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: an access is a fault.
    None,
    /// Read.
    Read,
    /// Read and write.
    ReadWrite,
    /// Read and execute.
    ReadExecute,
}

/// Why a kernel cannot do what wasmtime asks. The numbers are what wasmtime prints: those of Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum HostError {
    /// No memory, no addresses, or no room for a record.
    Exhausted = 12,
    /// The addresses are not those of one reservation, or the access is not one of [`Access`].
    Invalid = 22,
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exhausted => "out of memory or addresses",
            Self::Invalid => "not memory of one reservation, or an access that there is not",
        })
    }
}

impl core::error::Error for HostError {}

/// What wasmtime needs of a kernel.
///
/// The example's, over reservations and page tables, with its fault path:
///
/// ```ignore
#[doc = include_str!("../../src/host.rs")]
/// ```
///
/// # Safety
///
/// 1. [`reserve`](Self::reserve) returns addresses that nobody else uses until they are released.
/// 2. Memory is zeroed when it is first backed, and when it is backed again after
///    [`decommit`](Self::decommit).
/// 3. Nothing panics.
pub unsafe trait Host: Sync {
    /// Bytes of a page. All addresses and sizes are multiples of it.
    fn page_size(&self) -> usize {
        4096
    }

    /// Reserves `size` bytes of address space, without memory: an access is a fault. A WebAssembly
    /// memory takes 4 GiB and its guards.
    ///
    /// # Errors
    ///
    /// [`HostError::Exhausted`].
    fn reserve(&self, size: usize) -> Result<NonNull<u8>, HostError>;

    /// Sets what may be done with a part of a reservation. What has no memory yet gets some, zeroed,
    /// unless `access` is [`Access::None`].
    ///
    /// # Errors
    ///
    /// Out of memory; some may have been backed then. Or not of a reservation.
    ///
    /// # Safety
    ///
    /// The caller owns these bytes, and nothing relies on what `access` takes away.
    unsafe fn protect(
        &self,
        start: NonNull<u8>,
        size: usize,
        access: Access,
    ) -> Result<(), HostError>;

    /// Takes the memory of a part of a reservation away.
    ///
    /// # Errors
    ///
    /// No memory for a record; or not of a reservation.
    ///
    /// # Safety
    ///
    /// The caller owns these bytes, and needs nothing of their contents.
    unsafe fn decommit(&self, start: NonNull<u8>, size: usize) -> Result<(), HostError>;

    /// Gives a whole reservation back.
    ///
    /// # Errors
    ///
    /// It is not a whole reservation.
    ///
    /// # Safety
    ///
    /// The caller made it, and nobody uses it any more.
    unsafe fn release(&self, start: NonNull<u8>, size: usize) -> Result<(), HostError>;

    /// Waits until somebody [wakes](Self::wake_all) those who wait for `word`, unless it is no longer
    /// `expected`. May return early; by default, at once, which is right where tasks are preempted.
    fn wait(&self, word: &AtomicU32, expected: u32) {
        let _ = (word, expected);
        core::hint::spin_loop();
    }

    /// Lets all go on that wait for `word`.
    fn wake_all(&self, word: &AtomicU32) {
        let _ = word;
    }
}

/// The host, behind a second reference: one word.
static HOST: AtomicPtr<&'static dyn Host> = AtomicPtr::new(core::ptr::null_mut());

/// Decides who serves wasmtime; the last call before the first engine counts.
pub fn set_host(host: &'static &'static dyn Host) {
    HOST.store(core::ptr::from_ref(host).cast_mut(), Ordering::Release);
}

/// Who serves wasmtime. Before [`set_host`], one that has nothing.
pub(crate) fn host() -> &'static dyn Host {
    let host = HOST.load(Ordering::Acquire);
    // SAFETY: null, or what `set_host` got: valid for ever.
    unsafe { host.as_ref() }.map_or(&Nobody, |host| *host)
}

struct Nobody;

// SAFETY: it gives nothing out.
unsafe impl Host for Nobody {
    fn reserve(&self, _: usize) -> Result<NonNull<u8>, HostError> {
        Err(HostError::Exhausted)
    }

    unsafe fn protect(&self, _: NonNull<u8>, _: usize, _: Access) -> Result<(), HostError> {
        Err(HostError::Invalid)
    }

    unsafe fn decommit(&self, _: NonNull<u8>, _: usize) -> Result<(), HostError> {
        Err(HostError::Invalid)
    }

    unsafe fn release(&self, _: NonNull<u8>, _: usize) -> Result<(), HostError> {
        Err(HostError::Invalid)
    }
}
