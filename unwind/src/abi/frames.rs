//! Walking a stack, finding FDEs, and registering `.eh_frame` sections at run time.
//!
//! ```text
//!   __register_frame(begin) ─► table of modules ─► __deregister_frame(begin)
//!   __register_frame_info(begin, object)           … gives the object back, or null
//!   __register_frame_table(begins)                 a list of sections that ends with null
//! ```
//!
//! C callers cannot be told that registering failed (the table is full, the section cannot be
//! read, its code overlaps another's): exceptions then end at that code. Rust callers have
//! [`register_frames`](crate::register_frames).

use core::ffi::c_void;
use core::ptr::{null, null_mut, with_exposed_provenance_mut};

use crate::arch::with_registers;
use crate::exception::{Reason, Trace};
use crate::frames::{Manner, deregister_frames, register_with};
use crate::registers::Registers;
use crate::trace::{backtrace, bases_of, frame_of};

/// Shows the frames of the caller and of its callers to `trace`.
///
/// `_URC_END_OF_STACK` if all were shown, otherwise `_URC_FATAL_PHASE1_ERROR`.
///
/// # Safety
///
/// As [`backtrace`].
#[unsafe(naked)]
pub unsafe extern "C-unwind" fn _Unwind_Backtrace(trace: Trace, argument: *mut c_void) -> Reason {
    with_registers!("rdx", show)
}

unsafe extern "C" fn show(trace: Trace, argument: *mut c_void, registers: &Registers) -> Reason {
    // SAFETY: the contract of `_Unwind_Backtrace`, whose caller's registers these are.
    match unsafe { backtrace(trace, argument, registers) } {
        Ok(Reason::END_OF_STACK) => Reason::END_OF_STACK,
        _ => Reason::FATAL_PHASE1_ERROR,
    }
}

/// The first address of the function with the call that returns to `pc`, or null.
pub extern "C" fn _Unwind_FindEnclosingFunction(pc: *const c_void) -> *mut c_void {
    let address = (pc.addr() as u64).wrapping_sub(1);
    let start = frame_of(address).map_or(0, |frame| frame.start);
    with_exposed_provenance_mut(start as usize)
}

/// `struct dwarf_eh_bases`.
#[derive(Debug)]
#[repr(C)]
pub struct Bases {
    text: *const c_void,
    data: *const c_void,
    function: *const c_void,
}

/// The FDE of `pc`, or null; `bases` gets what its pointers are relative to and the first address
/// of its function.
pub extern "C" fn _Unwind_Find_FDE(pc: *const c_void, bases: &mut Bases) -> *const c_void {
    let pc = pc.addr() as u64;
    let Ok(frame) = frame_of(pc) else { return null() };
    let (text, data) = bases_of(pc);
    let pointer = |address: u64| with_exposed_provenance_mut::<c_void>(address as usize);
    *bases = Bases { text: pointer(text), data: pointer(data), function: pointer(frame.start) };
    pointer(frame.offset)
}

/// Registers an `.eh_frame` section.
///
/// # Safety
///
/// As [`register_frames`](crate::register_frames).
pub unsafe extern "C" fn __register_frame(begin: *const u8) {
    // SAFETY: the contract is the same.
    unsafe { __register_frame_info(begin, null_mut()) };
}

/// Registers an `.eh_frame` section; `object` is given back, and not used otherwise.
///
/// # Safety
///
/// As [`register_frames`](crate::register_frames).
pub unsafe extern "C" fn __register_frame_info(begin: *const u8, object: *mut c_void) {
    // SAFETY: the contract is the same.
    unsafe { __register_frame_info_bases(begin, object, null_mut(), null_mut()) };
}

/// As [`__register_frame_info`], with what `DW_EH_PE_textrel` and `DW_EH_PE_datarel` are relative to.
///
/// # Safety
///
/// As [`register_frames`](crate::register_frames).
pub unsafe extern "C" fn __register_frame_info_bases(
    begin: *const u8,
    object: *mut c_void,
    text: *mut c_void,
    data: *mut c_void,
) {
    let manner = manner(begin.cast(), object, text, data);
    // SAFETY: the contract is the same. C callers cannot be told of an error.
    let _ = unsafe { register_with(begin, &manner) };
}

/// Registers the sections of a list that ends with null.
///
/// # Safety
///
/// As [`register_frames`](crate::register_frames), for each; and `begins` is such a list, valid until it is deregistered.
pub unsafe extern "C" fn __register_frame_table(begins: *const *const u8) {
    // SAFETY: the contract is the same.
    unsafe { __register_frame_info_table(begins, null_mut()) };
}

/// As [`__register_frame_table`]; `object` is given back, and not used otherwise.
///
/// # Safety
///
/// As [`__register_frame_table`].
pub unsafe extern "C" fn __register_frame_info_table(
    begins: *const *const u8,
    object: *mut c_void,
) {
    // SAFETY: the contract is the same.
    unsafe { __register_frame_info_table_bases(begins, object, null_mut(), null_mut()) };
}

/// As [`__register_frame_info_table`], with what `DW_EH_PE_textrel` and `DW_EH_PE_datarel` are
/// relative to.
///
/// # Safety
///
/// As [`__register_frame_table`].
pub unsafe extern "C" fn __register_frame_info_table_bases(
    begins: *const *const u8,
    object: *mut c_void,
    text: *mut c_void,
    data: *mut c_void,
) {
    let manner = manner(begins.cast(), object, text, data);
    let mut at = begins;
    loop {
        // SAFETY: the list goes on until its null (contract).
        let begin = unsafe { at.read() };
        if begin.is_null() {
            break;
        }
        // SAFETY: the contract is the same. C callers cannot be told of an error.
        let _ = unsafe { register_with(begin, &manner) };
        // SAFETY: not the end of the list yet.
        at = unsafe { at.add(1) };
    }
}

/// Removes what was registered with `begin`, a section or a list; nothing, if nothing was.
pub extern "C" fn __deregister_frame(begin: *const u8) {
    __deregister_frame_info(begin);
}

/// As [`__deregister_frame`]: the object that was registered with it, or null.
pub extern "C" fn __deregister_frame_info(begin: *const u8) -> *mut c_void {
    let object = deregister_frames(begin).unwrap_or(0);
    with_exposed_provenance_mut(object as usize)
}

/// As [`__deregister_frame_info`].
pub extern "C" fn __deregister_frame_info_bases(begin: *const u8) -> *mut c_void {
    __deregister_frame_info(begin)
}

fn manner(key: *const c_void, object: *mut c_void, text: *mut c_void, data: *mut c_void) -> Manner {
    let address = |pointer: *mut c_void| pointer.expose_provenance() as u64;
    Manner {
        key: key.addr() as u64,
        object: address(object),
        text_base: address(text),
        data_base: address(data),
    }
}

const _: unsafe extern "C-unwind" fn(Trace, *mut c_void) -> Reason = _Unwind_Backtrace;
const _: extern "C" fn(*const c_void) -> *mut c_void = _Unwind_FindEnclosingFunction;
const _: extern "C" fn(*const c_void, &mut Bases) -> *const c_void = _Unwind_Find_FDE;
const _: unsafe extern "C" fn(*const u8) = __register_frame;
const _: unsafe extern "C" fn(*const u8, *mut c_void) = __register_frame_info;
const _: unsafe extern "C" fn(*const *const u8) = __register_frame_table;
const _: unsafe extern "C" fn(*const *const u8, *mut c_void) = __register_frame_info_table;
const _: extern "C" fn(*const u8) = __deregister_frame;
const _: [extern "C" fn(*const u8) -> *mut c_void; 2] =
    [__deregister_frame_info, __deregister_frame_info_bases];
