//! Raises an exception in two phases.
//!
//! ```text
//!   phase 1  walk up, ask each personality "do you catch?" ──────► its CFA is remembered
//!   phase 2  walk up again, let each personality install its landing pad:
//!            ─► cleanup runs ─► resume ─► next frame … ─► the frame with that CFA catches
//! ```
//!
//! Itanium EH §1.3. Both phases keep their state in one context on the stack of the frame that raises,
//! besides the registers of the frame where the second begins; nothing is allocated and nothing is locked.
//! That takes less than 2 KiB of stack up to the landing pad, and up to 2304 bytes where an expression in
//! a table needs more than eight values, which no compiler's does. If phase 1 finds nobody, no frame has
//! been touched and the caller still has its whole stack to report.

use core::convert::Infallible;
use core::mem::MaybeUninit;

use crate::address::Pc;
use crate::arch::{self, with_registers};
use crate::cleanup::{Stopped, unwind, unwind_by_tables};
use crate::context::{Context, leave_interrupted};
use crate::environment::{Everywhere, current_stack, dead_end};
use crate::error::RaiseError;
use crate::exception::{Actions, Exception, Reason, Way};
use crate::forced::resume_forced;
use crate::in_flight::{IN_FLIGHT, Path};
use crate::known::Known;
use crate::registers::{Register, Registers};
use crate::search::{Sought, Start, search, search_by_tables};
use crate::stack::StackBounds;

/// Raises an exception from here: unwinds this stack to the frame that catches it.
///
/// Returns only if the exception cannot be delivered; no frame has been unwound then. (Once a landing
/// pad has run, nobody is left to return to: see [`_Unwind_Resume`](crate::abi::_Unwind_Resume).)
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
    with_registers!("rcx", raise_with, Context)
}

/// As [`raise_to`], from the registers with which `place` begins.
///
/// # Safety
///
/// As [`raise`], and: the registers are those of a frame that lives until this returns; `place` is valid for
/// a context, and nobody else uses it.
unsafe extern "C" fn raise_with(
    exception: *mut Exception,
    stack: &StackBounds,
    error: &mut RaiseError,
    place: *mut Context,
) {
    // SAFETY: the contract of `raise_to`, whose caller's registers these are.
    *error = unsafe { two_phases(exception, place, *stack) };
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
    unsafe { raise_copy(exception, &registers, stack) }
}

/// As [`raise`], from a frame with these registers, on the environment's stack
/// (`_Unwind_RaiseException`).
///
/// # Safety
///
/// As [`raise`], and: `registers` are those of a frame that lives until this returns.
pub unsafe fn raise_here(exception: *mut Exception, registers: &Registers) -> RaiseError {
    // SAFETY: handed on to this function's caller; the environment vouches for the stack.
    unsafe { raise_copy(exception, registers, current_stack(registers.sp())) }
}

/// As [`raise_here`], on this stack.
///
/// # Safety
///
/// As [`raise_here`].
#[inline(never)]
unsafe fn raise_copy(
    exception: *mut Exception,
    registers: &Registers,
    stack: StackBounds,
) -> RaiseError {
    let mut room = MaybeUninit::<Context>::uninit();
    // SAFETY: a context begins with registers.
    unsafe { room.as_mut_ptr().cast::<Registers>().write(*registers) };
    // SAFETY: handed on to the caller; there is room for a context.
    unsafe { two_phases(exception, room.as_mut_ptr(), stack) }
}

/// As [`raise_here`], from the registers with which `place` begins.
///
/// # Safety
///
/// As [`raise_here`]; `place` is valid for a context, and nobody else uses it.
#[inline(always)]
pub(crate) unsafe fn raise_in(exception: *mut Exception, place: *mut Context) -> RaiseError {
    // SAFETY: registers are there (contract).
    let stack = current_stack(unsafe { (*place.cast::<Registers>()).sp() });
    // SAFETY: handed on to this function's caller; the environment vouches for the stack.
    unsafe { two_phases(exception, place, stack) }
}

/// Goes on with phase 2 after a cleanup (`_Unwind_Resume`), from the landing pad's registers, with which
/// `place` begins.
///
/// Cannot return: if the unwinding cannot go on, the environment gets the reason.
///
/// # Safety
///
/// `exception` is the one that the landing pad was entered with. `place` is valid for a context, and
/// nobody else uses it.
pub(crate) unsafe extern "C" fn resume(exception: *mut Exception, place: *mut Context) -> ! {
    // SAFETY: the exception is valid (contract).
    if let Some(way) = Way::of(unsafe { &*exception }) {
        // What is remembered of the frames that are left is still true, whatever libraries a cleanup
        // has opened or closed: these frames have been on the stack since the exception was raised,
        // which made sure of it, so their modules have not gone.
        // SAFETY: the exception was raised, so `raise`'s contract holds for it.
        let stopped = unsafe { unwind(exception, place, way, true) };
        // SAFETY: as above; the context is there.
        unsafe { resume_by_tables(exception, place, stopped) }
    }
    // SAFETY: the contract is the same.
    unsafe { resume_otherwise(exception, place) }
}

/// As [`resume`], of forced unwinding; or where the frame that catches goes on instead.
///
/// # Safety
///
/// As [`resume`].
#[cold]
#[inline(never)]
unsafe fn resume_otherwise(exception: *mut Exception, place: *mut Context) -> ! {
    // SAFETY: the exception is valid (contract).
    if unsafe { (*exception).is_forced() } {
        // SAFETY: as above: forced unwinding has brought it here; registers are there.
        dead_end(unsafe { resume_forced(exception, &*place.cast::<Registers>()) })
    }
    // SAFETY: the exception was raised, so `raise`'s contract holds for it.
    let stopped = unsafe { unwind(exception, place, Way::UNKNOWN, false) };
    // SAFETY: as above; the context is there.
    unsafe { resume_by_tables(exception, place, stopped) }
}

/// As [`resume`], from where it stopped.
///
/// # Safety
///
/// As [`unwind_by_tables`].
#[cold]
#[inline(never)]
unsafe fn resume_by_tables(exception: *mut Exception, place: *mut Context, stopped: Stopped) -> ! {
    // SAFETY: handed on to the caller; the context is there.
    let Err(error) = unsafe { unwind_by_tables(exception, &mut *place, stopped) };
    dead_end(error.in_phase_2())
}

/// Raises an exception again that was caught, or goes on with a forced unwinding
/// (`_Unwind_Resume_or_Rethrow`).
///
/// # Safety
///
/// As [`raise_here`]; a forced exception was brought here by forced unwinding.
pub unsafe fn resume_or_rethrow(exception: *mut Exception, registers: &Registers) -> RaiseError {
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
pub(crate) struct Landing {
    pad: u64,
    /// What the frame pushed for the call (bytes).
    pushed: u32,
}

impl Landing {
    #[inline(always)]
    pub(crate) const fn new(pad: u64, known: &Known) -> Self {
        Self { pad, pushed: known.rule.args_size() }
    }

    /// Lands in the frame with these registers.
    ///
    /// # Safety
    ///
    /// The frame's personality would do the same.
    #[inline(always)]
    pub(crate) unsafe fn land(self, registers: &mut Registers, exception: *mut Exception) -> ! {
        registers.set(Register::RAX, exception.expose_provenance() as u64);
        registers.set(Register::RDX, 0);
        registers.set(Register::RSP, registers.sp().wrapping_add(self.pushed.into()));
        registers.set(Register::RA, self.pad);
        // SAFETY: the caller's promise.
        unsafe { arch::land(registers) }
    }
}

/// Both phases, from the frame whose registers are in the place.
///
/// # Safety
///
/// As [`raise`]; `place` is valid for a context, which begins with registers, and nobody else uses it.
#[inline(always)]
unsafe fn two_phases(
    exception: *mut Exception,
    place: *mut Context,
    stack: StackBounds,
) -> RaiseError {
    Everywhere.refresh();
    // SAFETY: the place is valid (contract).
    unsafe { Context::put_stack(place, stack) };
    let (mut begin, mut path) = (None, Path::default());
    // SAFETY: handed on to the caller; registers and the stack are there.
    let sought = unsafe { search(exception, place, Start::Raise, &mut begin, &mut path) };
    let reason = match sought {
        Sought::Answered(reason) => Ok(reason),
        // SAFETY: as above; it has made a context.
        _ => unsafe { search_by_tables(exception, place, sought, &mut begin, &mut path) },
    };
    let reason = match reason {
        Ok(reason) => reason,
        Err(error) => return error,
    };
    // SAFETY: a context is there.
    let frame = unsafe { &mut *place };
    // Phase 2 reads the stack up to there.
    if reason != Reason::HANDLER_FOUND || !frame.is_on_stack() {
        let Err(error) = refused::<Infallible>(frame, reason);
        return error;
    }
    let Some(begin) = begin else {
        // SAFETY: handed on to the caller; it has just said so.
        let Err(error) = unsafe { enter_handler(exception, frame) };
        return error.in_phase_2();
    };
    let way = Way::new(frame.is_on(stack), frame.hint());
    // SAFETY: the exception is valid (contract of `raise`).
    unsafe { depart(exception, frame.cfa(), way, path) };
    frame.begin_again(&begin.registers);
    if let Some(landing) = begin.landing {
        // SAFETY: the frame's tables ask for it.
        unsafe { landing.land(frame.cursor.registers_mut(), exception) }
    }
    // SAFETY: handed on to the caller.
    let stopped = unsafe { unwind(exception, place, way.with_hint(begin.hint), false) };
    // SAFETY: as above; the context is there.
    let Err(error) = unsafe { unwind_by_tables(exception, &mut *place, stopped) };
    // SAFETY: the exception is valid (contract of `raise`).
    unsafe { arrive(exception) };
    error.in_phase_2()
}

/// Notes that phase 2 begins, which leads to this CFA.
///
/// # Safety
///
/// The exception is valid.
#[inline(always)]
pub(crate) unsafe fn depart(exception: *mut Exception, handler: u64, way: Way, path: Path) {
    // SAFETY: the caller's promise.
    unsafe { (*exception).private_1 = way.word() };
    // SAFETY: as above.
    unsafe { (*exception).private_2 = handler };
    // SAFETY: as above.
    let cleanup = unsafe { (*exception).cleanup };
    IN_FLIGHT.begin(exception, path, cleanup.map_or(0, |cleanup| cleanup as usize as u64));
}

/// Notes that the exception is caught, where nothing has run before.
///
/// # Safety
///
/// As [`depart`].
#[inline(always)]
pub(crate) unsafe fn caught(exception: *mut Exception, handler: u64) {
    // SAFETY: the caller's promise.
    unsafe { (*exception).private_1 = 0 };
    // SAFETY: as above.
    unsafe { (*exception).private_2 = handler };
}

/// Notes that phase 2 has ended.
///
/// # Safety
///
/// As [`depart`], which was called.
#[inline(always)]
pub(crate) unsafe fn arrive(exception: *mut Exception) {
    // SAFETY: the caller's promise.
    let is_on_its_way = unsafe { (*exception).private_1 } != 0;
    // The frame that catches may go on, and catch again.
    if is_on_its_way {
        // SAFETY: as above.
        unsafe { (*exception).private_1 = 0 };
        IN_FLIGHT.end(exception);
    }
}

/// The frame's personality answered what it must not.
#[cold]
#[inline(never)]
pub(crate) fn refused<T>(frame: &Context, reason: Reason) -> Result<T, RaiseError> {
    Err(RaiseError::Personality { pc: frame.pc().address(), reason })
}

/// All of phase 2, where the frame that catches is the first that has anything to do: nothing runs
/// before it, so the exception is never in flight.
///
/// # Safety
///
/// As [`raise`], and the frame has just said that it catches.
#[inline(always)]
unsafe fn enter_handler(
    exception: *mut Exception,
    frame: &mut Context,
) -> Result<Infallible, RaiseError> {
    let handler = frame.cfa();
    // SAFETY: the exception is valid (contract of `raise`).
    unsafe { caught(exception, handler) };
    let actions = Actions::CLEANUP_PHASE.with(Actions::HANDLER_FRAME);
    // SAFETY: handed on to the caller.
    match unsafe { frame.ask(actions, exception) } {
        // SAFETY: the personality has just said so.
        Reason::INSTALL_CONTEXT => unsafe { frame.install() },
        Reason::CONTINUE_UNWIND => Err(RaiseError::HandlerLost { cfa: handler }),
        reason => refused(frame, reason),
    }
}
