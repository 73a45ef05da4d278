//! What the users take for std: `core`, `alloc`, Unspool, and the kernel's tasks.
//!
//! ```text
//!  core · alloc ─► as they are          unspool ─► thread_local!, thread, panic
//!                                       kernel  ─► thread::current, sync
//! ```
//!
//! Only names; the little code there is adapts the kernel's locks to std's.

pub use alloc::collections;
pub use core::{cell, cmp, error, fmt, iter, marker, mem, ptr, slice};
pub use unspool::{panic, thread_local};

/// What std's prelude has and `core`'s has not.
pub mod prelude {
    pub use alloc::boxed::Box;
}

/// Threads are the kernel's tasks.
pub mod thread {
    pub use unspool::thread::*;

    /// The number of a task.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct ThreadId(u64);

    /// A task.
    pub struct Thread(ThreadId);

    impl Thread {
        /// Its number.
        pub fn id(&self) -> ThreadId {
            self.0
        }
    }

    /// The running task.
    pub fn current() -> Thread {
        Thread(ThreadId(unspool_kernel::task::current().id()))
    }
}

/// Locks are the kernel's; none is ever poisoned.
pub mod sync {
    use core::convert::Infallible;

    pub use core::sync::atomic;
    use unspool_kernel::sync::MutexGuard;

    /// As std's.
    pub struct Mutex<T>(unspool_kernel::sync::Mutex<T>);

    impl<T> Mutex<T> {
        /// As std's.
        pub const fn new(value: T) -> Self {
            Self(unspool_kernel::sync::Mutex::new(value))
        }

        /// As std's.
        pub fn lock(&self) -> Result<MutexGuard<'_, T>, Infallible> {
            Ok(self.0.lock())
        }
    }

    /// As std's.
    pub struct Once(spin::Once);

    impl Once {
        /// As std's.
        pub const fn new() -> Self {
            Self(spin::Once::new())
        }

        /// As std's.
        pub fn call_once(&self, body: impl FnOnce()) {
            self.0.call_once(body);
        }

        /// As std's.
        pub fn is_completed(&self) -> bool {
            self.0.is_completed()
        }
    }
}
