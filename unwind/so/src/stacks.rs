//! What is known of the stack of the running thread, and how more is found out.
//!
//! ```text
//!   main thread   │ guard │ ◄─ grows ── sp │ frames │ __libc_stack_end
//!   others        │ guard │ ◄─ grows ── sp │ frames │ thread pointer (glibc puts the TCB on top)
//!   coroutine, sigaltstack        … sp │ frames │ ?
//! ```
//!
//! A thread is on its own stack if all pages from its stack pointer to that top can be read: there
//! is a guard page below every stack. That is found out once a thread, by asking the kernel page by
//! page, and remembered in a word of TLS; from then on nothing is asked for stack pointers
//! above the lowest that was proven. On other stacks every page is asked for before it is read.
//! `pthread_getattr_np` would know, but it allocates.

use core::sync::atomic::{AtomicU64, Ordering};

use unspool_unwind::StackBounds;

use crate::arch::{libc_stack_end, proven, readable, set_proven, thread_pointer};

const PAGE: u64 = 4096;
/// Pages that are asked for when a thread raises for the first time: 8 MiB.
const FIRST: u64 = 2048;
/// Pages that are asked for at once later.
const AGAIN: u64 = 4;
/// Pages that are asked for so that a thread that has gone deeper need not be asked again: 256 KiB.
const DEEPER: u64 = 64;
/// How far a read may lie from what is known to count as the same stack (bytes).
const NEAR: u64 = 16 << 20;
/// Nothing was proven when it was tried.
const NOTHING: u64 = u64::MAX;

static MAIN_END: AtomicU64 = AtomicU64::new(0);

/// Finds out where the main thread's stack ends.
pub(crate) fn init() {
    MAIN_END.store(libc_stack_end(), Ordering::Relaxed);
}

/// The end of the stack with this stack pointer, if it is the thread's own.
fn end_of(sp: u64) -> u64 {
    let (thread, main) = (thread_pointer(), MAIN_END.load(Ordering::Relaxed));
    // A thread's stack is mapped, and so below the main one.
    if sp < thread && (thread < main || main <= sp) { thread } else { main }
}

/// From where to `end` a stack is known to be the thread's own; `end` if nothing is known of that one.
fn proven_to(end: u64) -> u64 {
    let low = proven();
    if low != 0 && low < end && end_of(low) == end { low } else { end }
}

/// The stack with this stack pointer in use, as far as it is known.
pub(crate) fn around(sp: u64) -> StackBounds {
    let low = proven();
    let end = end_of(low);
    // What lies between an address and the end of its stack has the same end. Less one: 0 is above all, and
    // so is `NOTHING`.
    if low.wrapping_sub(1) < sp && sp < end {
        return bounds(sp, end);
    }
    prove(sp)
}

/// The stack with this stack pointer in use, of which more is to be found out.
#[cold]
#[inline(never)]
fn prove(sp: u64) -> StackBounds {
    let end = end_of(sp);
    let own = proven_to(end);
    let below = (own.wrapping_sub(sp) / PAGE).saturating_add(1);
    let pages = match proven() {
        0 => FIRST,
        _ if own < end && below <= DEEPER => below,
        _ => AGAIN,
    };
    if proven() == 0 {
        set_proven(NOTHING);
    }
    // The page that the caller runs on is there.
    climb(sp, page(sp) + PAGE, pages, end)
}

/// The stack `known` with `address`, or another one with it.
pub(crate) fn widen(known: StackBounds, address: u64) -> Option<StackBounds> {
    if !address.is_multiple_of(8) {
        return None;
    }
    let (low, high) = (known.range().start, known.range().end);
    let end = end_of(address);
    if proven_to(end) <= address && address < end {
        // Back from another stack to the thread's own.
        return Some(bounds(address, end));
    }
    let wider = if low < high && (high..high.saturating_add(NEAR)).contains(&address) {
        climb(low, high, (page(address) - page(high)) / PAGE + AGAIN, end)
    } else if readable(page(address)) {
        climb(address, page(address) + PAGE, AGAIN, end)
    } else {
        return None;
    };
    wider.range().contains(&address).then_some(wider)
}

/// The stack from `low`, which is known up to `from`, as far up as can be read, but not more than
/// so many pages; if that is to `end`, or to what is proven of it, it is proven to be the thread's own.
fn climb(low: u64, from: u64, pages: u64, end: u64) -> StackBounds {
    let own = proven_to(end);
    let mut high = from;
    for _ in 0..pages {
        if low < end && own <= high {
            break;
        }
        if !readable(page(high)) {
            break;
        }
        high = page(high) + PAGE;
    }
    if low < end && own <= high {
        // Whatever lies from there to the end is one stack, as far as it is readable at all.
        set_proven(own.min(low));
        return bounds(low, end);
    }
    bounds(low, high)
}

const fn page(address: u64) -> u64 {
    address & !(PAGE - 1)
}

fn bounds(low: u64, high: u64) -> StackBounds {
    // SAFETY: all pages were readable a moment ago, or when it was proven that they are the
    // running thread's own stack, which nobody takes away from it; the frames on it are its own.
    unsafe { StackBounds::new(low, high) }
}
