//! What [`Backtrace::capture`](crate::Backtrace::capture) must know of the program, since it takes no
//! arguments.
//!
//! ```text
//!   capture() ──► Host ──► the stack it runs on, those interrupted for it, names, whether it is wanted
//! ```
#![forbid(unsafe_code)]

use spin::Once;
use unspool_unwind::{
    Climb, Cursor, Modules, Pc, ReadStack, Registers, StackBounds, WordsBelow, global,
};

use crate::print::Style;
use crate::symbolize::{NoSymbols, Symbolize};
use crate::trace::Trace;

/// The program that traces are taken in.
///
/// All methods are called anywhere, in handlers, too: they must not panic and wait for nothing.
pub trait Host: Sync {
    /// The stack that the caller runs on.
    fn stack(&self) -> StackBounds;

    /// If the caller is a handler with a stack of its own: the stack with this address, if what was
    /// interrupted runs there; else [`StackBounds::EMPTY`]. Traces of the handler go on there.
    fn interrupted(&self, address: u64) -> StackBounds {
        let _ = address;
        StackBounds::EMPTY
    }

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

/// The stack that the caller runs on, and those that were interrupted for it, as the program's host
/// knows them.
#[derive(Clone, Copy, Debug)]
pub struct OwnStacks(StackBounds);

impl OwnStacks {
    /// The caller's own stack is this one, or a part of it.
    pub const fn new(own: StackBounds) -> Self {
        Self(own)
    }

    fn read_interrupted(address: u64) -> Option<u64> {
        HOST.get()?.interrupted(address).read(address)
    }
}

impl ReadStack for OwnStacks {
    fn read(&self, address: u64) -> Option<u64> {
        self.0.read(address).or_else(|| Self::read_interrupted(address))
    }

    #[inline]
    fn words_below(&self, end: u64, count: u8) -> Option<WordsBelow> {
        self.0.words_below(end, count)
    }

    #[inline]
    fn climb(&self, sp: u64) -> Option<Climb> {
        self.0.climb(sp)
    }
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
pub fn trace() -> Trace<'static, OwnStacks, Modules> {
    trace_from(Registers::here())
}

pub(crate) fn trace_from(registers: Registers) -> Trace<'static, OwnStacks, Modules> {
    let stack = HOST.get().map_or(StackBounds::EMPTY, |host| host.stack());
    let stack = OwnStacks::new(stack.above(registers.sp()));
    Trace::new(Cursor::new(registers, Pc::Return(registers.ip()), stack, global()))
}
