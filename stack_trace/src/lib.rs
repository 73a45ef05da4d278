//! Traces of a stack: taken frame by frame, named, and printed as std prints them.
//!
//! ```text
//!   unwind::Cursor ──► Trace ──► Frame Frame Frame … End (why it ended)
//!                                  │
//!                                  ├─► Symbolize ──► name        the program's table, loaded objects
//!                                  └─► print     ──► `   0: name` …
//! ```
//!
//! Promise: nothing here allocates or locks, so a trace can be taken and printed from a panic
//! with memory exhausted, from a fault, from an NMI.
//!
//! The program's own symbols come from a [`table`] that the build puts into the program's image:
//! a kernel has no file to read them from.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

#[cfg(feature = "build")]
extern crate alloc;

mod print;
mod symbolize;
pub mod table;
mod trace;

pub use print::{Style, begin_short, end_short, print};
pub use symbolize::{NoSymbols, Symbol, Symbolize};
pub use trace::{Captured, End, Frame, Trace};
