//! The running task's destructors.
//!
//! ```text
//!  fs:0 ─► Tcb ─► destructors
//! ```

use core::ptr;

use crate::area::AreaRef;
use crate::destructors::{Destructor, Entry};
use crate::error::OutOfMemory;

/// Has `destructor` called with `object` when the running task ends.
///
/// The first [`UNALLOCATED_DESTRUCTORS`](crate::UNALLOCATED_DESTRUCTORS) of a task need no memory.
///
/// # Errors
/// No memory to record it; nothing has changed then.
///
/// # Safety
/// 1. The FS base holds the thread pointer of an [`Area`](crate::Area), and this is not an
///    interrupt handler.
/// 2. `destructor` may be called with `object` once, on this task, at any time until
///    [`run_destructors`] returns.
pub unsafe fn register_destructor(
    object: *mut u8,
    destructor: Destructor,
) -> Result<(), OutOfMemory> {
    // SAFETY: The contract is the same.
    unsafe { register(&Entry { object, destructor, module: ptr::null_mut() }) }
}

/// As [`register_destructor`], for any entry.
///
/// # Safety
/// As there.
pub(crate) unsafe fn register(entry: &Entry) -> Result<(), OutOfMemory> {
    // SAFETY: The FS base holds that of an area (1 of the contract).
    let area = unsafe { AreaRef::current() };
    area.destructors.register(entry)
}

/// Runs the running task's destructors: the last registered first, until none is left, those
/// registered meanwhile included.
///
/// To be called once at the end of a task, on the task, before anyone can learn that it ended.
/// If a panic leaves a destructor, it leaves this function, and the destructors that are left
/// stay on the list; std ends the program then (`unspool::thread::run_destructors` does, too).
///
/// # Safety
/// 1. The FS base holds the thread pointer of an [`Area`](crate::Area), and this is not an
///    interrupt handler or a destructor.
/// 2. No reference to a registered object is in use any more.
pub unsafe fn run_destructors() {
    // SAFETY: The FS base holds that of an area (1 of the contract).
    let area = unsafe { AreaRef::current() };
    // SAFETY:
    // 1. The list is this task's own, and the task is busy here.
    // 2. Whoever registered an object allowed the call; nobody uses the object (2 of the contract).
    unsafe { area.destructors.run() };
}
