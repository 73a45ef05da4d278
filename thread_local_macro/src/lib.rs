//! `thread_local!` and [`LocalKey`] as `std` has them, for programs without `std`.
//!
//! ```text
//!  thread_local! { static NAME: T = init }
//!        │
//!        ▼                                  in each task's TLS block
//!  const NAME: LocalKey<T> ── with(f) ──►  ┌ state ┬ value ┐
//!                                          └───────┴───────┘
//! ```
//!
//! A key promises each task its own value: created on the task's first access, destroyed by
//! [`unspool_tls::run_destructors`] when the task ends, and in between reached by one load
//! relative to the thread pointer. Words, order and corner cases are those of `std`; code moves
//! over by changing the path.
//!
//! # What an access costs
//!
//! | initialiser | `T` has drop glue | storage       | an access                                 |
//! |-------------|-------------------|---------------|-------------------------------------------|
//! | `const`     | no                | `T`           | the value, nothing to test                |
//! | `const`     | yes               | `T` + 1 byte  | one state test; registers on first access |
//! | lazy        | no                | `T` + 1 byte  | one state test; initialises on first      |
//! | lazy        | yes               | `T` + 1 byte  | one state test; initialises and registers |
//!
//! Everything behind a test is in a cold function. The state byte makes a storage larger by as
//! much as the alignment of `T` asks for.
//!
//! # Life of a value
//!
//! - The destructor is registered when the value comes to life; a type without drop glue
//!   registers nothing and stays usable in the destructors of others.
//! - A lazy initialiser that panics leaves the key as it was; the next access tries again. One
//!   that initialises its own key and returns wins: the inner value is dropped.
//! - Destruction is in reverse order of registration. From the moment a value's destructor
//!   starts, [`LocalKey::try_with`] says [`AccessError`]; the value never comes back. Others may
//!   come to life in a destructor and are destroyed in the same run.
//! - A destructor that panics ends the program:
//!   `fatal runtime error: thread local panicked on drop, aborting`.
//! - No memory to register a destructor is a panic in the access that needed it, with the key
//!   as it was before: the value was not visible yet, and the next access tries again. The first
//!   [`unspool_tls::UNALLOCATED_DESTRUCTORS`] of a task need no memory.
//!
//! # What the program provides
//!
//! Each task runs in an [`unspool_tls::Area`], and runs its destructors before it ends. Interrupt
//! handlers share the interrupted task's values and must not touch keys whose access may
//! initialise or register.
//!
//! ```
//! use core::cell::{Cell, RefCell};
//! use unspool_thread_local::thread_local;
//!
//! thread_local! {
//!     /// Calls made by this task.
//!     pub static CALLS: Cell<u32> = const { Cell::new(0) };
//!     static NAMES: RefCell<[&str; 2]> = RefCell::new(["", ""]);
//! }
//!
//! CALLS.set(CALLS.get() + 1);
//! NAMES.with_borrow_mut(|names| names[0] = "init");
//! assert_eq!(CALLS.get(), 1);
//! assert_eq!(NAMES.with_borrow(|names| names[0]), "init");
//! std::thread::spawn(|| assert_eq!(CALLS.get(), 0)).join().unwrap();
//! ```
//!
//! # Stable and nightly
//!
//! The crate builds on stable Rust. With the feature `nightly` the statics behind the keys are the
//! compiler's own (`#[thread_local]`); crates that use the macro need no feature attribute for it,
//! and need not know. Without, they are ordinary statics in a TLS section, found by two
//! instructions of assembly. What is promised is the same, also for generic code, for macros that
//! declare many keys on one line, across crates and with link-time optimization; where the second
//! way falls short is this:
//!
//! - The address takes two instructions of its own (`fs:0` plus the offset), which the compiler
//!   cannot fold into the access: three instructions for a `const` value without drop glue, where
//!   `nightly` has one.
//! - A value that is initially all zeroes takes space in `.tdata`, not in `.tbss`.
//! - The access is by initial exec. A linker makes local exec of it in a program; an object that is
//!   loaded at run time needs static TLS space ([`unspool_tls::Registry::reserve`]), where code of
//!   the compiler's can do without.
//! - It needs x86-64 and ELF, and relies on what LLVM does with a static in a section called
//!   `.tdata.*`: a compiler that does not, or that parts a function of a module from its statics,
//!   ends in an error of the linker.
//! - Debuggers do not know that the variable is thread-local. Miri does not run assembly.
#![no_std]
#![cfg_attr(feature = "nightly", feature(allow_internal_unstable))]
// `allow_internal_unstable` is how std's own macro does it.
#![cfg_attr(feature = "nightly", allow(internal_features))]

#[cfg(test)]
extern crate std;

#[cfg(not(feature = "nightly"))]
mod arch;
mod eager;
mod key;
mod lazy;
mod macros;
mod register;

pub use key::{AccessError, LocalKey};

/// What the expansion of [`thread_local!`] names. Not for use by hand, and not stable.
#[doc(hidden)]
pub mod __private {
    #[cfg(not(feature = "nightly"))]
    pub use crate::arch::Slot;
    pub use crate::eager::Storage as EagerStorage;
    pub use crate::key::Find;
    pub use crate::lazy::Storage as LazyStorage;
    #[cfg(not(feature = "nightly"))]
    pub use core::hint::assert_unchecked;
    pub use core::mem::needs_drop;
}
