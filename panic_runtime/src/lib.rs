//! The panic runtime of a program without std: panics that print, trace, unwind, and are caught.
//!
//! ```text
//!   panic! ─► handler ─► message, trace ─► payload ─► raise ─► personality of each frame
//!                           │ Platform                              └─► drops, frame by frame
//!                           └ console, stack, task, symbols            catch_unwind ◄─┘
//! ```
//!
//! A program supplies one trait, [`Platform`], and says so with [`set_platform`]; before that,
//! panics halt silently. Everything else behaves, and speaks, as std does.
//!
//! Promise: a panic never loops and never returns. If it cannot be printed, traced, unwound or
//! caught, the reason is written to the platform's console and the program halts.
//!
//! The crate defines `#[panic_handler]` and the `eh_personality` language item (feature
//! `lang-items`, on by default); it must then be the only panic runtime of the program.
#![cfg_attr(not(test), no_std)]
// A panic runtime outside std is made of language items; `can_unwind` is how the compiler says
// which panics must not unwind.
#![cfg_attr(feature = "lang-items", allow(internal_features))]
#![cfg_attr(feature = "lang-items", feature(lang_items, panic_can_unwind))]

extern crate alloc;

mod catch;
mod fault;
mod handler;
mod hook;
mod kill;
mod payload;
mod personality;
mod platform;
mod state;

#[cfg(feature = "abi")]
mod c_names {
    unspool_unwind::c_names!();
}

pub use core::panic::{AssertUnwindSafe, Location, PanicInfo, RefUnwindSafe, UnwindSafe};

pub use catch::{Unwound, abort_on_unwind, catch_all, catch_unwind, panic_any, resume_unwind};
pub use fault::unwind_fault;
pub use handler::begin_panic;
pub use hook::{PanicHookInfo, always_abort, set_hook, take_hook, update_hook};
pub use kill::{NoUnwind, die, no_unwind, safe_point};
pub use payload::MessageLost;
pub use personality::rust_eh_personality;
pub use platform::{Platform, StackTrace, TaskName, backtrace, platform, set_platform, trace};
pub use state::{TaskState, panicking};
pub use unspool_stack_trace::Style as BacktraceStyle;
