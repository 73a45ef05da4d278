//! Prints a trace in std's words.
//!
//! ```text
//! stack backtrace:
//!    0: kernel::worker                      short: from where the panic machinery ends
//!    1: kernel::worker::{closure#0}                to where the task's body begins
//! note: Some details are omitted, …
//! ```
//!
//! Between frames stand lines in brackets: where a frame was interrupted, on which other stack, what
//! was left out, why there is no more.
//!
//! The short style shows the frames between two markers, [`end_short`](crate::end_short) (called by
//! the panic handler around everything it does) and [`begin_short`](crate::begin_short) (called
//! around a task's body), as std does with functions of these names.
#![forbid(unsafe_code)]

use core::fmt::{self, Write};

use rustc_demangle::demangle;
use unspool_unwind::{FindModule, ReadStack};

use crate::name::{Name, NameBuffer};
use crate::symbolize::{Function, Location, Symbolize};
use crate::trace::{End, Frame, FrameKind, Trace};

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

/// How many frames the short style looks at: as std, which gives up after number 100.
const SHORT_LIMIT: usize = 101;

/// What std's markers are called; a crate compiled for std brings its own.
const BEGIN: &str = "__rust_begin_short_backtrace";
const END: &str = "__rust_end_short_backtrace";

/// Runs a task's body; short traces end above it.
///
/// The marker itself: a function around it would be in the trace where inlined functions are.
#[inline(never)]
pub fn __rust_begin_short_backtrace<F: FnOnce() -> T, T>(body: F) -> T {
    let result = body();
    // Keeps the call from becoming a jump, which would take the frame off the stack.
    core::hint::black_box(());
    result
}

/// Runs what happens inside a panic; short traces start below it.
#[inline(never)]
pub fn __rust_end_short_backtrace<F: FnOnce() -> T, T>(body: F) -> T {
    let result = body();
    core::hint::black_box(());
    result
}

/// Prints a trace.
///
/// # Errors
///
/// Only those of `out`.
pub fn print<S: ReadStack + Copy, M: FindModule>(
    out: &mut dyn Write,
    mut trace: Trace<'_, S, M>,
    style: Style,
    symbols: &dyn Symbolize,
) -> fmt::Result {
    if style == Style::Off {
        return Ok(());
    }
    let shown = style == Style::Full || !is_marked(trace, symbols);
    let mut printer = Printer::new(out, style, symbols, shown);
    printer.out.write_str(HEADER)?;
    printer.frames(&mut trace)?;
    end(out, trace.end(), style)
}

/// As [`print()`], of frames that were kept.
pub(crate) fn print_frames(
    out: &mut dyn Write,
    frames: &[Frame],
    last: End,
    style: Style,
    symbols: &dyn Symbolize,
) -> fmt::Result {
    if style == Style::Off {
        return Ok(());
    }
    let frames = frames.iter().copied();
    let shown = style == Style::Full || !is_marked(frames.clone(), symbols);
    let mut printer = Printer::new(out, style, symbols, shown);
    printer.out.write_str(HEADER)?;
    printer.frames(frames)?;
    end(out, Some(last), style)
}

const HEADER: &str = "stack backtrace:\n";

/// Whether the trace was taken by a panic. One that was not (of a fault, of another task) has no
/// marker to start at.
fn is_marked(frames: impl Iterator<Item = Frame>, symbols: &dyn Symbolize) -> bool {
    let mut buffer = NameBuffer::new();
    frames.take(SHORT_LIMIT).any(|frame| {
        let address = frame.pc.lookup();
        let mut is_end = |name: Name<'_>| name.read(&mut buffer).contains(END);
        if let Some(symbol) = symbols.symbolize(address) {
            return is_end(symbol.name);
        }
        // Debug information alone has names of functions, but no symbols.
        let mut marked = false;
        symbols.functions(address, &mut |function| {
            marked |= function.name.is_some_and(&mut is_end);
        });
        marked
    })
}

fn end(out: &mut dyn Write, end: Option<End>, style: Style) -> fmt::Result {
    match end {
        Some(End::Error(error)) => {
            writeln!(out, "      [... the trace ends here: {error} ...]")?;
        }
        Some(End::Full) => out.write_str("      [... there was no room for more frames ...]\n")?,
        Some(End::Outermost) | None => {}
    }
    if style == Style::Short {
        writeln!(
            out,
            "note: Some details are omitted, ask for the full style for a verbose backtrace."
        )?;
    }
    Ok(())
}

/// Prints frames and nothing around them, as std's `Backtrace` does.
#[cfg(feature = "alloc")]
pub(crate) fn print_bare(
    out: &mut dyn Write,
    frames: &[Frame],
    style: Style,
    symbols: &dyn Symbolize,
) -> fmt::Result {
    let mut printer = Printer::new(out, style, symbols, true);
    printer.markers = false;
    printer.frames(frames.iter().copied())
}

/// Prints one frame with its number and all that is known of it, as the styles have it; returns the
/// number of the next one.
///
/// # Errors
///
/// Only those of `out`.
pub fn print_frame(
    out: &mut dyn Write,
    number: usize,
    frame: Frame,
    style: Style,
    symbols: &dyn Symbolize,
) -> Result<usize, fmt::Error> {
    let mut printer = Printer::new(out, style, symbols, true);
    printer.markers = false;
    printer.number = number;
    printer.frame(frame)?;
    Ok(printer.number)
}

/// Digits of an address, with `0x`.
const HEX_WIDTH: usize = 18;

struct Printer<'o, 's> {
    out: &'o mut dyn Write,
    style: Style,
    symbols: &'s dyn Symbolize,
    /// Whether markers decide what is shown.
    markers: bool,
    /// Whether frames are being shown: between the markers.
    shown: bool,
    /// Frames left out since the last one shown.
    omitted: usize,
    /// Frames looked at.
    seen: usize,
    /// Lines with a number so far.
    number: usize,
    name: NameBuffer,
}

impl<'o, 's> Printer<'o, 's> {
    fn new(out: &'o mut dyn Write, style: Style, symbols: &'s dyn Symbolize, shown: bool) -> Self {
        let markers = style == Style::Short;
        let name = NameBuffer::new();
        Self { out, style, symbols, markers, shown, omitted: 0, seen: 0, number: 0, name }
    }

    fn frames(&mut self, frames: impl Iterator<Item = Frame>) -> fmt::Result {
        for frame in frames {
            self.frame(frame)?;
            if self.markers && self.seen == SHORT_LIMIT {
                break;
            }
        }
        Ok(())
    }

    fn frame(&mut self, frame: Frame) -> fmt::Result {
        self.seen += 1;
        if self.shown {
            self.kind(frame.kind)?;
        }
        let (symbols, mut printed) = (self.symbols, Ok(()));
        let known = symbols.functions(frame.pc.lookup(), &mut |function| {
            printed = printed.and_then(|()| self.function(frame, function));
        });
        if known { printed } else { self.function(frame, &Function::UNKNOWN) }
    }

    /// What happened between a frame and the one before it, if that was not a call.
    fn kind(&mut self, kind: FrameKind) -> fmt::Result {
        self.out.write_str(match kind {
            FrameKind::Call => return Ok(()),
            FrameKind::Interrupted => INTERRUPTED,
            FrameKind::OtherStack => OTHER_STACK,
            FrameKind::Guessed => GUESSED,
        })
    }

    fn function(&mut self, frame: Frame, function: &Function<'_>) -> fmt::Result {
        if self.markers && self.is_marker(function.name) {
            return Ok(());
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
        self.line(frame, function)
    }

    /// Whether a function is one of the markers; if so, it has its effect.
    fn is_marker(&mut self, name: Option<Name<'_>>) -> bool {
        let name = name.map_or("", |name| name.read(&mut self.name));
        if self.shown && name.contains(BEGIN) {
            self.shown = false;
        } else if name.contains(END) {
            self.shown = true;
        } else {
            return false;
        }
        true
    }

    fn line(&mut self, frame: Frame, function: &Function<'_>) -> fmt::Result {
        write!(self.out, "{:4}: ", self.number)?;
        self.number += 1;
        let full = self.style == Style::Full;
        if full {
            write!(self.out, "{:#HEX_WIDTH$x} - ", frame.pc)?;
        }
        match function.name.map(|name| name.read(&mut self.name)) {
            Some(name) if full => writeln!(self.out, "{}", demangle(name))?,
            Some(name) => writeln!(self.out, "{:#}", demangle(name))?,
            None => self.unknown(frame, full)?,
        }
        let Some(location) = function.location else { return Ok(()) };
        let indent = if full { HEX_WIDTH } else { 0 };
        write!(self.out, "{:indent$}             at ", "")?;
        let near = if full { None } else { self.symbols.directory() };
        match near.and_then(|directory| beneath(location.file, directory)) {
            Some(file) => writeln!(self.out, "./{}", Location { file, ..location }),
            None => writeln!(self.out, "{location}"),
        }
    }

    /// Without a name the address is all there is to go by.
    fn unknown(&mut self, frame: Frame, full: bool) -> fmt::Result {
        if !full {
            write!(self.out, "{:#x} - ", frame.pc)?;
        }
        match self.symbols.place(frame.pc.address()) {
            Some(place) => writeln!(self.out, "{place}"),
            None => writeln!(self.out, "<unknown>"),
        }
    }
}

/// What is left of a file's path within a directory.
fn beneath<'f>(file: &'f str, directory: &str) -> Option<&'f str> {
    file.strip_prefix(directory.trim_end_matches('/'))?.strip_prefix('/')
}

/// Stands before a frame that called nothing.
pub const INTERRUPTED: &str = "      [... interrupted ...]\n";
/// The same, if the handler ran elsewhere.
pub const OTHER_STACK: &str = "      [... interrupted, on another stack ...]\n";
/// Stands before a frame that a frame pointer led to, and no table.
pub const GUESSED: &str = "      [... guessed by frame pointer ...]\n";

#[cfg(test)]
mod tests {
    use unspool_unwind::Pc;

    use super::*;
    use crate::symbolize::{OnlyPlaces, Place, Symbol};

    /// A function every 0x10 bytes from 0x10 on.
    struct Names(&'static [&'static str]);

    impl Symbolize for Names {
        fn symbolize(&self, address: u64) -> Option<Symbol<'_>> {
            let name = self.0.get((address / 0x10) as usize - 1)?;
            Some(Symbol { name: (*name).into(), address: address & !0xf, size: 0x10 })
        }
    }

    fn call(pc: Pc) -> Frame {
        Frame { pc, sp: 0, kind: FrameKind::Call }
    }

    /// What frames of all these functions, innermost first, are printed as.
    fn printed(names: &'static [&'static str], style: Style, shown: bool) -> String {
        let (mut out, symbols) = (String::new(), Names(names));
        let mut printer = Printer::new(&mut out, style, &symbols, shown);
        for number in 1..=names.len() as u64 {
            printer.frame(call(Pc::Exact(number * 0x10))).unwrap();
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
        let frame = call(Pc::Return(0xabc));
        assert_eq!(print_frame(&mut out, 0, frame, Style::Short, &Nobody), Ok(1));
        assert_eq!(out, "   0: 0xabc - <unknown>\n");
    }

    #[test]
    fn inlined_functions_have_numbers_and_places_of_their_own() {
        struct Inlined;
        impl Symbolize for Inlined {
            fn symbolize(&self, _: u64) -> Option<Symbol<'_>> {
                None
            }

            fn functions(&self, _: u64, each: &mut dyn FnMut(&Function<'_>)) -> bool {
                for (name, line, column) in [("inner", 3, Some(5)), ("outer", 9, None)] {
                    let location = Some(Location { file: "a.rs", line, column });
                    each(&Function { name: Some(name.into()), location });
                }
                true
            }
        }
        let print = |style| {
            let mut out = String::new();
            print_frame(&mut out, 7, call(Pc::Exact(0x10)), style, &Inlined).unwrap();
            out
        };
        let short = "   7: inner\n             at a.rs:3:5\n   8: outer\n             at a.rs:9\n";
        assert_eq!(print(Style::Short), short);
        let full = print(Style::Full);
        assert!(full.starts_with("   7:               0x10 - inner\n"), "{full}");
        assert!(full.ends_with("\n                               at a.rs:9\n"), "{full}");
    }

    #[test]
    fn markers_that_only_debug_information_names_count() {
        struct Lines;
        impl Symbolize for Lines {
            fn symbolize(&self, _: u64) -> Option<Symbol<'_>> {
                None
            }

            fn functions(&self, address: u64, each: &mut dyn FnMut(&Function<'_>)) -> bool {
                let name = PANIC[(address / 0x10) as usize - 1].into();
                each(&Function { name: Some(name), location: None });
                true
            }
        }
        let frames: Vec<_> =
            (1..=PANIC.len() as u64).map(|number| call(Pc::Exact(number * 0x10))).collect();
        let mut out = String::new();
        print_frames(&mut out, &frames, End::Outermost, Style::Short, &Lines).unwrap();
        let frames = out.strip_prefix(HEADER).unwrap();
        assert!(frames.starts_with("   0: kernel::work\n   1: body\nnote: "), "{out}");
    }

    #[test]
    fn short_traces_show_files_relative_to_the_directory() {
        struct Within(&'static str, Option<&'static str>);
        impl Symbolize for Within {
            fn symbolize(&self, _: u64) -> Option<Symbol<'_>> {
                None
            }

            fn functions(&self, _: u64, each: &mut dyn FnMut(&Function<'_>)) -> bool {
                let location = Some(Location { file: self.0, line: 3, column: None });
                each(&Function { name: Some("f".into()), location });
                true
            }

            fn directory(&self) -> Option<&str> {
                self.1
            }
        }
        let shown = |file, directory, style| {
            let (mut out, symbols) = (String::new(), (crate::NoSymbols, Within(file, directory)));
            print_frame(&mut out, 0, call(Pc::Exact(0x10)), style, &Some(&symbols)).unwrap();
            out.lines().last().unwrap().trim_start().to_owned()
        };
        let short = |file, directory| shown(file, Some(directory), Style::Short);
        assert_eq!(short("/w/k/src/a.rs", "/w/k"), "at ./src/a.rs:3");
        assert_eq!(short("/w/k/src/a.rs", "/w/k/"), "at ./src/a.rs:3");
        assert_eq!(short("/w/kernel/a.rs", "/w/k"), "at /w/kernel/a.rs:3", "a whole component");
        assert_eq!(short("src/a.rs", "/w/k"), "at src/a.rs:3");
        assert_eq!(shown("/w/a.rs", None, Style::Short), "at /w/a.rs:3");
        assert_eq!(shown("/w/a.rs", Some("/w"), Style::Full), "at /w/a.rs:3", "as std has it");
    }

    #[test]
    fn frames_that_were_interrupted_are_marked() {
        let frames =
            [FrameKind::Interrupted, FrameKind::Call, FrameKind::OtherStack, FrameKind::Guessed]
                .map(|kind| Frame { kind, ..call(Pc::Exact(0x10)) });
        let mut out = String::new();
        print_frames(&mut out, &frames, End::Full, Style::Full, &Names(&["f"])).unwrap();
        let marks: Vec<_> = out.lines().filter(|line| line.contains("...")).collect();
        let full = "      [... there was no room for more frames ...]";
        assert_eq!(
            marks,
            [INTERRUPTED.trim_end(), OTHER_STACK.trim_end(), GUESSED.trim_end(), full]
        );
    }

    #[test]
    fn a_place_tells_what_an_address_means_elsewhere() {
        struct Places;
        impl Symbolize for Places {
            fn symbolize(&self, _: u64) -> Option<Symbol<'_>> {
                Some(Symbol { name: "hidden".into(), address: 0, size: 0 })
            }

            fn place(&self, address: u64) -> Option<Place<'_>> {
                let section = Some(".text.f".into());
                Some(Place { module: "m.o".into(), section, offset: address - 0x10 })
            }
        }
        let mut out = String::new();
        let (frame, symbols) = (call(Pc::Return(0x34)), OnlyPlaces(Places));
        print_frame(&mut out, 0, frame, Style::Short, &symbols).unwrap();
        assert_eq!(out, "   0: 0x34 - m.o(.text.f)+0x24\n");
    }
}
