//! The `unwinding` crate's C names in a shared library.
//!
//! ```text
//!   dlopen (local) ─► _Unwind_Backtrace, _Unwind_GetIP of the crate
//! ```

use core::ffi::c_void;

use unwinding::abi::{self, UnwindContext, UnwindReasonCode, UnwindTraceFn};

/// Keeps what is asked for by name.
#[used]
static BACKTRACE: extern "C-unwind" fn(UnwindTraceFn, *mut c_void) -> UnwindReasonCode =
    abi::_Unwind_Backtrace;
/// As above.
#[used]
static GET_IP: extern "C" fn(&UnwindContext<'_>) -> usize = abi::_Unwind_GetIP;
