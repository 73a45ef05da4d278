//! Raises an exception in two phases.
//!
//! ```text
//!   phase 1  walk up, ask each personality "do you catch?" ──────► its CFA is remembered
//!   phase 2  walk up again, let each personality install its landing pad:
//!            ─► cleanup runs ─► resume ─► next frame … ─► the frame with that CFA catches
//! ```
//!
//! Itanium EH §1.3. Both phases keep their state in two register files on the stack of the frame
//! that raises; nothing is allocated and nothing is locked. That takes less than 2 KiB of stack up to
//! the landing pad, and up to 2304 bytes where an expression in a table needs more than eight values,
//! which no compiler's does. If phase 1 finds nobody, no frame has been touched and the caller still
//! has its whole stack to report.

use core::convert::Infallible;

use crate::address::Pc;
use crate::arch::{self, with_registers};
use crate::cache::Trail;
use crate::context::{Answer, Context, leave_interrupted};
use crate::cursor::Step;
use crate::environment::{Everywhere, current_stack, dead_end, plain_personality, resumed_stack};
use crate::error::RaiseError;
use crate::exception::{Actions, Exception, Reason};
use crate::forced::resume_forced;
use crate::glide::{Glide, trail_to};
use crate::in_flight::{IN_FLIGHT, Path};
use crate::known::Known;
use crate::registers::{Register, Registers};
use crate::stack::StackBounds;

/// Raises an exception from here: unwinds this stack to the frame that catches it.
///
/// Returns only if the exception cannot be delivered; no frame has been unwound then. (Once a landing
/// pad has run, nobody is left to return to: see [`resume`].)
///
/// # Safety
///
/// 1. `exception` points to a header that stays valid until a handler frees it.
/// 2. The modules registered globally describe the code on this stack (their registration's
///    promise), and that code was compiled to be unwound.
/// 3. `stack` contains the frames of this stack.
#[inline(always)]
pub unsafe fn raise(exception: *mut Exception, stack: StackBounds) -> RaiseError {
    let mut error = RaiseError::EndOfStack;
    // SAFETY: handed on to this function's caller.
    unsafe { raise_to(exception, &stack, &mut error) };
    error
}

/// As [`raise`], whose caller's frame is the first that is unwound; says why it returned.
///
/// # Safety
///
/// As [`raise`].
#[unsafe(naked)]
unsafe extern "C-unwind" fn raise_to(
    exception: *mut Exception,
    stack: &StackBounds,
    error: &mut RaiseError,
) {
    with_registers!("rcx", raise_with)
}

/// As [`raise_to`]; one frame for all of it, because finding out about frames takes most of the stack
/// that a raise may use.
///
/// # Safety
///
/// As [`raise`], and: `registers` are those of a frame that lives until this returns.
#[inline(never)]
unsafe extern "C" fn raise_with(
    exception: *mut Exception,
    stack: &StackBounds,
    error: &mut RaiseError,
    registers: &mut Registers,
) {
    let pc = Pc::Return(registers.ip());
    // SAFETY: the contract of `raise_to`, whose caller's registers these are.
    *error = unsafe { two_phases(exception, registers, pc, *stack) };
}

/// Raises an exception where the CPU stopped: `registers` are those that it had, and `pc` says whether
/// that was at an instruction, or at a call that it could not follow.
///
/// A frame at an [instruction](Pc::Exact) has no say: what its tables have is about its calls. A range
/// of them may well have the instruction in it, as neighbours with one landing pad share a range; but
/// that pad would look for values where they are at the calls. The first to be asked is its caller.
///
/// # Safety
///
/// As [`raise`], and: the caller runs on the same stack, below `registers`' stack pointer and its
/// red zone, and gives up all frames below it.
pub unsafe fn raise_from(
    exception: *mut Exception,
    registers: &Registers,
    pc: Pc,
    stack: StackBounds,
) -> RaiseError {
    Everywhere.refresh();
    let (mut registers, mut pc) = (*registers, pc);
    if let Err(error) = leave_interrupted(&mut registers, &mut pc, stack) {
        return error;
    }
    // SAFETY: handed on to this function's caller.
    unsafe { two_phases(exception, &mut registers, pc, stack) }
}

/// As [`raise`], from a frame with these registers, on the environment's stack
/// (`_Unwind_RaiseException`). Afterwards the registers are those of some frame further up.
///
/// # Safety
///
/// As [`raise`], and: `registers` are those of a frame that lives until this returns.
#[inline(never)]
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
pub unsafe fn resume(exception: *mut Exception, registers: &mut Registers) -> ! {
    // What is remembered of the frames that are left is still true, whatever libraries a cleanup
    // has opened or closed: these frames have been on the stack since the exception was raised,
    // which made sure of it, so their modules have not gone.
    // SAFETY: the exception is valid (contract).
    if unsafe { (*exception).is_forced() } {
        // SAFETY: as above: forced unwinding has brought it here.
        dead_end(unsafe { resume_forced(exception, registers) })
    }
    // SAFETY: as above.
    let handler = unsafe { (*exception).private_2 };
    let stack = resumed_stack(registers.sp(), handler);
    // SAFETY: the exception was raised, so `raise`'s contract holds for it.
    unsafe { glide_on(exception, registers, stack) };
    let pc = Pc::Return(registers.ip());
    // SAFETY: as above.
    let Err(error) =
        unsafe { cleanup_phase(exception, registers, pc, stack, &trail_to(pc.lookup())) };
    dead_end(error.in_phase_2())
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

/// A landing that a frame's tables ask for.
#[derive(Clone, Copy)]
struct Landing {
    pad: u64,
    /// What the frame pushed for the call (bytes).
    pushed: u32,
}

impl Landing {
    #[inline(always)]
    const fn new(pad: u64, known: &Known) -> Self {
        Self { pad, pushed: known.rule.args_size() }
    }

    /// Lands in the frame with these registers.
    ///
    /// # Safety
    ///
    /// The frame's personality would do the same.
    #[inline(always)]
    unsafe fn land(self, registers: &mut Registers, exception: *mut Exception) -> ! {
        registers.set(Register::RAX, exception.expose_provenance() as u64);
        registers.set(Register::RDX, 0);
        registers.set(Register::RSP, registers.sp().wrapping_add(self.pushed.into()));
        registers.set(Register::RA, self.pad);
        // SAFETY: the caller's promise.
        unsafe { arch::land(registers) }
    }
}

/// # Safety
///
/// As [`raise`].
#[inline(always)]
unsafe fn two_phases(
    exception: *mut Exception,
    registers: &mut Registers,
    mut pc: Pc,
    stack: StackBounds,
) -> RaiseError {
    Everywhere.refresh();
    // SAFETY: handed on to the caller.
    unsafe { glide(exception, registers, &mut pc, stack) };
    // What code is there does not change while its frames are: it is asked for once.
    let trail = trail_to(pc.lookup());
    // SAFETY: handed on to the caller.
    let (handler, path) = match unsafe { search_phase(exception, registers, pc, stack, &trail) } {
        Ok(found) => found,
        Err(error) => return error,
    };
    // SAFETY: the exception is valid (contract of `raise`).
    unsafe { found(exception, handler) };
    // SAFETY: as above.
    unsafe { depart(exception, path) };
    // SAFETY: handed on to the caller.
    let Err(error) = unsafe { cleanup_phase(exception, registers, pc, stack, &trail) };
    IN_FLIGHT.end(exception);
    error.in_phase_2()
}

/// Notes in the exception where it is caught.
///
/// # Safety
///
/// The exception is valid.
#[inline(always)]
unsafe fn found(exception: *mut Exception, handler: u64) {
    // SAFETY: the caller's promise.
    unsafe { (*exception).private_1 = 0 };
    // SAFETY: as above.
    unsafe { (*exception).private_2 = handler };
}

/// Notes that phase 2 begins.
///
/// # Safety
///
/// The exception is valid.
#[inline(always)]
unsafe fn depart(exception: *mut Exception, path: Path) {
    // SAFETY: the caller's promise.
    let cleanup = unsafe { (*exception).cleanup };
    IN_FLIGHT.begin(exception, path, cleanup.map_or(0, |cleanup| cleanup as usize as u64));
}

/// Both phases, if nobody need be asked. Otherwise returns: nobody has anything to do below the frame
/// with the registers that are left.
///
/// # Safety
///
/// As [`raise`].
#[inline(never)]
unsafe fn glide(
    exception: *mut Exception,
    registers: &mut Registers,
    pc: &mut Pc,
    stack: StackBounds,
) {
    let Some(plain) = plain_personality() else { return };
    let mut trail = trail_to(pc.lookup());
    let Some(mut glide) = Glide::new(registers, *pc, &stack, &mut trail) else { return };
    let mut path = Path::default();
    // To the first frame that something lands in. There the registers stay.
    let (mut answer, mut known) = loop {
        let Some(known) = glide.look(&mut trail) else { return };
        match Answer::of(&known, *pc, plain) {
            Answer::Nothing => {}
            Answer::Unknown => return,
            answer => break (answer, known),
        }
        path.add(known.module());
        if !glide.leave_with(known.rule, registers) {
            return;
        }
        *pc = Pc::Return(registers.ip());
    };
    let (Answer::Cleanup(pad) | Answer::Catch(pad)) = answer else { return };
    let landing = Landing::new(pad, &known);
    let lands_before = matches!(answer, Answer::Cleanup(_));
    // To the frame that catches.
    while !matches!(answer, Answer::Catch(_)) {
        path.add(known.module());
        if !glide.leave(known.rule) {
            return;
        }
        let Some(next) = glide.look(&mut trail) else { return };
        known = next;
        answer = Answer::of(&known, *pc, plain);
        if matches!(answer, Answer::Unknown) {
            return;
        }
    }
    let handler = glide.cfa(known.rule);
    // Phase 2 reads the stack up to there.
    if !glide.is_on_stack(handler) {
        return;
    }
    // SAFETY: the exception is valid (contract of `raise`).
    unsafe { found(exception, handler) };
    if lands_before {
        path.add(known.module());
        // SAFETY: as above.
        unsafe { depart(exception, path) };
    }
    // SAFETY: the frame's tables ask for it.
    unsafe { landing.land(registers, exception) }
}

/// Phase 2 from the frame with these registers to the next one that something lands in, if nobody need
/// be asked. Otherwise returns, with the registers of the frame that must be.
///
/// # Safety
///
/// As [`raise`], and phase 1 has set the exception's handler.
#[inline(always)]
unsafe fn glide_on(exception: *mut Exception, registers: &mut Registers, stack: StackBounds) {
    let Some(plain) = plain_personality() else { return };
    let pc = Pc::Return(registers.ip());
    let mut trail = trail_to(pc.lookup());
    let Some(mut glide) = Glide::new(registers, pc, &stack, &mut trail) else { return };
    // SAFETY: the exception is valid (contract).
    let handler = unsafe { (*exception).private_2 };
    loop {
        let Some(known) = glide.look(&mut trail) else { return };
        let is_handler = glide.cfa(known.rule) == handler;
        let pad = match Answer::of(&known, Pc::Return(registers.ip()), plain) {
            Answer::Nothing if !is_handler => None,
            Answer::Cleanup(pad) => Some(pad),
            Answer::Catch(pad) if is_handler => Some(pad),
            _ => return,
        };
        if let Some(pad) = pad {
            if is_handler {
                IN_FLIGHT.end(exception);
            }
            // SAFETY: the frame's tables ask for it.
            unsafe { Landing::new(pad, &known).land(registers, exception) }
        }
        if !glide.leave_with(known.rule, registers) {
            return;
        }
    }
}

/// Phase 1: the CFA of the frame that catches, and whose frames lead there.
///
/// # Safety
///
/// As [`raise`].
#[inline(never)]
unsafe fn search_phase(
    exception: *mut Exception,
    registers: &Registers,
    pc: Pc,
    stack: StackBounds,
    trail: &Trail,
) -> Result<(u64, Path), RaiseError> {
    let mut path = Path::default();
    let mut frame = Context::on(registers, pc, stack, *trail);
    let mut asked = false;
    while frame.seek(asked, 0, &mut path)? != Step::End {
        // SAFETY: handed on to the caller.
        match unsafe { frame.ask(Actions::SEARCH_PHASE, exception) } {
            Reason::CONTINUE_UNWIND => {}
            // Phase 2 reads the stack up to there.
            Reason::HANDLER_FOUND if frame.is_on_stack() => return Ok((frame.cfa(), path)),
            reason => {
                return Err(RaiseError::Personality { pc: frame.pc().address(), reason });
            }
        }
        asked = true;
    }
    Err(RaiseError::EndOfStack)
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
    trail: &Trail,
) -> Result<Infallible, RaiseError> {
    // SAFETY: the exception is valid (contract).
    let handler = unsafe { (*exception).private_2 };
    let mut frame = Context::on(registers, pc, stack, *trail);
    let mut asked = false;
    while frame.seek(asked, handler, &mut Path::default())? != Step::End {
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
        if is_handler {
            break;
        }
        asked = true;
    }
    Err(RaiseError::HandlerLost { cfa: handler })
}
