//! What an exception carries, and the exception object itself.
//!
//! ```text
//!   RustException │ header (class "UNSPRUST") │ canary │ Box<dyn Any + Send> │
//!                   in one of a few places; in a heap box if that one is taken; with memory
//!                   exhausted in a reserved one
//! ```

use alloc::alloc::{Layout, alloc, dealloc};
use alloc::boxed::Box;
use alloc::string::String;
use core::any::Any;
use core::cell::UnsafeCell;
use core::fmt::{self, Write};
use core::mem::MaybeUninit;
use core::panic::PanicMessage;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicBool, Ordering};

use static_assertions::const_assert_eq;
use unspool_unwind::{Exception, Reason};

use crate::handler::fatal;

pub(crate) type Payload = Box<dyn Any + Send>;

/// The payload of a panic whose formatted message found no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageLost;

/// The payload of `panic!`: `&'static str` for a literal, `String` for a formatted message.
///
/// With memory exhausted it is [`MessageLost`], which needs none.
pub(crate) fn of_message(message: &PanicMessage<'_>) -> Payload {
    let payload = match message.as_str() {
        Some(literal) => try_box(literal).map(|boxed| boxed as Payload),
        None => format(message).and_then(try_box).map(|boxed| boxed as Payload),
    };
    payload.unwrap_or_else(|| Box::new(MessageLost))
}

/// A string that asks before it grows.
struct Cautious(String);

impl Write for Cautious {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.try_reserve(text.len()).map_err(|_| fmt::Error)?;
        self.0.push_str(text);
        Ok(())
    }
}

fn format(message: &PanicMessage<'_>) -> Option<String> {
    let mut text = Cautious(String::new());
    write!(text, "{message}").ok()?;
    Some(text.0)
}

/// `Box::new` that can fail.
fn try_box<T>(value: T) -> Option<Box<T>> {
    let layout = Layout::new::<T>();
    const { assert!(size_of::<T>() != 0, "a box of nothing needs no memory") };
    // SAFETY: the layout has a size, checked at compile time.
    let place = NonNull::new(unsafe { alloc(layout) }.cast::<T>())?;
    // SAFETY: just allocated with the layout of `T`.
    unsafe { place.write(value) };
    // SAFETY: a valid `T` from the global allocator, with `T`'s layout.
    Some(unsafe { Box::from_raw(place.as_ptr()) })
}

/// Vendor and language, as the ABI asks (Itanium EH §1.2): told from std's `MOZ\0RUST`, because
/// the object behind the header is not std's.
pub(crate) const CLASS: u64 = u64::from_be_bytes(*b"UNSPRUST");

/// An exception of ours.
#[repr(C)]
pub(crate) struct RustException {
    header: Exception,
    /// Tells the exceptions of this copy of the runtime from those of another.
    canary: *const u8,
    payload: Payload,
    /// Why it was raised: the personality must know.
    cause: Cause,
    /// The exception that was in flight on this task when this one was raised, or null.
    previous: *mut Exception,
}

/// Why an exception was raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Code called for it: a panic, or a payload passed on.
    Call,
    /// The CPU stopped at an instruction that the compiler did not take for one that may unwind.
    Fault,
    /// Somebody killed the task, which was at a call.
    Kill,
}

const_assert_eq!(core::mem::offset_of!(RustException, header), 0);

static CANARY: u8 = 0;

impl RustException {
    const fn new(payload: Payload, cause: Cause) -> Self {
        let header = Exception::new(CLASS, Some(dropped_by_foreigner));
        Self { header, canary: &raw const CANARY, payload, cause, previous: null_mut() }
    }
}

/// Makes an exception that carries `payload`.
///
/// # Errors
///
/// The payload, if neither the heap nor the reserve has room.
pub(crate) fn allocate(payload: Payload, cause: Cause) -> Result<*mut Exception, Payload> {
    let from_heap = || {
        // SAFETY: the layout has a size.
        let place = unsafe { alloc(Layout::new::<RustException>()) };
        NonNull::new(place.cast::<RustException>())
    };
    let from_reserve = || RESERVE.iter().find_map(Reserve::take);
    let place = match quick(&payload).take().or_else(from_heap).or_else(from_reserve) {
        Some(place) => place,
        None => return Err(payload),
    };
    // SAFETY: the place is ours, large enough and aligned.
    unsafe { place.write(RustException::new(payload, cause)) };
    Ok(place.as_ptr().cast())
}

/// Notes which exception was in flight when `exception` was raised.
///
/// # Safety
///
/// `exception` comes from [`allocate`] and has not been raised yet.
pub(crate) unsafe fn set_previous(exception: *mut Exception, previous: *mut Exception) {
    // SAFETY: made by `allocate`, so it is a `RustException` (contract).
    unsafe { (*exception.cast::<RustException>()).previous = previous };
}

/// The payload of a caught exception, which is freed, and the exception that was in flight when
/// it was raised. `None` if it is not ours.
///
/// # Safety
///
/// `exception` was caught and nobody else uses it.
pub(crate) unsafe fn take(exception: *mut Exception) -> Option<(Payload, *mut Exception)> {
    // SAFETY: a caught exception has a valid header (contract).
    let ours = unsafe { ours(exception) }?;
    // SAFETY: ours and nobody else's; the place is freed below without dropping the payload.
    let RustException { payload, previous, .. } = unsafe { ours.read() };
    if !Reserve::give_back(&QUICK, ours) && !Reserve::give_back(&RESERVE, ours) {
        // SAFETY: in neither, so `allocate` got it from the heap with this layout.
        unsafe { dealloc(ours.cast(), Layout::new::<RustException>()) };
    }
    Some((payload, previous))
}

/// Why an exception was raised; foreign ones are raised by calls.
///
/// # Safety
///
/// `exception` points to a valid exception.
pub(crate) unsafe fn cause(exception: *mut Exception) -> Cause {
    // SAFETY: the caller's promise; if it is ours, it is whole.
    unsafe { ours(exception).map_or(Cause::Call, |ours| (*ours).cause) }
}

/// The exception as one of ours, if it is.
///
/// # Safety
///
/// `exception` points to a valid exception.
unsafe fn ours(exception: *mut Exception) -> Option<*mut RustException> {
    // SAFETY: a valid exception has a class (contract).
    if unsafe { (*exception).class } != CLASS {
        return None;
    }
    let ours = exception.cast::<RustException>();
    // SAFETY: the class says that it is one of some copy of this runtime, all of which have the
    // canary there.
    core::ptr::eq(unsafe { (*ours).canary }, &CANARY).then_some(ours)
}

/// A foreign runtime caught a Rust panic and dropped it, which std does not allow either.
unsafe extern "C" fn dropped_by_foreigner(_reason: Reason, _exception: *mut Exception) {
    fatal(format_args!("Rust panics must be rethrown"))
}

/// A place for an exception that needs no heap. Alone in its cache line.
#[repr(align(64))]
struct Reserve {
    taken: AtomicBool,
    place: UnsafeCell<MaybeUninit<RustException>>,
}

// SAFETY: `place` is used only by whoever set `taken`, and payloads are `Send`.
unsafe impl Sync for Reserve {}

/// Panics in flight at once with memory exhausted: one for each of a few CPUs, nested once.
static RESERVE: [Reserve; 8] = [const { Reserve::new() }; 8];
/// Places that are asked for first: a heap takes longer.
static QUICK: [Reserve; 16] = [const { Reserve::new() }; 16];

/// The quick place for an exception with this payload, which is somewhere else on every CPU.
fn quick(payload: &Payload) -> &'static Reserve {
    let address = (&raw const **payload).addr();
    &QUICK[(address >> 4 ^ address >> 10) % QUICK.len()]
}

impl Reserve {
    const fn new() -> Self {
        Self { taken: AtomicBool::new(false), place: UnsafeCell::new(MaybeUninit::uninit()) }
    }

    fn take(&self) -> Option<NonNull<RustException>> {
        (!self.taken.swap(true, Ordering::Acquire)).then(|| self.address())
    }

    /// Gives a place back, if it is one of these.
    fn give_back(places: &[Self], exception: *mut RustException) -> bool {
        let offset = exception.addr().wrapping_sub(places.as_ptr().addr());
        let place = places.get(offset / size_of::<Self>());
        if let Some(place) = place {
            place.taken.store(false, Ordering::Release);
        }
        place.is_some()
    }

    fn address(&self) -> NonNull<RustException> {
        NonNull::from(&self.place).cast()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_comes_back_as_it_was_put_in() {
        let exception = allocate(Box::new(42u32), Cause::Call).unwrap();
        // SAFETY: just made, nobody else has it.
        let (payload, previous) = unsafe { take(exception) }.unwrap();
        assert!(previous.is_null());
        assert_eq!(*payload.downcast::<u32>().unwrap(), 42);
    }

    #[test]
    fn a_foreign_exception_is_not_taken() {
        let mut foreign = Exception::new(u64::from_be_bytes(*b"GNUCC++\0"), None);
        // SAFETY: valid, and nobody else's.
        assert!(unsafe { take(&raw mut foreign) }.is_none());
    }

    #[test]
    fn a_reserved_place_is_given_once_and_can_be_given_back() {
        let places = [const { Reserve::new() }; 2];
        let place = places[1].take().unwrap();
        assert!(places[1].take().is_none());
        assert!(!Reserve::give_back(&places, core::ptr::null_mut()));
        assert!(!Reserve::give_back(&places[..1], place.as_ptr()));
        assert!(Reserve::give_back(&places, place.as_ptr()));
        assert!(places[1].take().is_some());
    }
}
