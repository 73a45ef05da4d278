//! Raising, and going on.
//!
//! ```text
//!   C name (naked) ─ the caller's registers ─► the same in Rust ─► RaiseError ─► _URC_…
//! ```

use core::ffi::c_void;

use crate::arch::with_registers;
use crate::context::Context;
use crate::error::{RaiseError, UnwindError};
use crate::exception::{Exception, Reason, Stop};
use crate::raise::{raise_in, resume};
use crate::registers::Registers;

/// What C callers are told of an error (Itanium EH §1.3.1). To them, code without tables is the
/// end of the stack, as libgcc has it: nobody beyond it can catch.
const fn code(error: RaiseError) -> Reason {
    match error {
        RaiseError::Unwind(UnwindError::NoModule(_) | UnwindError::NoFde(_)) => {
            Reason::END_OF_STACK
        }
        other => other.code(),
    }
}

/// Raises an exception. Returns only if nobody catches it, or the search for who does cannot go
/// on (Itanium EH §1.3.1).
///
/// # Safety
///
/// As [`raise`](crate::raise).
#[unsafe(naked)]
pub unsafe extern "C-unwind" fn _Unwind_RaiseException(exception: *mut Exception) -> Reason {
    with_registers!("rsi", raise, Context)
}

unsafe extern "C" fn raise(exception: *mut Exception, place: *mut Context) -> Reason {
    // SAFETY: the contract of `_Unwind_RaiseException`, with whose caller's registers the place begins.
    code(unsafe { raise_in(exception, place) })
}

/// Goes on unwinding after a cleanup (Itanium EH §1.3.3).
///
/// # Safety
///
/// Called by landing pads, with the exception that they were entered with.
#[unsafe(naked)]
pub unsafe extern "C-unwind" fn _Unwind_Resume(exception: *mut Exception) -> ! {
    with_registers!("rsi", resume, Context)
}

/// Raises a caught exception again, or goes on with a forced unwinding that was intercepted
/// (GCC's; `throw;` in C++).
///
/// # Safety
///
/// As [`resume_or_rethrow`](crate::resume_or_rethrow).
#[unsafe(naked)]
pub unsafe extern "C-unwind" fn _Unwind_Resume_or_Rethrow(exception: *mut Exception) -> Reason {
    with_registers!("rsi", rethrow, Context)
}

unsafe extern "C" fn rethrow(exception: *mut Exception, place: *mut Context) -> Reason {
    // SAFETY: the exception is valid (contract).
    if unsafe { (*exception).is_forced() } {
        // SAFETY: the place begins with registers.
        let registers = unsafe { &*place.cast::<Registers>() };
        // SAFETY: the contract of `_Unwind_Resume_or_Rethrow`, whose caller's registers these are.
        return forced_code(unsafe { crate::resume_or_rethrow(exception, registers) });
    }
    // SAFETY: as above.
    code(unsafe { raise_in(exception, place) })
}

/// Unwinds until `stop` leaves (Itanium EH §1.3.2).
///
/// # Safety
///
/// As [`forced_unwind`](crate::forced_unwind).
#[unsafe(naked)]
pub unsafe extern "C-unwind" fn _Unwind_ForcedUnwind(
    exception: *mut Exception,
    stop: Stop,
    argument: *mut c_void,
) -> Reason {
    with_registers!("rcx", force)
}

unsafe extern "C" fn force(
    exception: *mut Exception,
    stop: Stop,
    argument: *mut c_void,
    registers: &Registers,
) -> Reason {
    // SAFETY: the contract of `_Unwind_ForcedUnwind`.
    forced_code(unsafe { crate::forced_unwind(exception, stop, argument, registers) })
}

/// What C callers are told of a forced unwinding that ended: there is no phase 1 that could have
/// failed (Itanium EH §1.3.2).
const fn forced_code(error: RaiseError) -> Reason {
    match error {
        RaiseError::EndOfStack => Reason::END_OF_STACK,
        _ => Reason::FATAL_PHASE2_ERROR,
    }
}

/// Frees an exception that a foreign runtime caught (Itanium EH §1.3.4).
///
/// # Safety
///
/// As [`delete_exception`](crate::delete_exception).
pub unsafe extern "C-unwind" fn _Unwind_DeleteException(exception: *mut Exception) {
    // SAFETY: the contract is the same.
    unsafe { crate::delete_exception(exception) };
}

const _: unsafe extern "C-unwind" fn(*mut Exception) -> Reason = _Unwind_RaiseException;
const _: unsafe extern "C-unwind" fn(*mut Exception) -> ! = _Unwind_Resume;
const _: unsafe extern "C-unwind" fn(*mut Exception) -> Reason = _Unwind_Resume_or_Rethrow;
const _: unsafe extern "C-unwind" fn(*mut Exception, Stop, *mut c_void) -> Reason =
    _Unwind_ForcedUnwind;
const _: unsafe extern "C-unwind" fn(*mut Exception) = _Unwind_DeleteException;
