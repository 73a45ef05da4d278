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
//! later area starts with it. No code of the module may run before it returns; none needs to wait
//! after.
//!
//! Code that asks for its variables by module number instead (`__tls_get_addr`, TLS descriptors)
//! needs no surplus: [`Registry::reserve_dynamic`] gives a number, and each task gets a block on
//! its first access, or beforehand ([`prepare`], [`Area::prepare_all`], [`Dynamic::prepare_live`]).
//! Modules with static space have numbers, too, so such code finds their blocks as well.
//!
//! ```text
//!  fs:8 ─► │ capacity │ module 1 │ module 2 │ …      the task's vector (DTV)
//!                       │ in the area   │ in memory of its own, or none yet
//! ```
//!
//! Small blocks of one task lie in its area, while there is room, and then share chunks of a KiB, so a
//! first access seldom asks the allocator. A chunk is freed with its last block.
//!
//! # When there is no memory
//!
//! Creating an area, reserving, publishing and preparing are errors with numbers then, and leave
//! everything as it was. An access by compiled code has nobody to tell: the handler of
//! [`set_access_failure_handler`] gets the reason, and the program does not go on. What was
//! prepared cannot fail; neither can the first [`UNALLOCATED_DESTRUCTORS`] destructors of a task.
//! Withdrawing and ending need no memory.
//!
//! # A task's life
//!
//! ```text
//!  Registry::new_area → FS base := thread_pointer() → … register_destructor … →
//!  run_destructors (on the dying task) → switch away → drop the Area
//! ```
//!
//! Blocks never move and a task's area never grows, so thread-local accesses need no check. The
//! memory of a few ended tasks is kept for the next ones; [`Registry::trim`] gives it back.
//!
//! # Locks, heap and interrupts
//!
//! [`Registry::new_area`] takes no lock, and neither do reading a variable, [`current`],
//! [`register_destructor`], [`run_destructors`], nor `__tls_get_addr` and descriptors once the
//! task has its block. Everything else takes the registry's spin lock: dropping areas, making a
//! block, reserving, publishing, withdrawing, counting. It is held while blocks are copied, never
//! while one is allocated, and at most for as long as publishing to all areas takes.
//!
//! None of what takes the lock or allocates may be called from an interrupt handler, nor where the
//! task that holds the lock cannot go on (with preemption disabled on one processor, say, unless
//! all callers disable it): the interrupted code may hold the lock, or be in the middle of its own
//! destructor list.
#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod abi;
mod access;
mod arch;
mod area;
mod blocks;
mod destructors;
mod dtv;
mod dynamic;
mod error;
mod handles;
mod idle;
mod image;
mod inbox;
mod layout;
mod linker;
mod live;
#[cfg(test)]
mod models;
mod modules;
mod ready;
mod registry;
mod spares;
mod sync;
mod task;

pub use abi::{
    __cxa_thread_atexit, __cxa_thread_atexit_impl, __tls_get_addr, TlsIndex, dynamic_descriptor,
    static_descriptor,
};
pub use access::{address, prepare, set_access_failure_handler};
pub use area::{Tcb, ThreadPointer, current};
pub use destructors::{Destructor, UNALLOCATED_DESTRUCTORS};
pub use error::{
    AccessError, AreaError, LayoutError, MissingSymbol, OutOfMemory, PublishError, ReserveError,
};
pub use handles::{Dynamic, Published, Reserved, ReservedDynamic};
pub use layout::{Template, TpOffset};
pub use modules::ModuleId;
pub use registry::{Area, Registry};
pub use task::{register_destructor, run_destructors};
