//! Phase 2: from a frame to the next one that something lands in.
//!
//! ```text
//!   remembered ─► Answer ─┬─ nothing ─► the caller's frame …
//!                         ├─ lands ─► cleanup runs ─► resume ─► the same from its frame …
//!                         └─ is asked ─► goes on, or lands
//!   anything else ─► by the tables
//! ```
//!
//! It is the same whether the exception was just raised or a cleanup has run: nothing but the registers,
//! and two words in the exception, leads from one landing to the next.

use core::convert::Infallible;

use crate::address::Pc;
use crate::answer::{self, Answer, Foreign};
use crate::cache::Trail;
use crate::context::Context;
use crate::cursor::Step;
use crate::environment::current_stack;
use crate::error::RaiseError;
use crate::exception::{Actions, Exception, Reason, Way};
use crate::glide::Glide;
use crate::known::Known;
use crate::raise::{Landing, arrive, refused};
use crate::registers::Registers;
use crate::stack::{ReadStack as _, StackBounds};

/// Where phase 2 could not go on as far as frames are remembered.
#[derive(Clone, Copy)]
pub(crate) enum Stopped {
    /// In a frame of which nothing is.
    Unknown,
    /// In a frame that has nothing to do: leaving it takes more.
    Passed,
    /// In a frame that has answered this, which is the end.
    Refused(Reason),
}

/// Phase 2 from the frame with the registers in `place`, as far as frames are remembered: lands in the next
/// one that has something to do, which may be this one. If it returns, a context is in the place.
///
/// The cache may have the frame where the `way` says. It is where phase 2 begins, or goes on after a cleanup
/// (`is_resumed`).
///
/// # Safety
///
/// As [`raise`](crate::raise), and phase 1 has set the exception's handler and its way; `place` is valid for
/// a context, which begins with registers, and nobody else uses it.
#[inline(never)]
pub(crate) unsafe fn unwind(
    exception: *mut Exception,
    place: *mut Context,
    way: Way,
    is_resumed: bool,
) -> Stopped {
    // SAFETY: registers are there (contract).
    let registers = unsafe { &mut *place.cast::<Registers>() };
    // SAFETY: the exception is valid (contract).
    let handler = unsafe { (*exception).private_2 };
    let sp = registers.sp();
    let (stack, climb) = if way.is_whole() {
        // SAFETY: phase 1 has come to the handler's frame on this very stack, so all between here and its
        // CFA is mapped; nobody else runs on it.
        let stack = unsafe { StackBounds::new(sp, handler) };
        (stack, stack.climb_all())
    } else {
        let stack = current_stack(sp);
        (stack, stack.climb(sp))
    };
    // SAFETY: the place is valid (contract).
    unsafe { Context::put_stack(place, stack) };
    let mut trail = Trail::START;
    let glide = Glide::begin(registers, climb, way.hint(), &mut trail);
    if is_resumed {
        // SAFETY: the exception is valid (contract).
        unsafe { (*exception).private_1 = way.with_hint(trail.hint_beyond()).word() };
    }
    let (mut is_made, mut stopped) = (false, Stopped::Unknown);
    let mut foreign = Foreign::NONE;
    if let Some(mut glide) = glide {
        while let Some(known) = glide.recall(&mut trail) {
            // SAFETY: registers are there (contract).
            let registers = unsafe { &mut *place.cast::<Registers>() };
            let personality = answer::personality(&known);
            let cfa = known.rule.cfa(registers);
            let is_handler = cfa == handler;
            let pc = Pc::Return(registers.ip());
            let pad = match foreign.answer_of(personality, &known, pc) {
                Answer::Nothing if !is_handler => None,
                Answer::Nothing => {
                    // SAFETY: the place is valid (contract).
                    unsafe { Context::put_known(place, known) };
                    // SAFETY: as above, and what is known has been written.
                    unsafe { Context::at(place, is_made, cfa) };
                    return Stopped::Refused(Reason::CONTINUE_UNWIND);
                }
                Answer::Cleanup(pad) => Some(pad),
                Answer::Catch(pad) if is_handler => Some(pad),
                _ => {
                    // SAFETY: the place is valid (contract).
                    unsafe { Context::put_known(place, known) };
                    // SAFETY: as above, and what is known has been written.
                    let frame = unsafe { Context::at(place, is_made, cfa) };
                    is_made = true;
                    // SAFETY: as above, and so is the exception.
                    let reason = unsafe { ask(exception, frame, personality, is_handler) };
                    if reason != Reason::CONTINUE_UNWIND || is_handler {
                        return Stopped::Refused(reason);
                    }
                    None
                }
            };
            if let Some(pad) = pad {
                if is_handler {
                    // SAFETY: the exception is valid (contract), and phase 2 has begun.
                    unsafe { arrive(exception) };
                }
                // SAFETY: the frame's tables ask for it.
                unsafe { Landing::new(pad, &known).land(registers, exception) }
            }
            // SAFETY: registers are there (contract).
            if !glide.leave_to(cfa, known.rule, unsafe { &mut *place.cast::<Registers>() }) {
                // SAFETY: the place is valid (contract).
                unsafe { Context::put_known(place, known.only_to_leave()) };
                stopped = Stopped::Passed;
                break;
            }
            if !glide.enter(&mut trail) {
                break;
            }
        }
    }
    if let Stopped::Unknown = stopped {
        // SAFETY: the place is valid (contract).
        unsafe { Context::put_known(place, Known::NOTHING) };
    }
    // SAFETY: as above, and what is known has been written.
    let frame = unsafe { Context::at(place, is_made, 0) };
    frame.set_trail(trail);
    stopped
}

/// Asks the frame's personality, which is at this address and not 0. Lands, or gives back the answer.
///
/// # Safety
///
/// As [`unwind`].
#[inline(always)]
unsafe fn ask(
    exception: *mut Exception,
    frame: &mut Context,
    personality: u64,
    is_handler: bool,
) -> Reason {
    let actions = match is_handler {
        true => Actions::CLEANUP_PHASE.with(Actions::HANDLER_FRAME),
        false => Actions::CLEANUP_PHASE,
    };
    // SAFETY: it is the frame's (contract), and the exception is valid.
    let reason = unsafe { frame.ask_at(personality, actions, exception) };
    if reason == Reason::INSTALL_CONTEXT {
        if is_handler {
            // SAFETY: the exception is valid (contract), and phase 2 has begun.
            unsafe { arrive(exception) };
        }
        // SAFETY: the personality has just said so.
        unsafe { frame.install() }
    }
    reason
}

/// Phase 2 from where it stopped, through frames of whatever kind. Returns only on failure.
///
/// # Safety
///
/// As [`unwind`], which has made the context.
#[cold]
#[inline(never)]
pub(crate) unsafe fn unwind_by_tables(
    exception: *mut Exception,
    frame: &mut Context,
    mut stopped: Stopped,
) -> Result<Infallible, RaiseError> {
    // SAFETY: the exception is valid (contract).
    let handler = unsafe { (*exception).private_2 };
    let lost = Err(RaiseError::HandlerLost { cfa: handler });
    loop {
        match stopped {
            Stopped::Unknown => {}
            Stopped::Refused(Reason::CONTINUE_UNWIND) => return lost,
            Stopped::Refused(reason) => return refused(frame, reason),
            Stopped::Passed if frame.leave()? == Step::End => return lost,
            Stopped::Passed => {}
        }
        frame.look()?;
        let personality = answer::personality(frame.known());
        let is_handler = frame.cfa() == handler;
        let reason = match personality {
            0 => Reason::CONTINUE_UNWIND,
            // SAFETY: handed on to the caller.
            _ => unsafe { ask(exception, frame, personality, is_handler) },
        };
        stopped = match reason {
            Reason::CONTINUE_UNWIND if !is_handler => Stopped::Passed,
            reason => Stopped::Refused(reason),
        };
    }
}
