//! Compiles sources of the tests to relocatable objects.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A file name in the tests' own directory that no other test uses.
pub fn scratch(extension: &str) -> PathBuf {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("loader-{}-{number}.{extension}", std::process::id());
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn build(source: &str, extension: &str, command: &mut Command) -> Vec<u8> {
    let (source_file, object_file) = (scratch(extension), scratch("o"));
    std::fs::write(&source_file, source).unwrap();
    let output = command.arg(&source_file).arg("-o").arg(&object_file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let object = std::fs::read(&object_file).unwrap();
    std::fs::remove_file(source_file).unwrap();
    std::fs::remove_file(object_file).unwrap();
    object
}

/// An object from Rust source (`#![no_std]` is put before it).
pub fn rust(source: &str, flags: &[&str]) -> Vec<u8> {
    rust_crate(&format!("#![no_std]\n#![feature(thread_local)]\n{source}"), flags)
}

/// An object from Rust source as it is.
pub fn rust_crate(source: &str, flags: &[&str]) -> Vec<u8> {
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let mut command = Command::new(rustc);
    // The sources use nightly features; the loader itself is for stable compilers as well.
    command.env("RUSTC_BOOTSTRAP", "1");
    command.args(["--edition=2024", "--crate-type=lib", "--crate-name=guest", "--emit=obj"]);
    command.args(["-Cpanic=unwind", "-Ccodegen-units=1"]);
    build(source, "rs", command.args(flags))
}

/// The flag sets of [`rust`] that every test of Rust objects goes through.
pub const RUST_FLAGS: [&[&str]; 4] = [
    &["-Crelocation-model=static", "-Copt-level=0"],
    &["-Crelocation-model=static", "-Copt-level=2"],
    &["-Crelocation-model=pic", "-Copt-level=0"],
    &["-Crelocation-model=pic", "-Copt-level=2"],
];

/// An object from C source, or `None` where there is no compiler for it.
pub fn c(source: &str, flags: &[&str]) -> Option<Vec<u8>> {
    gnu("gcc", source, "c", flags)
}

/// An object from C++ source, or `None` where there is no compiler for it.
pub fn cpp(source: &str, flags: &[&str]) -> Option<Vec<u8>> {
    gnu("g++", source, "cc", flags)
}

/// Whether there is such a compiler; asked once of each.
pub fn exists(compiler: &str) -> bool {
    static ASKED: Mutex<BTreeMap<String, bool>> = Mutex::new(BTreeMap::new());
    let mut asked = ASKED.lock().unwrap();
    let answer = || Command::new(compiler).arg("--version").output().is_ok();
    *asked.entry(compiler.into()).or_insert_with(answer)
}

/// An object from source with this extension, or `None` where there is no such compiler.
pub fn gnu(compiler: &str, source: &str, extension: &str, flags: &[&str]) -> Option<Vec<u8>> {
    if !exists(compiler) {
        return None;
    }
    let mut command = Command::new(compiler);
    command.args(["-c", "-O2", "-ffreestanding", "-fno-stack-protector"]);
    Some(build(source, extension, command.args(flags)))
}

/// A static library with an index, made of files with names, or `None` where there is no `ar`.
pub fn archive(members: &[(&str, &[u8])]) -> Option<Vec<u8>> {
    if !exists("ar") {
        return None;
    }
    let folder = scratch("d");
    std::fs::create_dir(&folder).unwrap();
    let mut command = Command::new("ar");
    command.current_dir(&folder).args(["rcsD", "library.a"]);
    for (name, bytes) in members {
        std::fs::write(folder.join(name), bytes).unwrap();
        command.arg(name);
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let archive = std::fs::read(folder.join("library.a")).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    Some(archive)
}
