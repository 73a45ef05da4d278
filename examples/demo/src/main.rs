//! The whole journey, step by step: what Unspool gives a kernel, shown by a kernel.
//!
//! ```text
//!   1 tasks and thread_local!   2 a crate loaded while a task runs   3 its panic, caught
//!   4 a page fault, unwound     5 the sum
//! ```
//!
//! `cargo xtask run` boots it in QEMU. The program is also a Linux process: the same file, the
//! same steps. With `load=SECONDS` on its command line it works for so long instead: that is what
//! `cargo xtask profile` looks at.
#![no_std]
#![no_main]

extern crate alloc;

mod faulting;
mod guest_book;
mod load;
mod locals;

use unspool_kernel::{Boot, ExitCode, println, task};

unspool_kernel::entry!(main);

fn main(boot: &Boot) -> ExitCode {
    if let Some(seconds) = boot.args().find_map(|word| word.strip_prefix(load::WORD)) {
        return load::run(boot, seconds);
    }
    println!("Unspool: thread-local storage, panics, traces and loaded crates in a kernel");
    let mut steps = Steps::default();
    steps.take("two tasks, each with a thread_local! of its own", locals::run);
    let Some(object) = boot.module(guest_book::OBJECT) else {
        println!("the crate to load ({}) was not passed to the kernel", guest_book::OBJECT);
        return ExitCode::FAILURE;
    };
    let mut book = None;
    steps.take("a crate that is not part of this kernel, loaded while a task runs", || {
        book = guest_book::load(object);
        book.is_some()
    });
    if let Some(book) = book {
        steps.take("a panic three calls deep in that crate", || guest_book::panic_in(book));
    }
    steps.take("a page fault in one task", faulting::run);
    println!("\njourney complete: {} of {} steps went as they should", steps.right, steps.taken);
    if steps.right == TOTAL { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Steps that there are.
const TOTAL: u32 = 4;

#[derive(Default)]
struct Steps {
    taken: u32,
    right: u32,
}

impl Steps {
    /// Runs one step, which says whether it went as it should.
    fn take(&mut self, heading: &str, step: impl FnOnce() -> bool) {
        self.taken += 1;
        println!("\n== {}. {heading} ==", self.taken);
        let right = step();
        self.right += u32::from(right);
        if !right {
            println!("that is not what should have happened");
        }
    }
}

/// Writes a line of what happens, and in which task.
fn say(line: &str) {
    println!("  {}: {line}", task::current().name());
}
