//! Panics of host functions, through compiled code.
//!
//! ```text
//!   catch_unwind ◄── resume_from ◄── Err(PanicPayload) ◄─ wasm frames ◄── wrap_host ◄── panic!
//!                    the same payload                     left by wasmtime   drops run
//! ```
//!
//! Compiled code calls the host through a function that must not unwind, so that a panic would end the
//! program there.

use core::fmt;

use unspool::panic::{AssertUnwindSafe, Unwound, catch_all, platform, resume_unwind, safe_point};

/// A panic of a host function, or a kill of its task, on its way through WebAssembly.
pub struct PanicPayload(Unwound);

// SAFETY: a shared reference to this type gives no access to the payload.
unsafe impl Sync for PanicPayload {}

impl fmt::Debug for PanicPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PanicPayload(..)")
    }
}

impl fmt::Display for PanicPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a host function panicked, or was killed")
    }
}

impl core::error::Error for PanicPayload {}

/// Runs the body of a host function. If it panics, or its task is killed there, the result is an error
/// with the payload, for [`resume_from`].
///
/// # Errors
///
/// The body's own, or [`PanicPayload`].
pub fn wrap_host<R>(body: impl FnOnce() -> wasmtime::Result<R>) -> wasmtime::Result<R> {
    // What the body changed is seen by whoever catches the panic outside, as if nothing were between.
    match catch_all(AssertUnwindSafe(body)) {
        Ok(result) => result,
        Err(unwound) => Err(wasmtime::Error::new(PanicPayload(unwound))),
    }
}

/// Goes on with the panic of a host function, or the kill of its task, outside of WebAssembly, if the
/// error is one.
///
/// # Errors
///
/// The call's own error; its value if there was none.
pub fn resume_from<R>(result: wasmtime::Result<R>) -> wasmtime::Result<R> {
    match result.map_err(|error| error.downcast::<PanicPayload>()) {
        Ok(value) => Ok(value),
        Err(Ok(PanicPayload(Unwound::Panicked(payload)))) => resume_unwind(payload),
        Err(Ok(PanicPayload(Unwound::Killed))) => {
            platform().state().kill();
            safe_point();
            // Somewhere further up it may be unwound.
            Err(wasmtime::Error::new(PanicPayload(Unwound::Killed)))
        }
        Err(Err(error)) => Err(error),
    }
}
