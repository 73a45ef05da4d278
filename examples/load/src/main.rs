//! Loads the files that were passed to it as one set, calls one function of them, unloads them.
//!
//! ```text
//!   task "entry":  runs, waits ─────────► int test_main(void) ─► ends ─┐
//!   task "main":                 load ─┘                               └─► unload ─► exit(value)
//! ```
//!
//! `cargo xtask load FILE…` builds it, passes the files and explains the exit code. The function runs
//! on a task that was there before the files. What it prints is all that standard output (or the first
//! serial port) gets; everything else goes to standard error (or the second port).
#![no_std]
#![no_main]
#![feature(c_variadic)]

extern crate alloc;

mod c_runtime;
mod list;
mod offer;
mod stdio;
mod strings;
mod terminate;
mod threads;

use alloc::ffi::CString;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ffi::{c_char, c_int};
use core::mem::transmute;
use core::ptr::{null, with_exposed_provenance};
use core::sync::atomic::{AtomicBool, Ordering};

use spin::Once;
use unspool::loader::{Handle, Input, Set, UnloadError};
use unspool_kernel::task::{self, Builder, JoinHandle, Outcome};
use unspool_kernel::walk::AllStacks;
use unspool_kernel::{Boot, ExitCode, eprintln, loader};

unspool_kernel::entry!(main);

/// The files cannot be loaded, or do not define the function.
const NOT_LOADED: ExitCode = ExitCode::new(3);
/// The function returned 0, but the files cannot be unloaded.
const NOT_UNLOADED: ExitCode = ExitCode::new(4);

/// The functions that are called, the first that there is, if the command line names none.
const ENTRIES: [&str; 2] = ["test_main", "main"];

/// Bytes of the stack that the function gets: what a program's first thread has on Linux.
const STACK: usize = 8 << 20;

/// A C program's `main`, which a function without parameters can be called as, too: all of its
/// arguments are in registers (psABI x86-64 §3.2.3).
type Entry = extern "C-unwind" fn(c_int, *const *const c_char, *const *const c_char) -> c_int;

fn main(boot: &Boot) -> ExitCode {
    let word = |prefix| boot.args().find_map(move |word| word.strip_prefix(prefix));
    let whole = boot.args().any(|word| word == "whole");
    let named = word("entry=").map(|name| [name]);
    let entries = named.as_ref().map_or(&ENTRIES[..], |name| name);
    let inputs: Vec<_> = boot
        .modules()
        .map(|file| Input::new(file.name, file.bytes))
        .map(|input| if whole { input.whole() } else { input })
        .collect();
    let name = boot.modules().next().map_or("nothing", |file| file.name);
    let list = boot.args().any(|word| word == "list");
    run(&Set::new(name, &inputs).roots(entries), name, entries, list)
}

fn run(set: &Set<'_>, name: &str, entries: &[&str], list: bool) -> ExitCode {
    let found = Arc::new(Once::new());
    let task = match wait_for_entry(name, &found) {
        Ok(task) => task,
        Err(error) => return refuse(NOT_LOADED, &error),
    };
    let object = match loader().load_set(set) {
        Ok(object) => object,
        Err(error) => return refuse(NOT_LOADED, &error),
    };
    terminate::find_runtime(&object);
    if list {
        list::print();
    }
    let Some(address) = entries.iter().find_map(|name| object.symbol(name)) else {
        eprintln!("{name}: defines no {}", entries.join(", and no "));
        return NOT_LOADED;
    };
    // SAFETY: whoever passed the files says that this is a function that can be called so; a C
    // function without parameters can.
    let entry = unsafe { transmute::<*const (), Entry>(with_exposed_provenance(address as usize)) };
    found.call_once(|| entry);
    task.task().unpark();
    let code = exit_code(task.join());
    match unload(&object) {
        Ok(()) => code,
        Err(error) => {
            eprintln!("{name}: not unloaded: {error}");
            if code == ExitCode::SUCCESS { NOT_UNLOADED } else { code }
        }
    }
}

fn refuse(code: ExitCode, error: &dyn core::fmt::Display) -> ExitCode {
    eprintln!("{error}");
    code
}

/// A task that runs, and waits for the function that it is to call with one argument, `name`.
fn wait_for_entry(
    name: &str,
    found: &Arc<Once<Entry>>,
) -> Result<JoinHandle<c_int>, unspool_kernel::Error> {
    let found = Arc::clone(found);
    let name = CString::new(name).unwrap_or_default();
    let runs = Arc::new(AtomicBool::new(false));
    let running = Arc::clone(&runs);
    let task = Builder::new("entry").stack_size(STACK).spawn(move || {
        running.store(true, Ordering::Relaxed);
        let entry = loop {
            match found.get() {
                Some(entry) => break *entry,
                None => task::park(),
            }
        };
        let arguments = [name.as_ptr(), null()];
        let environment = [null()];
        terminate::on_exception(|| entry(1, arguments.as_ptr(), environment.as_ptr()))
    })?;
    while !runs.load(Ordering::Relaxed) {
        task::yield_now();
    }
    Ok(task)
}

/// The exit code for what the function returned: its lowest eight bits, as `exit` has it.
fn exit_code(outcome: Outcome<c_int>) -> ExitCode {
    match outcome {
        Outcome::Completed(value) => ExitCode::new(value as u8),
        // It has been reported. The payload may be code of the files: it goes before they do.
        unwound => {
            drop(unwound);
            ExitCode::PANIC
        }
    }
}

/// Unloads the files. A task on another CPU whose stack cannot be walked just now counts as one that
/// needs them.
fn unload(object: &Handle<'_>) -> Result<(), UnloadError> {
    const PATIENCE: u32 = 1000;
    let mut looks = 0;
    loop {
        match loader().unload(object, &AllStacks) {
            Err(UnloadError::OnStack | UnloadError::ExceptionInFlight) if looks < PATIENCE => {
                looks += 1;
                task::yield_now();
            }
            done => return done,
        }
    }
}
