//! Which package is built, tested and checked how. Tables only.
//!
//! A program that brings its own panic runtime cannot be in one build with a program on `std`: both
//! would define the same language items. So every package is on one side, or on both apart.
#![forbid(unsafe_code)]

use std::fmt;

/// A package that is tested on the host, on top of `std`.
pub struct HostTests {
    /// Its name.
    pub package: &'static str,
    /// What `cargo test` needs to be told.
    pub arguments: &'static [&'static str],
    /// With the stable toolchain.
    pub stable: bool,
}

impl HostTests {
    const fn new(package: &'static str, arguments: &'static [&'static str]) -> Self {
        Self { package, arguments, stable: false }
    }

    const fn on_stable(self) -> Self {
        Self { stable: true, ..self }
    }
}

impl fmt::Display for HostTests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stable = if self.stable { ", stable" } else { "" };
        let lto = if self.arguments == FAT_LTO { ", fat LTO" } else { "" };
        write!(f, "{}{stable}{lto}", self.package)
    }
}

/// Host tests, in the order they run: foundations first.
pub const HOST_TESTS: &[HostTests] = &[
    HostTests::new("unspool-tls", &[]),
    HostTests::new("unspool-thread-local", &["--features", "nightly"]),
    HostTests::new("unspool-thread-local", &[]).on_stable(),
    HostTests::new("unspool-thread-local", FAT_LTO).on_stable(),
    HostTests::new("unspool-unwind", &[]),
    HostTests::new("unspool-stack-trace", &["--features", "build,debug-info"]),
    HostTests::new("unspool-loader", &[]),
    // Its own panic handler off: `std` brings one.
    HostTests::new("unspool-panic", &["--no-default-features", "--lib"]),
    // The examples of its documentation.
    HostTests::new("unspool", &["--no-default-features", "--doc"]),
    HostTests::new("unspool", &["--no-default-features", "--doc"]).on_stable(),
    HostTests::new("unspool-host-tests", &[]),
    HostTests::new("xtask", &[]),
];

/// A build that sees the whole program at once: what is said in assembly must survive it.
const FAT_LTO: &[&str] = &["--release", "--config", "profile.release.lto=\"fat\"", "--test=syntax"];

/// Host tests that run under valgrind, too, and what is left out of them: parts of names.
///
/// Whole test programs that are not here: `soak` of `unspool-tls` and `fuzz` of `unspool-loader` run the
/// more the longer they may; `foreign` and `programs` of `unspool-host-tests` start other programs, which
/// valgrind does not follow; examples in documentation are built apart; `xtask` has no unsafe code.
pub const MEMCHECKED: &[(HostTests, &[&str])] = &[
    (
        HostTests::new("unspool-tls", &["--lib", "--test", "failing", "--test", "running"]),
        &[
            // Loom runs its threads on stacks of its own, whose switches valgrind takes for accesses
            // to what is no stack.
            "models::",
            // Valgrind's XSAVE leaves out some of what these compare.
            "a_block_made_beforehand",
            "keeps_all_registers",
            "without_xsave",
            // The exit codes of its children: they end with memory in use, which is an error here.
            "an_access_that_cannot_fail",
        ],
    ),
    (HostTests::new("unspool-thread-local", &["--tests", "--features", "nightly"]), &[]),
    (HostTests::new("unspool-thread-local", &["--tests"]).on_stable(), &[]),
    (HostTests::new("unspool-unwind", &["--lib"]), &[]),
    (HostTests::new("unspool-stack-trace", &["--lib", "--features", "build"]), &[]),
    (
        HostTests::new("unspool-loader", &["--lib", "--test", "rollback", "--test", "loader"]),
        &[
            // They run loaded code with an area in place of the thread's own memory, in a child made by
            // `clone` with flags that valgrind refuses.
            "matrix::",
            "destructors::a_",
            "every_model_in_static_space",
            "dynamic_models_work",
            "initial_exec_in_any",
            "all_tls_models",
            "of_both_kinds",
            "rust_works_without",
            "thread_local_fields",
            "thread_local_variables",
            "a_pair_for_others_variables",
            "every_type_in_data",
            "debug_information_stays",
            "rust_objects_see_each_other",
            // The names that it makes live as long as the program.
            "the_libraries_below_std",
        ],
    ),
    (HostTests::new("unspool-panic", &["--lib", "--no-default-features"]), &[]),
    // Not every row of a large library: minutes.
    (
        HostTests::new("unspool-host-tests", &["--test", "rows", "--test", "live"]),
        &["a_rust_shared_library"],
    ),
];

/// Host tests that run with each variant of the unwinder's cache, too: its own, and others' programs.
pub const CACHE_TESTS: (&HostTests, &HostTests) = (
    &HostTests::new("unspool-unwind", &["--tests"]),
    &HostTests::new(
        "unspool-host-tests",
        &["--test", "foreign", "--test", "live", "--test", "steps"],
    ),
);

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
    UNWIND_SO,
    "unspool-std-users",
    "unspool-throw-bench",
];

/// Packages that promise to build on the stable toolchain, with `--no-default-features`.
pub const STABLE: &[&str] = &[
    "unspool-tls",
    "unspool-thread-local",
    "unspool-unwind",
    "unspool-stack-trace",
    "unspool-loader",
    "unspool-panic",
    "unspool",
];

/// The unwinder as a shared library.
pub const UNWIND_SO: &str = "unspool-unwind-so";
/// The kernel that is built with the stable toolchain, and with panics that abort: by itself, because
/// others in its build would have other features, and in a profile of its own.
pub const STABLE_KERNEL: &str = "unspool-stable-kernel";
/// That profile.
pub const STABLE_KERNEL_PROFILE: &str = "abort";
/// The kernel that is built with the stable toolchain, and whose panics unwind: by itself, as that one.
pub const STABLE_UNWIND: &str = "unspool-stable-unwind";
/// What only its last crate is compiled with: stable Rust lets no program without std be made of
/// panics that unwind, but of crates whose panics do.
pub const STABLE_UNWIND_FLAGS: &[&str] = &["-Cpanic=abort", "-Cforce-unwind-tables=yes"];
/// The kernel that `cargo xtask run` shows.
pub const DEMO: &str = "unspool-demo";
/// The kernel that `cargo xtask load` passes files to.
pub const LOAD: &str = "unspool-load";
/// The crate that is not linked but loaded.
pub const PLUGIN: &str = "unspool-plugin";
/// The kernel that runs the suites.
pub const SUITES: &str = "unspool-suites";
/// The kernel that throws and catches against the clock.
pub const THROW_BENCH: &str = "unspool-throw-bench";
/// The kernel that drives others' crates.
pub const STD_USERS: &str = "unspool-std-users";
