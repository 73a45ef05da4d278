//! Builds, runs, tests and checks Unspool: `cargo xtask run | load | so-demo | test | bench |
//! decode | profile | check`.
//!
//! ```text
//! build ──► embed ──► cpio ──► place (QEMU, or a bare Linux process)
//!   cargo     symbol     module     ▲            ▲             ▲
//!             table      archive    run          load          test
//! ```
//!
//! Everything a kernel needs is made here; a kernel never reads a file system.

mod bench;
mod build;
mod check;
mod command;
mod cpio;
mod debug;
mod decode;
mod embed;
mod fetched;
mod libtest;
mod load;
mod objects;
mod packages;
mod place;
mod profile;
mod progress;
mod qemu;
mod report;
mod rlib;
mod rules;
mod run;
#[cfg(test)]
mod scratch;
mod setup;
mod so_demo;
mod stable;
mod suite;
mod test;
mod unwind_table;
mod wasm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Build, run, test and check Unspool.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

/// What to do.
#[derive(Subcommand)]
enum Task {
    /// Build the demo kernel and run it in QEMU (installed if need be).
    Run(run::Options),
    /// Load object files and archives into a running kernel, call a function of theirs, unload them.
    Load(load::Options),
    /// Show programs of g++ and rustc that throw through our shared library, and how long it takes.
    SoDemo(so_demo::Options),
    /// Run every test: host, bare process, QEMU, demo. Last line: `N passed, N failed`.
    Test(test::Options),
    /// Measure against the peers: one table for each, with ratios.
    Bench(bench::Options),
    /// Turn addresses of traces into functions and lines: `decode KERNEL.elf [OBJECT…] < serial.log`.
    Decode(decode::Options),
    /// Sample what a kernel does on all CPUs: folded stacks, a flame graph, the costs.
    Profile(profile::Options),
    /// Work out the rules of an ELF file's frames, for walks that need not read DWARF.
    UnwindTable(unwind_table::Options),
    /// Format, clippy, docs, the stable crates on stable, the architecture's rules.
    Check(check::Options),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Task::Run(options) => run::run(&options),
        Task::Load(options) => load::load(&options),
        Task::SoDemo(options) => so_demo::so_demo(&options),
        Task::Test(options) => test::test(&options),
        Task::Bench(options) => bench::bench(&options),
        Task::Decode(options) => decode::decode(&options),
        Task::Profile(options) => profile::profile(&options),
        Task::UnwindTable(options) => unwind_table::unwind_table(&options),
        Task::Check(options) => check::check(&options),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
