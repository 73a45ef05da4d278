//! `cargo xtask bench`: us and the peers, on the same work, in one run.
//!
//! ```text
//! bench target ──► table: row │ ours, ns │ theirs, ns │ ratio
//! ```
//!
//! A bench never fails because of a time.

mod unwind;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;

use crate::command;
use crate::progress::{Step, show};
use crate::wasm;
use crate::workspace::Workspace;

/// Building and running one bench target.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// Bench targets: package, name, what they compare with.
const BENCHES: &[(&str, &str, &str)] =
    &[("unspool-tls", "compare", "glibc"), ("unspool-loader", "compare", "glibc and LLVM")];

/// What is measured when it is asked for: it takes minutes to build.
const WASMTIME: &str = "wasmtime";

/// What to measure.
#[derive(Args)]
pub struct Options {
    /// Only the packages with this in their name; `wasmtime` only when asked for
    filter: Option<String>,
}

/// Does it.
///
/// # Errors
/// A bench does not build or does not run.
pub fn bench(options: &Options) -> Result<ExitCode> {
    let workspace = Workspace::load()?;
    let filter = options.filter.as_deref().unwrap_or_default();
    ensure!(is_known(filter), "no bench has `{filter}` in its name: {}", names().join(", "));
    let mut failed = false;
    for (package, name, peer) in BENCHES.iter().filter(|(package, ..)| package.contains(filter)) {
        let mut step = Step::start(format!("{package} against {peer}"));
        let mut cargo = workspace.cargo();
        cargo.args(["bench", "--quiet", "--package", package, "--bench", name]);
        let finished = command::run(cargo, LIMIT, &mut |bytes| step.feed(bytes))?;
        step.end(if finished.end.success() { "done" } else { "failed" });
        show(&format!("{}\n", finished.output));
        failed |= !finished.end.success();
    }
    if !filter.is_empty() && WASMTIME.contains(filter) {
        show(&wasm::bench(&workspace)?);
    }
    if unwind::PACKAGE.contains(filter) {
        failed |= !unwind::bench(&workspace)?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What can be asked for.
fn names() -> Vec<&'static str> {
    BENCHES.iter().map(|&(package, ..)| package).chain([unwind::PACKAGE, WASMTIME]).collect()
}

/// Whether a filter means any bench.
fn is_known(filter: &str) -> bool {
    names().iter().any(|name| name.contains(filter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_means_nothing_is_known_as_such() {
        assert!(["", "unspool", "tls", "loader", "unwind", "wasm"].into_iter().all(is_known));
        assert!(!is_known("unspool-tlss"));
    }
}
