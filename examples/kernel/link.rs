// Included by the build script of every program that runs on this kernel:
//
//     //! Links the program as a kernel.
//     include!("../kernel/link.rs");
//
//     fn main() {
//         link_kernel("unspool-demo");
//     }
//
// The linker script travels inside the build script, so that no path needs to be known and a
// changed script links again.

/// Links the binary target `bin` of the package being built, without a C runtime and by the
/// kernel's linker script, or by the one that `UNSPOOL_LINKER_SCRIPT` names.
fn link_kernel(bin: &str) {
    const REPLACEMENT: &str = "UNSPOOL_LINKER_SCRIPT";
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={REPLACEMENT}");
    let script = match std::env::var_os(REPLACEMENT).filter(|path| !path.is_empty()) {
        Some(path) => {
            let path = std::path::PathBuf::from(path);
            println!("cargo::rerun-if-changed={}", path.display());
            path
        }
        None => {
            let out = std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts");
            let path = std::path::Path::new(&out).join("kernel.ld");
            std::fs::write(&path, include_str!("kernel.ld")).expect("OUT_DIR is writable");
            path
        }
    };
    let script = format!("-T{}", script.display());
    let arguments = [
        "-nostartfiles",
        "-nostdlib",
        "-static",
        "-no-pie",
        // Code that is loaded later may call what nothing calls yet.
        "-Wl,--no-gc-sections",
        "-Wl,--eh-frame-hdr",
        "-Wl,--build-id=sha1",
        "-Wl,-z,max-page-size=4096",
        "-Wl,-z,noexecstack",
        "-Wl,-z,norelro",
        &script,
    ];
    for argument in arguments {
        println!("cargo::rustc-link-arg-bin={bin}={argument}");
    }
}
