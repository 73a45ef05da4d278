//! Ends a task because somebody else wants it: at a safe point, or where it allows any instruction.
//!
//! ```text
//!   kill (any task, any CPU) ─► TaskState ─┬─► the target's next safe point: yield, block, safe_point
//!                                          │       die: unwinds from a call
//!                                          └─► the return from an interrupt of interruptible code
//!                                                  die_at: unwinds from the very instruction
//!       panicking, NoUnwind, a frame that lets nothing through: later
//!       else: drops, frame by frame ─► catch_all: Killed
//! ```
//!
//! Promise: who is killed dies whole. Every value is dropped that is not in an
//! [`interruptible`](crate::interruptible) region, `catch_unwind` swallows nothing, and no cleanup and
//! no destructor of a thread-local value is cut short.
//!
//! # Why not at any instruction
//!
//! ```text
//!     let text = take(place);      ◄─ interrupt: `text` is in a register, and nobody's
//!     *place = parse(text);        ◄─ a call: the tables name `text`, and who drops it
//!     ───────────────────────
//!     call sites  │    │▓▓▓▓▓▓▓▓▓▓▓│  │▓▓▓│      what the tables know
//!     interrupts  ▲▲▲▲▲▲▲▲▲▲▲▲▲▲▲▲▲▲▲▲▲▲▲▲▲▲      where one may come
//! ```
//!
//! An interrupt finds a task at any instruction, where a value may be half moved: read from its
//! place, not yet written to the next. The compiler's tables list calls; at any other instruction they
//! name nothing to clean up, or, between two calls with the same landing pad, one that finds its values
//! elsewhere than it looks for them. So the frames above would be unwound as if that one had never
//! begun: what it had taken out of a `&mut` would be dropped twice, a lock that it holds would never be
//! freed, what it has pinned would be gone without its drop. No rule about addresses tells good
//! instructions from bad ones; only who wrote the code can. That is the contract of
//! [`interruptible`](crate::interruptible), and the interrupted frame is then left as it is. Everywhere
//! else a tick kills nobody; a long computation that is to be mortal calls [`safe_point`] now and then,
//! which is one call and two loads. That a CPU *fault* unwinds from any instruction is no precedent:
//! there the choice is between that and the end of the program.
//!
//! # What glibc does
//!
//! Its `pthread_cancel`, by default, waits for a cancellation point, as a kill for a safe point; it then
//! unwinds at once, whatever is on the stack. C++ frames run their destructors on either way, and a
//! handler for a type is for neither. What differs is who does not let it through: there, a `catch (...)`
//! is entered, and ends the process if it does not throw again (`FATAL: exception not rethrown`), and so
//! does a `noexcept` function. Here, such a frame is found before anything is unwound, and holds the kill
//! off until it is left: no table says whether a handler would throw it again. So a worker that is to be
//! killed calls its safe points outside of such frames. Functions without unwind tables, which are
//! where glibc gives up cleaning and ends the thread, hold it off as well.
//!
//! # What a kernel does
//!
//! 1. The root of each task is [`catch_all`](crate::catch_all).
//! 2. To kill, it calls [`TaskState::kill`](crate::TaskState::kill), and then wakes the target if that
//!    waits and [must die](crate::TaskState::must_die), under the lock with which tasks go to sleep; if
//!    it runs and [is interruptible](crate::TaskState::is_interruptible), it interrupts the CPU.
//! 3. Where a task yields, and before and after it sleeps, it calls [`safe_point`]; not where the
//!    caller holds what unwinding needs, or a spin lock. Who sleeps does not, if it must die. What it
//!    has to bring to an end around that is [`uninterruptible`](crate::uninterruptible).
//! 4. A waiting task that still must die after [`die`] returned waits under [`no_unwind`].
//! 5. On the way back from an interrupt, on the stack of the task, it calls [`die_at`] if the task
//!    [must die here](crate::TaskState::must_die_here).

use core::marker::PhantomData;

use alloc::boxed::Box;
use unspool_unwind::{Registers, raise_forced, raise_forced_from};

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
    platform.state().begin_kill();
    // A box of nothing needs no memory.
    let Ok(exception) = payload::allocate(Box::new(Killed), Cause::Kill) else {
        return platform.state().cancel_kill();
    };
    // Only a task without a panic dies.
    platform.state().raise(exception);
    // SAFETY:
    // 1. The exception was just made and lives until it is caught.
    // 2. The modules registered globally vouch for the code on this stack.
    // 3. The platform says what the current stack is, also to the environment.
    let _refused = unsafe { raise_forced(exception, platform.stack()) };
    // SAFETY: just made, not raised, and nobody else has it.
    drop(unsafe { payload::take(exception) });
    platform.state().cancel_kill();
}

/// As [`die`], for a task that was interrupted at an instruction of an
/// [`interruptible`](crate::interruptible) region, where it [must
/// die](crate::TaskState::must_die_here); `registers` are those that the CPU had.
///
/// Calls `begin` when it is certain that it does not return, and no other interrupt kills the task any
/// more; until then the caller may have interrupts or preemption off, and after that nobody switches
/// them on. If it returns, nothing has happened, and the interrupted code goes on.
///
/// # Safety
///
/// The calling task was interrupted with these registers, and runs on the same stack, below their stack
/// pointer and its red zone (128 bytes, psABI x86-64 §3.2.2). Nothing of what runs below is needed once
/// `begin` is called.
#[inline(never)]
pub unsafe fn die_at(registers: &Registers, begin: impl FnOnce()) {
    let platform = platform();
    let cause = Cause::Interrupt(platform.state().region());
    platform.state().begin_kill();
    // A box of nothing needs no memory.
    let Ok(exception) = payload::allocate(Box::new(Killed), cause) else {
        return platform.state().cancel_kill();
    };
    platform.state().raise(exception);
    // SAFETY: as in `die`, and the contract of this function covers the registers.
    let _refused = unsafe { raise_forced_from(exception, registers, platform.stack(), begin) };
    // SAFETY: just made, not raised, and nobody else has it.
    drop(unsafe { payload::take(exception) });
    platform.state().cancel_kill();
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
