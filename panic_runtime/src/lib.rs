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
//! # On stable Rust
//!
//! Without the feature `lang-items` nothing here is unstable, and panics unwind all the same, in a
//! program whose last crate has only what a program must define, and is compiled with
//! `-Cpanic=abort -Cforce-unwind-tables=yes`, while all others have panics that unwind:
//!
//! - its `#[panic_handler]` goes to a function of another crate, and that to [`begin_panic`];
//! - its `rust_eh_personality` (`no_mangle`) goes to [`rust_eh_personality`].
//!
//! No frame of that crate may have anything to drop when a panic goes through it, and no LTO may look
//! into it: there, functions do not unwind as far as the compiler knows. Two things stay different:
//! memory that runs out ends the program, because `alloc`'s handler does not unwind, and that a panic
//! must not unwind is found only when it is raised.
//!
//! The crate defines `#[panic_handler]` and the `eh_personality` language item (feature
//! `lang-items`, on by default); it must then be the only panic runtime of the program.
#![cfg_attr(not(test), no_std)]
// A panic runtime outside std is made of language items; `can_unwind` is how the compiler says
// which panics must not unwind.
#![cfg_attr(feature = "lang-items", allow(internal_features))]
#![cfg_attr(feature = "lang-items", feature(alloc_error_handler, lang_items, panic_can_unwind))]

extern crate alloc;

mod catch;
mod fault;
mod handler;
mod hook;
mod interruptible;
mod kill;
mod payload;
mod personality;
mod platform;
mod report;
mod spare;
mod state;
mod throw;

#[cfg(feature = "abi")]
mod c_names {
    unspool_unwind::c_names!();
}

pub use core::panic::{AssertUnwindSafe, Location, PanicInfo, RefUnwindSafe, UnwindSafe};

pub use catch::{Unwound, abort_on_unwind, catch_all, catch_unwind, panic_any, resume_unwind};
pub use fault::unwind_fault;
pub use handler::__rust_end_short_backtrace as begin_panic;
pub use hook::{
    PanicHook, PanicHookInfo, always_abort, set_hook, set_task_hook, take_hook, take_task_hook,
    update_hook,
};
pub use interruptible::{interruptible, uninterruptible};
pub use kill::{NoUnwind, die, die_at, no_unwind, safe_point};
pub use payload::MessageLost;
pub use personality::rust_eh_personality;
pub use platform::{Platform, StackTrace, TaskName, backtrace, platform, set_platform, trace};
pub use report::{get_backtrace_style, set_backtrace_style};
pub use spare::OutOfMemory;
pub use state::{TaskState, panicking, panics_in_flight};
pub use throw::{Thrower, Thrown, catch_thrown};
pub use unspool_stack_trace::Style as BacktraceStyle;
