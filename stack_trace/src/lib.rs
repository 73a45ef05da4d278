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
//! with memory exhausted, from a fault, from an NMI. Two features go further and say so: `alloc` has
//! `Backtrace`, a trace on the heap, and `debug-info` has `DebugFile` and `DebugInfo`, lines from
//! DWARF.
//!
//! Names come from what there is: DWARF, if the program has it in memory; a [`table`] of its own
//! symbols that the build puts into the program's image, since a kernel has no file to read them
//! from; the symbol tables of loaded objects; and where nothing is known, a [`Place`] in a file, which
//! is enough for `cargo xtask decode` to tell the rest.
//!
//! # A format of one's own
//!
//! ```
//! use core::fmt::{Result, Write};
//! use unspool_stack_trace::{Captured, FrameKind, Symbolize};
//!
//! fn terse<const N: usize>(
//!     out: &mut dyn Write,
//!     trace: &Captured<N>,
//!     symbols: &dyn Symbolize,
//! ) -> Result {
//!     for frame in trace.frames() {
//!         let mark = if frame.kind == FrameKind::Call { ' ' } else { '!' };
//!         writeln!(out, "{mark} {:#x}", frame.pc)?;
//!         // Inlined functions come first; the last one has the frame.
//!         symbols.functions(frame.pc.lookup(), &mut |function| {
//!             let (Some(name), Some(location)) = (function.name, function.location) else { return };
//!             let _ = writeln!(out, "    {name} at {location}");
//!         });
//!         if let Some(place) = symbols.place(frame.pc.address()) {
//!             writeln!(out, "    {place}")?;
//!         }
//!     }
//!     Ok(())
//! }
//! # let mut out = String::new();
//! # terse(&mut out, &Captured::<4>::none(), &unspool_stack_trace::NoSymbols).unwrap();
//! ```
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

#[cfg(any(feature = "alloc", feature = "build"))]
extern crate alloc;

#[cfg(feature = "alloc")]
mod backtrace;
#[cfg(feature = "debug-info")]
mod debug_file;
#[cfg(feature = "debug-info")]
mod debug_info;
mod host;
mod name;
mod named;
mod print;
pub mod samples;
mod symbolize;
pub mod table;
mod trace;

#[cfg(feature = "alloc")]
pub use backtrace::{Backtrace, BacktraceStatus};
#[cfg(feature = "debug-info")]
pub use debug_file::DebugFile;
#[cfg(feature = "debug-info")]
pub use debug_info::{DebugError, DebugInfo};
pub use host::{Host, OwnStacks, set_host, trace};
pub use name::{Name, NameBuffer};
pub use named::{Named, NamedCode, name_code, name_functions};
pub use print::{
    __rust_begin_short_backtrace as begin_short, __rust_end_short_backtrace as end_short, GUESSED,
    INTERRUPTED, OTHER_STACK, Style, print, print_frame,
};
pub use symbolize::{Function, Location, NoSymbols, OnlyPlaces, Place, Symbol, Symbolize};
pub use trace::{Captured, End, Frame, FrameKind, Trace};
