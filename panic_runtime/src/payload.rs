//! What an exception carries, and the exception object itself.
//!
//! ```text
//!   RustException │ header (class "UNSPRUST") │ canary │ Box<dyn Any + Send> │ …
//!                   in a place of its task; where panics nest, on the heap
//! ```
#![expect(clippy::box_collection, reason = "what a payload is")]

use alloc::alloc::{Layout, alloc, dealloc};
use alloc::boxed::Box;
use alloc::string::String;
use core::any::Any;
use core::cell::RefCell;
use core::fmt::{self, Write};
use core::panic::PanicMessage;
use core::ptr::{NonNull, null, null_mut};

use static_assertions::const_assert_eq;
use unspool_unwind::{Exception, Reason};

use crate::platform::platform;
use crate::report::fatal;
use crate::spare::{MESSAGE, Place, Spares, try_box};

pub(crate) type Payload = Box<dyn Any + Send>;

/// The payload of a panic whose message found no memory at all: neither on the heap, nor among what
/// its task had [prepared](crate::TaskState::prepare) for one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageLost;

/// The payload of `panic!`: `&'static str` for a literal, `String` for a formatted message.
///
/// With memory exhausted they are the task's spare ones: a message is cut where its room ends. After
/// those it is [`MessageLost`], which needs no memory.
pub(crate) fn of_message(message: &PanicMessage<'_>) -> Payload {
    let spares = platform().state().spares();
    let Some(literal) = message.as_str() else {
        let mut kept = Kept::new(spares);
        // An error: it is cut, or there is no room at all.
        let _ = write!(kept, "{message}");
        return kept.payload();
    };
    let boxed = try_box(literal).ok().or_else(|| spares.literal(literal));
    boxed.map_or_else(|| Box::new(MessageLost) as Payload, |boxed| boxed)
}

/// A message that is kept while it is printed: whoever formats it does so once, as in std. There are
/// such that panic when they are formatted again.
pub(crate) struct Heard<'a> {
    message: &'a PanicMessage<'a>,
    kept: RefCell<Kept<'a>>,
}

impl<'a> Heard<'a> {
    pub(crate) fn new(message: &'a PanicMessage<'a>) -> Self {
        Self { message, kept: RefCell::new(Kept::new(platform().state().spares())) }
    }

    /// As [`of_message`].
    pub(crate) fn payload(self) -> Payload {
        self.kept.into_inner().payload()
    }
}

impl fmt::Display for Heard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(Both(f, &mut self.kept.borrow_mut()), "{}", self.message)
    }
}

/// Prints, and keeps what can be kept of it.
struct Both<'a, 'b, 'c>(&'a mut fmt::Formatter<'b>, &'a mut Kept<'c>);

impl Write for Both<'_, '_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // An error: it is cut, but printed all the same.
        let _ = self.1.write_str(text);
        self.0.write_str(text)
    }
}

/// A message that needs no memory as long as it is short. Then it takes the spare string, if the heap
/// has nothing, with the sign that it was cut.
struct Kept<'a> {
    short: [u8; MESSAGE - CUT.len_utf8()],
    length: usize,
    long: Option<Cautious<'a>>,
    /// There was no room for the rest.
    is_cut: bool,
    spares: &'a Spares,
}

impl<'a> Kept<'a> {
    const fn new(spares: &'a Spares) -> Self {
        let short = [0; MESSAGE - CUT.len_utf8()];
        Self { short, length: 0, long: None, is_cut: false, spares }
    }

    /// Writes what was short to a string.
    fn lengthen(&self) -> Option<Cautious<'a>> {
        let text = try_box(String::new()).ok().or_else(|| self.spares.text())?;
        let mut text = Cautious { text, spares: self.spares };
        // Whole strings were put in. An error: it is cut.
        let short = str::from_utf8(&self.short[..self.length]).unwrap_or_default();
        let whole = text.write_str(short).is_ok();
        (whole || !text.text.is_empty()).then_some(text)
    }

    fn payload(mut self) -> Payload {
        match self.long.take().or_else(|| self.lengthen()) {
            Some(text) => text.text,
            None => Box::new(MessageLost),
        }
    }
}

impl Write for Kept<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.is_cut {
            return Err(fmt::Error);
        }
        if self.long.is_none() {
            if let Some(place) = self.short[self.length..].get_mut(..text.len()) {
                place.copy_from_slice(text.as_bytes());
                self.length += text.len();
                return Ok(());
            }
            self.long = self.lengthen();
        }
        let kept = self.long.as_mut().map_or(Err(fmt::Error), |long| long.write_str(text));
        self.is_cut = kept.is_err();
        kept
    }
}

/// What stands where a message was cut.
const CUT: char = '…';

/// A string that asks before it grows, and takes the spare one when it may not.
struct Cautious<'a> {
    text: Box<String>,
    spares: &'a Spares,
}

impl Cautious<'_> {
    /// Bytes that need no question.
    fn room(&self) -> usize {
        self.text.capacity() - self.text.len()
    }

    /// Takes as much of `text` as there is room for.
    fn cut(&mut self, text: &str) -> fmt::Result {
        if text.len() <= self.room() {
            self.text.push_str(text);
            return Ok(());
        }
        let most = self.room().saturating_sub(CUT.len_utf8());
        self.text.push_str(&text[..text.floor_char_boundary(most)]);
        if CUT.len_utf8() <= self.room() {
            self.text.push(CUT);
        }
        Err(fmt::Error)
    }
}

impl Write for Cautious<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.text.try_reserve(text.len()).is_err()
            && self.text.capacity() < MESSAGE
            && let Some(mut spare) = self.spares.text()
        {
            spare.push_str(&self.text);
            self.text = spare;
        }
        self.cut(text)
    }
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
    /// The place that this is in; null on the heap.
    place: *const Place,
    /// Whose value it stands for, if it was [thrown](crate::Thrower::throw); else null.
    thrown_to: *const (),
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
    /// Somebody killed the task, which was interrupted in a region that begins below this address on
    /// its stack: any instruction there will do.
    Interrupt(u64),
}

const_assert_eq!(core::mem::offset_of!(RustException, header), 0);

static CANARY: u8 = 0;

impl RustException {
    const fn new(payload: Payload, cause: Cause, place: *const Place) -> Self {
        let header = Exception::new(CLASS, Some(dropped_by_foreigner));
        let (canary, previous, thrown_to) = (&raw const CANARY, null_mut(), null());
        Self { header, canary, payload, cause, previous, place, thrown_to }
    }
}

/// Makes an exception that carries `payload`: in a place of the running task, on the heap if panics
/// nest deeper, in one that all tasks have in common if that has no room.
///
/// # Errors
///
/// The payload, if there is none of these.
pub(crate) fn allocate(payload: Payload, cause: Cause) -> Result<*mut Exception, Payload> {
    let (address, place) = match platform().state().spares().place() {
        Some(place) => (place.address(), &raw const *place),
        None => match on_heap().map(|heap| (heap, null())).or_else(in_common) {
            Some(found) => found,
            None => return Err(payload),
        },
    };
    // SAFETY: the place is ours, large enough and aligned.
    unsafe { address.write(RustException::new(payload, cause, place)) };
    Ok(address.as_ptr().cast())
}

fn on_heap() -> Option<NonNull<RustException>> {
    // SAFETY: the layout has a size.
    NonNull::new(unsafe { alloc(Layout::new::<RustException>()) }.cast())
}

fn in_common() -> Option<(NonNull<RustException>, *const Place)> {
    Place::common().map(|place| (place.address(), &raw const *place))
}

/// Notes whose value `exception` stands for.
///
/// # Safety
///
/// `exception` comes from [`allocate`] and has not been raised yet.
pub(crate) unsafe fn set_thrown_to(exception: *mut Exception, to: *const ()) {
    // SAFETY: made by `allocate`, so it is a `RustException` (contract).
    unsafe { (*exception.cast::<RustException>()).thrown_to = to };
}

/// Whose value `exception` stands for; null if it was not thrown.
///
/// # Safety
///
/// `exception` points to a valid exception.
pub(crate) unsafe fn thrown_to(exception: *mut Exception) -> *const () {
    // SAFETY: the caller's promise; if it is ours, it is whole.
    unsafe { ours(exception).map_or(null(), |ours| (*ours).thrown_to) }
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
    let RustException { payload, previous, place, .. } = unsafe { ours.read() };
    if place.is_null() {
        // SAFETY: in no place, so `allocate` got it from the heap with this layout.
        unsafe { dealloc(ours.cast(), Layout::new::<RustException>()) };
    } else {
        // SAFETY: a place of the running task, which `Platform::state` keeps as long as it runs, or
        // one that is there forever.
        unsafe { &*place }.give_back();
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
    fn a_message_that_is_not_whole_ends_with_a_sign() {
        let spares = Spares::new();
        spares.fill().unwrap();
        let mut text = Cautious { text: spares.text().unwrap(), spares: &spares };
        let long = "ü".repeat(text.text.capacity());
        let most = (text.text.capacity() - CUT.len_utf8()) & !1;
        assert_eq!(text.cut(&long), Err(fmt::Error));
        assert_eq!(text.text.len(), most + CUT.len_utf8());
        assert!(text.text.ends_with("ü…"));
    }

    #[test]
    fn a_message_is_kept_whole_however_long_it_is() {
        let spares = Spares::new();
        for pieces in [0, 1, 31, 32, 33, 100] {
            let mut kept = Kept::new(&spares);
            (0..pieces).for_each(|_| kept.write_str("eight ü").unwrap());
            let text = kept.payload().downcast::<String>().unwrap();
            assert_eq!(*text, "eight ü".repeat(pieces));
        }
    }
}
