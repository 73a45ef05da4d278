//! The stable toolchain, for what promises to build with it.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::command::{self, first_line};
use crate::progress::Step;
use crate::setup::in_path;
use crate::workspace::Workspace;

/// A download on a slow line.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// `cargo` of the stable toolchain in the workspace's root, installed first if it is missing. It
/// builds apart, so that neither toolchain waits for the other or evicts its files.
///
/// # Errors
/// rustup is missing, or cannot install it.
pub fn cargo(workspace: &Workspace, step: &mut Step) -> Result<Command> {
    if in_path("rustup").is_none() {
        bail!("the stable toolchain comes from rustup, which is missing: see https://rustup.rs");
    }
    if first_line("rustup", &["run", "stable", "rustc", "--version"]).is_none() {
        let mut install = Command::new("rustup");
        install.args(["toolchain", "install", "stable", "--profile=minimal"]);
        let finished = command::run(install, LIMIT, &mut |bytes| step.feed(bytes))?;
        if !finished.end.success() {
            bail!("{}\nrustup: {}", finished.messages(), finished.end);
        }
    }
    let mut cargo = Command::new("rustup");
    cargo.args(["run", "stable", "cargo"]).current_dir(&workspace.root);
    cargo.env("CARGO_TARGET_DIR", workspace.target.join("stable"));
    Ok(cargo)
}
