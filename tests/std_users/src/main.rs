//! Crates of others that use `std::thread_local!`, compiled against ours and driven in a kernel.
//!
//! ```text
//!  build.rs: std:: becomes crate::std:: ─► four crates as modules ─► each test in a task ─► join
//! ```
//!
//! The console is as that of the suites: `test NAME ... ok`, and `N passed, N failed` at the end.
#![no_std]
#![no_main]

extern crate alloc;
// `thread_local!` without a path, as in the prelude of std.
#[macro_use]
extern crate unspool;

mod drivers;
mod std;

use alloc::vec::Vec;

use unspool_kernel::{Boot, ExitCode, println, task};

include!(concat!(env!("OUT_DIR"), "/users.rs"));

unspool_kernel::entry!(main);

fn main(boot: &Boot) -> ExitCode {
    let words: Vec<&str> = boot.args().collect();
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in drivers::TESTS {
        if !words.is_empty() && !words.iter().any(|word| name.contains(word)) {
            continue;
        }
        let outcome = task::spawn(name, *test).join();
        let passes = outcome.is_completed();
        let word = if passes { "ok" } else { "FAILED" };
        println!("test {name} ... {word}");
        if passes { passed += 1 } else { failed += 1 }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
