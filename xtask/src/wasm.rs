//! Builds the kernel with wasmtime, and compiles what runs on it.
//!
//! ```text
//! examples/wasmtime (a workspace of its own)
//!   cargo build kernel ──► embed symbols ──► NAME.elf
//!   cargo build compile ─► programs ─────────────► *.cwasm ─┬─► NAME.cpio
//!                        └► the specification's tests ──────┘
//! ```
//!
//! Its lock file says which wasmtime that is; there is another lock file, for a newer one.
//!
//! `bench` runs the kernel as a process, and a program on `std` with the same modules, in turns; see
//! `turns`.
//!
//! Nothing else builds wasmtime: who does not ask for it does not wait for it.

mod programs;
mod turns;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use self::turns::Turns;
use crate::build::{self, BUILD_LIMIT, Image};
use crate::command;
use crate::cpio::Member;
use crate::progress::Step;
use crate::workspace::Workspace;

/// The folder of the workspace.
const FOLDER: &str = "examples/wasmtime";
/// The package of the kernel.
pub const KERNEL: &str = "unspool-wasmtime-kernel";
/// The package of the program that compiles WebAssembly.
const COMPILE: &str = "unspool-wasmtime-compile";
/// Where the lock file of the newer wasmtime is, and what says so to cargo.
const NEWER: &str = "examples/wasmtime/newer/Cargo.lock";
const LOCK_FILE: &str = "CARGO_RESOLVER_LOCKFILE_PATH";
/// The program on `std`, and its folder.
const PEER: &str = "unspool-wasmtime-peer";
const PEER_FOLDER: &str = "examples/wasmtime/peer";
/// Workspaces of their own.
pub const WORKSPACES: &[&str] = &[FOLDER, PEER_FOLDER];
/// The profile of what is measured, on both sides.
const MEASURED: &str = "measured";
/// How often each side is measured: for as long as a minute or so.
const TURNS: u32 = 15;

/// What the kernel is started with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// The programs that show what it can do.
    Programs,
    /// The specification's tests.
    Spec,
    /// The programs, for measurements: optimized as a whole, as the program on `std` is then.
    Measured,
}

impl Load {
    const fn name(self, version: Wasmtime) -> &'static str {
        match (self, version) {
            (Self::Programs, Wasmtime::Locked) => "wasmtime",
            (Self::Programs, Wasmtime::Newer) => "wasmtime-newer",
            (Self::Spec, Wasmtime::Locked) => "wasm-spec",
            (Self::Spec, Wasmtime::Newer) => "wasm-spec-newer",
            (Self::Measured, Wasmtime::Locked) => "wasmtime-measured",
            (Self::Measured, Wasmtime::Newer) => "wasmtime-newer-measured",
        }
    }

    /// The kernel's profile.
    const fn profile(self) -> &'static str {
        match self {
            Self::Programs | Self::Spec => "release",
            Self::Measured => MEASURED,
        }
    }
}

/// Which wasmtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wasmtime {
    /// That of the workspace's lock file.
    Locked,
    /// That of the other lock file: nothing here depends on one version.
    Newer,
}

/// Builds the kernel and what it runs.
///
/// # Errors
/// Something does not compile; the compiler's messages are part of the error.
pub fn build(
    workspace: &Workspace,
    version: Wasmtime,
    load: Load,
    may_install: bool,
) -> Result<Image> {
    let name = load.name(version);
    let compile = program(workspace, FOLDER, version, COMPILE, "host")?;
    let kernel = program(workspace, FOLDER, version, KERNEL, load.profile())?;
    let out = workspace.output().join(name);
    // What an earlier run left there might not be made again.
    let _ = fs::remove_dir_all(&out);
    fs::create_dir_all(&out)?;
    let mut compiler = Command::new(compile);
    match load {
        Load::Programs | Load::Measured => {
            let files = programs::compile(workspace, version, &out, may_install)?;
            compiler.arg("modules").arg(&out).args(files);
        }
        Load::Spec => {
            compiler.arg("spec").arg(&out);
        }
    }
    run(compiler, &format!("compiling {name}"))?;
    let mut modules = Vec::new();
    for file in sorted(&out)? {
        let kinds = ["cwasm", "expected", "spec"];
        if kinds.iter().any(|&kind| file.extension() == Some(OsStr::new(kind))) {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            modules.push(Member { name, data: fs::read(&file)? });
        }
    }
    build::finish(workspace, name, &kernel, &modules)
}

/// Builds a package of a workspace of its own; returns its executable.
fn program(
    workspace: &Workspace,
    folder: &str,
    version: Wasmtime,
    package: &str,
    profile: &str,
) -> Result<PathBuf> {
    let messages = cargo(workspace, folder, version, package, profile, &[])?;
    build::artifact(&messages, package, "")
        .with_context(|| format!("cargo built no executable {package}"))
}

/// Builds a package of a workspace of its own, or a part of it; returns cargo's messages.
fn cargo(
    workspace: &Workspace,
    folder: &str,
    version: Wasmtime,
    package: &str,
    profile: &str,
    part: &[&str],
) -> Result<String> {
    let mut step = Step::start(format!("building {package}"));
    let mut cargo = workspace.cargo();
    cargo.current_dir(workspace.root.join(folder));
    let name = Path::new(folder).file_name().context("a folder has a name")?;
    // One for both versions: most of what they are built of is the same.
    cargo.env("CARGO_TARGET_DIR", workspace.target.join(name));
    if version == Wasmtime::Newer {
        cargo.env(LOCK_FILE, workspace.root.join(NEWER));
    }
    cargo.args(["build", "--locked", "--message-format=json-render-diagnostics", "-p", package]);
    cargo.args(["--profile", profile]).args(part);
    let finished = command::run(cargo, BUILD_LIMIT, &mut |bytes| step.feed(bytes))?;
    if !finished.end.success() {
        step.end("failed");
        bail!("{package} does not build ({}):\n{}", finished.end, finished.messages());
    }
    step.end("built");
    Ok(finished.output)
}

/// What says of every lock file here whether it is that of the manifests: commands that only look.
///
/// They need the registry's index, and no crate's source.
pub fn lock_files(workspace: &Workspace) -> Vec<Command> {
    let files = WORKSPACES.iter().map(|&folder| (folder, None));
    let newer = (FOLDER, Some(workspace.root.join(NEWER)));
    let look = |(folder, lock_file): (&str, Option<PathBuf>)| {
        let mut cargo = workspace.cargo();
        cargo.current_dir(workspace.root.join(folder)).args(["update", "--workspace", "--locked"]);
        cargo.envs(lock_file.map(|file| (LOCK_FILE, file)));
        cargo
    };
    files.chain([newer]).map(look).collect()
}

/// What is measured in the kernel, as a process, and in a program on `std`, in turns; leaves it in
/// `target/bench/wasmtime.json`, too. Returns a table.
///
/// # Errors
/// Something does not build or does not run.
pub fn bench(workspace: &Workspace) -> Result<String> {
    let image = build(workspace, Wasmtime::Locked, Load::Measured, true)?;
    let peer = program(workspace, PEER_FOLDER, Wasmtime::Locked, PEER, MEASURED)?;
    let modules = workspace.output().join(Load::Measured.name(Wasmtime::Locked));
    let mut turns = Turns::default();
    let mut step = Step::start(format!("{TURNS} turns"));
    for turn in 0..TURNS {
        let mut kernel = Command::new(&image.elf);
        kernel.arg(&image.modules).arg("measure");
        let mut std = Command::new(&peer);
        std.args(["calls.cwasm", "queens.cwasm"].map(|name| modules.join(name)));
        let mut sides = [(0, kernel), (1, std)];
        // Neither always comes first.
        if !turn.is_multiple_of(2) {
            sides.reverse();
        }
        for (side, command) in sides {
            let finished = command::run(command, BUILD_LIMIT, &mut |bytes| step.feed(bytes))?;
            if !finished.end.success() {
                step.end("failed");
                bail!("{}:\n{}", finished.end, finished.output);
            }
            turns.add(side, &finished.output);
        }
    }
    step.end("done");
    let folder = workspace.target.join("bench");
    fs::create_dir_all(&folder)?;
    let file = folder.join("wasmtime.json");
    fs::write(&file, serde_json::to_string_pretty(&turns.json())?)?;
    Ok(format!("{turns}written: {}", file.display()))
}

/// Runs a compiler to its end.
fn run(compiler: Command, what: &str) -> Result<()> {
    let mut step = Step::start(what);
    let finished = command::run(compiler, BUILD_LIMIT, &mut |bytes| step.feed(bytes))?;
    if !finished.end.success() {
        step.end("failed");
        bail!("{what} ({}):\n{}", finished.end, finished.output);
    }
    step.end(finished.output.trim());
    Ok(())
}

/// The files of a folder, by name.
fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}
