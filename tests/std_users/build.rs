//! Ports crates by replacing paths in their sources, and links the program as a kernel.
//!
//! ```text
//! cargo's registry: NAME/src/*.rs ─► std:: becomes crate::std:: ─► OUT_DIR/NAME/*.rs
//! ```
//!
//! Nothing else is changed but what follows from a crate becoming a module: `crate::` gets longer,
//! its features are decided, its inner attributes go, its exported macros become names.
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

include!("../../examples/kernel/link.rs");

/// The crates, with the features that they have here.
const USERS: &[(&str, &[&str])] = &[
    ("crossbeam-epoch", &["alloc", "std"]),
    ("fragile", &["slab"]),
    ("scoped-tls", &[]),
    ("thread_local", &[]),
];

/// The users' style is their own.
const LENIENT: &str = "#[allow(warnings, missing_docs, unsafe_op_in_unsafe_fn, clippy::all)]
#[allow(clippy::undocumented_unsafe_blocks, clippy::missing_safety_doc)]
";

fn main() {
    link_kernel("unspool-std-users");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let metadata = metadata();
    let mut modules = String::new();
    for (package, features) in USERS {
        let name = package.replace('-', "_");
        let module = format!("crate::{name}");
        port(&source(&metadata, package), &out.join(&name), &module, features);
        let root = out.join(&name).join("lib.rs");
        modules += LENIENT;
        modules += &format!("#[path = {root:?}]\npub mod {name};\n");
    }
    fs::write(out.join("users.rs"), modules).expect("OUT_DIR is writable");
}

/// What cargo knows about this package's dependencies.
fn metadata() -> serde_json::Value {
    let cargo = env::var_os("CARGO").expect("cargo sets CARGO");
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--locked", "--filter-platform"])
        .arg(env::var("TARGET").expect("cargo sets TARGET"))
        .output()
        .expect("cargo starts");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata: {errors}");
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

/// The folder of a package's sources.
fn source(metadata: &serde_json::Value, package: &str) -> PathBuf {
    let packages = metadata["packages"].as_array().expect("packages");
    let found = packages.iter().find(|each| each["name"] == package).expect("a dependency");
    let manifest = Path::new(found["manifest_path"].as_str().expect("a path"));
    manifest.with_file_name("src")
}

fn port(from: &Path, to: &Path, module: &str, features: &[&str]) {
    fs::create_dir_all(to).expect("OUT_DIR is writable");
    for entry in fs::read_dir(from).expect("a package has sources") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name");
        if path.is_dir() {
            port(&path, &to.join(name), module, features);
        } else {
            let text = fs::read_to_string(&path).expect("sources are text");
            fs::write(to.join(name), ported(&text, module, features)).expect("OUT_DIR is writable");
        }
    }
}

/// A source file with its paths replaced.
fn ported(text: &str, module: &str, features: &[&str]) -> String {
    let mut text = without_inner_attributes(text).replace("extern crate std;", "");
    for feature in features {
        text = text.replace(&format!("feature = \"{feature}\""), "true");
    }
    text = replace_path(&text.replace("$crate::", "crate::"), "crate::", &format!("{module}::"));
    text = replace_path(&text, "::std::", "std::");
    text = replace_path(&text, "std::", "crate::std::");
    // What was exported from the root of a crate is now a name in the root module of the user.
    for exported in text.clone().split(EXPORT).skip(1) {
        let name = exported.trim_start().trim_start_matches("macro_rules! ");
        let name: String = name.chars().take_while(|&c| in_a_name(c)).collect();
        text += &format!("\npub(crate) use {name};\n");
    }
    format!("use crate::std::prelude::*;\n{}", text.replace(EXPORT, ""))
}

const EXPORT: &str = "#[macro_export]";

fn in_a_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Replaces a path where it begins, not in the middle of a longer one.
fn replace_path(text: &str, old: &str, new: &str) -> String {
    let mut parts = text.split(old);
    let mut result = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let inside = result.ends_with(|c| in_a_name(c) || c == ':');
        result += if inside { old } else { new };
        result += part;
    }
    result
}

/// What is left when the attributes and the documentation of the crate itself are gone.
fn without_inner_attributes(text: &str) -> String {
    let mut lines = Vec::new();
    let mut open = 0;
    for line in text.lines() {
        let brackets = line.matches('[').count() as isize - line.matches(']').count() as isize;
        if open > 0 || line.starts_with("#![") {
            open += brackets;
        } else if !line.trim_start().starts_with("//!") {
            lines.push(line);
        }
    }
    lines.join("\n")
}
