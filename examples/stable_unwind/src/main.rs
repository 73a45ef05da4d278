//! The last crate of a kernel on stable Rust whose panics unwind: the names that the compiler wants.
//!
//! ```text
//!   everything else, and `core` and `alloc` as they come     panic=unwind
//!     └─► this crate, three functions                        panic=abort, with unwind tables
//! ```
//!
//! Build it as `cargo xtask` does: `cargo rustc --release --bin unspool-stable-unwind -- -Cpanic=abort
//! -Cforce-unwind-tables=yes`. The flags after the dashes are for this crate alone.
//!
//! A panic goes through [`panic`] and no other code of this crate. It has nothing to clean up, and
//! must have none: here, the compiler makes no landing pads. Calls that are to be unwound, and
//! functions with type parameters, belong to the library.
#![no_std]
#![no_main]

use core::panic::PanicInfo;

use unspool::unwind::{Actions, Context, Exception, Reason};

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    unspool_stable_unwind::panics(info)
}

/// What the tables of all other crates name.
///
/// # Safety
///
/// As the function that it passes everything on to.
#[unsafe(no_mangle)]
unsafe extern "C" fn rust_eh_personality(
    version: i32,
    actions: Actions,
    class: u64,
    exception: *mut Exception,
    context: &mut Context,
) -> Reason {
    // SAFETY: the caller's promise is the same.
    unsafe { unspool::panic::rust_eh_personality(version, actions, class, exception, context) }
}
