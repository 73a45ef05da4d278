//! Phase 1: from the frame that raises to the one that catches.
//!
//! ```text
//!   remembered ─► Answer ─┬─ nothing ─► the caller's frame …
//!                         ├─ cleanup ─► phase 2 begins at the first one; the caller's frame …
//!                         ├─ catches ─► lands
//!                         └─ is asked ─► goes on, or says that it catches
//!   anything else ─► by the tables
//! ```
//!
//! It walks in the registers that the raise captured: nobody needs them as they were before the first frame
//! that may have something to do, and from there on a copy of those that a walk changes is kept. The first
//! frame that is asked is often the one that catches: then there is none.

use crate::address::Pc;
use crate::answer::{self, Answer, Foreign, Unasked};
use crate::cache::{Hint, Trail};
use crate::context::Context;
use crate::cursor::{Exit, Step};
use crate::error::{RaiseError, UnwindError};
use crate::exception::{Actions, Exception, Reason, Way};
use crate::glide::Glide;
use crate::in_flight::Path;
use crate::known::Known;
use crate::raise::{Landing, caught, depart};
use crate::registers::{Changed, Register, Registers};

/// Where phase 2 begins: in the first frame that may have something to do.
pub(crate) struct Beginning {
    /// The frame's.
    pub(crate) registers: Changed,
    /// Where the cache may have the frame.
    pub(crate) hint: Hint,
    /// What its tables ask for, whatever is raised.
    pub(crate) landing: Option<Landing>,
}

impl Beginning {
    /// At the frame with these registers, whose entry the trail has come to.
    #[inline(always)]
    fn at(registers: &Registers, trail: Trail, landing: Option<Landing>) -> Self {
        Self { registers: registers.changed(), hint: trail.back().hint(), landing }
    }
}

/// Where a search begins, or goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// In the frame that raises; of the context there are registers and the stack.
    Raise,
    /// In the frame of the context.
    Frame,
    /// Beyond it, as it goes on.
    Asked,
}

/// Where a search has come to.
#[derive(Clone, Copy)]
pub(crate) enum Sought {
    /// To a frame that answered this, and does not go on.
    Answered(Reason),
    /// To a frame that is to be looked at by the tables.
    Unknown,
    /// To one that has nothing to do with it: leaving it takes more.
    Passed,
}

/// Phase 1 as far as frames are remembered. Asks those that must be; lands, if nobody must. If it returns, a
/// context is in the place. `path` gets the modules of all.
///
/// # Safety
///
/// As [`raise`](crate::raise); `place` is valid for a context, which nobody else uses, and of which there is
/// what `start` says.
#[inline(never)]
pub(crate) unsafe fn search(
    exception: *mut Exception,
    place: *mut Context,
    start: Start,
    begin: &mut Option<Beginning>,
    path: &mut Path,
) -> Sought {
    macro_rules! registers {
        () => {
            // SAFETY: registers are there (contract).
            unsafe { &mut *place.cast::<Registers>() }
        };
    }
    let is_raised = start == Start::Raise;
    let mut trail;
    let glide = if is_raised {
        // Another one: what there is a pointer to lives in memory, which the first frame would wait for.
        let mut first = Trail::START;
        // SAFETY: the stack is there (contract).
        let glide = Glide::first(registers!(), unsafe { &(*place).cursor.stack }, &mut first);
        trail = first;
        glide
    } else {
        trail = Trail::START;
        // SAFETY: all of it is there (contract).
        match unsafe { go_on(&mut *place, start, &mut trail) } {
            Ok(glide) => Some(glide),
            Err(sought) => return sought,
        }
    };
    let (mut is_made, mut sought) = (!is_raised, Sought::Unknown);
    let (mut foreign, mut seen) = (Foreign::NONE, *path);
    if let Some(mut glide) = glide {
        while let Some(known) = glide.look(&mut trail) {
            seen.add(known.module());
            let cfa = glide.cfa(registers!().get(Register::RBP), known.rule);
            let personality = answer::personality(&known);
            // Most frames have none.
            let answer = match personality {
                0 => Answer::Nothing,
                _ => foreign.answer_of(personality, &known, Pc::Return(registers!().ip())),
            };
            match answer {
                Answer::Nothing => {}
                Answer::Cleanup(_) if begin.is_some() => {}
                Answer::Cleanup(pad) => {
                    let landing = Landing::new(pad, &known);
                    *begin = Some(Beginning::at(registers!(), trail, Some(landing)));
                    if is_raised && Unasked::now().knows_handlers() {
                        let (back, rbp) = (trail.back(), registers!().get(Register::RBP));
                        *path = seen;
                        if let Some(handler) = to_handler(glide, rbp, known, &mut trail, &mut seen)
                        {
                            let way = Way::new(true, trail.hint());
                            // SAFETY: the exception is valid (contract of `raise`).
                            unsafe { depart(exception, handler, way, seen) };
                            let registers = registers!();
                            // SAFETY: the frame's tables ask for it.
                            unsafe { landing.land(registers, exception) }
                        }
                        trail = back;
                        break;
                    }
                }
                Answer::Catch(pad) if is_raised && begin.is_none() && glide.is_on_stack(cfa) => {
                    // SAFETY: the exception is valid (contract of `raise`).
                    unsafe { caught(exception, cfa) };
                    let registers = registers!();
                    // SAFETY: the frame's tables ask for it.
                    unsafe { Landing::new(pad, &known).land(registers, exception) }
                }
                _ => {
                    // SAFETY: the place is valid (contract).
                    unsafe { Context::put_known(place, known) };
                    // SAFETY: as above, and what is known has been written.
                    let frame = unsafe { Context::at(place, is_made, cfa) };
                    is_made = true;
                    // SAFETY: handed on to the caller; the personality is the frame's.
                    match unsafe { frame.ask_at(personality, Actions::SEARCH_PHASE, exception) } {
                        Reason::CONTINUE_UNWIND => {}
                        reason => {
                            frame.set_trail(trail);
                            *path = seen;
                            return Sought::Answered(reason);
                        }
                    }
                    if begin.is_none() {
                        *begin = Some(Beginning::at(registers!(), trail, None));
                    }
                }
            }
            if !glide.leave_to(cfa, known.rule, registers!()) {
                // SAFETY: the place is valid (contract).
                unsafe { Context::put_known(place, known.only_to_leave()) };
                sought = Sought::Passed;
                break;
            }
        }
    }
    *path = seen;
    if let Sought::Unknown = sought {
        // SAFETY: the place is valid (contract).
        unsafe { Context::put_known(place, Known::NOTHING) };
    }
    // SAFETY: as above, and what is known has been written.
    let frame = unsafe { Context::at(place, is_made, 0) };
    frame.set_trail(trail);
    sought
}

/// What a search goes on with, in the frame of the context or beyond it; or where it has come to.
#[cold]
#[inline(never)]
fn go_on(frame: &mut Context, start: Start, trail: &mut Trail) -> Result<Glide, Sought> {
    *trail = frame.trail();
    if start != Start::Asked {
        // A frame that was interrupted has other answers.
        let is_call = frame.pc().is_return();
        return frame.glide(trail).filter(|_| is_call).ok_or(Sought::Unknown);
    }
    let glide = frame.glide(trail).filter(|_| frame.exit() == Exit::Rule);
    let mut glide = glide.ok_or(Sought::Passed)?;
    let (cfa, rule) = (frame.cfa(), frame.known().rule);
    let has_left = glide.leave_to(cfa, rule, frame.cursor.registers_mut());
    if has_left { Ok(glide) } else { Err(Sought::Passed) }
}

/// The CFA of the frame that catches, if nobody need be asked on the way there from a frame of which this is
/// known, whose `rbp` this is. Nobody wants the other registers of those in between.
#[inline(always)]
fn to_handler(
    mut glide: Glide,
    mut rbp: u64,
    mut known: Known,
    trail: &mut Trail,
    path: &mut Path,
) -> Option<u64> {
    let unasked = Unasked::now();
    loop {
        if !glide.leave(&mut rbp, known.rule) {
            return None;
        }
        known = glide.look(trail)?;
        // Where it would land, nobody asks.
        match unasked.answer(&known, Pc::Return(0)) {
            Answer::Unknown | Answer::Foreign => return None,
            Answer::Catch(_) => break,
            _ => path.add(known.module()),
        }
    }
    let handler = glide.cfa(rbp, known.rule);
    // Phase 2 reads the stack up to there.
    glide.is_on_stack(handler).then_some(handler)
}

/// Phase 1 from where it stopped, through frames of whatever kind: what the frame has answered that does not go
/// on.
///
/// # Safety
///
/// As [`search`], which has made the context.
#[cold]
#[inline(never)]
pub(crate) unsafe fn search_by_tables(
    exception: *mut Exception,
    place: *mut Context,
    mut sought: Sought,
    begin: &mut Option<Beginning>,
    path: &mut Path,
) -> Result<Reason, RaiseError> {
    loop {
        // SAFETY: a context is there (contract).
        let frame = unsafe { &mut *place };
        let start = match sought {
            Sought::Answered(reason) => return Ok(reason),
            // SAFETY: handed on to the caller.
            Sought::Unknown => match unsafe { search_here(exception, frame, begin, path)? } {
                Reason::CONTINUE_UNWIND => Start::Asked,
                reason => return Ok(reason),
            },
            Sought::Passed => {
                // No phase 2 begins in a frame that was interrupted.
                if begin.is_none() && frame.may_be_of_signal() {
                    *begin = Some(Beginning::at(frame.registers(), frame.trail(), None));
                }
                if frame.leave()? == Step::End {
                    return Err(RaiseError::EndOfStack);
                }
                Start::Frame
            }
        };
        // SAFETY: handed on to the caller.
        sought = unsafe { search(exception, place, start, begin, path) };
    }
}

/// Phase 1 in one frame, which is looked at by the tables: what it answers.
///
/// # Safety
///
/// As [`search`].
#[inline(always)]
unsafe fn search_here(
    exception: *mut Exception,
    frame: &mut Context,
    begin: &mut Option<Beginning>,
    path: &mut Path,
) -> Result<Reason, UnwindError> {
    frame.look()?;
    path.add(frame.known().module());
    let reason = match Unasked::now().answer(frame.known(), frame.pc()) {
        Answer::Nothing => return Ok(Reason::CONTINUE_UNWIND),
        Answer::Cleanup(_) => Reason::CONTINUE_UNWIND,
        // SAFETY: handed on to the caller.
        _ => unsafe { frame.ask(Actions::SEARCH_PHASE, exception) },
    };
    if reason == Reason::CONTINUE_UNWIND && begin.is_none() {
        *begin = Some(Beginning::at(frame.registers(), frame.trail(), None));
    }
    Ok(reason)
}
