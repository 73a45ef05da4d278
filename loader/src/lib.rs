//! Loads relocatable x86-64 ELF objects (`rustc --emit=obj`, `cc -c`) into a running kernel, and
//! unloads them.
//!
//! ```text
//!  file ─► elf ──────► placement ───► memory ────► symbols ────► reloc ──────► memory ───► object
//!          valid?      where does     map, copy    what does     patch the     seal: text  name it,
//!          which       each section                each symbol   bytes         RX, rodata  find it
//!          sections    go?               │         mean?                       R, data RW   │  │
//!                                        ▼            ▲                                     │  │
//!                          tls: reserve a block ──────┘         unwind: register .eh_frame ◄┘  │
//!                                        └───────────► tls: publish it in every task ◄─────────┘
//!
//!  unload: handle, objects bound to it, stacks, exceptions, destructors: nobody needs it? ─► gone
//! ```
//!
//! Promise: after [`Loader::load`] returned `Ok`, the object's code is code like the program's
//! own: it can be called, its thread-local variables exist in every task (also in those that ran
//! before), a panic passes through its frames, a trace shows its names. After an `Err` there is
//! nothing: no mapping, no TLS, no unwind table, no symbol. [`Loader::unload`] undoes all of it, or
//! says who still needs the object, and has changed nothing.
//!
//! # What the kernel supplies
//!
//! [`Memory`] maps, protects and unmaps pages. [`Symbols`] knows the addresses of the program's own
//! functions and variables, whose names are in its symbol table. The
//! [`Registry`](unspool_tls::Registry) is the one that tasks get their TLS areas from; its surplus
//! is where the blocks of loaded objects go. To unload takes [`Stacks`], which knows whether code
//! is on anybody's stack.
//!
//! # Where things lie
//!
//! An object gets one mapping of three page-aligned parts. Everything is written while all of it
//! is writable and nothing executable; then it is sealed, and from then on no page is both. The
//! GOT and `.data.rel.ro` are written before that and are read-only after. One object holds up to
//! 1 GiB, so it reaches itself with 32-bit displacements wherever it is; calls out of it go through
//! PLT stubs where they would not reach. Code that goes through the GOT for what turns out to be
//! near is rewritten to go there directly (psABI B.2).
//!
//! # Thread-local variables
//!
//! A block in the surplus has one distance from TP in all tasks, known before the code is patched.
//! So all accesses to it are rewritten to local exec (ELF TLS §5.5), whatever model they were
//! compiled for: general and local dynamic, TLS descriptors, initial exec. No function is called,
//! no GOT slot read; such a variable is as fast as one of the program's own.
//!
//! | the object's code has | the surplus has room | the surplus is full |
//! |---|---|---|
//! | accesses to its own variables by local or initial exec | in the surplus | an error with the numbers |
//! | none of those | in the surplus | blocks made on first use |
//!
//! An object whose blocks are made on first use asks for them through the program's
//! `__tls_get_addr` or through TLS descriptors, whose resolver is that of `unspool-tls`. Others reach
//! its variables in the same way; if their code needs a distance from TP, they are not loaded. What
//! happens when there is no memory for a block, and how to have it made beforehand, is said at
//! [`prepare`](unspool_tls::prepare); [`Object::tls_module`] is the module to name.
//!
//! # Which symbol is meant
//!
//! Strong definitions of the object itself come first, then objects that were loaded before it
//! (oldest first), then the program. A weak definition of its own comes last, so that of C++
//! inline functions and the like the first counts that was there, for everyone; but a hidden one
//! (every Rust object has `DW.ref.rust_eh_personality`) or a protected one is the object's own. Undefined weak symbols
//! are 0. An object that uses a symbol of another, or shares a weak definition with it, is bound to
//! it, and goes before it.
//!
//! `__dso_handle` is an address in the object, as C++ runtimes expect. `__cxa_atexit` and `atexit`
//! are the loader's own where the program has none: what an object registers is called when it is
//! unloaded, last registered first.
//!
//! # Handles
//!
//! [`Loader::load`] returns a [`Handle`]. An object is not unloaded as long as there is a handle
//! besides the one that unloading was asked with. So whoever calls into an object, or keeps a value
//! that leads into it, keeps a handle, and need not know who unloads what. Objects whose handles
//! are all dropped stay loaded; [`Loader::object`] and [`Loader::objects`] give new ones.
//!
//! # Constructors and destructors
//!
//! `.preinit_array`, `.init_array` and `.ctors` are called by [`Loader::load`] before it returns,
//! `.fini_array` and `.dtors` by [`Loader::unload`], in the order of GNU linkers and C libraries:
//! priorities first, then files, and backwards when unloading.
//!
//! # Limits
//!
//! These are errors, each with its own [`Cause`]: alignments above a page
//! ([`Alignment`](Cause::Alignment)), code in `.init` and `.fini`
//! ([`Constructors`](Cause::Constructors)), sections that are both executable and writable or
//! compressed, relocations without addends (`SHT_REL`), and objects of more than 1 GiB
//! ([`TooLarge`](Cause::TooLarge)). Tentative definitions of C (`COMMON`) and indirect functions
//! (`STT_GNU_IFUNC`) are no limits: the former get zeroed memory, the latter's resolvers are asked
//! when the object is sealed.
//!
//! # Locks, heap, interrupts
//!
//! Loading and unloading take a spin lock; loading uses the heap, and unloading frees. Looking up
//! symbols and naming addresses ([`Symbolize`](unspool_stack_trace::Symbolize)) do neither: they
//! work in a panic, a fault and an NMI, also in one that interrupts loading or unloading. What they
//! may be looking at when it is unloaded is freed later, at the next load or unload after they are
//! done. Nobody waits for anybody.
//!
//! A name that `Symbolize` has handed out can be used as long as the loader lives. So an object that
//! a trace has named leaves its names behind when it is unloaded; they serve again if the same
//! object is loaded again. Handles are for ordinary code only: the last one to be dropped frees.
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
//! assert_eq!(error.to_string(), "driver: not an ELF file: starts with [23, 21, 2f, 62]");
//! ```
#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod archive;
mod archives;
mod atexit;
mod eh_frame;
mod elf;
mod entry;
mod error;
mod globals;
mod got;
mod handle;
mod initializers;
mod link;
mod list;
mod loader;
mod memory;
mod names;
mod object;
mod placement;
mod readers;
mod reloc;
mod runs;
#[cfg(test)]
mod sample;
mod set;
mod shared;
mod symbols;
mod table;
mod text;
mod tls;
mod unit;
mod unload;
mod unwind;

pub use error::{ArchiveProblem, Cause, Field, LoadError, Part, UnloadError};
pub use handle::Handle;
pub use loader::Loader;
pub use memory::{Access, MapError, Memory, PAGE};
pub use object::{Object, Section, TlsBlock};
pub use reloc::{Code, Problem, RelocationType};
pub use set::{Input, Set};
pub use symbols::Symbols;
pub use text::Text;
pub use unload::Stacks;
