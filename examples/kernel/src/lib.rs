//! A small kernel as a library: how to wire Unspool into a system of one's own.
//!
//! ```text
//!   program: entry!(main)
//!   ──────────────────────────────────────────────────────────────────────────
//!   boot    task · scheduler    fault    platform    memory · heap    console
//!   ─────────────────────────── machine ──────────────────────────────────────
//!   arch/x86_64/bare: QEMU, PVH          arch/x86_64/linux: a process, no libc
//! ```
//!
//! A program that is linked with it is one ELF file with two entries: QEMU's `-kernel` enters it
//! in 32-bit mode through a PVH note, Linux enters it as a static process. Everything above the
//! [`mod@machine`] is the same code at the same addresses.
//!
//! # A program
//!
//! ```ignore
//! // build.rs
//! //! Links the program as a kernel.
//! include!("../kernel/link.rs");
//!
//! fn main() {
//!     link_kernel("hello");
//! }
//! ```
//!
//! ```ignore
//! // src/main.rs
//! #![no_std]
//! #![no_main]
//!
//! use unspool_kernel::{Boot, ExitCode, println, task};
//!
//! unspool_kernel::entry!(main);
//!
//! fn main(boot: &Boot) -> ExitCode {
//!     let sum = task::spawn("adder", || 2 + 2).join();
//!     println!("{sum:?}, {} modules", boot.modules().count());
//!     ExitCode::SUCCESS
//! }
//! ```
//!
//! # What it promises
//!
//! - Page 0 is not mapped. No page is writable and executable, under any of its addresses. Under
//!   every stack lies a guard page.
//! - A fault in a task unwinds that task; where that is impossible, the reason is written and the
//!   program ends. Nothing loops, nothing hangs: a deadlock is reported as well.
//! - A task's destructors have run when somebody can know that it ended. Who is killed dies whole,
//!   at a call that may unwind.
#![no_std]
// Tasks are made of memory that may be missing: `try_new`.
#![cfg_attr(feature = "lang-items", feature(allocator_api))]

extern crate alloc;

mod arch;
mod arena;
pub mod boot;
pub mod console;
pub mod cpio;
pub mod cpu;
mod error;
mod extents;
mod fallible;
pub mod fault;
pub mod heap;
pub mod lines;
mod lock;
pub mod machine;
pub mod memory;
pub mod nmi;
mod outcome;
pub mod platform;
pub mod profile;
pub mod reserve;
mod scheduler;
mod stack_protector;
pub mod sync;
pub mod task;
pub mod walk;
mod window;

pub use boot::Boot;
pub use error::Error;
pub use machine::{ExitCode, machine};
pub use platform::loader;

/// Names the program's `main`, a `fn(&Boot) -> ExitCode`. It runs as the first task when
/// everything is up; when it returns, the program ends.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[unsafe(no_mangle)]
        fn unspool_kernel_main(boot: &$crate::Boot) -> $crate::ExitCode {
            let main: fn(&$crate::Boot) -> $crate::ExitCode = $main;
            main(boot)
        }
    };
}
