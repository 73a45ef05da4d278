//! The `unwinding` crate's C names in a shared library.
//!
//! ```text
//!   dlopen (local) ─► _Unwind_Backtrace, _Unwind_GetIP of the crate
//! ```

use unwinding::abi;

/// Keeps what is asked for by name.
#[used]
static KEPT: [Kept; 2] =
    [Kept(abi::_Unwind_Backtrace as *const ()), Kept(abi::_Unwind_GetIP as *const ())];

/// The address of a function.
struct Kept(#[expect(dead_code, reason = "only its address matters")] *const ());

// SAFETY: nobody reads it.
unsafe impl Sync for Kept {}
