//! What std gives a program with an operating system, for programs without one: thread-local
//! storage, `thread_local!`, panics that unwind, backtraces, and crates loaded at run time that
//! share all of these.
//!
//! ```text
//!   std::thread_local!             unspool::thread_local!
//!   std::thread::{LocalKey, …}     unspool::thread::{LocalKey, …}
//!   std::panic::*                  unspool::panic::*
//!   std::backtrace                 unspool::backtrace
//!   —                              unspool::{tls, unwind, loader}
//! ```
//!
//! A kernel supplies one trait, [`panic::Platform`]; gives every task an area of thread-local
//! storage ([`tls::Registry::new_area`]) and registers its unwind tables
//! ([`unwind::Module::from_linker`]). The folder `examples/kernel` does all of it, in the order
//! that a boot needs.
#![no_std]

pub use unspool_loader as loader;
pub use unspool_thread_local::thread_local;
pub use unspool_tls as tls;
pub use unspool_unwind as unwind;

/// Panics that unwind, as `std::panic`.
pub mod panic {
    pub use unspool_panic::*;
}

/// Traces of the stack, as `std::backtrace`.
pub mod backtrace {
    pub use unspool_panic::{StackTrace, backtrace as print_here, trace};
    pub use unspool_stack_trace::*;
}

/// Task-local values, as `std::thread`.
pub mod thread {
    pub use unspool_thread_local::{AccessError, LocalKey};

    /// Runs the running task's destructors of thread-local values, as std does at the end of a
    /// thread: the last registered first, until none is left. A panic that leaves one ends the
    /// program: `fatal runtime error: thread local panicked on drop, aborting`.
    ///
    /// # Safety
    ///
    /// As [`unspool_tls::run_destructors`].
    pub unsafe fn run_destructors() {
        unspool_panic::abort_on_unwind("thread local panicked on drop", || {
            // SAFETY: the caller's promise is the same.
            unsafe { unspool_tls::run_destructors() }
        });
    }
}
