//! Thread-local storage for programs that have no operating system under them.
//!
//! ```text
//!  one task's area                                       one allocation
//!
//!  low ──────────────────────────────────────────────────────────► high
//!  │ free surplus │ later modules' blocks │ kernel block │ TCB │
//!                                                        ▲
//!                                                        TP = FS base; fs:0 holds TP
//! ```
//!
//! Compiled code finds a thread-local variable at a fixed distance from the thread pointer (TP),
//! a number the linker baked into instructions. The promise of this crate: in every task's
//! [`Area`] that distance leads to memory of that task alone, initialised as the module's
//! `.tdata` and `.tbss` say, for the kernel and for every module that came later.
//!
//! # The layout is the linker's, not ours
//!
//! x86-64 uses variant II of *ELF Handling For Thread-Local Storage* (Drepper): the program's
//! own block ends at TP, so all offsets are negative (§3.4.6). How far below TP it starts depends
//! on the size, the alignment *and the address* of its `PT_TLS` segment; [`Template`] carries all
//! three and computes what GNU ld and lld compute. Above TP lies the thread control block
//! ([`Tcb`]), whose first word is TP itself and whose word at `0x28` is the canary that
//! `-fstack-protector` code reads.
//!
//! # Modules come later, tasks are already running
//!
//! Code that addresses its variables by constant offsets works in all tasks or in none. So every
//! area keeps a *surplus* below the kernel's block, and a module that is loaded later goes
//! through three steps:
//!
//! ```text
//!  Registry::reserve ──► Reserved ──(relocate the code with .offset())──► publish ──► Published
//!                           │                                                           │
//!                           └── drop: space given back                drop: withdrawn ──┘
//! ```
//!
//! [`Reserved::publish`] initialises the block in every area that exists, and arranges that every
//! later area starts with it, under one lock. No code of the module may run before it returns;
//! none needs to wait after.
//!
//! # A task's life
//!
//! ```text
//!  Registry::new_area → FS base := thread_pointer() → … register_destructor … →
//!  run_destructors (on the dying task) → switch away → drop the Area
//! ```
//!
//! Blocks never move and a task's area never grows, so thread-local accesses need no check.
//!
//! # Locks, heap and interrupts
//!
//! The registry is behind a spin lock. Creating and dropping areas, reserving, publishing and
//! withdrawing take it; reading a variable, [`current`], [`register_destructor`] and
//! [`run_destructors`] do not. None of them may be called from an interrupt handler: the
//! interrupted code may hold the lock, or be in the middle of its own destructor list.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod arch;
mod area;
mod destructors;
mod error;
mod layout;
mod linker;
mod live;
mod registry;

pub use area::{Tcb, ThreadPointer, current};
pub use destructors::{Destructor, register_destructor, run_destructors};
pub use error::{AreaError, LayoutError, MissingSymbol, OutOfMemory, PublishError, ReserveError};
pub use layout::{Template, TpOffset};
pub use registry::{Area, Published, Registry, Reserved};
