//! Which package is built, tested and checked how. Tables only.
//!
//! A program that brings its own panic runtime cannot be in one build with a program on `std`: both
//! would define the same language items. So every package is on one side, or on both apart.
#![forbid(unsafe_code)]

/// A package that is tested on the host, on top of `std`.
pub struct HostTests {
    /// Its name.
    pub package: &'static str,
    /// What `cargo test` needs to be told.
    pub arguments: &'static [&'static str],
}

/// Host tests, in the order they run: foundations first.
pub const HOST_TESTS: &[HostTests] = &[
    HostTests { package: "unspool-tls", arguments: &[] },
    HostTests { package: "unspool-thread-local", arguments: &[] },
    HostTests { package: "unspool-unwind", arguments: &[] },
    HostTests { package: "unspool-stack-trace", arguments: &["--features", "build"] },
    HostTests { package: "unspool-loader", arguments: &[] },
    // Its own panic handler off: `std` brings one.
    HostTests { package: "unspool-panic", arguments: &["--no-default-features", "--lib"] },
    HostTests { package: "unspool-host-tests", arguments: &[] },
    HostTests { package: "xtask", arguments: &[] },
];

/// Packages that can be built next to `std`, with `--no-default-features`.
pub const WITH_STD: &[&str] = &[
    "unspool-tls",
    "unspool-thread-local",
    "unspool-unwind",
    "unspool-stack-trace",
    "unspool-loader",
    "unspool-panic",
    "unspool-host-tests",
    "xtask",
];

/// Packages that are built for kernels, with their default features.
pub const WITHOUT_STD: &[&str] = &[
    "unspool-panic",
    "unspool",
    "unspool-kernel",
    "unspool-demo",
    "unspool-load",
    "unspool-plugin",
    "unspool-suites",
    "unspool-unwind-so",
];

/// Packages that promise to build on the stable toolchain.
pub const STABLE: &[&str] =
    &["unspool-tls", "unspool-unwind", "unspool-stack-trace", "unspool-loader"];

/// The kernel that `cargo xtask run` shows.
pub const DEMO: &str = "unspool-demo";
/// The kernel that `cargo xtask load` passes files to.
pub const LOAD: &str = "unspool-load";
/// The crate that is not linked but loaded.
pub const PLUGIN: &str = "unspool-plugin";
/// The kernel that runs the suites.
pub const SUITES: &str = "unspool-suites";
