//! `cargo xtask check`: what must hold before a change goes in.
//!
//! ```text
//! fmt · lock files · clippy and doc, with std and without · stable · rules
//! ```
//!
//! Every check runs, whatever the others say.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use crate::command;
use crate::packages::{
    STABLE, STABLE_KERNEL, STABLE_KERNEL_PROFILE, STABLE_UNWIND, STABLE_UNWIND_FLAGS, WITH_STD,
    WITHOUT_STD,
};
use crate::progress::{Step, show};
use crate::rules;
use crate::stable;
use crate::wasm;
use crate::workspace::Workspace;

/// Workspaces of their own whose dependencies nothing else needs, but for the kernel's guests.
const APART: &[&str] = &["tests/host/jit", "unwind/benches/compare"];

/// A check that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// What to check.
#[derive(Args)]
pub struct Options {
    /// Only the checks with this in their name (fmt, lock files, clippy, doc, stable, rules)
    filter: Option<String>,
}

/// A check by its name.
struct Check {
    name: &'static str,
    run: fn(&Workspace, &mut Step) -> Result<()>,
}

const CHECKS: &[Check] = &[
    Check { name: "fmt", run: fmt },
    Check { name: "rules", run: architecture },
    Check { name: "lock files", run: lock_files },
    Check {
        name: "clippy, with std",
        run: |workspace, step| clippy(workspace, step, Side::WithStd),
    },
    Check {
        name: "clippy, without std",
        run: |workspace, step| clippy(workspace, step, Side::WithoutStd),
    },
    Check {
        name: "clippy, panics abort",
        run: |workspace, step| clippy(workspace, step, Side::StableKernel),
    },
    Check { name: "clippy, apart", run: clippy_apart },
    Check { name: "doc, with std", run: |workspace, step| doc(workspace, step, Side::WithStd) },
    Check {
        name: "doc, without std",
        run: |workspace, step| doc(workspace, step, Side::WithoutStd),
    },
    Check { name: "stable", run: stable },
];

/// Does it.
///
/// # Errors
/// The workspace cannot be read.
pub fn check(options: &Options) -> Result<ExitCode> {
    let workspace = Workspace::load()?;
    let filter = options.filter.as_deref().unwrap_or_default();
    let chosen: Vec<_> = CHECKS.iter().filter(|check| check.name.contains(filter)).collect();
    if chosen.is_empty() {
        bail!("no check has `{filter}` in its name");
    }
    let mut failed = Vec::new();
    for check in &chosen {
        let mut step = Step::start(format!("check: {}", check.name));
        match (check.run)(&workspace, &mut step) {
            Ok(()) => step.end("ok"),
            Err(error) => {
                step.end("FAILED");
                eprintln!("{error:#}\n");
                failed.push(check.name);
            }
        }
    }
    if failed.is_empty() {
        show(&format!("{} checks passed", chosen.len()));
        return Ok(ExitCode::SUCCESS);
    }
    let (all, names) = (chosen.len(), failed.join("; "));
    show(&format!("{} of {all} checks failed: {names}", failed.len()));
    Ok(ExitCode::FAILURE)
}

/// Packages that can be in one build.
#[derive(Clone, Copy)]
enum Side {
    WithStd,
    WithoutStd,
    /// The kernels that are built by themselves. Checked by nightly's clippy: stable's may not be there.
    StableKernel,
}

impl Side {
    fn select(self, cargo: &mut Command) {
        let packages = match self {
            Self::WithStd => WITH_STD,
            Self::WithoutStd => WITHOUT_STD,
            Self::StableKernel => &[STABLE_KERNEL, STABLE_UNWIND],
        };
        for package in packages {
            cargo.args(["-p", package]);
        }
        match self {
            Self::WithStd => _ = cargo.arg("--no-default-features"),
            Self::WithoutStd => {}
            Self::StableKernel => _ = cargo.args(["--profile", STABLE_KERNEL_PROFILE]),
        }
    }
}

fn fmt(workspace: &Workspace, step: &mut Step) -> Result<()> {
    for folder in ["."].iter().chain(APART).chain(wasm::WORKSPACES) {
        let mut cargo = workspace.cargo();
        cargo.current_dir(workspace.root.join(folder));
        cargo.args(["fmt", "--all", "--check", "--", "--color=never"]);
        succeed(cargo, step)?;
    }
    // Objects for the suites belong to no package.
    let mut objects = Vec::new();
    if let Ok(folder) = workspace.root.join("tests/objects").read_dir() {
        let paths = folder.filter_map(|entry| Some(entry.ok()?.path()));
        objects.extend(paths.filter(|path| path.extension().is_some_and(|kind| kind == "rs")));
    }
    if objects.is_empty() {
        return Ok(());
    }
    let mut rustfmt = Command::new("rustfmt");
    rustfmt
        .current_dir(&workspace.root)
        .args(["--check", "--color=never", "--edition=2024"])
        .args(objects);
    succeed(rustfmt, step)
}

fn clippy(workspace: &Workspace, step: &mut Step, side: Side) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.arg("clippy");
    side.select(&mut cargo);
    if matches!(side, Side::WithStd) {
        // Kernels have no tests of their own here: they would need std next to their panic handler.
        cargo.arg("--all-targets");
    }
    cargo.args(["--", "-Dwarnings"]);
    succeed(cargo, step)
}

/// Only what builds them would find out: tests that nobody runs for every change.
fn lock_files(workspace: &Workspace, step: &mut Step) -> Result<()> {
    for look in wasm::lock_files(workspace) {
        succeed(look, step)?;
    }
    Ok(())
}

fn clippy_apart(workspace: &Workspace, step: &mut Step) -> Result<()> {
    for folder in APART {
        let mut cargo = workspace.cargo();
        cargo.current_dir(workspace.root.join(folder));
        cargo.args(["clippy", "--all-targets", "--locked", "--target-dir"]);
        cargo.arg(workspace.target.join("apart")).args(["--", "-Dwarnings"]);
        succeed(cargo, step)?;
    }
    Ok(())
}

fn doc(workspace: &Workspace, step: &mut Step, side: Side) -> Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["doc", "--no-deps"]).env("RUSTDOCFLAGS", "-Dwarnings");
    side.select(&mut cargo);
    succeed(cargo, step)
}

fn stable(workspace: &Workspace, step: &mut Step) -> Result<()> {
    let mut cargo = stable::cargo(workspace, step)?;
    cargo.args(["check", "--no-default-features"]);
    for package in STABLE {
        cargo.args(["-p", package]);
    }
    succeed(cargo, step)?;
    let mut cargo = stable::cargo(workspace, step)?;
    cargo.args(["build", "-p", STABLE_KERNEL, "--profile", STABLE_KERNEL_PROFILE]);
    succeed(cargo, step)?;
    let mut cargo = stable::cargo(workspace, step)?;
    cargo.args(["rustc", "--release", "-p", STABLE_UNWIND, "--bin", STABLE_UNWIND, "--"]);
    cargo.args(STABLE_UNWIND_FLAGS);
    succeed(cargo, step)
}

fn architecture(workspace: &Workspace, _: &mut Step) -> Result<()> {
    let violations = rules::violations(workspace)?;
    if violations.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = violations.iter().map(ToString::to_string).collect();
    bail!("{}", lines.join("\n"));
}

fn succeed(command: Command, step: &mut Step) -> Result<()> {
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_owned();
    let finished = command::run(command, LIMIT, &mut |bytes| step.feed(bytes))?;
    if !finished.end.success() {
        bail!("{}\n{}: {}", finished.messages(), name.display(), finished.end);
    }
    Ok(())
}
