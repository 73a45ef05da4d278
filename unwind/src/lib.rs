//! From a program counter and `.eh_frame` to the caller's registers, and from there to two-phase
//! unwinding, without a heap, a lock or an operating system.
//!
//! ```text
//!  ip ──► modules ──► fde ──► cfi ──► rule (16 bytes) ──► caller's registers ──► ip …
//!         which       which   run     CFA = rsp|rbp + n,      │
//!         object      func-   its     who is saved where      ├─► cursor: walk
//!                     tion    program                         └─► raise: personality, landing pad
//!   └─ cache: what was found before ──────────┘
//!                                 └─ what does not fit a rule ─► dwarf (expressions, odd registers)
//! ```
//!
//! Promise: walking and raising never allocate, never wait for a lock, and read stack memory only
//! inside the bounds they were given; a stack or a table that makes no sense ends in an
//! [`UnwindError`] that names the address, not in a fault.
//!
//! Where the rules come from: DWARF 5 §6.4 (call frame information), the Linux Standard Base core
//! specification §10.6 (`.eh_frame`, `.eh_frame_hdr`), the Itanium C++ ABI: Exception Handling §1
//! (two phases, personality), and the System V x86-64 psABI §3.6 (register numbers).
//!
//! Raising asks the personality of each frame on its way, but for those whose answer follows from the
//! address alone, whatever is raised: where the function's area has no entry for the call, or the
//! personality is known to catch everything. Which personalities are of this kind is the
//! [environment's](Environment::with_typed_personality) to say; all others are called in both phases, and
//! forced unwinding calls every one.
//!
//! # Walking
//!
//! ```
//! use unspool_unwind::{Cursor, Modules, NoStack, Pc, Registers};
//!
//! // No module is known here, so the first step says so, with the address.
//! let modules = Modules::new();
//! let mut cursor = Cursor::new(Registers::new(), Pc::Exact(0x1000), NoStack, &modules);
//! assert_eq!(cursor.step().unwrap_err().to_string(), "no module contains 0x1000");
//! ```
#![cfg_attr(not(test), no_std)]

#[cfg(feature = "build")]
extern crate alloc;

pub mod abi;
mod address;
mod answer;
mod arch;
mod cache;
mod cfi;
mod cleanup;
mod context;
mod cursor;
mod dwarf;
pub mod encoding;
mod environment;
mod error;
mod exception;
mod expression;
mod fde;
mod forced;
mod frames;
mod glide;
mod guess;
mod in_flight;
mod instruction;
mod known;
mod linker;
pub mod lsda;
mod module;
mod modules;
mod raise;
mod registers;
mod rule;
mod rules;
#[cfg(test)]
mod sample;
mod search;
mod stack;
pub mod table;
mod trace;
mod variant;
mod walk;

pub use address::Pc;
pub use arch::{Body, Left, Word, catch, catch_body, catch_forced, catch_forced_body};
pub use cache::{Memory, Trail};
pub use cfi::{CfaRule, RegisterRule, Row};
pub use context::Context;
pub use cursor::{Cursor, Step};
pub use environment::{Environment, Whose, set_environment};
pub use error::{RaiseError, RegisterError, UnwindError};
pub use exception::{Actions, Exception, Personality, Reason, Stop, Trace};
pub use fde::{FdeEntry, Function};
pub use forced::{forced_unwind, raise_forced, raise_forced_from};
pub use frames::{deregister_frames, register_frames};
pub use guess::FrameKind;
pub use in_flight::in_flight_in;
pub use known::Known;
pub use linker::MissingSymbol;
pub use module::{FdeIndex, Module, Section};
pub use modules::{FindModule, Modules, Registration, global, register};
pub use raise::{delete_exception, raise, raise_from, raise_here, resume_or_rethrow};
pub use registers::{Register, Registers};
pub use rule::Rule;
pub use stack::{Climb, NoStack, ReadStack, StackBounds, WordsBelow};
pub use trace::{backtrace, frame_of};
pub use walk::Frame;
