//! Real binaries to look at: what every machine that builds this has.
//!
//! ```text
//!   C: libc.so.6   C++: libstdc++.so.6   Rust: librustc_driver, libstd   ours: the suites' kernel
//! ```
//!
//! Whatever is missing is a panic that says so.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The C library that this program runs with.
pub fn libc() -> PathBuf {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux has it");
    let path = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    path.map(PathBuf::from)
        .find(|path| starts_with(path, "libc.so.6"))
        .expect("libc.so.6 is loaded")
}

/// The C++ library.
pub fn libstdcxx() -> PathBuf {
    let path = output("cc", &["-print-file-name=libstdc++.so.6"]);
    path.canonicalize().expect("libstdc++ comes with g++")
}

/// The Rust compiler: the largest library here, of about 100 MB.
pub fn rustc_driver() -> PathBuf {
    in_sysroot("lib", "librustc_driver-")
}

/// Rust's standard library as a shared one.
pub fn libstd() -> PathBuf {
    in_sysroot("lib/rustlib/x86_64-unknown-linux-gnu/lib", "libstd-")
}

/// A kernel of ours, built for this.
pub fn kernel() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let cargo = std::env::var("CARGO").unwrap_or("cargo".into());
    let build = ["build", "--release", "--package", "unspool-suites", "--message-format", "json"];
    let built = Command::new(cargo).args(build).current_dir(root).output().expect("cargo runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let messages = String::from_utf8(built.stdout).expect("JSON is UTF-8");
    // The last message with an executable is that of the package itself.
    let field = "\"executable\":\"";
    let path = messages.rsplit_once(field).and_then(|(_, rest)| rest.split_once('"'));
    path.expect("the suites are a program").0.into()
}

fn in_sysroot(folder: &str, name: &str) -> PathBuf {
    let rustc = std::env::var("RUSTC").unwrap_or("rustc".into());
    let folder = output(&rustc, &["--print", "sysroot"]).join(folder);
    let files = std::fs::read_dir(&folder).expect("the toolchain has this folder");
    let mut files = files.map(|entry| entry.expect("it can be read").path());
    let library = |path: &PathBuf| {
        starts_with(path, name) && path.extension().is_some_and(|extension| extension == "so")
    };
    files.find(library).unwrap_or_else(|| panic!("no {name}*.so in {}", folder.display()))
}

fn starts_with(path: &Path, name: &str) -> bool {
    path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name))
}

fn output(program: &str, arguments: &[&str]) -> PathBuf {
    let output = Command::new(program).args(arguments).output().expect("it is installed");
    PathBuf::from(String::from_utf8(output.stdout).expect("a path in UTF-8").trim())
}
