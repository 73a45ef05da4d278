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
pub fn print(arguments: fmt::Arguments<'_>) {
    // The console never fails; a `Display` that does loses the rest of its text only.
    let _ = Console.write_fmt(arguments);
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
