//! Functions that Cranelift compiles at run time, with the unwind tables that it has for them.
//!
//! The program is a package of its own, in a workspace of its own: its dependencies are a compiler.

use std::path::Path;

use crate::harness::{cargo, compare, run, scratch};

#[test]
fn panics_pass_through_what_cranelift_compiled_while_it_is_registered() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("jit");
    let target = scratch().join("cranelift");
    let mut build = cargo();
    build
        .args(["build", "--release", "--locked", "--target-dir"])
        .arg(&target)
        .arg("--manifest-path");
    run(build.arg(folder.join("Cargo.toml")));
    let program = target.join("release/unspool-jit-program");
    compare(&program, "walk: 5, - leaf nest nest nest nest nest nest\n");
    compare(&program, "drop below compiled code (true)\ndrop between compiled frames (true)\n");
    // Deregistered: a walk ends there, an exception is refused, a panic cannot begin.
    let refused = "walk: 5, - leaf\ndrop above compiled code (false)\nreturned 465\nraised: 5\n";
    compare(&program, refused);
    compare(&program, "failed to initiate panic, error 5, aborting\nsignal: 6 (SIGABRT)");
}
