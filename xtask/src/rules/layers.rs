//! Who may name whom: only what lies on a lower floor of the house.
//!
//! ```text
//! 7  xtask
//! 6  examples/*  tests/*       programs, as unwind/benches/bare
//! 5  examples/kernel           the kernel library that they are made with
//! 4  unspool                   the façade
//! 3  panic_runtime  loader
//! 2  stack_trace  thread_local_macro  unwind/so
//! 1  unwind  tls               neither names the other
//! ```
#![forbid(unsafe_code)]

use super::Violation;
use crate::packages::{STABLE, STABLE_KERNEL, STABLE_UNWIND, WITH_STD, WITHOUT_STD};
use crate::workspace::Package;

/// The floor of the package in this folder; `None` for a folder the house does not have.
pub fn floor(folder: &str) -> Option<u32> {
    Some(match folder {
        "unwind" | "tls" => 1,
        "stack_trace" | "thread_local_macro" | "unwind/so" => 2,
        "panic_runtime" | "loader" => 3,
        "unspool" => 4,
        "examples/kernel" => 5,
        "xtask" => 7,
        "unwind/benches/bare" => 6,
        _ if folder.starts_with("examples/") || folder.starts_with("tests/") => 6,
        _ => return None,
    })
}

/// What is wrong with the packages' dependencies, those for tests and builds included, and with where
/// they are built.
pub fn violations(packages: &[Package]) -> Vec<Violation> {
    let mut found = Vec::new();
    for package in packages {
        let Package { name, folder, dependencies, is_default } = package;
        let Some(upper) = floor(folder) else {
            found.push(Violation::new(folder, "no such folder in the house (rules/layers.rs)"));
            continue;
        };
        let checked = [WITH_STD, WITHOUT_STD, &[STABLE_KERNEL, STABLE_UNWIND]];
        if !checked.iter().any(|packages| packages.contains(&&**name)) {
            let what = format!("{name} is checked nowhere: add it to xtask/src/packages.rs");
            found.push(Violation::new(folder, what));
        }
        let is_without_std = [STABLE, WITHOUT_STD].iter().any(|all| all.contains(&&**name));
        if is_without_std != *is_default {
            let what = if is_without_std { "lacks" } else { "has" };
            let what = format!("default-members {what} {folder}: they are what runs without std");
            found.push(Violation::new("Cargo.toml", what));
        }
        for named in packages.iter().filter(|each| dependencies.contains(&each.name)) {
            let lower = floor(&named.folder);
            if lower.is_some_and(|lower| lower >= upper) {
                let what = format!("names {}, which is not on a lower floor", named.folder);
                found.push(Violation::new(&format!("{folder}/Cargo.toml"), what));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, folder: &str, dependencies: &[&str]) -> Package {
        Package {
            name: name.to_owned(),
            folder: folder.to_owned(),
            dependencies: dependencies.iter().map(|each| (*each).to_owned()).collect(),
            is_default: !["xtask", "unspool-x"].contains(&name),
        }
    }

    #[test]
    fn arrows_that_point_down_are_fine() {
        let packages = [
            package("unspool-tls", "tls", &["spin"]),
            package("unspool-unwind", "unwind", &["gimli"]),
            package("unspool-loader", "loader", &["unspool-tls", "unspool-unwind", "object"]),
            package("unspool-kernel", "examples/kernel", &["unspool-loader"]),
            package("unspool-suites", "tests/suites", &["unspool-kernel"]),
            package("unspool-demo", "examples/demo", &["unspool-kernel"]),
        ];
        assert_eq!(violations(&packages), []);
    }

    #[test]
    fn arrows_up_and_sideways_are_not() {
        let packages = [
            package("unspool-tls", "tls", &["unspool-unwind"]),
            package("unspool-unwind", "unwind", &["unspool-loader"]),
            package("unspool-loader", "loader", &["xtask"]),
            package("unspool-demo", "examples/demo", &["unspool-suites"]),
            package("unspool-suites", "tests/suites", &[]),
            package("xtask", "xtask", &["unspool-tls"]),
        ];
        let places: Vec<_> = violations(&packages).into_iter().map(|each| each.place).collect();
        let expected = [
            "tls/Cargo.toml",
            "unwind/Cargo.toml",
            "loader/Cargo.toml",
            "examples/demo/Cargo.toml",
        ];
        assert_eq!(places, expected);
    }

    #[test]
    fn what_runs_without_std_is_what_is_built_by_default() {
        for (name, folder, what) in [
            ("unspool-tls", "tls", "lacks tls:"),
            ("unspool-throw-bench", "unwind/benches/bare", "lacks unwind/benches/bare:"),
            ("unspool-stable-kernel", "examples/stable_kernel", "has examples/stable_kernel:"),
            ("xtask", "xtask", "has xtask:"),
        ] {
            let mut package = package(name, folder, &[]);
            package.is_default = what.starts_with("has");
            let found = violations(&[package]);
            assert!(found[0].what.contains(what), "{found:?}");
        }
    }

    #[test]
    fn a_package_nobody_knows_is_said_so() {
        let stranger = [package("unspool-x", "x", &[])];
        assert!(violations(&stranger)[0].what.contains("no such folder"));
        let unchecked = [package("unspool-x", "tests/x", &[])];
        assert!(violations(&unchecked)[0].what.contains("packages.rs"));
    }
}
