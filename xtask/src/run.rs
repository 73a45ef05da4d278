//! `cargo xtask run`: builds a kernel, starts it, shows its console, ends with its exit code.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum, value_parser};

use crate::build::{self, Image, Program};
use crate::command::End;
use crate::packages::DEMO;
use crate::place::Place;
use crate::qemu::Outcome;
use crate::setup::{self, QEMU};
use crate::wasm::{self, Load, Wasmtime};
use crate::workspace::Workspace;

/// The exit code after a timeout, as coreutils' timeout has it.
pub const TIMED_OUT: u8 = 124;
/// The exit code when the machine (not the program) failed.
pub const MACHINE_FAILED: u8 = 125;

/// Examples in workspaces of their own.
#[derive(Clone, Copy, ValueEnum)]
enum Example {
    /// wasmtime in a kernel
    Wasmtime,
    /// A newer wasmtime in the same kernel
    WasmtimeNewer,
}

/// How to run.
#[derive(Args)]
pub struct Options {
    /// Run as a bare Linux process instead of in QEMU
    #[arg(long, conflicts_with = "smp")]
    process: bool,
    /// Optimized; this is the default
    #[arg(long)]
    release: bool,
    /// Not optimized (the dev profile)
    #[arg(long, conflicts_with = "release")]
    dev: bool,
    /// CPUs of the machine
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..))]
    smp: u32,
    /// Stop it after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
    /// Do not install QEMU when it is missing; run as a process instead
    #[arg(long)]
    no_install: bool,
    /// Traces with names only: do not give the kernel its debug information
    #[arg(long)]
    no_lines: bool,
    /// The package of the kernel to run
    #[arg(long, short, value_name = "NAME", default_value = DEMO)]
    package: String,
    /// An example in a workspace of its own, instead of a package
    #[arg(conflicts_with_all = ["package", "dev"])]
    example: Option<Example>,
    /// Words for the kernel's command line
    #[arg(last = true, value_name = "WORDS")]
    words: Vec<String>,
}

/// Does it.
///
/// # Errors
/// The kernel does not build or cannot be started.
pub fn run(options: &Options) -> Result<ExitCode> {
    let workspace = Workspace::load()?;
    if let Some(example) = options.example {
        let version = match example {
            Example::Wasmtime => Wasmtime::Locked,
            Example::WasmtimeNewer => Wasmtime::Newer,
        };
        let image = wasm::build(&workspace, version, Load::Programs, !options.no_install)?;
        return start(&image, wasm::KERNEL, options);
    }
    let program = Program {
        package: &options.package,
        name: &options.package,
        release: options.release || !options.dev,
        script: None,
        may_install: !options.no_install,
    };
    let image = build::build(&workspace, &program)?;
    start(&image, &options.package, options)
}

fn start(image: &Image, name: &str, options: &Options) -> Result<ExitCode> {
    let place = choose(options);
    eprintln!("{name} runs: {place}\n");
    let image = image.clone();
    let image = if options.no_lines { image } else { image.with_lines() };
    show(&place, &image, name, options)
}

/// QEMU if it is there, can be installed, and is wanted.
fn choose(options: &Options) -> Place {
    if options.process {
        return Place::Process;
    }
    match setup::find_or_install(&QEMU, !options.no_install) {
        Ok(program) => Place::Qemu { program, cpus: options.smp },
        Err(missing) => {
            eprintln!("{missing}\nUntil then, the same ELF file runs as a bare Linux process.");
            Place::Process
        }
    }
}

fn show(place: &Place, image: &Image, name: &str, options: &Options) -> Result<ExitCode> {
    let mut console = io::stdout();
    let limit = Duration::from_secs(options.timeout);
    let ran = place.run(image, &options.words, limit, &mut |bytes| {
        // A reader that went away (`| head`) is no reason to stop the kernel.
        let _ = console.write_all(bytes).and_then(|()| console.flush());
    })?;
    if let Outcome::Exit(code) = ran.outcome {
        if code != 0 {
            eprintln!("\n{name} ended with exit code {code}");
        }
        return Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)));
    }
    eprintln!("\n{name} did not end by itself: {}", ran.outcome);
    Ok(ExitCode::from(match ran.outcome {
        Outcome::Broken(End::TimedOut(_)) => TIMED_OUT,
        Outcome::Broken(End::Signal(signal)) => 128 + u8::try_from(signal).unwrap_or(0),
        _ => MACHINE_FAILED,
    }))
}
