//! Throws and catches: `catch_unwind`, `catch_all`, `resume_unwind`, `panic_any`.
//!
//! ```text
//!   catch_unwind(f) ─► our catch frame ─► call(f) ─ returns ─► Ok
//!                             ▲                  └ unwinds ─┐
//!                             └── raise finds it ◄──────────┘  Err(payload)
//!
//!   catch_all(f): the same with another frame, which also ends a kill
//! ```

use core::any::Any;
use core::mem::ManuallyDrop;
use core::panic::{AssertUnwindSafe, Location, UnwindSafe};
use core::ptr::null_mut;

use alloc::boxed::Box;
use unspool_stack_trace::end_short;
use unspool_unwind::{
    Body, Exception, RaiseError, catch_body, catch_forced_body, delete_exception,
};

use crate::handler::{begin, report};
use crate::hook::{self, PanicHookInfo, as_str};
use crate::payload::{self, Cause, Payload};
use crate::platform::platform;
use crate::report::{default_report, fatal, last_words};

/// What the catch frame's body works on: the closure until it is called, its result after it
/// returned.
union Slot<F, R> {
    body: ManuallyDrop<F>,
    result: ManuallyDrop<R>,
}

impl<F: FnOnce() -> R, R> Body for Slot<F, R> {
    /// The data are a slot with its `body`.
    #[inline]
    unsafe extern "C-unwind" fn call(slot: *mut u8) -> *mut Exception {
        let slot = slot.cast::<Self>();
        // SAFETY: the slot holds the body, and it is taken this once.
        let body = unsafe { ManuallyDrop::take(&mut (*slot).body) };
        let result = ManuallyDrop::new(body());
        // SAFETY: the slot outlives the call and holds nothing now.
        unsafe { slot.write(Self { result }) };
        null_mut()
    }
}

/// Runs `body`; a panic that leaves it is caught, and its payload returned.
///
/// As `std::panic::catch_unwind`. Only panics of this runtime are caught; a foreign exception
/// that arrives here ends the program. A [kill](crate::TaskState::kill) goes past: see
/// [`catch_all`].
///
/// # Errors
///
/// The payload: `&'static str` for `panic!` with a literal, `String` for a formatted message,
/// whatever [`resume_unwind`] or [`panic_any`] was given.
pub fn catch_unwind<F, R>(body: F) -> Result<R, Box<dyn Any + Send>>
where
    F: FnOnce() -> R + UnwindSafe,
{
    // SAFETY: the catch frame got the exception from the unwinder for itself.
    catch_exception(body).map_err(|exception| unsafe { caught(exception) })
}

/// Runs `body`; the exception that left it, if one did.
#[inline(always)]
pub(crate) fn catch_exception<F, R>(body: F) -> Result<R, *mut Exception>
where
    F: FnOnce() -> R + UnwindSafe,
{
    // SAFETY: `catch_body` is such a frame.
    unsafe { run(body, catch_body::<Slot<F, R>>) }
}

/// Why a body of [`catch_all`] did not return.
#[derive(Debug)]
pub enum Unwound {
    /// A panic left it, or a CPU fault, with this payload.
    Panicked(Box<dyn Any + Send>),
    /// The task was killed while it ran.
    Killed,
}

/// As [`catch_unwind`], and a kill ends here, too: what the root of every task is, and what code asks
/// for that wants to outlive its own death.
///
/// After that the task goes on as if nobody had killed it. One that only wanted to clean up
/// [kills](crate::TaskState::kill) itself again and comes by a [safe point](crate::safe_point).
///
/// # Errors
///
/// What left `body`.
pub fn catch_all<F, R>(body: F) -> Result<R, Unwound>
where
    F: FnOnce() -> R + UnwindSafe,
{
    // SAFETY: `catch_forced_body` is such a frame.
    let outcome = unsafe { run(body, catch_forced_body::<Slot<F, R>>) };
    outcome.map_err(|exception| {
        // SAFETY: a caught exception is valid until it is taken.
        let cause = unsafe { payload::cause(exception) };
        // SAFETY: the catch frame got the exception from the unwinder for itself.
        let payload = unsafe { caught(exception) };
        match cause {
            Cause::Kill | Cause::Interrupt(_) => Unwound::Killed,
            Cause::Call | Cause::Fault => Unwound::Panicked(payload),
        }
    })
}

/// Runs `body` in a catch frame; the exception that left it, if one did.
///
/// # Safety
///
/// `frame` is [`catch_body`] or [`catch_forced_body`] of the slot.
#[inline(always)]
unsafe fn run<F, R>(
    body: F,
    frame: unsafe extern "C-unwind" fn(*mut u8) -> *mut Exception,
) -> Result<R, *mut Exception>
where
    F: FnOnce() -> R,
{
    let mut slot = Slot::<F, R> { body: ManuallyDrop::new(body) };
    // SAFETY: the slot has its body.
    let exception = unsafe { frame((&raw mut slot).cast()) };
    if exception.is_null() {
        // SAFETY: the body returned, so its result was written.
        return Ok(ManuallyDrop::into_inner(unsafe { slot.result }));
    }
    Err(exception)
}

/// # Safety
///
/// As [`payload::take`].
#[cold]
pub(crate) unsafe fn caught(exception: *mut Exception) -> Payload {
    // SAFETY: a caught exception is valid until it is taken (contract).
    let handler = unsafe { (*exception).handler_cfa() };
    // SAFETY: the caller's promise.
    let Some((payload, previous)) = (unsafe { payload::take(exception) }) else {
        // As std: who made it may clean up after it before the words.
        // SAFETY: caught and not ours, and nobody has used it since.
        unsafe { delete_exception(exception) };
        fatal(format_args!("Rust cannot catch foreign exceptions"))
    };
    platform().state().caught(previous);
    // An exception that was in flight has its handler further up, unless this one has come past
    // the frame that was cleaning up for it. A panic cannot: the compiler ends it there. A fault
    // in code that the compiler takes for harmless can.
    // SAFETY: an exception in flight is valid until it is caught.
    if !previous.is_null() && unsafe { (*previous).handler_cfa() } <= handler {
        fatal(format_args!("fault in a destructor during cleanup"));
    }
    payload
}

/// Goes on with a panic that was caught, or starts one silently: nothing is printed.
///
/// As `std::panic::resume_unwind`.
#[inline(never)]
pub fn resume_unwind(payload: Box<dyn Any + Send>) -> ! {
    platform().state().begin();
    raise(payload)
}

/// Panics with a payload of any type.
///
/// As `std::panic::panic_any`: strings are printed, other payloads as `Box<dyn Any>`.
#[track_caller]
pub fn panic_any<M: 'static + Any + Send>(message: M) -> ! {
    let location = Location::caller();
    end_short(move || begin_any(Box::new(message), location))
}

#[inline(never)]
fn begin_any(payload: Payload, location: &Location<'_>) -> ! {
    let text = as_str(&*payload).unwrap_or("Box<dyn Any>");
    begin(Some(location), format_args!("{text}"));
    match hook::current() {
        Some(hook) => {
            let info = PanicHookInfo::new(&*payload, location, true);
            report(Some(location), None, || hook(&info));
        }
        None => report(Some(location), None, || {
            default_report(Some(location), format_args!("{text}"), false);
        }),
    }
    raise(payload)
}

/// Runs `body`; if a panic leaves it, says so in std's form of a fatal error, and halts:
/// `fatal runtime error: {what}, aborting`.
pub fn abort_on_unwind<R>(what: &str, body: impl FnOnce() -> R) -> R {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => result,
        Err(_) => fatal(format_args!("{what}")),
    }
}

/// Makes the exception that carries `payload`, to be raised at once.
pub(crate) fn exception(payload: Payload, cause: Cause) -> *mut Exception {
    let Ok(exception) = payload::allocate(payload, cause) else {
        fatal(format_args!("no memory for an exception"))
    };
    let previous = platform().state().raise(exception);
    // SAFETY: just made.
    unsafe { payload::set_previous(exception, previous) };
    exception
}

/// Raises an exception with this payload. The task's panic has been counted.
///
/// Part of its caller, whose frame need not be unwound then.
#[inline(always)]
pub(crate) fn raise(payload: Payload) -> ! {
    // SAFETY: just made.
    unsafe { rethrow(exception(payload, Cause::Call)) }
}

/// Raises an exception that stands for a value of the [`Thrower`](crate::Thrower) there.
#[inline(never)]
pub(crate) fn raise_thrown(payload: Payload, to: *const ()) -> ! {
    platform().state().begin();
    let exception = exception(payload, Cause::Call);
    // SAFETY: just made.
    unsafe { payload::set_thrown_to(exception, to) };
    // SAFETY: just made.
    unsafe { rethrow(exception) }
}

/// Raises an exception, for the first time or again.
///
/// # Safety
///
/// It is valid until it is caught, and nobody else uses it.
#[inline(always)]
pub(crate) unsafe fn rethrow(exception: *mut Exception) -> ! {
    // SAFETY:
    // 1. The exception lives until it is caught (contract).
    // 2. The modules registered globally vouch for the code on this stack.
    // 3. The platform says what the current stack is.
    let error = unsafe { unspool_unwind::raise(exception, platform().stack()) };
    not_raised("failed to initiate panic", error)
}

/// Says why an exception goes nowhere, then std's words for it, and halts.
pub(crate) fn not_raised(what: &str, error: RaiseError) -> ! {
    let code = error.code().0;
    last_words(format_args!("{error}\nfatal runtime error: {what}, error {code}, aborting\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_returns_gives_its_result() {
        let text = alloc::string::String::from("moved in");
        assert_eq!(catch_unwind(move || text.len()).unwrap(), 8);
    }
}
