//! Raises an exception in two phases.
//!
//! ```text
//!   phase 1  walk up, ask each personality "do you catch?" ──────► its CFA is remembered
//!   phase 2  walk up again, let each personality install its landing pad:
//!            ─► cleanup runs ─► resume ─► next frame … ─► the frame with that CFA catches
//! ```
//!
//! Itanium EH §1.3. Both phases keep their state in two register files on the stack of the frame
//! that raises; nothing is allocated and nothing is locked. If phase 1 finds nobody, no frame
//! has been touched and the caller still has its whole stack to report.

use core::convert::Infallible;

use crate::address::Pc;
use crate::context::Context;
use crate::cursor::Step;
use crate::environment::{Everywhere, current_stack, dead_end, resumed_stack};
use crate::error::RaiseError;
use crate::exception::{Actions, Exception, Reason};
use crate::forced::resume_forced;
use crate::in_flight::{IN_FLIGHT, Path};
use crate::registers::Registers;
use crate::stack::StackBounds;

/// Raises an exception from here: unwinds this stack to the frame that catches it.
///
/// Returns only if the exception cannot be delivered; if the error is not
/// [`RaiseError::HandlerLost`], no frame has been unwound.
///
/// # Safety
///
/// 1. `exception` points to a header that stays valid until a handler frees it.
/// 2. The modules registered globally describe the code on this stack (their registration's
///    promise), and that code was compiled to be unwound.
/// 3. `stack` contains the frames of this stack.
#[inline(never)]
pub unsafe fn raise(exception: *mut Exception, stack: StackBounds) -> RaiseError {
    let mut registers = Registers::new();
    registers.capture();
    let pc = Pc::Return(registers.ip());
    // SAFETY: handed on to this function's caller.
    unsafe { two_phases(exception, &mut registers, pc, stack) }
}

/// Raises an exception at an interrupted instruction: `registers` are those that the CPU had, its
/// `ip` the exact address.
///
/// # Safety
///
/// As [`raise`], and: the caller runs on the same stack, below `registers`' stack pointer and its
/// red zone, and gives up all frames below it.
pub unsafe fn raise_from(
    exception: *mut Exception,
    registers: &Registers,
    stack: StackBounds,
) -> RaiseError {
    let (mut registers, pc) = (*registers, Pc::Exact(registers.ip()));
    // SAFETY: handed on to this function's caller.
    unsafe { two_phases(exception, &mut registers, pc, stack) }
}

/// As [`raise`], from a frame with these registers, on the environment's stack
/// (`_Unwind_RaiseException`). Afterwards the registers are those of some frame further up.
///
/// # Safety
///
/// As [`raise`], and: `registers` are those of a frame that lives until this returns.
pub unsafe fn raise_here(exception: *mut Exception, registers: &mut Registers) -> RaiseError {
    let stack = current_stack(registers.sp());
    let pc = Pc::Return(registers.ip());
    // SAFETY: handed on to this function's caller; the environment vouches for the stack.
    unsafe { two_phases(exception, registers, pc, stack) }
}

/// Goes on with phase 2 after a cleanup (`_Unwind_Resume`), from the landing pad's registers.
///
/// Cannot return: if the unwinding cannot go on, the environment gets the reason.
///
/// # Safety
///
/// `exception` is the one that the landing pad was entered with.
pub unsafe fn resume(exception: *mut Exception, registers: &Registers) -> ! {
    // What is remembered of the frames that are left is still true, whatever libraries a cleanup
    // has opened or closed: these frames have been on the stack since the exception was raised,
    // which made sure of it, so their modules have not gone.
    // SAFETY: the exception is valid (contract).
    let error = if unsafe { (*exception).is_forced() } {
        // SAFETY: as above: forced unwinding has brought it here.
        unsafe { resume_forced(exception, registers) }
    } else {
        // SAFETY: as above.
        let handler = unsafe { (*exception).private_2 };
        let stack = resumed_stack(registers.sp(), handler);
        let pc = Pc::Return(registers.ip());
        // SAFETY: the exception was raised, so `raise`'s contract holds for it.
        let Err(error) = unsafe { cleanup_phase(exception, registers, pc, stack) };
        error
    };
    dead_end(error)
}

/// Raises an exception again that was caught, or goes on with a forced unwinding
/// (`_Unwind_Resume_or_Rethrow`).
///
/// # Safety
///
/// As [`raise_here`]; a forced exception was brought here by forced unwinding.
pub unsafe fn resume_or_rethrow(
    exception: *mut Exception,
    registers: &mut Registers,
) -> RaiseError {
    // SAFETY: the exception is valid (contract).
    if unsafe { (*exception).is_forced() } {
        Everywhere.refresh();
        // SAFETY: the caller's promise.
        unsafe { resume_forced(exception, registers) }
    } else {
        // SAFETY: the caller's promise.
        unsafe { raise_here(exception, registers) }
    }
}

/// Lets the runtime that made an exception free it (`_Unwind_DeleteException`).
///
/// # Safety
///
/// `exception` was caught, and nobody uses it afterwards.
pub unsafe fn delete_exception(exception: *mut Exception) {
    // SAFETY: a caught exception is valid (contract).
    if let Some(cleanup) = unsafe { (*exception).cleanup } {
        // SAFETY: who made the exception said that this frees it (Itanium EH §1.3.4).
        unsafe { cleanup(Reason::FOREIGN_EXCEPTION_CAUGHT, exception) };
    }
}

/// # Safety
///
/// As [`raise`].
#[inline(never)]
unsafe fn two_phases(
    exception: *mut Exception,
    registers: &mut Registers,
    mut pc: Pc,
    stack: StackBounds,
) -> RaiseError {
    Everywhere.refresh();
    // SAFETY: handed on to the caller.
    let (handler, path) = match unsafe { search_phase(exception, registers, &mut pc, stack) } {
        Ok(found) => found,
        Err(error) => return error,
    };
    // SAFETY: the exception is valid (contract of `raise`).
    unsafe { (*exception).private_1 = 0 };
    // SAFETY: as above.
    unsafe { (*exception).private_2 = handler };
    // SAFETY: as above.
    let cleanup = unsafe { (*exception).cleanup };
    IN_FLIGHT.begin(exception, path, cleanup.map_or(0, |cleanup| cleanup as usize as u64));
    // SAFETY: handed on to the caller.
    let Err(error) = unsafe { cleanup_phase(exception, registers, pc, stack) };
    IN_FLIGHT.end(exception);
    error
}

/// Phase 1: the CFA of the frame that catches, and whose frames lead there. Phase 2 may begin
/// where `registers` and `pc` are left: nobody is to be asked about the frames before.
///
/// # Safety
///
/// As [`raise`].
#[inline(never)]
unsafe fn search_phase(
    exception: *mut Exception,
    registers: &mut Registers,
    pc: &mut Pc,
    stack: StackBounds,
) -> Result<(u64, Path), RaiseError> {
    let mut path = Path::default();
    let mut frame = Context::new(registers, *pc, stack);
    let mut first = true;
    loop {
        frame.look()?;
        path.add(frame.known().module());
        if first && frame.known().personality().is_some() {
            first = false;
            (*registers, *pc) = (*frame.registers(), frame.pc());
        }
        // SAFETY: handed on to the caller.
        match unsafe { frame.ask(Actions::SEARCH_PHASE, exception) } {
            Reason::CONTINUE_UNWIND => {}
            // Phase 2 reads the stack up to there.
            Reason::HANDLER_FOUND if frame.is_on_stack() => return Ok((frame.cfa(), path)),
            reason => {
                return Err(RaiseError::Personality { pc: frame.pc().address(), reason });
            }
        }
        if frame.leave()? == Step::End {
            return Err(RaiseError::EndOfStack);
        }
    }
}

/// Phase 2: lands in the next frame that has something to do; returns only on failure.
///
/// # Safety
///
/// As [`raise`], and phase 1 has set the exception's handler.
#[inline(never)]
unsafe fn cleanup_phase(
    exception: *mut Exception,
    registers: &Registers,
    pc: Pc,
    stack: StackBounds,
) -> Result<Infallible, RaiseError> {
    // SAFETY: the exception is valid (contract).
    let handler = unsafe { (*exception).private_2 };
    let mut frame = Context::new(registers, pc, stack);
    loop {
        frame.look()?;
        let is_handler = frame.cfa() == handler;
        let actions = if is_handler {
            Actions::CLEANUP_PHASE.with(Actions::HANDLER_FRAME)
        } else {
            Actions::CLEANUP_PHASE
        };
        // SAFETY: handed on to the caller.
        match unsafe { frame.ask(actions, exception) } {
            Reason::CONTINUE_UNWIND => {}
            Reason::INSTALL_CONTEXT => {
                if is_handler {
                    IN_FLIGHT.end(exception);
                }
                // SAFETY: the personality has just said so.
                unsafe { frame.install() }
            }
            reason => {
                return Err(RaiseError::Personality { pc: frame.pc().address(), reason });
            }
        }
        if is_handler || frame.leave()? == Step::End {
            return Err(RaiseError::HandlerLost { cfa: handler });
        }
    }
}
