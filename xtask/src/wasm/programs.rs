//! Compiles programs to WebAssembly, and those of substance for the host as well.
//!
//! ```text
//!   programs/*.wat ──────────────────────────────────────────────► as it is
//!   programs/*.c ────────────────────── clang, no libc ──────────► NAME.wasm
//!   programs/wasi/compress.c, zlib, lz4 ┬─ clang, wasi-libc ─────► compress.wasm
//!                                       └─ cc ─► run here ───────► compress.expected
//!   guest (crates of others) ───────────┬─ rustc, wasm32 ────────► guest.wasm
//!                                       └─ rustc ─► run here ────► guest.expected
//! ```
//!
//! The first line of an expectation is how the program is called: its words, then its environment.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::{FOLDER, Wasmtime, cargo, run, sorted};
use crate::build;
use crate::fetched::Sources;
use crate::setup::{self, CLANG, WASI_LIBC, WASM_LD, in_path};
use crate::workspace::Workspace;

/// The package whose crates are compiled by rustc, and how its library is called.
const GUEST: &str = "unspool-wasmtime-guest";
const GUEST_LIBRARY: &str = "unspool_wasmtime_guest";
/// What it is compiled for. It has `std`, and imports nothing.
const RUST_TARGET: &str = "wasm32-unknown-unknown";

/// A program in C, with a C library.
const COMPRESS: &str = "compress";
/// How much it compresses, and how well.
const BYTES: &str = "200000";
const LEVELS: (&str, &str) = ("LEVELS", "1 6 9");
/// All of zlib but for what reads and writes files; what has lz4's formats without frames.
const ZLIB_SOURCES: [&str; 10] = [
    "adler32", "compress", "crc32", "deflate", "inffast", "inflate", "inftrees", "trees",
    "uncompr", "zutil",
];
const LZ4_SOURCES: [&str; 2] = ["lz4", "lz4hc"];

/// Compiles all of them into `out`. Returns what is left to be compiled for wasmtime: text, or binary.
pub fn compile(
    workspace: &Workspace,
    version: Wasmtime,
    out: &Path,
    may_install: bool,
) -> Result<Vec<PathBuf>> {
    let clang = setup::find_or_install(&CLANG, may_install)?;
    setup::find_or_install(&WASM_LD, may_install)?;
    setup::find_or_install(&WASI_LIBC, may_install)?;
    let mut files = Vec::new();
    for file in sorted(&workspace.root.join(FOLDER).join("programs"))? {
        match file.extension().and_then(OsStr::to_str) {
            Some("c") => files.push(freestanding(&clang, &file, out)?),
            Some("wat") => files.push(file),
            _ => {}
        }
    }
    files.push(with_libc(workspace, &clang, out)?);
    files.push(guest(workspace, version, out, may_install)?);
    Ok(files)
}

/// A C program without anything but itself.
fn freestanding(clang: &Path, file: &Path, out: &Path) -> Result<PathBuf> {
    let name = file.file_stem().context("a file has a name")?;
    let module = out.join(name).with_extension("wasm");
    let mut compiler = Command::new(clang);
    compiler.args(["--target=wasm32", "-O2", "-ffreestanding", "-nostdlib", "-Wall", "-Wextra"]);
    compiler.args(["-Werror", "-Wl,--no-entry", "-Wl,--export-dynamic", "-Wl,-z,stack-size=65536"]);
    compiler.arg("-o").arg(&module).arg(file);
    run(compiler, &format!("clang {}", file.display()))?;
    Ok(module)
}

/// zlib and lz4, twice; what the host's says is what is expected.
fn with_libc(workspace: &Workspace, clang: &Path, out: &Path) -> Result<PathBuf> {
    let Sources { zlib, lz4 } = Sources::fetch(workspace)?;
    let mut files = vec![workspace.root.join(FOLDER).join("programs/wasi").join(COMPRESS)];
    files.extend(ZLIB_SOURCES.map(|name| zlib.join(name)));
    files.extend(LZ4_SOURCES.map(|name| lz4.join(name)));
    let compile = |mut compiler: Command, to: &Path| {
        compiler.args(["-O2", "-o"]).arg(to).arg("-I").arg(&zlib).arg("-I").arg(&lz4);
        compiler.args(files.iter().map(|file| file.with_extension("c")));
        run(compiler, &format!("compiling {}", to.display()))
    };
    let module = out.join(COMPRESS).with_extension("wasm");
    let mut compiler = Command::new(clang);
    compiler.arg("--target=wasm32-wasi");
    compile(compiler, &module)?;
    let program = out.join(COMPRESS);
    compile(Command::new("cc"), &program)?;
    let mut command = Command::new(&program);
    // Called as in the kernel: it prints its own name.
    std::os::unix::process::CommandExt::arg0(&mut command, COMPRESS);
    command.arg(BYTES).env_clear().env(LEVELS.0, LEVELS.1);
    let (name, value) = LEVELS;
    expect(command, &format!("{COMPRESS}\t{BYTES}\t{name}={value}"), &module)?;
    Ok(module)
}

/// Crates, twice, likewise.
fn guest(
    workspace: &Workspace,
    version: Wasmtime,
    out: &Path,
    may_install: bool,
) -> Result<PathBuf> {
    rust_target(may_install)?;
    let target = ["--lib", "--target", RUST_TARGET];
    let built = cargo(workspace, FOLDER, version, GUEST, "host", &target)?;
    let built = build::artifact(&built, GUEST_LIBRARY, ".wasm").context("cargo built no module")?;
    let module = out.join("guest.wasm");
    fs::copy(built, &module)?;
    let program = cargo(workspace, FOLDER, version, GUEST, "host", &["--bins"])?;
    let program = build::artifact(&program, GUEST, "").context("cargo built no program")?;
    expect(Command::new(program), "guest", &module)?;
    Ok(module)
}

/// Runs a program of the host, and keeps what it prints next to `module`.
fn expect(mut command: Command, called: &str, module: &Path) -> Result<()> {
    let output = command.output()?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{called}, on the host: {}\n{errors}", output.status);
    let mut expected = format!("{called}\n").into_bytes();
    expected.extend(output.stdout);
    fs::write(module.with_extension("expected"), expected)?;
    Ok(())
}

/// The standard library for WebAssembly, of the toolchain that is in use.
fn rust_target(may_install: bool) -> Result<()> {
    let mut rustc = Command::new("rustc");
    rustc.args(["--print", "target-libdir", "--target", RUST_TARGET]);
    let folder = String::from_utf8(rustc.output().context("rustc")?.stdout)?;
    if Path::new(folder.trim()).is_dir() {
        return Ok(());
    }
    let missing = format!("rustc has no {RUST_TARGET}: rustup target add {RUST_TARGET}");
    if !may_install || in_path("rustup").is_none() {
        bail!(missing);
    }
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add", RUST_TARGET]);
    run(rustup, &missing)
}
