//! What compiled C and C++ code takes for granted: the heap, `abort`, C's personality routine.
//!
//! ```text
//!   malloc(n):  │ n (8) │ start (8) │ n bytes …            the pointer is a multiple of 16
//!               ▲ start               ▲ what the caller gets
//! ```
//!
//! `memcpy` and its family are the kernel's, as is `strlen`; the rest of `<string.h>` is in `strings`.

use alloc::alloc::{alloc, dealloc};
use core::alloc::Layout;
use core::ffi::c_void;
use core::ptr::null_mut;

use unspool::unwind::{Actions, Exception, Reason};
use unspool_kernel::{ExitCode, eprintln, machine};

/// The alignment of every object that has none of its own (`alignof(max_align_t)`).
const ALIGNMENT: usize = 16;

/// Before each piece of memory: what it takes to free it.
struct Header {
    /// Bytes that the caller asked for.
    size: usize,
    /// The alignment that the caller asked for, which is also the room for this.
    align: usize,
}

const _: () = assert!(size_of::<Header>() <= ALIGNMENT);

impl Header {
    /// Of the whole piece, header included.
    fn layout(&self) -> Option<Layout> {
        Layout::from_size_align(self.size.checked_add(self.align)?, self.align).ok()
    }
}

/// Memory for an object; null if there is none, or no such alignment. (Not `malloc` by name: compilers
/// take a `malloc` and a `memset` together for a `calloc`.)
fn allocate(align: usize, size: usize) -> *mut c_void {
    let header = Header { size, align: align.max(ALIGNMENT) };
    let Some(layout) = header.layout() else { return null_mut() };
    // SAFETY: the size is at least the alignment, which is not 0.
    let start = unsafe { alloc(layout) };
    if start.is_null() {
        return null_mut();
    }
    let pointer = start.wrapping_add(header.align);
    // SAFETY: the header lies right before the pointer, in room that was added for it.
    unsafe { pointer.cast::<Header>().sub(1).write(header) };
    pointer.cast()
}

/// C17 §7.22.3.1: `aligned_alloc`.
#[unsafe(no_mangle)]
extern "C" fn aligned_alloc(align: usize, size: usize) -> *mut c_void {
    allocate(align, size)
}

/// C17 §7.22.3.4: `malloc`.
#[unsafe(no_mangle)]
extern "C" fn malloc(size: usize) -> *mut c_void {
    allocate(ALIGNMENT, size)
}

/// C17 §7.22.3.2: `calloc`.
#[unsafe(no_mangle)]
extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    let Some(size) = count.checked_mul(size) else { return null_mut() };
    let pointer = allocate(ALIGNMENT, size);
    if !pointer.is_null() {
        // SAFETY: new, and of this size.
        unsafe { pointer.cast::<u8>().write_bytes(0, size) };
    }
    pointer
}

/// C17 §7.22.3.3: `free`.
///
/// # Safety
///
/// `pointer` is null, or from a function of this file and not freed yet.
#[unsafe(no_mangle)]
unsafe extern "C" fn free(pointer: *mut c_void) {
    if pointer.is_null() {
        return;
    }
    // SAFETY: `allocate` wrote it there.
    let header = unsafe { pointer.cast::<Header>().sub(1).read() };
    if let Some(layout) = header.layout() {
        // SAFETY: what `allocate` got, with the same layout.
        unsafe { dealloc(pointer.cast::<u8>().wrapping_sub(header.align), layout) };
    }
}

/// C17 §7.22.3.5: `realloc`.
///
/// # Safety
///
/// As for [`free`].
#[unsafe(no_mangle)]
unsafe extern "C" fn realloc(pointer: *mut c_void, size: usize) -> *mut c_void {
    let new = allocate(ALIGNMENT, size);
    if pointer.is_null() || new.is_null() {
        return new;
    }
    // SAFETY: `allocate` wrote it there.
    let old_size = unsafe { (*pointer.cast::<Header>().sub(1)).size };
    // SAFETY: both pieces are that long, and different ones.
    unsafe { new.cast::<u8>().copy_from_nonoverlapping(pointer.cast(), old_size.min(size)) };
    // SAFETY: the caller's promise.
    unsafe { free(pointer) };
    new
}

/// C17 §7.22.4.1: `abort`.
#[unsafe(no_mangle)]
extern "C" fn abort() -> ! {
    eprintln!("abort was called");
    machine().exit(ExitCode::PANIC)
}

/// The personality routine of functions in C (Itanium EH §1.6). Their tables have cleanups and nothing
/// else, with which Rust's routine deals; but a call that no table lists is none that must not unwind.
///
/// # Safety
///
/// Called by the unwinder, with the frame of a function whose tables name this routine.
#[unsafe(no_mangle)]
unsafe extern "C" fn __gcc_personality_v0(
    version: i32,
    actions: Actions,
    class: u64,
    exception: *mut Exception,
    context: *mut c_void,
) -> Reason {
    // SAFETY: the caller's promise; the tables have the same form.
    match unsafe { rust_eh_personality(version, actions, class, exception, context) } {
        Reason::FATAL_PHASE1_ERROR | Reason::FATAL_PHASE2_ERROR => Reason::CONTINUE_UNWIND,
        reason => reason,
    }
}

unsafe extern "C" {
    fn rust_eh_personality(
        version: i32,
        actions: Actions,
        class: u64,
        exception: *mut Exception,
        context: *mut c_void,
    ) -> Reason;
}
