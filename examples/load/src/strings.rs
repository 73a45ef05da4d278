//! The functions of `<string.h>` that C and C++ code needs most, besides the kernel's own.
//!
//! Byte by byte: they are here to be there.

use core::ffi::{c_char, c_int, c_void};
use core::ptr::null_mut;

/// The byte at `index` of a string.
///
/// # Safety
///
/// It is readable.
unsafe fn byte(string: *const c_char, index: usize) -> u8 {
    // SAFETY: the caller's promise.
    unsafe { string.cast::<u8>().add(index).read() }
}

/// C17 §7.24.4.2: `strcmp`.
///
/// # Safety
///
/// Both are strings that end with a NUL.
#[unsafe(no_mangle)]
unsafe extern "C" fn strcmp(left: *const c_char, right: *const c_char) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { strncmp(left, right, usize::MAX) }
}

/// C17 §7.24.4.4: `strncmp`.
///
/// # Safety
///
/// Both are strings that end with a NUL, or have `most` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn strncmp(left: *const c_char, right: *const c_char, most: usize) -> c_int {
    for index in 0..most {
        // SAFETY: not beyond the NUL, nor beyond `most`.
        let (one, other) = unsafe { (byte(left, index), byte(right, index)) };
        if one != other || one == 0 {
            return c_int::from(one) - c_int::from(other);
        }
    }
    0
}

/// C17 §7.24.5.1: `memchr`.
///
/// # Safety
///
/// `memory` has so many bytes, or the byte that is looked for is before its end.
#[unsafe(no_mangle)]
unsafe extern "C" fn memchr(memory: *const c_void, wanted: c_int, size: usize) -> *mut c_void {
    let string = memory.cast::<c_char>();
    for index in 0..size {
        // SAFETY: the caller's promise.
        if unsafe { byte(string, index) } == wanted as u8 {
            return string.wrapping_add(index).cast_mut().cast();
        }
    }
    null_mut()
}

/// C17 §7.24.5.2: `strchr`.
///
/// # Safety
///
/// `string` ends with a NUL.
#[unsafe(no_mangle)]
unsafe extern "C" fn strchr(string: *const c_char, wanted: c_int) -> *mut c_char {
    let mut index = 0;
    loop {
        // SAFETY: not beyond the NUL.
        let here = unsafe { byte(string, index) };
        if here == wanted as u8 {
            return string.wrapping_add(index).cast_mut();
        }
        if here == 0 {
            return null_mut();
        }
        index += 1;
    }
}

/// C17 §7.24.5.5: `strrchr`.
///
/// # Safety
///
/// `string` ends with a NUL.
#[unsafe(no_mangle)]
unsafe extern "C" fn strrchr(string: *const c_char, wanted: c_int) -> *mut c_char {
    let (mut last, mut index) = (null_mut(), 0);
    loop {
        // SAFETY: not beyond the NUL.
        let here = unsafe { byte(string, index) };
        if here == wanted as u8 {
            last = string.wrapping_add(index).cast_mut();
        }
        if here == 0 {
            return last;
        }
        index += 1;
    }
}
