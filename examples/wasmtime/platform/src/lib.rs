//! What wasmtime asks of a kernel, for any kernel that has [`unspool`] and one trait.
//!
//! ```text
//!   wasmtime (no_std, unmodified) ── C ABI ──► abi ─► Host: memory, waiting      what a kernel implements
//!      ▲      ▲      ▲                          └───► thread_local!, locks       done here
//!      │      │      └── JitFrames: unwind tables and names of compiled code
//!      │      └───────── wrap_host / resume_from: panics through compiled code
//!      └──────────────── trap: a CPU fault in compiled code becomes an error
//! ```
//!
//! Promise: no function that wasmtime calls panics; what a kernel refuses is an error of wasmtime's.
//!
//! What a kernel and its programs do, step by step:
//!
#![doc = include_str!("../README.md")]
#![no_std]

extern crate alloc;

mod abi;
mod error;
mod frames;
mod host;
mod image;
mod locks;
mod names;
mod panics;
mod traps;

pub use error::FramesError;
pub use frames::JitFrames;
pub use host::{Access, Host, HostError, set_host};
pub use names::{NAMES, Names};
pub use panics::{PanicPayload, resume_from, wrap_host};
pub use traps::trap;
