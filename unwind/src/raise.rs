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
use core::mem::MaybeUninit;

use crate::address::Pc;
use crate::answer::{Answer, Unasked};
use crate::arch::{self, with_registers};
use crate::cache::Trail;
use crate::cleanup::{Stopped, unwind, unwind_by_tables};
use crate::context::{Context, Sought, leave_interrupted};
use crate::cursor::Step;
use crate::environment::{Everywhere, current_stack, dead_end};
use crate::error::RaiseError;
use crate::exception::{Actions, Exception, Reason, Way};
use crate::forced::resume_forced;
use crate::glide::{Glide, trail_to};
use crate::in_flight::{IN_FLIGHT, Path};
use crate::known::Known;
use crate::registers::{Register, Registers};
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
    // SAFETY: the contract of `raise_to`, whose caller's registers these are.
    *error = unsafe { two_phases(exception, registers, *stack) };
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
    unsafe { two_phases(exception, &mut registers, stack) }
}

/// As [`raise`], from a frame with these registers, on the environment's stack
/// (`_Unwind_RaiseException`). Afterwards the registers are those of some frame further up.
///
/// # Safety
///
/// As [`raise`], and: `registers` are those of a frame that lives until this returns.
#[inline(always)]
pub unsafe fn raise_here(exception: *mut Exception, registers: &mut Registers) -> RaiseError {
    let stack = current_stack(registers.sp());
    // SAFETY: handed on to this function's caller; the environment vouches for the stack.
    unsafe { two_phases(exception, registers, stack) }
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

/// Where both phases begin that somebody must be asked in.
struct Beginning {
    /// Leads to their frame.
    trail: Trail,
    /// What the frame's tables ask for in phase 2, whatever is raised.
    landing: Option<Landing>,
}

/// # Safety
///
/// As [`raise`].
#[inline(always)]
unsafe fn two_phases(
    exception: *mut Exception,
    registers: &mut Registers,
    stack: StackBounds,
) -> RaiseError {
    Everywhere.refresh();
    let mut path = Path::default();
    // SAFETY: handed on to the caller.
    let begin = unsafe { glide(exception, registers, stack, &mut path) };
    // For both phases, one after the other.
    let mut room = MaybeUninit::uninit();
    let frame = Context::on(&mut room, registers, stack, &begin.trail);
    // SAFETY: handed on to the caller.
    let handler = match unsafe { search_phase(exception, frame, &mut path) } {
        Ok(handler) => handler,
        Err(error) => return error,
    };
    let way = Way::new(frame.is_on(stack), frame.hint());
    // SAFETY: the exception is valid (contract of `raise`).
    unsafe { depart(exception, handler, way, path) };
    if let Some(landing) = begin.landing {
        // SAFETY: the frame's tables ask for it.
        unsafe { landing.land(registers, exception) }
    }
    frame.begin_again(registers);
    let place = room.as_mut_ptr();
    let way = way.with_hint(begin.trail.hint());
    // SAFETY: handed on to the caller.
    let stopped = unsafe { unwind(exception, place, way, false) };
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
unsafe fn depart(exception: *mut Exception, handler: u64, way: Way, path: Path) {
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
unsafe fn caught(exception: *mut Exception, handler: u64) {
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

/// Both phases, if nobody need be asked. Otherwise returns: nobody has anything to do below the frame
/// with the registers that are left; `passed` gets the modules of those that have not.
///
/// # Safety
///
/// As [`raise`].
#[inline(never)]
unsafe fn glide(
    exception: *mut Exception,
    registers: &mut Registers,
    stack: StackBounds,
    passed: &mut Path,
) -> Beginning {
    let unasked = Unasked::now();
    let mut path = Path::default();
    let mut pc = Pc::Return(registers.ip());
    let mut trail = trail_to(pc.lookup());
    let Some(mut glide) = Glide::new(registers, pc, &stack, &mut trail) else {
        return Beginning { trail, landing: None };
    };
    // To the first frame that something lands in, or that must be asked. There the registers stay.
    let (mut answer, mut known) = loop {
        let Some(known) = glide.look(&mut trail) else {
            *passed = path;
            return Beginning { trail, landing: None };
        };
        let answer = unasked.answer(&known, pc);
        if !matches!(answer, Answer::Nothing) || !glide.leave_with(known.rule, registers) {
            break (answer, known);
        }
        path.add(known.module());
        pc = Pc::Return(registers.ip());
    };
    *passed = path;
    let mut begin = Beginning { trail: trail.back(), landing: None };
    let (Answer::Cleanup(pad) | Answer::Catch(pad)) = answer else { return begin };
    let landing = Landing::new(pad, &known);
    let lands_before = matches!(answer, Answer::Cleanup(_));
    if lands_before {
        begin.landing = Some(landing);
        if !unasked.knows_handlers() {
            return begin;
        }
    }
    // To the frame that catches.
    while !matches!(answer, Answer::Catch(_)) {
        path.add(known.module());
        if !glide.leave(known.rule) {
            return begin;
        }
        let Some(next) = glide.look(&mut trail) else { return begin };
        known = next;
        answer = unasked.answer(&known, pc);
        if matches!(answer, Answer::Unknown | Answer::Foreign) {
            return begin;
        }
    }
    let handler = glide.cfa(known.rule);
    // Phase 2 reads the stack up to there.
    if !glide.is_on_stack(handler) {
        return begin;
    }
    if lands_before {
        path.add(known.module());
        // SAFETY: the exception is valid (contract of `raise`).
        unsafe { depart(exception, handler, Way::new(true, trail.hint()), path) };
    } else {
        // SAFETY: as above.
        unsafe { caught(exception, handler) };
    }
    // SAFETY: the frame's tables ask for it.
    unsafe { landing.land(registers, exception) }
}

/// Phase 1: the CFA of the frame that catches, and in `path` whose frames lead there. If no other has
/// anything to do, lands in it.
///
/// # Safety
///
/// As [`raise`].
#[inline(never)]
unsafe fn search_phase(
    exception: *mut Exception,
    frame: &mut Context,
    path: &mut Path,
) -> Result<u64, RaiseError> {
    let mut answer = None;
    loop {
        match answer {
            None | Some(Reason::CONTINUE_UNWIND) => {}
            // Phase 2 reads the stack up to there.
            Some(Reason::HANDLER_FOUND) if frame.is_on_stack() => break,
            Some(reason) => return refused(frame, reason),
        }
        // SAFETY: handed on to the caller.
        answer = match unsafe { frame.search(answer.is_some(), path, exception) } {
            Sought::Answered(reason) => Some(reason),
            // SAFETY: as above.
            Sought::Unknown => Some(unsafe { frame.search_here(path, exception)? }),
            Sought::Nowhere if frame.leave()? == Step::End => return Err(RaiseError::EndOfStack),
            Sought::Nowhere => None,
        };
    }
    if frame.passed_cleanup() {
        return Ok(frame.cfa());
    }
    // SAFETY: handed on to the caller.
    let Err(error) = unsafe { enter_handler(exception, frame) };
    Err(error.in_phase_2())
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
#[inline(never)]
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
