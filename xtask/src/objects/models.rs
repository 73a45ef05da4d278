//! One source, every way to reach a thread-local variable, every compiler.
//!
//! ```text
//!              local-exec  initial-exec  general-dynamic  local-dynamic  TLSDESC
//!   gcc            le           ie             gd              ld          desc
//!   clang          le           ie             gd              ld
//!   rustc          le           ie             gd              ld
//!                         ──► access.gcc-le.o, access.gcc-ie.o, …
//! ```

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use super::Job;
use crate::setup::{self, CLANG};

/// Where the sources are, from the root of the workspace.
const FOLDER: &str = "tests/objects/models";

/// A model: its name here, and what C compilers and rustc call it.
const MODELS: [(&str, &str); 4] = [
    ("le", "local-exec"),
    ("ie", "initial-exec"),
    ("gd", "global-dynamic"),
    ("ld", "local-dynamic"),
];

/// All of them, at both ends of optimization.
///
/// # Errors
/// A compiler is missing and cannot be installed.
pub fn jobs(may_install: bool) -> Result<Vec<Job>> {
    let clang = setup::find_or_install(&CLANG, may_install)?;
    let mut jobs = Vec::new();
    for level in ["0", "2"] {
        for (short, model) in MODELS {
            let flag = format!("-ftls-model={model}");
            jobs.push(job("gcc", short, level, c_compiler(Path::new("cc"), level, &[&flag])));
            jobs.push(job("clang", short, level, c_compiler(&clang, level, &[&flag])));
            jobs.push(job("rustc", short, level, rust_compiler(model, level)));
        }
        let desc = c_compiler(Path::new("cc"), level, &["-mtls-dialect=gnu2"]);
        jobs.push(job("gcc", "desc", level, desc));
    }
    Ok(jobs)
}

fn job(compiler: &str, model: &str, level: &str, command: Command) -> Job {
    let source = if compiler == "rustc" { "access.rs" } else { "access.c" };
    Job {
        source: Path::new(FOLDER).join(source),
        name: format!("access.{compiler}-{model}-O{level}.o"),
        command,
    }
}

fn c_compiler(program: &Path, level: &str, flags: &[&str]) -> Command {
    let mut cc = Command::new(program);
    cc.args(["-c", "-fPIC", "-ffreestanding", "-fexceptions", "-Wall", "-Werror"]);
    cc.arg(format!("-O{level}")).args(flags);
    cc
}

fn rust_compiler(model: &str, level: &str) -> Command {
    let mut rustc = super::rust_compiler(level);
    rustc.args(["-Crelocation-model=pic", &format!("-Ztls-model={model}")]);
    rustc
}
