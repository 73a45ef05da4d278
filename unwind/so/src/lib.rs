//! The unwinder as a shared library that takes `libgcc_s.so.1`'s place in Linux programs.
//!
//! ```text
//!   g++, rustc, glibc … ─► _Unwind_RaiseException@GCC_3.0 ─► unspool_unwind ─► landing pads
//!                                                              │ stack bounds    │ modules
//!                                                              └─ stacks ────────┴─ objects
//! ```
//!
//! Promise: what links against libgcc_s.so.1 finds every name that it has there (but for emulated
//! TLS and CPU detection, which no x86-64 compiler uses), with the same version, and unwinding
//! answers as libgcc's does. Walking allocates nothing and reads only memory that is there.
//!
//! ```console
//! $ cargo build --release -p unspool-unwind-so
//! $ LD_PRELOAD=target/release/libunspool_unwind.so program
//! $ ln -s …/libunspool_unwind.so folder/libgcc_s.so.1 && LD_LIBRARY_PATH=folder program
//! $ cargo xtask so-demo    # both ways, under programs of g++ and rustc, with times
//! ```
//!
//! libstdc++.so's personality is not called for frames that have nothing to do, or only a cleanup: what it
//! answers there does not depend on what is thrown (module `runtime`). A program that puts its own in its place
//! is asked for each frame, as libgcc asks.
//!
//! Shadow stacks (CET) are neither used nor broken: a landing leaves frames behind that a shadow stack
//! would still have, so the library does not carry GNU_PROPERTY_X86_FEATURE_1_SHSTK, without which
//! the system turns them off for the whole process, as Debian's libgcc_s does not. Landing pads may
//! begin with `endbr64`.
//!
//! The library has no std, which would itself unwind through libgcc_s, the very library that is to be
//! replaced. So it brings its own panic handler, which aborts, and a personality that the
//! precompiled core asks for by name and nobody ever calls. Of the C library it takes `abort`,
//! `dl_iterate_phdr`, `_dl_find_object`, `getauxval` and what compilers take.
#![no_std]
// Only a personality language item lets a program without std unwind at all; precompiled core
// is compiled to.
#![feature(lang_items)]
#![allow(internal_features)]

mod arch;
mod identity;
mod objects;
mod personality;
mod runtime;
mod stacks;

use core::alloc::{GlobalAlloc, Layout};
use core::panic::PanicInfo;
use core::ptr::null_mut;

use unspool_unwind::{Environment, RaiseError, set_environment};

#[link(name = "c")]
unsafe extern "C" {
    /// Ends the process.
    safe fn abort() -> !;
}

/// With what says whether objects came or went, if anything need.
const fn environment(counter: Option<fn() -> u64>) -> Environment {
    let environment = Environment::new(stacks::around, cannot_go_on);
    // SAFETY: the dynamic linker keeps a loaded object's tables in memory, and they describe its code,
    // while it is loaded; an object with a frame on a stack must not be unloaded (dlclose(3)).
    let environment = unsafe { environment.with_modules(objects::find, counter) };
    // SAFETY: objects of one identity were written by a linker with the same bytes; the program and the
    // object of C++'s runtime stay.
    let environment = unsafe { environment.with_identities(objects::whose, objects::always) };
    // SAFETY: the object that a reference of this library was bound to stays as long as the library.
    let environment = unsafe { environment.with_typed_personality(runtime::personality) };
    environment.with_unknown_stacks(stacks::widen).without_counting()
}

static ENVIRONMENT: Environment = environment(None);
static WITH_COUNTER: Environment = environment(Some(objects::generation));

extern "C" fn init() {
    stacks::init();
    set_environment(if objects::have_identities() { &ENVIRONMENT } else { &WITH_COUNTER });
}

/// Called by the dynamic linker, before the constructors of what depends on this library.
#[used]
#[unsafe(link_section = ".init_array")]
static INIT: extern "C" fn() = init;

/// As libgcc: a landing pad that cannot go on ends the process.
fn cannot_go_on(_error: RaiseError) -> ! {
    abort()
}

/// Nothing here allocates. In one build with programs that do, a crate that is shared with them
/// may ask for an allocator all the same.
struct NoHeap;

// SAFETY: there never is a block.
unsafe impl GlobalAlloc for NoHeap {
    unsafe fn alloc(&self, _layout: Layout) -> *mut u8 {
        null_mut()
    }

    unsafe fn dealloc(&self, _block: *mut u8, _layout: Layout) {}
}

#[global_allocator]
static NO_HEAP: NoHeap = NoHeap;

#[panic_handler]
fn panic(_info: &PanicInfo<'_>) -> ! {
    abort()
}

/// Named by the unwind tables of the precompiled core. Nothing unwinds here: a panic aborts.
#[lang = "eh_personality"]
extern "C" fn no_personality() -> ! {
    abort()
}
