//! wasmtime's side of this kernel: memory, waiting, faults, names.
//!
//! ```text
//!   unspool_wasmtime::Host ─► reserve (page tables), sync (scheduler)
//!   fault::set_policy ─► ip in RUNTIMES? ─► unspool_wasmtime::trap
//! ```

use core::ptr::NonNull;
use core::sync::atomic::AtomicU32;

use unspool::backtrace::name_functions;
use unspool::unwind::{Register, Registers};
use unspool_kernel::fault::{self, Decision, Fault, FaultKind};
use unspool_kernel::machine::{self, MapError, Pages};
use unspool_kernel::reserve::{self, RUNTIMES};
use unspool_kernel::sync;
use unspool_wasmtime::{Access, Host, HostError, NAMES};

struct Kernel;

static KERNEL: &dyn Host = &Kernel;

/// Connects wasmtime with the kernel; before the first engine.
pub fn install() {
    unspool_wasmtime::set_host(&KERNEL);
    let names = name_functions(RUNTIMES, &NAMES).expect("nobody else names code");
    core::mem::forget(names);
    assert!(fault::set_policy(Some(policy)).is_none(), "nobody else decides about faults");
}

/// Faults in what wasmtime mapped are its own.
fn policy(fault: &mut Fault<'_>) -> Decision {
    match fault::default_policy(fault) {
        Decision::Unwind if RUNTIMES.contains(&fault.registers().ip()) => Decision::Call(trap),
        decision => decision,
    }
}

/// A fault in what wasmtime mapped.
fn trap(kind: FaultKind, registers: &Registers) {
    let ip = registers.ip();
    let address = match kind {
        FaultKind::PageFault { address, .. } => Some(address as usize),
        _ => None,
    };
    let frame = registers.get(Register::RBP) as usize;
    // SAFETY: the code is what wasmtime mapped, and the kernel asks on the stack of the task below the
    // interrupted code, without locks.
    unsafe { unspool_wasmtime::trap(ip as usize, frame, address) };
}

fn error(error: MapError) -> HostError {
    match error {
        MapError::Unexpected { .. } => HostError::Invalid,
        _ => HostError::Exhausted,
    }
}

fn pages(start: NonNull<u8>, size: usize) -> Result<Pages, HostError> {
    Pages::new(start.as_ptr().expose_provenance() as u64, size).ok_or(HostError::Invalid)
}

// SAFETY: reservations are disjoint, memory is zeroed when it is mapped, and errors are results.
unsafe impl Host for Kernel {
    fn reserve(&self, size: usize) -> Result<NonNull<u8>, HostError> {
        let pages = reserve::reserve(size).map_err(error)?;
        let start = core::ptr::with_exposed_provenance_mut(pages.start() as usize);
        NonNull::new(start).ok_or(HostError::Exhausted)
    }

    unsafe fn protect(
        &self,
        start: NonNull<u8>,
        size: usize,
        access: Access,
    ) -> Result<(), HostError> {
        if size == 0 {
            return Ok(());
        }
        let access = match access {
            Access::None => machine::Access::None,
            Access::Read => machine::Access::Read,
            Access::ReadWrite => machine::Access::ReadWrite,
            Access::ReadExecute => machine::Access::ReadExecute,
        };
        // SAFETY: the caller's promise is the same.
        unsafe { reserve::protect(pages(start, size)?, access) }.map_err(error)
    }

    unsafe fn decommit(&self, start: NonNull<u8>, size: usize) -> Result<(), HostError> {
        if size == 0 {
            return Ok(());
        }
        // SAFETY: the caller's promise is the same.
        unsafe { reserve::decommit(pages(start, size)?) }.map_err(error)
    }

    unsafe fn release(&self, start: NonNull<u8>, size: usize) -> Result<(), HostError> {
        // SAFETY: the caller's promise is the same.
        unsafe { reserve::release(pages(start, size)?) }.map_err(error)
    }

    fn wait(&self, word: &AtomicU32, expected: u32) {
        sync::wait(word, expected);
    }

    fn wake_all(&self, word: &AtomicU32) {
        sync::wake_all(word);
    }
}
