//! The specification's tests: every script that the kernel was started with.
//!
//! ```text
//!   boot's modules *.spec ─► one queue ─► tasks ─► script::run ─► value::agrees
//! ```
//!
//! The last line: `N files, N directives, N passed, N failed`.

mod outside;
mod script;
mod value;

use core::sync::atomic::{AtomicUsize, Ordering};

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use unspool_kernel::cpio::Module;
use unspool_kernel::{Boot, ExitCode, cpu, println};

use crate::record::Script;
use crate::wasm::{self, Wasm};

/// How the names of modules with scripts end.
const SUFFIX: &str = ".spec";
/// The word of the command line that says how many tasks share the scripts.
const TASKS: &str = "tasks=";

/// What came of some scripts.
#[derive(Clone, Copy, Default)]
struct Sum {
    files: usize,
    directives: usize,
    failed: usize,
}

impl Sum {
    const fn add(self, other: Self) -> Self {
        Self {
            files: self.files + other.files,
            directives: self.directives + other.directives,
            failed: self.failed + other.failed,
        }
    }
}

fn scripts(boot: &Boot) -> impl Iterator<Item = Module<'static>> {
    boot.modules().filter(|module| module.name.ends_with(SUFFIX))
}

/// Whether the kernel was started with scripts.
pub fn is_wanted(boot: &Boot) -> bool {
    scripts(boot).next().is_some()
}

/// Runs all scripts.
pub fn run(boot: &Boot) -> ExitCode {
    let tasks = boot.args().find_map(|word| word.strip_prefix(TASKS)?.parse().ok()).unwrap_or(1);
    let scripts: Arc<[_]> = scripts(boot).collect();
    let next = Arc::new(AtomicUsize::new(0));
    let wasm = Wasm::new();
    println!("{} scripts, {tasks} tasks, {} CPUs", scripts.len(), cpu::count());
    let spawn = |number| {
        let (scripts, next, wasm) = (Arc::clone(&scripts), Arc::clone(&next), wasm.clone());
        wasm::spawn(&format!("spec {number}"), move || work(&wasm, &scripts, &next))
    };
    let tasks: Vec<_> = (0..tasks).map(spawn).collect();
    let lost = Sum { failed: 1, directives: 1, files: 0 };
    // A task that panicked lost its count, and is one failure.
    let sums = tasks.into_iter().map(|task| task.join().ok().unwrap_or(lost));
    let sum = sums.fold(Sum::default(), Sum::add);
    let passed = sum.directives - sum.failed;
    println!(
        "{} files, {} directives, {passed} passed, {} failed",
        sum.files, sum.directives, sum.failed
    );
    if sum.failed == 0 && sum.files == scripts.len() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs scripts until none is left.
fn work(wasm: &Wasm, scripts: &[Module<'static>], next: &AtomicUsize) -> Sum {
    let mut sum = Sum::default();
    while let Some(module) = scripts.get(next.fetch_add(1, Ordering::Relaxed)) {
        let name = module.name.trim_end_matches(SUFFIX);
        sum = sum.add(file(wasm, name, module.bytes));
    }
    sum
}

fn file(wasm: &Wasm, name: &str, bytes: &'static [u8]) -> Sum {
    let script: Script<'_> = match postcard::from_bytes(bytes) {
        Ok(script) => script,
        Err(error) => {
            println!("{name}: no script: {error}");
            return Sum { files: 1, directives: 1, failed: 1 };
        }
    };
    let mut failed = 0;
    let report = |line: u32, why: &dyn core::fmt::Display| {
        println!("{name}:{line}: {why}");
        failed += 1;
    };
    let directives = script.directives.len();
    match script::run(wasm, script, report) {
        Ok(()) => Sum { files: 1, directives, failed },
        Err(error) => {
            println!("{name}: {error:?}");
            Sum { files: 1, directives, failed: directives }
        }
    }
}
