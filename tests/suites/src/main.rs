//! The suites: what only a running kernel can show.
//!
//! ```text
//!   main ─► each test in a task of its own ─► join ─► `test NAME ... ok`
//!                                                     last line: `N passed, N failed`
//! ```
//!
//! The same program runs in QEMU and as a bare Linux process; tests do not ask which. Words on
//! the command line select the tests whose names contain one of them; `die:NAME` runs one of the
//! programs that must not survive (see `deaths`), `said:NAME:STYLE` one of those that std runs, too (see
//! `scenarios`); `show:places` prints a trace to be decoded, `show:lines` what is known of addresses
//! everywhere.
#![no_std]
#![no_main]
#![feature(thread_local)]

extern crate alloc;

mod allocator;
mod backtraces;
mod churn;
mod concurrency;
mod corners;
mod corrupt;
mod deaths;
mod endings;
mod exhausted;
mod faults;
mod heaps;
mod heard;
mod held;
mod hooks;
mod interrupted;
mod interruptible;
mod kills;
mod leaving;
mod lines;
mod loading;
mod on;
mod panics;
mod passing;
mod permissions;
mod profiles;
mod provoked;
mod random;
mod reports;
mod reserve;
mod scenarios;
mod shortage;
mod storm;
mod support;
mod switching;
mod thread_locals;
mod thread_locals_as_std;
mod throws;
mod tls;
mod tls_models;
mod traces;
mod unloading;
mod vectors;

use alloc::vec::Vec;

use unspool_kernel::{Boot, ExitCode, println, task};

/// One test: it passes if it returns.
pub struct Test {
    name: &'static str,
    run: fn(),
}

/// The tests of a module, by the names of their functions.
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        /// The tests of this module.
        pub const TESTS: &[$crate::Test] =
            &[$($crate::Test { name: stringify!($name), run: $name }),*];
    };
}

const SUITES: &[(&str, &[Test])] = &[
    ("tls", tls::TESTS),
    ("tls_models", tls_models::TESTS),
    ("thread_locals", thread_locals::TESTS),
    ("thread_locals_as_std", thread_locals_as_std::TESTS),
    ("panics", panics::TESTS),
    ("hooks", hooks::TESTS),
    ("corners", corners::TESTS),
    ("throws", throws::TESTS),
    ("reports", reports::TESTS),
    ("heaps", heaps::TESTS),
    ("held", held::TESTS),
    ("exhausted", exhausted::TESTS),
    ("random", random::TESTS),
    ("traces", traces::TESTS),
    ("backtraces", backtraces::TESTS),
    ("lines", lines::TESTS),
    ("profiles", profiles::TESTS),
    ("faults", faults::TESTS),
    ("vectors", vectors::TESTS),
    ("provoked", provoked::TESTS),
    ("corrupt", corrupt::TESTS),
    ("leaving", leaving::TESTS),
    ("storm", storm::TESTS),
    ("kills", kills::TESTS),
    ("interruptible", interruptible::TESTS),
    ("interrupted", interrupted::TESTS),
    ("endings", endings::TESTS),
    ("loading", loading::TESTS),
    ("unloading", unloading::TESTS),
    ("concurrency", concurrency::TESTS),
    ("passing", passing::TESTS),
    ("switching", switching::TESTS),
    ("permissions", permissions::TESTS),
    ("reserve", reserve::TESTS),
    ("allocator", allocator::TESTS),
    ("shortage", shortage::TESTS),
    ("churn", churn::TESTS),
];

unspool_kernel::entry!(main);

fn main(boot: &Boot) -> ExitCode {
    let words: Vec<&str> = boot.args().collect();
    if let Some(name) = words.iter().find_map(|word| word.strip_prefix("die:")) {
        return deaths::run(name);
    }
    if let Some(word) = words.iter().find_map(|word| word.strip_prefix("said:")) {
        return on::run(word);
    }
    if words.contains(&"show:places") {
        return backtraces::show();
    }
    if words.contains(&"show:lines") {
        return lines::show();
    }
    let (mut passed, mut failed) = (0, 0);
    for (suite, tests) in SUITES {
        for test in *tests {
            if *suite == "lines" && !lines::came() {
                continue;
            }
            let name = alloc::format!("{suite}::{}", test.name);
            let selected = |word: &&str| name.contains(*word);
            if !words.is_empty() && !words.iter().any(selected) {
                continue;
            }
            let outcome = task::spawn(test.name, test.run).join();
            let passes = outcome.is_completed();
            let word = if passes { "ok" } else { "FAILED" };
            println!("test {suite}::{} ... {word}", test.name);
            if passes { passed += 1 } else { failed += 1 }
        }
    }
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
