//! A trace that is kept, with std's name and std's words.
//!
//! ```text
//!   capture ─┬─ wanted ──► Captured   frames now, names when it is printed
//!            ├─ not ─────► Disabled   "disabled backtrace"
//!            └─ no host ─► Unsupported
//! ```
//!
//! Promise: where memory is exhausted, a trace is shorter, and nothing fails.
#![forbid(unsafe_code)]

use core::fmt;
use core::ops::ControlFlow;

use alloc::vec::Vec;
use rustc_demangle::demangle;
use unspool_unwind::{FindModule, ReadStack, Registers};

use crate::host::{host, trace_from};
use crate::name::NameBuffer;
use crate::print::{Style, print_bare};
use crate::symbolize::{Function, NoSymbols, Symbolize};
use crate::trace::{End, Frame, Trace};

/// Frames that are kept of a stack.
const MOST: usize = 512;
/// Frames for which memory is asked for at once.
const SOME: usize = 32;

/// A trace of a stack, as `std::backtrace::Backtrace`.
///
/// Names are looked up when it is printed, so it costs 24 bytes a frame, and a frame in something
/// that has been unloaded since has no name, or another one. The innermost 512 frames are kept;
/// [`end`](Self::end) says if there are more.
///
/// Without a heap, there is [`Captured`](crate::Captured).
pub struct Backtrace(Inner);

enum Inner {
    Unsupported,
    Disabled,
    Captured { frames: Vec<Frame>, end: End },
}

/// Whether a [`Backtrace`] has frames, or why it has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BacktraceStatus {
    /// The program has set no [`Host`](crate::Host).
    Unsupported,
    /// Traces are not wanted here.
    Disabled,
    /// It has frames.
    Captured,
}

impl Backtrace {
    /// The caller's stack, if the program wants traces ([`Host::style`](crate::Host::style)).
    #[inline(always)]
    #[must_use]
    pub fn capture() -> Self {
        Self::of_registers(&Registers::here(), false)
    }

    /// The caller's stack, whether the program wants traces or not.
    #[inline(always)]
    #[must_use]
    pub fn force_capture() -> Self {
        Self::of_registers(&Registers::here(), true)
    }

    /// No frames.
    #[must_use]
    pub const fn disabled() -> Self {
        Self(Inner::Disabled)
    }

    /// The frames of any trace: of a fault, of another task.
    #[must_use]
    pub fn from_trace<S: ReadStack, M: FindModule>(mut trace: Trace<'_, S, M>) -> Self {
        let mut frames = Vec::new();
        let has_room = |frames: &mut Vec<Frame>| {
            frames.len() < MOST
                && (frames.len() < frames.capacity() || frames.try_reserve(SOME).is_ok())
        };
        if has_room(&mut frames) {
            trace.walk(|frame| {
                frames.push(frame);
                match has_room(&mut frames) {
                    true => ControlFlow::Continue(()),
                    false => ControlFlow::Break(()),
                }
            });
        }
        Self(Inner::Captured { frames, end: trace.end().unwrap_or(End::Full) })
    }

    #[inline(never)]
    fn of_registers(registers: &Registers, forced: bool) -> Self {
        match host() {
            None => Self(Inner::Unsupported),
            Some(host) if !forced && host.style() == Style::Off => Self::disabled(),
            Some(_) => Self::from_trace(trace_from(*registers)),
        }
    }

    /// Whether there are frames.
    #[must_use]
    pub fn status(&self) -> BacktraceStatus {
        match self.0 {
            Inner::Unsupported => BacktraceStatus::Unsupported,
            Inner::Disabled => BacktraceStatus::Disabled,
            Inner::Captured { .. } => BacktraceStatus::Captured,
        }
    }

    /// The frames, innermost first, for formats of one's own.
    #[must_use]
    pub fn frames(&self) -> &[Frame] {
        match &self.0 {
            Inner::Captured { frames, .. } => frames,
            Inner::Unsupported | Inner::Disabled => &[],
        }
    }

    /// Why there are no more frames; `None` if there are none at all.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        match self.0 {
            Inner::Captured { end, .. } => Some(end),
            Inner::Unsupported | Inner::Disabled => None,
        }
    }
}

fn symbols() -> &'static dyn Symbolize {
    host().map_or(&NoSymbols, |host| host.symbols())
}

/// The frames, one or more lines each; with `{:#}`, in the full style.
impl fmt::Display for Backtrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let style = if f.alternate() { Style::Full } else { Style::Short };
        match &self.0 {
            Inner::Unsupported => f.write_str("unsupported backtrace"),
            Inner::Disabled => f.write_str("disabled backtrace"),
            Inner::Captured { frames, .. } => print_bare(f, frames, style, symbols()),
        }
    }
}

/// `Backtrace [{ fn: "kernel::main", file: "src/main.rs", line: 3 }, …]`.
impl fmt::Debug for Backtrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frames = match &self.0 {
            Inner::Unsupported => return f.write_str("<unsupported>"),
            Inner::Disabled => return f.write_str("<disabled>"),
            Inner::Captured { frames, .. } => frames,
        };
        f.write_str("Backtrace ")?;
        let (mut list, symbols) = (f.debug_list(), symbols());
        for frame in frames {
            symbols.functions(frame.pc.lookup(), &mut |function| {
                list.entry(&Entry(function));
            });
        }
        list.finish()
    }
}

struct Entry<'f, 'a>(&'f Function<'a>);

impl fmt::Debug for Entry<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.name {
            Some(name) => {
                let mut buffer = NameBuffer::new();
                write!(f, "{{ fn: \"{:#}\"", demangle(name.read(&mut buffer)))?;
            }
            None => f.write_str("{ fn: <unknown>")?,
        }
        if let Some(location) = self.0.location {
            write!(f, ", file: {:?}, line: {}", location.file, location.line)?;
        }
        f.write_str(" }")
    }
}
