//! Ends a task because somebody else wants it: at a safe point, by unwinding.
//!
//! ```text
//!   kill (any task, any CPU) ─► TaskState ─► the target's next safe point: yield, block, safe_point
//!                                              │ panicking, NoUnwind, a frame that lets nothing
//!                                              │ through: later
//!                                              └► drops, frame by frame ─► catch_all: Killed
//! ```
//!
//! Promise: who is killed dies whole. Every value is dropped, `catch_unwind` swallows nothing, and no
//! cleanup and no destructor of a thread-local value is cut short.
//!
//! # Why only at calls
//!
//! An interrupt finds a task at any instruction, where a value may be half moved: read from its
//! place, not yet written to the next. The compiler's tables list calls; at any other instruction they
//! name nothing to clean up, so the frames above would be unwound as if that one had never begun.
//! What it had taken out of a `&mut` would be dropped twice, a lock that it holds would never be freed,
//! what it has pinned would be gone without its drop. No rule about addresses tells good instructions
//! from bad ones, so a tick kills nobody; a long computation that is to be mortal calls
//! [`safe_point`] now and then, which is one call and two loads. That a CPU *fault* unwinds from such
//! an instruction is no precedent: there the choice is between that and the end of the program.
//!
//! # What a kernel does
//!
//! 1. The root of each task is [`catch_all`](crate::catch_all).
//! 2. To kill, it calls [`TaskState::kill`](crate::TaskState::kill), and then wakes the target if that
//!    waits and [must die](crate::TaskState::must_die), under the lock with which tasks go to sleep.
//! 3. Where a task yields, and before and after it sleeps, it calls [`safe_point`]; not where the
//!    caller holds what unwinding needs, or a spin lock. Who sleeps does not, if it must die.
//! 4. A waiting task that still must die after [`die`] returned waits under [`no_unwind`].

use core::marker::PhantomData;

use alloc::boxed::Box;
use unspool_unwind::raise_forced;

use crate::payload::{self, Cause};
use crate::platform::platform;

/// The payload of an exception that nobody sees.
struct Killed;

/// Where the calling task may die: it does, if it was [killed](crate::TaskState::kill) and
/// [may be unwound](crate::TaskState::must_die). Otherwise this does nothing.
///
/// Schedulers call it where tasks give way and wait; long computations should, too.
pub fn safe_point() {
    if platform().state().must_die() {
        die();
    }
}

/// Unwinds the calling task, which [must die](crate::TaskState::must_die), to the nearest
/// [`catch_all`](crate::catch_all). Nothing is printed, and no hook is called.
///
/// Returns if a frame on the way lets nothing through, or if there is no memory; nothing has happened
/// then, and the task still must die. What such a frame is, says [`raise_forced`]: C++ code that
/// catches everything, for example, or a Rust function with the ABI `"C"`, which is not to unwind.
///
/// The tables of such a function do not tell if it has values to drop at that call. It then ends the
/// program, after it has dropped them, as for a panic: `panic in a function that cannot unwind`. One
/// that yields or waits is better `extern "C-unwind"`, or says [`no_unwind`].
#[inline(never)]
pub fn die() {
    let platform = platform();
    // A box of nothing needs no memory.
    let Ok(exception) = payload::allocate(Box::new(Killed), Cause::Kill) else { return };
    platform.state().begin_kill(exception);
    // SAFETY:
    // 1. The exception was just made and lives until it is caught.
    // 2. The modules registered globally vouch for the code on this stack.
    // 3. The platform says what the current stack is, also to the environment.
    let _refused = unsafe { raise_forced(exception, platform.stack()) };
    platform.state().cancel_kill();
    // SAFETY: just made, not raised, and nobody else has it.
    drop(unsafe { payload::take(exception) });
}

/// While it exists, the task that made it is not unwound by a kill; it dies at the first safe point
/// after that.
///
/// As C's `PTHREAD_CANCEL_DISABLE`. Its own panics and faults unwind it all the same.
#[derive(Debug)]
#[must_use]
pub struct NoUnwind(PhantomData<*mut ()>);

/// Keeps the calling task from being killed until the result is dropped; may be nested.
pub fn no_unwind() -> NoUnwind {
    platform().state().hold();
    NoUnwind(PhantomData)
}

impl Drop for NoUnwind {
    fn drop(&mut self) {
        platform().state().let_go();
    }
}
