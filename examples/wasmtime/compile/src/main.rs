//! Compiles WebAssembly for the kernel, on the host.
//!
//! ```text
//!   modules OUT a.wat b.wasm … ─► OUT/a.cwasm OUT/b.cwasm …
//!   spec    OUT                ─► OUT/*.spec: the specification's tests
//! ```

extern crate alloc;

#[path = "../../shared/config.rs"]
mod config;
#[path = "../../shared/record.rs"]
mod record;
mod spec;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use wasmtime::error::Context;
use wasmtime::{Engine, Result, bail};

/// Where the code will run. It is compiled as for Linux: the kernel is.
const TARGET: &str = "x86_64-unknown-linux-gnu";

fn main() -> Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(what), Some(out)) = (arguments.next(), arguments.next()) else {
        bail!("usage: unspool-wasmtime-compile (modules DIRECTORY FILES | spec DIRECTORY)");
    };
    let out = PathBuf::from(out);
    let mut config = config::config();
    config.target(TARGET)?;
    let engine = Engine::new(&config)?;
    match what.to_str() {
        Some("modules") => modules(&engine, &out, arguments),
        Some("spec") => spec::write(&engine, &out),
        _ => bail!("unknown: {}", what.display()),
    }
}

/// Compiles files, text or binary, to files of the same names.
fn modules(engine: &Engine, out: &Path, files: impl Iterator<Item = OsString>) -> Result<()> {
    fs::create_dir_all(out)?;
    for file in files.map(PathBuf::from) {
        let in_file = || file.display().to_string();
        let module = wat::parse_file(&file).with_context(in_file)?;
        let code = engine.precompile_module(&module).with_context(in_file)?;
        let name = file.file_stem().context("a file has a name")?;
        fs::write(out.join(name).with_extension("cwasm"), code)?;
    }
    Ok(())
}
