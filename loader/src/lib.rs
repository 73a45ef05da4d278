//! Loads relocatable x86-64 ELF objects (`rustc --emit=obj`, `cc -c`) into a running kernel.
//!
//! ```text
//!  file ─► elf ──────► placement ───► memory ────► symbols ────► reloc ──────► memory ───► object
//!          valid?      where does     map, copy    what does     patch the     seal: text  name it,
//!          which       each section                each symbol   bytes         RX, rodata  find it
//!          sections    go?               │         mean?                       R, data RW   │  │
//!                                        ▼            ▲                                     │  │
//!                          tls: reserve a block ──────┘         unwind: register .eh_frame ◄┘  │
//!                                        └───────────► tls: publish it in every task ◄─────────┘
//! ```
//!
//! Promise: after [`Loader::load`] returned `Ok`, the object's code is code like the program's
//! own: it can be called, its thread-local variables exist in every task (also in those that ran
//! before), a panic passes through its frames, a trace shows its names. After an `Err` there is
//! nothing: no mapping, no TLS, no unwind table, no symbol.
//!
//! # What the kernel supplies
//!
//! [`Memory`] maps, protects and unmaps pages. [`Symbols`] knows the addresses of the program's own
//! functions and variables, whose names are in its symbol table. The
//! [`Registry`](unspool_tls::Registry) is the one that tasks get their TLS areas from; its surplus
//! is where the blocks of loaded objects go.
//!
//! # Where things lie
//!
//! An object gets one mapping of three page-aligned parts. Everything is written while all of it
//! is writable and nothing executable; then it is sealed, and from then on no page is both. The
//! GOT and `.data.rel.ro` are written before that and are read-only after. One object holds up to
//! 1 GiB, so it reaches itself with 32-bit displacements wherever it is; calls out of it go through
//! PLT stubs where they would not reach.
//!
//! # Thread-local variables
//!
//! A block in the surplus has one distance from TP in all tasks, known before the code is patched.
//! So the general and local dynamic models and initial exec are rewritten to local exec (ELF TLS
//! §5.5): no `__tls_get_addr`, no GOT slots, and the same speed as the program's own variables.
//!
//! # Which symbol is meant
//!
//! Strong definitions of the object itself come first, then objects that were loaded before it
//! (oldest first), then the program. A weak definition of its own comes last: so of weak definitions
//! and COMDAT groups, of which every Rust object has one (`DW.ref.rust_eh_personality`), the first
//! that was there counts, for everyone. Undefined weak symbols are 0.
//!
//! # Limits
//!
//! These are errors, each with its own [`LoadError`]: common symbols, indirect functions, lists of
//! constructors, TLS descriptors, the relocations of the medium and large code models, alignments
//! above a page.
//!
//! # Locks, heap, interrupts
//!
//! Loading takes a spin lock and uses the heap. Looking up symbols and naming addresses
//! ([`Symbolize`](unspool_stack_trace::Symbolize)) do neither: they work in a panic, a fault and an
//! NMI, also in one that interrupts loading.
//!
//! # Example
//!
//! ```
//! use core::ptr::NonNull;
//! use unspool_loader::{Access, Loader, MapError, Memory, Symbols};
//! use unspool_tls::{Registry, Template};
//!
//! struct Kernel;
//!
//! // SAFETY: it maps nothing.
//! unsafe impl Memory for Kernel {
//!     fn map(&self, size: usize) -> Result<NonNull<u8>, MapError> {
//!         Err(MapError::Exhausted { size })
//!     }
//!     unsafe fn protect(&self, _: NonNull<u8>, _: usize, _: Access) -> Result<(), MapError> {
//!         Ok(())
//!     }
//!     unsafe fn unmap(&self, _: NonNull<u8>, _: usize) {}
//! }
//!
//! impl Symbols for Kernel {
//!     fn address_of(&self, _name: &str) -> Option<u64> {
//!         None
//!     }
//! }
//!
//! let tls = Registry::new(Template::EMPTY, 4096).unwrap();
//! let loader = Loader::new(&Kernel, &Kernel, &tls);
//! let error = loader.load("driver", b"#!/bin/sh").unwrap_err();
//! assert_eq!(error.to_string(), "not an ELF file: starts with [23, 21, 2f, 62]");
//! ```
#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod elf;
mod error;
mod got;
mod list;
mod loader;
mod memory;
mod object;
mod placement;
mod reloc;
mod symbols;

pub use error::{Field, LoadError, Part};
pub use loader::Loader;
pub use memory::{Access, MapError, Memory, PAGE};
pub use object::{Object, Section};
pub use reloc::{Problem, RelocationType};
pub use symbols::Symbols;
