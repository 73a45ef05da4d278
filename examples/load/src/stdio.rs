//! As much of `<stdio.h>` as tests in C print with, and the C++ runtime when it gives up.
//!
//! ```text
//!   %[-][0][width][.precision][h|hh|l|ll|z|j|t]{d i u x X o c s p %}        no floating point
//! ```
//!
//! Nothing is buffered: what is written is written.

use core::ffi::{CStr, VaList, c_char, c_int, c_void};

use unspool_kernel::machine::{Stream, machine};

/// What a `FILE *` points to: its address says which stream it is.
struct File(*const u8);

// SAFETY: nothing is behind the pointers that anybody looks at.
unsafe impl Sync for File {}

static STREAMS: [u8; 2] = [0; 2];

/// C17 §7.21.1: `stdout`.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
static stdout: File = File(&raw const STREAMS[0]);

/// C17 §7.21.1: `stderr`.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
static stderr: File = File(&raw const STREAMS[1]);

fn stream(file: *const c_void) -> Stream {
    if core::ptr::eq(file.cast(), stdout.0) { Stream::Output } else { Stream::Errors }
}

/// C17 §7.21.8.2: `fwrite`.
///
/// # Safety
///
/// `data` has `count` pieces of `size` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn fwrite(
    data: *const c_void,
    size: usize,
    count: usize,
    file: *const c_void,
) -> usize {
    if size != 0 && count != 0 {
        // SAFETY: the caller's promise.
        let text = unsafe { core::slice::from_raw_parts(data.cast(), size * count) };
        machine().write(stream(file), text);
    }
    count
}

/// C17 §7.21.7.4: `fputs`.
///
/// # Safety
///
/// `text` ends with a NUL.
#[unsafe(no_mangle)]
unsafe extern "C" fn fputs(text: *const c_char, file: *const c_void) -> c_int {
    // SAFETY: the caller's promise.
    machine().write(stream(file), unsafe { CStr::from_ptr(text) }.to_bytes());
    0
}

/// C17 §7.21.7.3: `fputc`.
#[unsafe(no_mangle)]
extern "C" fn fputc(byte: c_int, file: *const c_void) -> c_int {
    machine().write(stream(file), &[byte as u8]);
    c_int::from(byte as u8)
}

/// C17 §7.21.7.8: `putchar`.
#[unsafe(no_mangle)]
extern "C" fn putchar(byte: c_int) -> c_int {
    fputc(byte, stdout.0.cast())
}

/// C17 §7.21.7.9: `puts`.
///
/// # Safety
///
/// `text` ends with a NUL.
#[unsafe(no_mangle)]
unsafe extern "C" fn puts(text: *const c_char) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { fputs(text, stdout.0.cast()) };
    putchar(c_int::from(b'\n'))
}

/// C17 §7.21.6.3: `printf`.
///
/// # Safety
///
/// The arguments are as `format` says, which ends with a NUL.
#[unsafe(no_mangle)]
unsafe extern "C" fn printf(format: *const c_char, mut arguments: ...) -> c_int {
    let mut line = Line { bytes: [0; Line::SIZE], length: 0, total: 0 };
    // SAFETY: the caller's promise.
    unsafe { write(&mut |byte| line.put(byte), format, &mut arguments) };
    line.flush();
    line.total
}

/// C17 §7.21.6.5: `snprintf`.
///
/// # Safety
///
/// As for [`printf`]; `to` has room for `size` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn snprintf(
    to: *mut c_char,
    size: usize,
    format: *const c_char,
    mut arguments: ...
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { print_to(to, size, format, &mut arguments) }
}

/// C17 §7.21.6.6: `sprintf`.
///
/// # Safety
///
/// As for [`printf`]; `to` has room for what is written.
#[unsafe(no_mangle)]
unsafe extern "C" fn sprintf(to: *mut c_char, format: *const c_char, mut arguments: ...) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { print_to(to, usize::MAX, format, &mut arguments) }
}

/// Writes to memory, at most `size` bytes with a NUL; returns how many it would be without one.
///
/// # Safety
///
/// As for [`snprintf`].
unsafe fn print_to(
    to: *mut c_char,
    size: usize,
    format: *const c_char,
    arguments: &mut VaList<'_>,
) -> c_int {
    let mut length = 0;
    let mut put = |byte: u8| {
        if length + 1 < size {
            // SAFETY: inside the room that the caller has.
            unsafe { to.add(length).write(byte as c_char) };
        }
        length += 1;
    };
    // SAFETY: the caller's promise.
    unsafe { write(&mut put, format, arguments) };
    if size > 0 {
        // SAFETY: as above.
        unsafe { to.add(length.min(size - 1)).write(0) };
    }
    length as c_int
}

/// Collects bytes for standard output.
struct Line {
    bytes: [u8; Self::SIZE],
    length: usize,
    total: c_int,
}

impl Line {
    const SIZE: usize = 256;

    fn put(&mut self, byte: u8) {
        if self.length == Self::SIZE {
            self.flush();
        }
        self.bytes[self.length] = byte;
        self.length += 1;
        self.total += 1;
    }

    fn flush(&mut self) {
        machine().write(Stream::Output, &self.bytes[..self.length]);
        self.length = 0;
    }
}

/// How one argument is to be written.
#[derive(Default)]
struct Conversion {
    left: bool,
    zeros: bool,
    width: usize,
    precision: Option<usize>,
    /// 8 bytes instead of 4.
    long: bool,
}

/// Writes what `format` says.
///
/// # Safety
///
/// As for [`printf`].
unsafe fn write(put: &mut dyn FnMut(u8), format: *const c_char, arguments: &mut VaList<'_>) {
    // SAFETY: the caller's promise.
    let mut rest = unsafe { CStr::from_ptr(format) }.to_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            put(*first);
            continue;
        }
        let how = conversion(&mut rest);
        let Some((&kind, after)) = rest.split_first() else { return };
        rest = after;
        // SAFETY: the caller's promise.
        unsafe { argument(put, kind, &how, arguments) };
    }
}

/// Takes everything between `%` and the letter.
fn conversion(rest: &mut &[u8]) -> Conversion {
    let mut how = Conversion::default();
    let mut precise = false;
    while let [byte, after @ ..] = *rest {
        match byte {
            b'-' => how.left = true,
            b'0' if how.width == 0 && !precise => how.zeros = true,
            b'.' => (precise, how.precision) = (true, Some(0)),
            b'0'..=b'9' => {
                let number = if precise { how.precision.get_or_insert(0) } else { &mut how.width };
                *number = number.saturating_mul(10).saturating_add(usize::from(byte - b'0'));
            }
            b'l' | b'z' | b'j' | b't' => how.long = true,
            // Arrives as an int.
            b'h' | b'+' | b' ' | b'#' => {}
            _ => break,
        }
        *rest = after;
    }
    how
}

/// Writes one argument.
///
/// # Safety
///
/// As for [`printf`].
unsafe fn argument(
    put: &mut dyn FnMut(u8),
    kind: u8,
    how: &Conversion,
    arguments: &mut VaList<'_>,
) {
    let mut signed = || {
        if how.long {
            // SAFETY: the format says that there is such an argument.
            unsafe { arguments.next_arg::<i64>() }
        } else {
            // SAFETY: as above.
            i64::from(unsafe { arguments.next_arg::<i32>() })
        }
    };
    match kind {
        b'd' | b'i' => {
            let value = signed();
            number(put, how, value < 0, value.unsigned_abs(), 10);
        }
        b'u' | b'x' | b'X' | b'o' => {
            let value = signed();
            let value = if how.long { value as u64 } else { u64::from(value as u32) };
            let base = if kind == b'u' {
                10
            } else if kind == b'o' {
                8
            } else {
                16
            };
            number(put, how, false, value, base);
        }
        b'p' => {
            // SAFETY: as above.
            let value = unsafe { arguments.next_arg::<*const c_void>() };
            b"0x".iter().for_each(|&byte| put(byte));
            number(put, how, false, value.addr() as u64, 16);
        }
        b'c' => padded(put, how, &[signed() as u8]),
        b's' => {
            // SAFETY: as above.
            let value = unsafe { arguments.next_arg::<*const c_char>() };
            let most = how.precision.unwrap_or(usize::MAX);
            // SAFETY: a string that ends with a NUL, or has so many bytes.
            let length = (0..most).take_while(|&at| unsafe { *value.add(at) } != 0).count();
            // SAFETY: as above.
            padded(put, how, unsafe { core::slice::from_raw_parts(value.cast(), length) });
        }
        other => put(other),
    }
}

fn number(put: &mut dyn FnMut(u8), how: &Conversion, minus: bool, mut value: u64, base: u64) {
    let mut digits = [b'0'; 24];
    let mut at = digits.len();
    while value != 0 || at == digits.len() {
        at -= 1;
        digits[at] = b"0123456789abcdef"[(value % base) as usize];
        value /= base;
    }
    let zeros =
        if how.zeros && !how.left { how.width.saturating_sub(usize::from(minus)) } else { 0 };
    let least = how.precision.unwrap_or(zeros).min(digits.len() - 1);
    at = at.min(digits.len() - least);
    if minus {
        at -= 1;
        digits[at] = b'-';
    }
    padded(put, how, &digits[at..]);
}

fn padded(put: &mut dyn FnMut(u8), how: &Conversion, text: &[u8]) {
    let blanks = how.width.saturating_sub(text.len());
    let before = if how.left { 0 } else { blanks };
    (0..before).for_each(|_| put(b' '));
    text.iter().for_each(|&byte| put(byte));
    (before..blanks).for_each(|_| put(b' '));
}
