//! The names by which compiled code and other runtimes call the unwinder.
//!
//! ```text
//!   throw    │ RaiseException, Resume, Resume_or_Rethrow, ForcedUnwind, DeleteException
//!   context  │ GetGR, SetGR, GetIP, SetIP, …       what personalities ask of a frame
//!   frames   │ Backtrace, Find_FDE, __register_frame, …
//! ```
//!
//! Itanium EH §1.3 to §1.5, and what GCC adds. Each function's type is that of `unwind.h`, which
//! is checked when this is compiled. Every answer is libgcc's; where the ABI leaves more than one, it is
//! said at the function.
//!
//! They are always there as functions; the feature `abi` gives them their C names. A program in
//! which another unwinder has these must leave it off.
#![allow(non_snake_case)]

mod context;
mod frames;
mod throw;

pub use context::*;
pub use frames::*;
pub use throw::*;
