//! Text out: `print!`, `eprint!`, their lines, and a writer that never fails.

use core::fmt::{self, Write};
use core::marker::PhantomData;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::machine::{Stream, machine};

/// The [errors](Stream::Errors) as a [`core::fmt::Write`]. No buffer, no heap: it works in any
/// handler.
#[derive(Clone, Copy, Debug, Default)]
pub struct Console;

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        machine().write(Stream::Errors, text.as_bytes());
        Ok(())
    }
}

/// Writes formatted text to a stream; what `print!` and `eprint!` expand to.
///
/// Up to 256 bytes at once: lines of several CPUs do not mix. What a `Display` wrote before it panicked
/// is there when the panic is caught.
pub fn print(stream: Stream, arguments: fmt::Arguments<'_>) {
    let mut line = Line { stream, bytes: [0; LINE], length: 0 };
    // The console never fails; a `Display` that does loses the rest of its text only.
    let _ = line.write_fmt(arguments);
}

/// A function that hears what panics say, or null.
static LISTENER: AtomicPtr<()> = AtomicPtr::new(null_mut());

/// Has `listener` called with all that panics, their traces and [`eprint!`](crate::eprint!) write to the
/// console, after it was written, until the result is dropped: for who keeps a log of that, or wants to
/// see what becomes of a console that panics.
///
/// It is called in the middle of a panic, piece by piece, on any CPU: it must not wait for anything,
/// and needs no memory.
///
/// # Panics
///
/// If there is one already.
pub fn listen(listener: fn(&str)) -> Listening {
    let function = listener as *mut ();
    let alone =
        LISTENER.compare_exchange(null_mut(), function, Ordering::Release, Ordering::Relaxed);
    assert!(alone.is_ok(), "one listener at a time");
    Listening(PhantomData)
}

/// While it exists, somebody [listens](listen).
#[derive(Debug)]
#[must_use]
pub struct Listening(PhantomData<*mut ()>);

impl Drop for Listening {
    fn drop(&mut self) {
        LISTENER.store(null_mut(), Ordering::Release);
    }
}

/// Tells the listener, if there is one.
pub(crate) fn tell(text: &str) {
    let listener = LISTENER.load(Ordering::Acquire);
    if listener.is_null() {
        return;
    }
    // SAFETY: only `listen` puts anything but null there, and it puts such a function there.
    let listener = unsafe { core::mem::transmute::<*mut (), fn(&str)>(listener) };
    listener(text);
}

/// Bytes that [`print()`] writes at once.
const LINE: usize = 256;

struct Line {
    stream: Stream,
    bytes: [u8; LINE],
    length: usize,
}

impl Line {
    fn flush(&mut self) {
        let length = core::mem::take(&mut self.length);
        // Whole strings were put there, so they are text.
        write(self.stream, str::from_utf8(&self.bytes[..length]).unwrap_or_default());
    }
}

impl Drop for Line {
    /// Also where a `Display` panics.
    fn drop(&mut self) {
        self.flush();
    }
}

fn write(stream: Stream, text: &str) {
    if text.is_empty() {
        return;
    }
    machine().write(stream, text.as_bytes());
    if stream == Stream::Errors {
        tell(text);
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if text.len() > LINE - self.length {
            self.flush();
        }
        if text.len() > LINE {
            write(self.stream, text);
            return Ok(());
        }
        self.bytes[self.length..][..text.len()].copy_from_slice(text.as_bytes());
        self.length += text.len();
        Ok(())
    }
}

/// Prints what the program produces, as `std` has it.
#[macro_export]
macro_rules! print {
    ($($argument:tt)*) => {
        $crate::console::print($crate::machine::Stream::Output, ::core::format_args!($($argument)*))
    };
}

/// As [`print!`], with a newline.
#[macro_export]
macro_rules! println {
    () => { $crate::print!("\n") };
    ($($argument:tt)*) => {
        $crate::print!("{}\n", ::core::format_args!($($argument)*))
    };
}

/// Prints what is to be said about the program, as `std` has it.
#[macro_export]
macro_rules! eprint {
    ($($argument:tt)*) => {
        $crate::console::print($crate::machine::Stream::Errors, ::core::format_args!($($argument)*))
    };
}

/// As [`eprint!`], with a newline.
#[macro_export]
macro_rules! eprintln {
    () => { $crate::eprint!("\n") };
    ($($argument:tt)*) => {
        $crate::eprint!("{}\n", ::core::format_args!($($argument)*))
    };
}
