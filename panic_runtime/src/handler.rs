//! From `panic!` to an exception in flight.
//!
//! ```text
//!   count ─► message ─► trace ─► payload ─► raise
//!     │ a panic while reporting one, a panic that must not unwind, nobody to catch:
//!     └────────────────────────────────────────────────► words, halt
//! ```

use core::fmt;
use core::panic::{Location, PanicInfo};

use crate::catch;
use crate::hook::{self, PanicHookInfo};
use crate::payload::{self, Payload};
use crate::platform::platform;
use crate::report::{IN_CLEANUP, default_report, last_words};

/// Runs what a panic begins with. A panic while another is being reported ends the program; the
/// message of that one is shown only if it is a literal: printing may be what panics.
pub(crate) fn report<R>(
    location: Option<&Location<'_>>,
    literal: Option<&str>,
    report: impl FnOnce() -> R,
) -> R {
    if let Some(result) = platform().state().report(report) {
        return result;
    }
    match (location, literal.unwrap_or_default()) {
        (Some(at), text) => {
            last_words(format_args!("panicked at {at}:\n{text}\n{WHILE_PANICKING}"))
        }
        (None, _) => last_words(format_args!("{WHILE_PANICKING}")),
    }
}

const WHILE_PANICKING: &str = "thread panicked while processing panic. aborting.\n";

/// Counts a panic that begins; ends the program if panics are to do that.
pub(crate) fn begin(location: Option<&Location<'_>>, message: fmt::Arguments<'_>) {
    platform().state().begin();
    if hook::must_abort() {
        match location {
            Some(at) => last_words(format_args!("aborting due to panic at {at}:\n{message}\n")),
            None => last_words(format_args!("aborting due to panic:\n{message}\n")),
        }
    }
}

/// What a panic handler does: reports, traces, raises.
///
/// The crate's own `#[panic_handler]` (feature `lang-items`) is nothing but this; a program that
/// must have its own calls it at the end.
// As `end_short`: short traces start below it, with the handler.
#[inline(never)]
pub fn __rust_end_short_backtrace(info: &PanicInfo<'_>) -> ! {
    let (location, message) = (info.location(), info.message());
    begin(location, format_args!("{message}"));
    let payload = report(location, message.as_str(), || tell(info));
    if !can_unwind(info) {
        last_words(format_args!("thread caused non-unwinding panic. aborting.\n"));
    }
    catch::raise(payload)
}

/// Tells the hook of a panic, or writes the default report: all that may format its message, which is
/// done once. The payload.
fn tell(info: &PanicInfo<'_>) -> Payload {
    let (location, message) = (info.location(), info.message());
    if let (Some(hook), Some(at)) = (hook::current(), location) {
        // First, because the hook is told of it.
        let payload = payload::of_message(&message);
        hook(&PanicHookInfo::new(&*payload, at, can_unwind(info)));
        return payload;
    }
    // The report needs no memory, so it comes before what does.
    match message.as_str() {
        Some(literal) => {
            let brief = !can_unwind(info) && literal == IN_CLEANUP;
            default_report(location, format_args!("{literal}"), brief);
            payload::of_message(&message)
        }
        None => {
            let heard = payload::Heard::new(&message);
            default_report(location, format_args!("{heard}"), false);
            heard.payload()
        }
    }
}

#[cfg(feature = "lang-items")]
fn can_unwind(info: &PanicInfo<'_>) -> bool {
    info.can_unwind()
}

/// Without the compiler's word for it, a panic in a function that must not unwind is found out
/// when it is raised: such a function has no call site for it.
#[cfg(not(feature = "lang-items"))]
fn can_unwind(_info: &PanicInfo<'_>) -> bool {
    true
}

#[cfg(feature = "lang-items")]
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    __rust_end_short_backtrace(info)
}

/// Where code goes that finds no memory and has no other answer. On stable Rust, and in std, that is
/// the end; here it is a panic as any other, which needs no memory.
#[cfg(feature = "lang-items")]
#[alloc_error_handler]
fn out_of_memory(layout: core::alloc::Layout) -> ! {
    panic!("memory allocation of {} bytes failed", layout.size())
}
