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
//! The promise: what has a name in std has it here, under the same path, and behaves the same. A
//! crate is ported by writing `unspool::` for `std::` there, and `core::` and `alloc::` elsewhere.
//!
//! A kernel supplies one trait, [`panic::Platform`]; gives every task an area of thread-local
//! storage ([`tls::Registry::new_area`]) and registers its unwind tables
//! ([`unwind::Module::from_linker`]). The folder `examples/kernel` does all of it, in the order
//! that a boot needs; `examples/stable_kernel` does without nightly Rust.
//!
//! # Values of each task: [`thread_local!`], [`thread`]
//!
//! ```
//! use core::cell::{Cell, RefCell};
//! use unspool::thread::{AccessError, LocalKey};
//! use unspool::thread_local;
//!
//! thread_local! {
//!     /// Evaluated by the compiler: an access is a load.
//!     static DEPTH: Cell<u32> = const { Cell::new(0) };
//!     /// Made on the task's first access.
//!     static PATH: RefCell<[char; 2]> = RefCell::new(['/', ' ']);
//! }
//!
//! fn enter(depth: &'static LocalKey<Cell<u32>>) -> Result<u32, AccessError> {
//!     depth.try_with(|depth| depth.replace(depth.get() + 1))
//! }
//!
//! assert_eq!((enter(&DEPTH), enter(&DEPTH)), (Ok(0), Ok(1)));
//! PATH.with_borrow_mut(|path| path[1] = 'a');
//! assert_eq!(PATH.take(), ['/', 'a']);
//! ```
//!
//! # The memory behind them: [`tls`]
//!
//! ```
//! use unspool::tls::{Registry, ReserveError, Template};
//!
//! // A kernel says `Template::from_linker()?`; this program has no TLS of its own.
//! let registry = Registry::new(Template::EMPTY, 4096).expect("an empty block fits");
//! let running = registry.new_area(0).expect("memory for a task");
//!
//! // A module with 16 bytes of TLS comes later, and the task that runs already has its copy.
//! let module = registry.reserve(16, 8)?.publish(&[7; 16]).expect("an image of that size");
//! let copy = running.thread_pointer().block(module.offset());
//! // SAFETY: a published block of 16 bytes, of an area that no task runs on.
//! assert_eq!(unsafe { copy.read() }, 7);
//! # Ok::<(), ReserveError>(())
//! ```
//!
//! # Panics that unwind: [`panic`](mod@panic)
//!
//! ```no_run
//! use unspool::panic::{self, Platform};
//! use unspool::unwind::{self, Module, StackBounds};
//!
//! /// All that the panic runtime must know of a kernel.
//! struct Kernel;
//!
//! impl Platform for Kernel {
//!     fn write(&self, text: &str) {
//!         // The serial line, say.
//!         # let _ = text;
//!     }
//!
//!     fn halt(&self) -> ! {
//!         loop {
//!             core::hint::spin_loop();
//!         }
//!     }
//!
//!     fn stack(&self) -> StackBounds {
//!         # let (bottom, top) = (0x1000, 0x5000);
//!         // SAFETY: the stack of the running task is mapped there for as long as it runs.
//!         unsafe { StackBounds::new(bottom, top) }
//!     }
//! }
//!
//! panic::set_platform(&Kernel);
//! // SAFETY: the linker script delimits the tables, and they are those of this program.
//! let tables = unsafe { unwind::register(Module::from_linker().expect("a linker script")) };
//! core::mem::forget(tables.expect("room for one module"));
//!
//! let outcome = panic::catch_unwind(|| panic!("caught"));
//! let payload = outcome.expect_err("it panics");
//! assert_eq!(payload.downcast_ref(), Some(&"caught"));
//! ```
//!
//! # Backtraces: [`backtrace`](mod@backtrace)
//!
//! ```no_run
//! use core::fmt;
//! use unspool::backtrace::{Style, print, print_here, trace};
//! use unspool::panic::platform;
//!
//! fn report(to: &mut dyn fmt::Write) -> fmt::Result {
//!     writeln!(to, "{} frames on this stack", trace().count())?;
//!     print(to, trace(), Style::Short, platform().symbols())
//! }
//!
//! // To the platform's console.
//! print_here(Style::Full);
//! # let _ = report;
//! ```
//!
//! A trace is kept as std keeps it, and whether one is wanted is the platform's to say
//! ([`Platform::backtrace_style`](panic::Platform::backtrace_style)), as it is the variable
//! `RUST_BACKTRACE`'s in std. Without a heap, [`Captured`](backtrace::Captured) keeps some frames.
//!
//! ```
//! use core::fmt;
//! use unspool::backtrace::{Backtrace, BacktraceStatus};
//!
//! #[derive(Debug)]
//! struct Failed {
//!     reason: &'static str,
//!     whence: Backtrace,
//! }
//!
//! impl fmt::Display for Failed {
//!     fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
//!         write!(f, "{}", self.reason)?;
//!         match self.whence.status() {
//!             BacktraceStatus::Captured => write!(f, "\n{}", self.whence),
//!             _ => Ok(()),
//!         }
//!     }
//! }
//!
//! let failed = Failed { reason: "no frame is free", whence: Backtrace::capture() };
//! // This program has no platform yet, which could tell its stack.
//! assert_eq!(failed.whence.status(), BacktraceStatus::Unsupported);
//! assert_eq!(failed.to_string(), "no frame is free");
//! assert_eq!(Backtrace::disabled().to_string(), "disabled backtrace");
//! ```
//!
//! # Crates that come later: [`loader`]
//!
//! ```no_run
//! use unspool::loader::{LoadError, Loader, Memory, Symbols};
//! use unspool::tls::Registry;
//!
//! /// Loads an object that defines `extern "C" fn answer() -> u32`, and asks it.
//! fn ask(
//!     memory: &'static dyn Memory,
//!     program: &'static dyn Symbols,
//!     registry: &'static Registry,
//!     object: &[u8],
//! ) -> Result<Option<u32>, LoadError> {
//!     let loader = Loader::new(memory, program, registry);
//!     let handle = loader.load("answer.o", object)?;
//!     let Some(address) = handle.symbol("answer") else { return Ok(None) };
//!     let answer = core::ptr::with_exposed_provenance::<()>(address as usize);
//!     // SAFETY: the object's author says that it is a function of this type.
//!     let answer = unsafe { core::mem::transmute::<*const (), extern "C" fn() -> u32>(answer) };
//!     Ok(Some(answer()))
//! }
//! # let _ = ask;
//! ```
//!
//! # Features
//!
//! | feature | what it adds | needs |
//! |---|---|---|
//! | `lang-items` (default) | the program's panic handler and personality; the other two | nightly |
//! | `nightly` | `thread_local!` on the compiler's own statics | nightly |
//! | `abi` | C names: `_Unwind_Resume`, `__tls_get_addr`, … | no C library below |
//! | `debug-info` | inlined functions and lines in traces, from DWARF | its sections in memory |
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
    pub use unspool_panic::{StackTrace, backtrace as print_here};
    pub use unspool_stack_trace::*;
}

/// Task-local values, as `std::thread`.
pub mod thread {
    pub use unspool_panic::panicking;
    pub use unspool_thread_local::{AccessError, LocalKey};

    /// Runs the running task's destructors of thread-local values, as std does at the end of a
    /// thread: the last registered first, until none is left. A panic that leaves one ends the
    /// program: `fatal runtime error: thread local panicked on drop, aborting`. Nobody can kill the
    /// task meanwhile.
    ///
    /// # Safety
    ///
    /// As [`unspool_tls::run_destructors`].
    pub unsafe fn run_destructors() {
        let _whole = unspool_panic::no_unwind();
        unspool_panic::abort_on_unwind("thread local panicked on drop", || {
            // SAFETY: the caller's promise is the same.
            unsafe { unspool_tls::run_destructors() }
        });
    }
}
