//! Prints a trace in std's words.
//!
//! ```text
//! stack backtrace:
//!    0: kernel::worker                      short: from where the panic machinery ends
//!    1: kernel::worker::{closure#0}                to where the task's body begins
//! note: Some details are omitted, …
//! ```
//!
//! The short style shows the frames between two markers, [`end_short`] (called by the panic
//! handler around everything it does) and [`begin_short`] (called around a task's body), as std
//! does with functions of these names.
#![forbid(unsafe_code)]

use core::fmt::{self, Write};

use rustc_demangle::demangle;
use unspool_unwind::{FindModule, ReadStack};

use crate::symbolize::Symbolize;
use crate::trace::{End, Frame, Trace};

/// How much of a trace is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Style {
    /// Nothing, but a note on how to get more.
    Off,
    /// The frames of the program, without hashes and addresses.
    #[default]
    Short,
    /// Every frame, with its address.
    Full,
}

/// How many frames the short style looks at.
const SHORT_LIMIT: usize = 100;

/// What std's markers are called; a crate compiled for std brings its own.
const BEGIN: &str = "__rust_begin_short_backtrace";
const END: &str = "__rust_end_short_backtrace";

/// Runs a task's body; short traces end above it.
#[inline(always)]
pub fn begin_short<F: FnOnce() -> T, T>(body: F) -> T {
    #[inline(never)]
    fn __rust_begin_short_backtrace<F: FnOnce() -> T, T>(body: F) -> T {
        let result = body();
        // Keeps the call from becoming a jump, which would take the frame off the stack.
        core::hint::black_box(());
        result
    }
    __rust_begin_short_backtrace(body)
}

/// Runs what happens inside a panic; short traces start below it.
#[inline(always)]
pub fn end_short<F: FnOnce() -> T, T>(body: F) -> T {
    #[inline(never)]
    fn __rust_end_short_backtrace<F: FnOnce() -> T, T>(body: F) -> T {
        let result = body();
        core::hint::black_box(());
        result
    }
    __rust_end_short_backtrace(body)
}

/// Prints a trace.
///
/// # Errors
///
/// Only those of `out`.
pub fn print<S: ReadStack + Copy, M: FindModule>(
    out: &mut dyn Write,
    trace: Trace<'_, S, M>,
    style: Style,
    symbols: &dyn Symbolize,
) -> fmt::Result {
    if style == Style::Off {
        return Ok(());
    }
    writeln!(out, "stack backtrace:")?;
    let mut printer = Printer::new(out, style, symbols);
    let marked = |frame: Frame| printer_name(symbols, frame).is_some_and(|n| n.contains(END));
    // A trace that no panic started (of a fault, of another task) has no marker to start at.
    printer.shown = style == Style::Full || !trace.take(SHORT_LIMIT).any(marked);
    let mut trace = trace;
    for frame in &mut trace {
        if style == Style::Short && printer.seen == SHORT_LIMIT {
            break;
        }
        printer.frame(frame)?;
    }
    if let Some(End::Error(error)) = trace.end() {
        writeln!(out, "      [... the trace ends here: {error} ...]")?;
    }
    if style == Style::Short {
        writeln!(
            out,
            "note: Some details are omitted, ask for the full style for a verbose backtrace."
        )?;
    }
    Ok(())
}

fn printer_name(symbols: &dyn Symbolize, frame: Frame) -> Option<&str> {
    symbols.symbolize(frame.pc.lookup()).map(|symbol| symbol.name)
}

struct Printer<'o, 's> {
    out: &'o mut dyn Write,
    style: Style,
    symbols: &'s dyn Symbolize,
    /// Whether frames are being shown: between the markers.
    shown: bool,
    /// Frames left out since the last one shown.
    omitted: usize,
    /// Frames looked at.
    seen: usize,
    /// Frames shown.
    number: usize,
}

impl<'o, 's> Printer<'o, 's> {
    fn new(out: &'o mut dyn Write, style: Style, symbols: &'s dyn Symbolize) -> Self {
        Self { out, style, symbols, shown: false, omitted: 0, seen: 0, number: 0 }
    }

    fn frame(&mut self, frame: Frame) -> fmt::Result {
        self.seen += 1;
        let name = printer_name(self.symbols, frame);
        if self.style == Style::Short
            && let Some(name) = name
        {
            if self.shown && name.contains(BEGIN) {
                self.shown = false;
                return Ok(());
            }
            if name.contains(END) {
                self.shown = true;
                return Ok(());
            }
        }
        if !self.shown {
            self.omitted += 1;
            return Ok(());
        }
        // The frames above the first one shown are the panic's own: not worth a line.
        if self.omitted > 0 && self.number > 0 {
            let plural = if self.omitted == 1 { "" } else { "s" };
            writeln!(self.out, "      [... omitted {} frame{plural} ...]", self.omitted)?;
        }
        self.omitted = 0;
        self.line(frame, name)
    }

    fn line(&mut self, frame: Frame, name: Option<&str>) -> fmt::Result {
        write!(self.out, "{:4}: ", self.number)?;
        self.number += 1;
        match (self.style, name) {
            (Style::Full, Some(name)) => {
                writeln!(self.out, "{:#18x} - {}", frame.pc, demangle(name))
            }
            (Style::Full, None) => writeln!(self.out, "{:#18x} - <unknown>", frame.pc),
            (_, Some(name)) => writeln!(self.out, "{:#}", demangle(name)),
            // Without a name the address is all there is to go by.
            (_, None) => writeln!(self.out, "{:#x} - <unknown>", frame.pc),
        }
    }
}

#[cfg(test)]
mod tests {
    use unspool_unwind::Pc;

    use super::*;
    use crate::symbolize::Symbol;

    /// A function every 0x10 bytes from 0x10 on.
    struct Names(&'static [&'static str]);

    impl Symbolize for Names {
        fn symbolize(&self, address: u64) -> Option<Symbol<'_>> {
            let name = self.0.get((address / 0x10) as usize - 1)?;
            Some(Symbol { name, address: address & !0xf, size: 0x10 })
        }
    }

    /// What frames of all these functions, innermost first, are printed as.
    fn printed(names: &'static [&'static str], style: Style, shown: bool) -> String {
        let (mut out, symbols) = (String::new(), Names(names));
        let mut printer = Printer::new(&mut out, style, &symbols);
        printer.shown = shown;
        for number in 1..=names.len() as u64 {
            printer.frame(Frame { pc: Pc::Exact(number * 0x10), sp: 0 }).unwrap();
        }
        out
    }

    const PANIC: &[&str] = &[
        "walk",
        "__rust_end_short_backtrace",
        "_ZN6kernel4work17h0123456789abcdefE",
        "body",
        "__rust_begin_short_backtrace",
        "spawn",
    ];

    #[test]
    fn the_short_style_shows_what_lies_between_the_markers() {
        assert_eq!(printed(PANIC, Style::Short, false), "   0: kernel::work\n   1: body\n");
    }

    #[test]
    fn the_full_style_shows_everything_with_hashes_and_addresses() {
        let full = printed(PANIC, Style::Full, true);
        assert_eq!(full.lines().count(), PANIC.len());
        assert!(full.starts_with("   0:               0x10 - walk\n"), "{full}");
        assert!(full.contains("0x30 - kernel::work::h0123456789abcdef\n"), "{full}");
    }

    #[test]
    fn frames_left_out_between_shown_ones_are_counted() {
        const NESTED: &[&str] =
            &["a", "__rust_begin_short_backtrace", "x", "y", "__rust_end_short_backtrace", "b"];
        let text = printed(NESTED, Style::Short, true);
        assert_eq!(text, "   0: a\n      [... omitted 2 frames ...]\n   1: b\n");
    }

    #[test]
    fn an_address_without_a_name_is_shown_as_such() {
        struct Nobody;
        impl Symbolize for Nobody {
            fn symbolize(&self, _: u64) -> Option<Symbol<'_>> {
                None
            }
        }
        let mut out = String::new();
        let mut printer = Printer::new(&mut out, Style::Short, &Nobody);
        printer.shown = true;
        printer.frame(Frame { pc: Pc::Return(0xabc), sp: 0 }).unwrap();
        assert_eq!(out, "   0: 0xabc - <unknown>\n");
    }
}
