//! The names by which compiled code calls the unwinder.
//!
//! Landing pads end in `_Unwind_Resume` (Itanium EH §1.3.3); the rest of the ABI has no caller in
//! Rust code.

use crate::exception::Exception;
use crate::raise::resume;

/// Goes on unwinding after a cleanup.
///
/// # Safety
///
/// Called by landing pads, with the exception that they were entered with.
#[unsafe(no_mangle)]
#[inline(never)]
pub unsafe extern "C-unwind" fn _Unwind_Resume(exception: *mut Exception) -> ! {
    // SAFETY: the landing pad's promise is the same.
    unsafe { resume(exception) }
}
