//! Faults in compiled code.
//!
//! ```text
//!   fault ─► kernel's fault path ─► trap ─┬─ wasm's: the error returns from `Func::call`
//!                                         └─ not wasm's: `trap` returns
//! ```

use core::sync::atomic::{AtomicPtr, Ordering};

/// What wasmtime wants to be called: ip, frame pointer, whether there is a faulting address, and it.
pub(crate) type Handler = extern "C" fn(usize, usize, bool, usize);

static HANDLER: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

pub(crate) fn set_handler(handler: Handler) {
    HANDLER.store(handler as *mut (), Ordering::Release);
}

/// Tells wasmtime of a fault at `ip`, where `rbp` was `frame_pointer`; of a page fault also the
/// address. Returns if the fault is not one of compiled code's; if it is one, the call into
/// WebAssembly returns an error, and this does not return.
///
/// # Safety
///
/// 1. The running task faulted at `ip`, which lies in memory of a [`Host`](crate::Host): no code of
///    the kernel or of wasmtime itself was interrupted.
/// 2. The caller runs on that task's stack, below all that the interrupted code used (and below its red
///    zone), with interrupts as they were there, holds no lock, and has nothing left to drop.
pub unsafe fn trap(ip: usize, frame_pointer: usize, address: Option<usize>) {
    let handler = HANDLER.load(Ordering::Acquire);
    if handler.is_null() {
        return;
    }
    // SAFETY: `set_handler` stored a function of this type.
    let handler = unsafe { core::mem::transmute::<*mut (), Handler>(handler) };
    handler(ip, frame_pointer, address.is_some(), address.unwrap_or(0));
}
