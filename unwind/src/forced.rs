//! Unwinds because somebody outside wants it, not because a frame catches.
//!
//! ```text
//!   each frame: stop(…) ─► goes on ─► personality: cleanups only ─► the caller's frame …
//!                  └─► leaves for good (longjmp)            end of stack: stop is told
//! ```
//!
//! Itanium EH §1.3.2: one phase. What ends a thread (`pthread_exit`, `pthread_cancel`) is made
//! of it. The stop function and its argument stay in the exception, so that
//! [`resume`](crate::resume) can go on after a cleanup.

use core::ffi::c_void;

use crate::address::Pc;
use crate::context::{ABI_VERSION, Context};
use crate::environment::{Everywhere, current_stack};
use crate::error::RaiseError;
use crate::exception::{Actions, Exception, Reason, Stop};
use crate::registers::Registers;

/// Unwinds from the frame with these registers until `stop` leaves or refuses
/// (`_Unwind_ForcedUnwind`). Returns only if it cannot go on:
/// [`RaiseError::EndOfStack`] if `stop` lets the unwinding go beyond the last frame.
///
/// The exception is not counted as in flight: nobody but `stop` knows where it ends.
///
/// # Safety
///
/// As [`raise_here`](crate::raise_here); and `stop` takes `argument`.
pub unsafe fn forced_unwind(
    exception: *mut Exception,
    stop: Stop,
    argument: *mut c_void,
    registers: &Registers,
) -> RaiseError {
    Everywhere.refresh();
    // SAFETY: the exception is valid (contract).
    unsafe { (*exception).private_1 = stop as usize as u64 };
    // SAFETY: as above.
    unsafe { (*exception).private_2 = argument.expose_provenance() as u64 };
    // SAFETY: the caller's promise; the stop function is set.
    unsafe { resume_forced(exception, registers) }
}

/// Goes on with a forced unwinding.
///
/// # Safety
///
/// As [`forced_unwind`], which has set the exception's stop function.
#[inline(never)]
pub(crate) unsafe fn resume_forced(exception: *mut Exception, registers: &Registers) -> RaiseError {
    // SAFETY: the exception is valid (contract).
    let Exception { class, private_1, private_2, .. } = *unsafe { &*exception };
    let stop = core::ptr::with_exposed_provenance::<()>(private_1 as usize);
    // SAFETY: `forced_unwind` put a stop function there.
    let stop = unsafe { core::mem::transmute::<*const (), Stop>(stop) };
    let argument = core::ptr::with_exposed_provenance_mut(private_2 as usize);
    let stack = current_stack(registers.sp());
    let mut frame = Context::new(registers, Pc::Return(registers.ip()), stack);
    let actions = Actions::FORCE_UNWIND.with(Actions::CLEANUP_PHASE);
    loop {
        let ended = match frame.look_or_end() {
            Ok(ended) => ended,
            Err(error) => return error.into(),
        };
        let told = if ended { actions.with(Actions::END_OF_STACK) } else { actions };
        let failed =
            |frame: &Context, reason| RaiseError::Forced { pc: frame.pc().address(), reason };
        // SAFETY: a stop function takes these arguments, the last its own (contract).
        match unsafe { stop(ABI_VERSION, told, class, exception, &mut frame, argument) } {
            Reason::NO_REASON if ended => return RaiseError::EndOfStack,
            Reason::NO_REASON => {}
            reason => return failed(&frame, reason),
        }
        // SAFETY: the exception is valid (contract).
        match unsafe { frame.ask(actions, exception) } {
            Reason::CONTINUE_UNWIND => {}
            Reason::INSTALL_CONTEXT => {
                // SAFETY: the personality has just said so.
                unsafe { frame.install() }
            }
            reason => return failed(&frame, reason),
        }
        if let Err(error) = frame.leave_or_end() {
            return error.into();
        }
    }
}
