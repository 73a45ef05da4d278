//! Tells the linker the names and versions of what the library exports.
//!
//! The linker is lld, rustc's own, or gold: rustc passes a version script without a version of
//! its own, which GNU ld refuses to combine with one that has some.

fn main() {
    let versions = concat!(env!("CARGO_MANIFEST_DIR"), "/versions.map");
    println!("cargo:rerun-if-changed={versions}");
    println!("cargo:rustc-link-arg-cdylib=-Wl,--version-script={versions}");
    println!("cargo:rustc-link-arg-cdylib=-Wl,-soname,libgcc_s.so.1");
    // Arithmetic that compilers call: the same code as in libgcc_s.so.1.
    println!("cargo:rustc-link-arg-cdylib=-lgcc");
}
