//! `cargo xtask decode`: turns the addresses of traces into functions and lines, as they stream by.
//!
//! ```text
//!   0: 0x201234 - <unknown>             ──► KERNEL.elf            function, inlined ones, file:line
//!   1: 0x40001034 - m.o(.text.f)+0x34   ──► OBJECT of that name
//!   anything else                       ──► as it is, byte for byte
//! ```
//!
//! Where an object was loaded need not be known: its lines say how far they are from the start of
//! which section. Traces that have their inlined functions and lines stay as they are.

pub mod file;

use std::io::{self, BufRead, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use unspool_stack_trace::{
    Frame, FrameKind, Function, INTERRUPTED, OTHER_STACK, Style, Symbol, Symbolize, print_frame,
};
use unspool_unwind::Pc;

use self::file::{Files, Known};

/// What to decode with.
#[derive(Args)]
pub struct Options {
    /// The kernel that printed the traces, with its debug information
    #[arg(value_name = "KERNEL.elf")]
    kernel: PathBuf,
    /// Objects that it had loaded, and archives of them
    #[arg(value_name = "OBJECT")]
    objects: Vec<PathBuf>,
}

/// Does it, from stdin to stdout.
///
/// # Errors
/// A file cannot be read, or is no ELF file; stdin or stdout is gone.
pub fn decode(options: &Options) -> Result<ExitCode> {
    let kernel = Files::read(&options.kernel)?;
    let objects =
        options.objects.iter().map(|path| Files::read(path)).collect::<Result<Vec<_>>>()?;
    let kernel = kernel.contents()?;
    let objects = objects.iter().map(Files::contents).collect::<Result<Vec<_>>>()?.into_iter();
    let objects: Vec<_> = objects.flatten().collect();
    let kernel: Vec<_> = kernel.iter().map(Known::new).collect::<Result<_>>()?;
    let objects: Vec<_> = objects.iter().map(Known::new).collect::<Result<_>>()?;
    let mut decoder = Decoder::new(kernel.first().context("an empty archive")?, &objects);
    let (mut input, mut output, mut line) = (io::stdin().lock(), io::stdout().lock(), Vec::new());
    while input.read_until(b'\n', &mut line)? != 0 {
        match output.write_all(&decoder.line(&line)).and_then(|()| output.flush()) {
            // A reader that went away (`| head`) has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            written => written?,
        }
        line.clear();
    }
    Ok(ExitCode::SUCCESS)
}

/// What is known of the trace that goes by.
struct Decoder<'k> {
    kernel: &'k Known<'k>,
    objects: &'k [Known<'k>],
    /// The number that the trace's next line has.
    expected: usize,
    /// The number that it gets.
    number: usize,
    /// The line before was one of these marks: the next address is an instruction's own.
    interrupted: bool,
    /// The line before was decoded, so that its own location is not needed.
    located: bool,
    /// It had one: the trace has lines already, and with them its inlined functions.
    complete: bool,
    /// What lines would say that were written with the first one of their address, the next one last.
    written: Vec<String>,
}

impl<'k> Decoder<'k> {
    const fn new(kernel: &'k Known<'k>, objects: &'k [Known<'k>]) -> Self {
        Self {
            kernel,
            objects,
            expected: 0,
            number: 0,
            interrupted: false,
            located: false,
            complete: false,
            written: Vec::new(),
        }
    }

    /// What is written for a line, newline and all.
    fn line(&mut self, line: &[u8]) -> Vec<u8> {
        let decoded = str::from_utf8(line).ok().and_then(|line| self.text(line));
        decoded.map_or_else(|| line.to_owned(), String::into_bytes)
    }

    /// The same; `None` if it stays as it is.
    fn text(&mut self, line: &str) -> Option<String> {
        let bare = line.trim_end_matches(['\r', '\n']);
        let end = &line[bare.len()..];
        let interrupted = [INTERRUPTED, OTHER_STACK].map(str::trim_end).contains(&bare);
        let Some((number, rest)) = numbered(bare) else {
            let location = self.located && bare.trim_start().starts_with("at ");
            self.located &= location;
            self.complete |= location;
            self.interrupted = interrupted;
            return location.then(String::new);
        };
        let was_interrupted = core::mem::take(&mut self.interrupted);
        let complete = core::mem::take(&mut self.complete);
        self.located = false;
        if number == 0 {
            self.number = 0;
        } else if number != self.expected {
            return None;
        }
        self.expected = number + 1;
        if complete && number != 0 && self.written.pop().is_some_and(|written| written == rest) {
            self.located = true;
            return Some(String::new());
        }
        self.written.clear();
        let text = self.frame(rest, was_interrupted);
        self.located = text.is_some();
        let Some(text) = text else {
            self.number += 1;
            return Some(format!("{:4}: {rest}{end}", self.number - 1));
        };
        let lines = text.lines().rev().filter_map(numbered);
        self.written.extend(lines.map(|(_, rest)| rest.to_owned()));
        if self.written.pop().is_none_or(|first| first != rest) {
            self.written.clear();
        }
        Some(text.replace('\n', end))
    }

    /// The lines for what stands behind a number.
    fn frame(&mut self, rest: &str, interrupted: bool) -> Option<String> {
        let (address, what) = rest.trim_start().split_once(" - ")?;
        let address = hexadecimal(address)?;
        let (known, meant) = self.meaning(address, what);
        let pc = if interrupted { Pc::Exact(address) } else { Pc::Return(address) };
        let symbols = Elsewhere { known, distance: meant?.wrapping_sub(address) };
        if !symbols.functions(pc.lookup(), &mut |_| ()) {
            return None;
        }
        let frame = Frame { pc, sp: 0, kind: FrameKind::Call };
        let mut text = String::new();
        self.number = print_frame(&mut text, self.number, frame, Style::Full, &symbols).ok()?;
        Some(text)
    }

    /// Which file a line means, and which address there.
    fn meaning(&self, address: u64, what: &str) -> (&'k Known<'k>, Option<u64>) {
        let place = what.rsplit_once("+0x").and_then(|(place, offset)| {
            let offset = u64::from_str_radix(offset, 16).ok()?;
            let files = self.objects.iter().chain([self.kernel]);
            let mut found = files.filter_map(|file| Some((file, file.start_of(place)?)));
            found.next().map(|(file, start)| (file, start.checked_add(offset)))
        });
        place.unwrap_or((self.kernel, Some(address)))
    }
}

/// A file whose addresses are not those of the trace.
struct Elsewhere<'k> {
    known: &'k Known<'k>,
    distance: u64,
}

impl Symbolize for Elsewhere<'_> {
    fn symbolize(&self, address: u64) -> Option<Symbol<'_>> {
        self.known.symbols().symbolize(address.wrapping_add(self.distance))
    }

    fn functions(&self, address: u64, each: &mut dyn FnMut(&Function<'_>)) -> bool {
        self.known.symbols().functions(address.wrapping_add(self.distance), each)
    }
}

/// Number and rest of a line of a trace: `   7: rest`.
fn numbered(line: &str) -> Option<(usize, &str)> {
    let (number, rest) = line.split_once(": ")?;
    // Traces have four columns for it.
    let digits = number.trim_start();
    let sound = number.len() >= 4 && digits.bytes().all(|digit| digit.is_ascii_digit());
    Some((digits.parse().ok().filter(|_| sound)?, rest))
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests;
