//! The C ABI of wasmtime's custom platform (`wasmtime/src/runtime/vm/sys/custom/capi.rs`).
//!
//! ```text
//!   wasmtime_mmap_* wasmtime_m* ─► Host      wasmtime_tls_* ─► thread_local!
//!   wasmtime_sync_*  ─► locks                wasmtime_init_traps ─► traps
//! ```
//!
//! An `i32` is 0 or a [`HostError`]'s number. Nothing here panics: that would be an abort.

use core::cell::Cell;
use core::ptr::{NonNull, null_mut};

use unspool::panic::no_unwind;
use unspool::thread_local;

use crate::host::{Access, HostError, host};
use crate::locks::Word;
use crate::traps::{self, Handler};

/// `WASMTIME_PROT_READ`, `_WRITE`, `_EXEC`.
const READ: u32 = 1;
const WRITE: u32 = 2;
const EXEC: u32 = 4;

fn access(protection: u32) -> Result<Access, HostError> {
    const READ_WRITE: u32 = READ | WRITE;
    const READ_EXEC: u32 = READ | EXEC;
    match protection {
        0 => Ok(Access::None),
        READ => Ok(Access::Read),
        READ_WRITE => Ok(Access::ReadWrite),
        READ_EXEC => Ok(Access::ReadExecute),
        _ => Err(HostError::Invalid),
    }
}

/// The number of what comes of `body`, which may wait, but not die: no unwinding passes through C.
fn number(body: impl FnOnce() -> Result<(), HostError>) -> i32 {
    let _whole = no_unwind();
    body().map_or_else(|error| error as i32, |()| 0)
}

fn start(address: *mut u8) -> Result<NonNull<u8>, HostError> {
    NonNull::new(address).ok_or(HostError::Invalid)
}

fn map(size: usize, protection: u32) -> Result<NonNull<u8>, HostError> {
    let access = access(protection)?;
    let start = host().reserve(size)?;
    if access != Access::None {
        // SAFETY: just reserved; nobody knows of it.
        let backed = unsafe { host().protect(start, size, access) };
        if let Err(error) = backed {
            // SAFETY: as above. Nothing is left to do if this fails as well.
            let _ = unsafe { host().release(start, size) };
            return Err(error);
        }
    }
    Ok(start)
}

/// Reserves `size` bytes, and backs them unless `protection` is 0.
#[unsafe(no_mangle)]
extern "C" fn wasmtime_mmap_new(size: usize, protection: u32, result: &mut *mut u8) -> i32 {
    number(|| map(size, protection).map(|start| *result = start.as_ptr()))
}

/// Replaces memory by zeroes, or by nothing.
#[unsafe(no_mangle)]
unsafe extern "C" fn wasmtime_mmap_remap(address: *mut u8, size: usize, protection: u32) -> i32 {
    number(|| {
        access(protection).and_then(|access| {
            let start = start(address)?;
            // SAFETY: wasmtime owns the memory, and says that it is not needed.
            unsafe { host().decommit(start, size) }?;
            // SAFETY: as above.
            unsafe { host().protect(start, size, access) }
        })
    })
}

/// Gives back what `wasmtime_mmap_new` returned.
#[unsafe(no_mangle)]
unsafe extern "C" fn wasmtime_munmap(address: *mut u8, size: usize) -> i32 {
    // SAFETY: wasmtime made the mapping, and gives it up.
    number(|| start(address).and_then(|start| unsafe { host().release(start, size) }))
}

/// Changes what may be done with memory; backs it if need be.
#[unsafe(no_mangle)]
unsafe extern "C" fn wasmtime_mprotect(address: *mut u8, size: usize, protection: u32) -> i32 {
    number(|| {
        access(protection).and_then(|access| {
            // SAFETY: wasmtime owns the memory, and vouches for its use.
            unsafe { host().protect(start(address)?, size, access) }
        })
    })
}

/// Bytes of a page.
#[unsafe(no_mangle)]
extern "C" fn wasmtime_page_size() -> usize {
    host().page_size()
}

/// No image: wasmtime copies initial contents.
#[unsafe(no_mangle)]
extern "C" fn wasmtime_memory_image_new(_: *const u8, _: usize, result: &mut *mut u8) -> i32 {
    *result = null_mut();
    0
}

/// Never called: there are no images.
#[unsafe(no_mangle)]
extern "C" fn wasmtime_memory_image_map_at(_: *mut u8, _: *mut u8, _: usize) -> i32 {
    HostError::Invalid as i32
}

/// Never called: there are no images.
#[unsafe(no_mangle)]
extern "C" fn wasmtime_memory_image_free(_: *mut u8) {}

/// Tells what to call for a fault in compiled code.
#[unsafe(no_mangle)]
extern "C" fn wasmtime_init_traps(handler: Handler) -> i32 {
    traps::set_handler(handler);
    0
}

/// How many words wasmtime keeps for each task.
const SLOTS: usize = 2;

thread_local! {
    static TLS: [Cell<*mut u8>; SLOTS] = const { [const { Cell::new(null_mut()) }; SLOTS] };
}

/// One of the running task's words.
#[unsafe(no_mangle)]
extern "C" fn wasmtime_tls_get(slot: usize) -> *mut u8 {
    TLS.with(|slots| slots.get(slot).map_or(null_mut(), Cell::get))
}

/// Sets one of the running task's words.
#[unsafe(no_mangle)]
extern "C" fn wasmtime_tls_set(slot: usize, value: *mut u8) {
    TLS.with(|slots| {
        if let Some(slot) = slots.get(slot) {
            slot.set(value);
        }
    });
}

macro_rules! locks {
    ($($(#[$doc:meta])* $name:ident $method:ident;)*) => {$(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(lock: *mut usize) {
            // SAFETY: wasmtime passes a word of a lock that it keeps.
            unsafe { Word::at(lock) }.$method();
        }
    )*};
}

locks! {
    /// Waits for a mutex.
    wasmtime_sync_lock_acquire write;
    /// Frees it.
    wasmtime_sync_lock_release write_release;
    /// Waits until there is no writer.
    wasmtime_sync_rwlock_read read;
    /// Ends that.
    wasmtime_sync_rwlock_read_release read_release;
    /// Waits until there is nobody.
    wasmtime_sync_rwlock_write write;
    /// Ends that.
    wasmtime_sync_rwlock_write_release write_release;
}

/// A mutex is a word: there is nothing to free.
#[unsafe(no_mangle)]
extern "C" fn wasmtime_sync_lock_free(_: *mut usize) {}

/// As [`wasmtime_sync_lock_free`].
#[unsafe(no_mangle)]
extern "C" fn wasmtime_sync_rwlock_free(_: *mut usize) {}
