//! Regions of code in which a task may be killed at any instruction.
//!
//! ```text
//!   interruptible ─ guard: the region as before ◄──── cleanups from here on run as ever
//!      └─► enter ─ region = this stack from here down
//!            └─► body ─► … ─► any instruction ◄─ interrupt: killed? ─► this frame is left as it is,
//!                                               its callers' cleanups run where tables name them
//! ```
//!
//! Promise: whatever the instruction, the frames outside the region are unwound as from a call.

use core::hint::black_box;

use crate::platform::platform;

/// What an unwinding that leaves a region puts back.
struct Before(u64);

impl Drop for Before {
    fn drop(&mut self) {
        platform().state().set_region(self.0);
    }
}

/// Runs `body`, in which the calling task may be killed at any instruction, when a tick or another CPU
/// interrupts it; not only at [safe points](crate::safe_point). For a long computation that owns
/// nothing, or the loop of an interpreter or of compiled guests.
///
/// As C's `PTHREAD_CANCEL_ASYNCHRONOUS`. Regions nest: only the outermost one counts. Left in any way,
/// also by a panic, it is over. The task does not die
///
/// - while it has a [`NoUnwind`](crate::NoUnwind), while a panic or a kill unwinds it, and in
///   [`uninterruptible`] code;
/// - in code without unwind tables, or if a frame outwards lets nothing through, as for
///   [`die`](crate::die); each later tick tries again.
///
/// The function that is interrupted drops nothing: its landing pads are for its calls. Its callers in
/// the region drop what their tables name, as for a fault; whoever calls `interruptible`, everything.
///
/// # Safety
///
/// All code that runs in `body` may end at any of its instructions, forever: what it owns may be
/// leaked, and what it has borrowed mutably, or shares with others, must be sound as it is then.
/// `body` itself and its result are the region's. So nothing in there may pin values that others rely
/// on to be dropped, hold locks, allocate, or touch what is thread-local for the first time, but in
/// [`uninterruptible`] or under [`no_unwind`](crate::no_unwind).
///
/// A kernel's own safe points do so by themselves.
pub unsafe fn interruptible<F, R>(body: F) -> R
where
    F: FnOnce() -> R,
{
    let before = platform().state().region();
    // An address of this frame: all frames of the region are below.
    let mark = (&raw const before).addr() as u64;
    within(if before == 0 { mark } else { before }, body)
}

/// Runs `body` as code outside any [`interruptible`] region: the calling task dies at its safe points
/// only. What it returns belongs to the region again.
pub fn uninterruptible<F, R>(body: F) -> R
where
    F: FnOnce() -> R,
{
    within(0, body)
}

/// Runs `body` with another region.
fn within<F, R>(region: u64, body: F) -> R
where
    F: FnOnce() -> R,
{
    let before = platform().state().region();
    if before == region {
        return body();
    }
    // For unwinding only: else `enter` has done it, whose frame an interrupt may leave as it is.
    let guard = Before(before);
    // The compiler is not to know what it calls: nor, thus, that it never unwinds.
    let result = black_box(enter::<F, R> as fn(u64, u64, F) -> R)(region, before, body);
    core::mem::forget(guard);
    result
}

/// Runs `body` with the region `region`, and leaves `before` if it returns.
fn enter<F, R>(region: u64, before: u64, body: F) -> R
where
    F: FnOnce() -> R,
{
    let state = platform().state();
    state.set_region(region);
    let result = body();
    state.set_region(before);
    result
}
