//! Text out: `print!`, `println!` and a writer that never fails.
#![forbid(unsafe_code)]

use core::fmt::{self, Write};

use crate::machine::machine;

/// The console as a [`core::fmt::Write`]. No lock, no buffer, no heap: it works in any handler.
#[derive(Clone, Copy, Debug, Default)]
pub struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        machine().write(text.as_bytes());
        Ok(())
    }
}

/// Writes formatted text to the console; what `print!` expands to.
///
/// Up to 256 bytes at once: lines of several CPUs do not mix.
pub fn print(arguments: fmt::Arguments<'_>) {
    let mut line = Line { bytes: [0; LINE], length: 0 };
    // The console never fails; a `Display` that does loses the rest of its text only.
    let _ = line.write_fmt(arguments);
    line.flush();
}

/// Bytes that [`print()`] writes at once.
const LINE: usize = 256;

struct Line {
    bytes: [u8; LINE],
    length: usize,
}

impl Line {
    fn flush(&mut self) {
        machine().write(&self.bytes[..self.length]);
        self.length = 0;
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.len() > LINE - self.length {
            self.flush();
        }
        if text.len() > LINE {
            return Console.write_str(text);
        }
        self.bytes[self.length..][..text.len()].copy_from_slice(text.as_bytes());
        self.length += text.len();
        Ok(())
    }
}

/// Prints to the console, as `std` has it.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => {
        $crate::console::print(::core::format_args!($($argument)*))
    };
}

/// Prints to the console with a newline, as `std` has it.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($argument:tt)*) => {
        $crate::print!("{}\n", ::core::format_args!($($argument)*))
    };
}
