//! From `panic!` to an exception in flight.
//!
//! ```text
//!   count ─► message ─► trace ─► payload ─► raise
//!     │ a panic while reporting one, a panic that must not unwind, nobody to catch:
//!     └────────────────────────────────────────────────► words, halt
//! ```

use core::fmt::{self, Write};
use core::panic::{Location, PanicInfo};
use core::sync::atomic::{AtomicBool, Ordering};

use unspool_stack_trace::{Style, end_short};

use crate::catch;
use crate::payload;
use crate::platform::{Console, StackTrace, platform, print_trace, trace};

/// Writes std's words for an error that nothing can be done about, and halts.
pub(crate) fn fatal(reason: fmt::Arguments<'_>) -> ! {
    // The console cannot fail.
    let _ = writeln!(Console, "fatal runtime error: {reason}, aborting");
    platform().halt()
}

static FIRST: AtomicBool = AtomicBool::new(true);

/// Reports a panic: the default hook of std. A panic while reporting one ends the program.
#[inline(never)]
pub(crate) fn report(location: Option<&Location<'_>>, message: fmt::Arguments<'_>) {
    let trace = trace();
    let reported = platform().state().report(|| {
        // The console cannot fail.
        let _ = match location {
            Some(at) => {
                writeln!(Console, "\nthread {} panicked at {at}:\n{message}", platform().task())
            }
            None => writeln!(Console, "\nthread {} panicked:\n{message}", platform().task()),
        };
        report_trace(trace);
    });
    if !reported {
        cut_short(location, message);
    }
}

/// The trace of a report, in the platform's style.
pub(crate) fn report_trace(trace: StackTrace) {
    let style = platform().backtrace_style();
    let first = FIRST.swap(false, Ordering::Relaxed);
    if style != Style::Off {
        print_trace(trace, style);
    } else if first {
        let _ = writeln!(Console, "{}", platform().backtrace_note());
    }
}

/// The hook, the console or the trace printer panicked.
fn cut_short(location: Option<&Location<'_>>, message: fmt::Arguments<'_>) -> ! {
    if let Some(at) = location {
        let _ = write!(Console, "panicked at {at}:\n{message}\n");
    }
    let _ = Console.write_str("thread panicked while processing panic. aborting.\n");
    platform().halt()
}

/// What a panic handler does: reports, traces, raises.
///
/// The crate's own `#[panic_handler]` (feature `lang-items`) is nothing but this; a program that
/// must have its own calls it at the end.
#[inline(always)]
pub fn begin_panic(info: &PanicInfo<'_>) -> ! {
    end_short(|| {
        platform().state().begin();
        report(info.location(), format_args!("{}", info.message()));
        if !can_unwind(info) {
            let _ = Console.write_str("thread caused non-unwinding panic. aborting.\n");
            platform().halt();
        }
        catch::raise(payload::of_message(&info.message()))
    })
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
    begin_panic(info)
}
