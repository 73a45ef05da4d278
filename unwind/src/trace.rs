//! Shows every frame of a stack to a function, and finds the function around an address.
//!
//! ```text
//!   trace(frame) ─ NO_REASON ─► trace(caller) ─► … ─► trace(ip 0) ─► end of stack
//! ```
//!
//! `_Unwind_Backtrace` as GCC has it (the Itanium ABI names it without more): the last call is
//! for what is beyond the outermost frame, with ip 0, or for the code that has no tables.

use core::ffi::c_void;

use crate::address::Pc;
use crate::context::Context;
use crate::environment::{Everywhere, current_stack, guesses};
use crate::error::UnwindError;
use crate::exception::{Reason, Trace};
use crate::fde::{FdeEntry, Function};
use crate::modules::FindModule;
use crate::registers::Registers;

/// Calls `trace` for the frame with these registers and for all its callers; `Reason`: the end of
/// the stack, or what `trace` said.
///
/// # Errors
///
/// Why the walk cannot go on; the frames up to there have been shown.
///
/// # Safety
///
/// `registers` are those of a frame that lives until this returns, on the environment's stack;
/// `trace` takes `argument`.
pub unsafe fn backtrace(
    trace: Trace,
    argument: *mut c_void,
    registers: &Registers,
) -> Result<Reason, UnwindError> {
    Everywhere.refresh();
    let stack = current_stack(registers.sp());
    let mut frame = Context::new(registers, Pc::Return(registers.ip()), stack);
    if guesses() {
        frame.allow_guesses();
    }
    loop {
        let ended = frame.look_or_end()?;
        // SAFETY: the function takes its argument (contract).
        match unsafe { trace(&mut frame, argument) } {
            Reason::NO_REASON if ended => return Ok(Reason::END_OF_STACK),
            Reason::NO_REASON => frame.leave_or_end()?,
            reason => return Ok(reason),
        }
    }
}

/// What the pointers in the tables around `address` are relative to, for text and data; 0 unless
/// that was said when they were registered.
pub(crate) fn bases_of(address: u64) -> (u64, u64) {
    Everywhere.find(address).map_or((0, 0), |module| (module.text_base, module.data_base))
}

/// Where the FDE of `address` lies in memory and the first address of its function, for any
/// module that exceptions pass through.
///
/// # Errors
///
/// [`UnwindError::NoModule`], [`UnwindError::NoFde`] or [`UnwindError::BadTable`].
pub fn frame_of(address: u64) -> Result<FdeEntry, UnwindError> {
    let module = Everywhere.find(address).ok_or(UnwindError::NoModule(address))?;
    let mut function = Function::UNKNOWN;
    function.module = module;
    let offset = function.locate(address)?;
    Ok(FdeEntry { start: function.start(), offset: module.eh_frame.address + offset as u64 })
}
