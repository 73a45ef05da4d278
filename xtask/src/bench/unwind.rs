//! The unwinder's bench: what it measures is built by several cargos.
//!
//! ```text
//!   this workspace: the shared library, a kernel that throws ─┐
//!   unwind/benches/compare: the bench and its peers ──────────┴─► table, target/bench/unwind.{json,svg,md}
//! ```

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::build::{self, Program};
use crate::command;
use crate::packages::THROW_BENCH;
use crate::progress::Step;
use crate::workspace::Workspace;

/// The package that is measured.
pub const PACKAGE: &str = "unspool-unwind";
/// A build or a run that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// Does it; whether all went well.
///
/// # Errors
/// Something does not build or does not run.
pub fn bench(workspace: &Workspace) -> Result<bool> {
    let program = Program {
        package: THROW_BENCH,
        name: THROW_BENCH,
        release: true,
        script: None,
        may_install: false,
    };
    let bare = build::build(workspace, &program)?;
    let mut library = workspace.cargo();
    library.args(["build", "--release", "--package", "unspool-unwind-so"]);
    finish("building the shared library", library)?;
    let target = workspace.target.join("peers");
    let mut peers = workspace.cargo();
    peers.args(["build", "--release", "--workspace", "--locked", "--manifest-path"]);
    peers.arg("unwind/benches/compare/Cargo.toml").arg("--target-dir").arg(&target);
    finish("building the peers", peers)?;

    let release = target.join("release");
    let mut bench = Command::new(release.join("unspool-unwind-bench"));
    bench.arg("--ours").arg(workspace.target.join("release/libunspool_unwind.so"));
    bench.arg("--unwinding").arg(release.join("libunspool_bench_unwinding.so"));
    bench.arg("--bare").arg(&bare.elf);
    bench.arg("--output").arg(workspace.target.join("bench"));
    // Its own progress, and rows as they come.
    Ok(bench.status()?.success())
}

fn finish(what: &str, command: Command) -> Result<()> {
    let mut step = Step::start(what.to_owned());
    let finished = command::run(command, LIMIT, &mut |bytes| step.feed(bytes))?;
    let success = finished.end.success();
    step.end(if success { "done" } else { "failed" });
    ensure!(success, "{}", finished.messages());
    Ok(())
}
