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
//! They are always there as functions; [`c_names!`](crate::c_names) gives them their C names.
#![allow(non_snake_case)]

mod context;
mod frames;
mod throw;

pub use context::*;
pub use frames::*;
pub use throw::*;

/// Gives the functions of [`abi`](crate::abi) their C names: stands once in a program, or in one of
/// its crates. Where another unwinder has these names, as on `std`, it must not.
///
/// A macro and not a feature, because cargo gives a crate that several programs of one build share
/// the features of all of them.
#[macro_export]
macro_rules! c_names {
    () => {
        $crate::c_names! {
            _Unwind_Backtrace _Unwind_DeleteException _Unwind_FindEnclosingFunction
            _Unwind_Find_FDE _Unwind_ForcedUnwind _Unwind_GetCFA _Unwind_GetDataRelBase
            _Unwind_GetGR _Unwind_GetIP _Unwind_GetIPInfo _Unwind_GetLanguageSpecificData
            _Unwind_GetRegionStart _Unwind_GetTextRelBase _Unwind_RaiseException _Unwind_Resume
            _Unwind_Resume_or_Rethrow _Unwind_SetGR _Unwind_SetIP __deregister_frame
            __deregister_frame_info __deregister_frame_info_bases __register_frame
            __register_frame_info __register_frame_info_bases __register_frame_info_table
            __register_frame_info_table_bases __register_frame_table
        }
    };
    ($($name:ident)+) => {$(
        // SAFETY of the name: the function has the type that C knows it by.
        #[allow(non_snake_case)]
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        extern "C" fn $name() {
            $crate::hand_on!($crate::abi::$name)
        }
    )+};
}
