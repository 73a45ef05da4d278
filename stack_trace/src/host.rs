//! What [`Backtrace::capture`](crate::Backtrace::capture) must know of the program, since it takes no
//! arguments.
//!
//! ```text
//!   capture() ──► Host ──► the stack it runs on, names, whether traces are wanted
//! ```
#![forbid(unsafe_code)]

use spin::Once;
use unspool_unwind::{Cursor, Modules, Pc, Registers, StackBounds, global};

use crate::print::Style;
use crate::symbolize::{NoSymbols, Symbolize};
use crate::trace::Trace;

/// The program that traces are taken in.
///
/// All methods are called anywhere, in handlers, too: they must not panic and wait for nothing.
pub trait Host: Sync {
    /// The stack that the caller runs on.
    fn stack(&self) -> StackBounds;

    /// Names for addresses.
    fn symbols(&self) -> &dyn Symbolize {
        &NoSymbols
    }

    /// How much of a trace is wanted, as std asks the variable `RUST_BACKTRACE`: with
    /// [`Style::Off`], none is captured unless that is forced.
    fn style(&self) -> Style {
        Style::Short
    }
}

static HOST: Once<&'static dyn Host> = Once::new();

/// Sets the program's host. The first call counts; later ones change nothing.
///
/// A program that has a panic platform need not: setting that sets this.
pub fn set_host(host: &'static dyn Host) {
    HOST.call_once(|| host);
}

/// The program's host, if it is set.
#[cfg(feature = "alloc")]
pub(crate) fn host() -> Option<&'static dyn Host> {
    HOST.get().copied()
}

/// The frames of the caller's stack, by the program's unwind tables; the first one is the caller's
/// own. Without a host there is only that one.
///
/// They are read when the iterator is asked for them: use it before the calling function returns.
#[inline(always)]
pub fn trace() -> Trace<'static, StackBounds, Modules> {
    trace_from(Registers::here())
}

pub(crate) fn trace_from(registers: Registers) -> Trace<'static, StackBounds, Modules> {
    let stack = HOST.get().map_or(StackBounds::EMPTY, |host| host.stack());
    let stack = stack.above(registers.sp());
    Trace::new(Cursor::new(registers, Pc::Return(registers.ip()), stack, global()))
}
