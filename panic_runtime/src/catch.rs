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
use core::ops::Range;
use core::panic::{AssertUnwindSafe, Location, UnwindSafe};

use alloc::boxed::Box;
use unspool_stack_trace::end_short;
use unspool_unwind::{
    Body, Exception, Left, RaiseError, Word, catch_body, catch_forced_body, delete_exception,
};

use crate::handler::{begin, report};
use crate::hook::{self, PanicHookInfo, as_str};
use crate::payload::{self, Cause, Payload};
use crate::platform::platform;
use crate::report::{default_report, fatal, last_words};

/// A body that is called in a catch frame, and what passes through that frame.
///
/// Where the closure fits into two words, and its result into one, they are the words themselves.
/// Otherwise the first word of two is the address of the closure, and then of the result.
union Slot<F, R> {
    words: [Word; 2],
    body: ManuallyDrop<F>,
    result: ManuallyDrop<R>,
}

impl<F: FnOnce() -> R, R> Slot<F, R> {
    const FITS: bool =
        size_of::<F>() <= size_of::<[Word; 2]>() && size_of::<R>() <= size_of::<Word>();

    /// Has the closure called, and its result in its place.
    ///
    /// # Safety
    ///
    /// The closure is there.
    #[inline(always)]
    unsafe fn call(&mut self) {
        // SAFETY: it is there (contract), and is taken this once.
        let body = unsafe { ManuallyDrop::take(&mut self.body) };
        self.result = ManuallyDrop::new(body());
    }
}

impl<F: FnOnce() -> R, R> Body for Slot<F, R> {
    /// The words are those of a slot with its `body`, or the first is its address.
    #[inline]
    unsafe extern "C-unwind" fn call(first: Word, second: Word) -> Word {
        if !Self::FITS {
            // SAFETY: it has an address (contract), of a slot that outlives the call.
            let slot = unsafe { &mut *first.assume_init().cast::<Self>() };
            // SAFETY: the slot holds the body (contract).
            unsafe { slot.call() };
            return Word::uninit();
        }
        let mut slot = Self { words: [first, second] };
        // SAFETY: as above.
        unsafe { slot.call() };
        // SAFETY: words may be uninitialized.
        let [result, _] = unsafe { slot.words };
        result
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
    frame: unsafe extern "C-unwind" fn(Word, Word) -> Left,
) -> Result<R, *mut Exception>
where
    F: FnOnce() -> R,
{
    let mut slot = Slot::<F, R> { words: [Word::uninit(); 2] };
    slot.body = ManuallyDrop::new(body);
    let [first, second] = if Slot::<F, R>::FITS {
        // SAFETY: words may be uninitialized.
        unsafe { slot.words }
    } else {
        [Word::new((&raw mut slot).cast()), Word::uninit()]
    };
    // SAFETY: these are the words of a slot that has its body, or its address.
    let left = unsafe { frame(first, second) };
    if !left.exception.is_null() {
        return Err(left.exception);
    }
    if Slot::<F, R>::FITS {
        slot.words = [left.result, Word::uninit()];
    }
    // SAFETY: the body returned, so its result was written.
    Ok(ManuallyDrop::into_inner(unsafe { slot.result }))
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
    // SAFETY: an exception in flight is valid until it is caught.
    if let Some(previous) = unsafe { previous.as_ref() }
        && was_passed(previous.handler_cfa(), handler, &platform().stack().range())
    {
        fatal(format_args!("fault in a destructor during cleanup"));
    }
    payload
}

/// Whether the handler of an exception that was in flight is gone, now that another has been caught in
/// the frame with this CFA, on this stack.
///
/// It is further up, unless the other has come past the frame that was cleaning up. A panic cannot: the
/// compiler ends it there. A fault in code that the compiler takes for harmless can. On another stack,
/// the cleanup was interrupted, or has called something that runs here, and goes on.
fn was_passed(handler: u64, caught_in: u64, stack: &Range<u64>) -> bool {
    // A CFA may be the end of the stack.
    handler > stack.start && handler <= stack.end && handler <= caught_in
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
    report(Some(location), None, || match hook::current() {
        Some(hook) => hook(&PanicHookInfo::new(&*payload, location, true)),
        None => default_report(Some(location), format_args!("{text}"), false),
    });
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

    #[test]
    fn a_handler_is_passed_on_its_own_stack_only() {
        let stack = 0x2000..0x3000;
        assert!(was_passed(0x2800, 0x2900, &stack));
        assert!(was_passed(0x3000, 0x3000, &stack));
        assert!(!was_passed(0x2900, 0x2800, &stack), "it is further up");
        assert!(!was_passed(0x1800, 0x2900, &stack), "on a stack further down");
        assert!(!was_passed(0x2000, 0x2900, &stack), "where that one ends");
        assert!(!was_passed(0x3800, 0x2900, &stack), "on one further up");
    }

    /// What it returns holds all of `value`, whatever that needs.
    fn comes_through<T: Copy + PartialEq + core::fmt::Debug + UnwindSafe>(value: T) {
        let value = core::hint::black_box(value);
        assert_eq!(catch_unwind(move || value).unwrap(), value, "to the body and back");
        assert_eq!(catch_unwind(AssertUnwindSafe(|| value)).unwrap(), value, "back");
        let mut seen = None;
        catch_unwind(AssertUnwindSafe(|| seen = Some(value))).unwrap();
        assert_eq!(seen, Some(value), "to the body");
    }

    #[test]
    fn closures_and_results_of_any_size_pass_the_frame() {
        #[derive(Clone, Copy, PartialEq, Debug)]
        #[repr(align(32))]
        struct Wide(u8);
        comes_through(());
        comes_through(true);
        comes_through(1.5f32);
        comes_through((2u8, 3u16));
        comes_through([4u8; 7]);
        comes_through((5.5f64, 6u64));
        comes_through([7u8; 9]);
        comes_through(8u128);
        comes_through([9u8; 17]);
        comes_through("two words");
        comes_through([10u64; 9]);
        comes_through(Wide(11));
    }
}
