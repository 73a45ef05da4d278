//! Which suites there are, and which of them a filter means.
#![forbid(unsafe_code)]

use std::fmt;

use super::boot::{self, Variant};
use crate::packages::{HOST_TESTS, HostTests, MEMCHECKED};
use crate::wasm::Wasmtime;

/// Where a kernel is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spot {
    /// As a bare Linux process.
    Process,
    /// In QEMU with so many CPUs.
    Qemu(u32),
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process => write!(f, "process"),
            Self::Qemu(1) => write!(f, "QEMU, 1 CPU"),
            Self::Qemu(cpus) => write!(f, "QEMU, {cpus} CPUs"),
        }
    }
}

/// What a suite does.
#[derive(Clone, Copy)]
pub enum Kind<'a> {
    /// `cargo test` of a package.
    Host(&'a HostTests),
    /// `cargo test` of a package under valgrind, without the tests of these names.
    Memcheck(&'a HostTests, &'a [&'a str]),
    /// `cargo xtask so-demo`.
    SoDemo,
    /// What unwinds, with this variant of the unwinder's cache.
    Cache(&'static str),
    /// The kernel of the suites.
    Suites(Spot),
    /// The kernel that drives others' crates.
    StdUsers(Spot),
    /// The demo, up to its last line.
    Demo(Spot),
    /// The kernel on stable Rust: to its last line, and to a panic.
    Stable(Spot),
    /// The kernel on stable Rust whose panics unwind, to its last line.
    StableUnwind(Spot),
    /// The programs that must not survive.
    Deaths(Spot),
    /// What panics say, against std.
    Said(Spot),
    /// Traces of addresses, decoded.
    Decodes(Spot),
    /// The suites' traces with lines.
    Lines(Spot),
    /// `cargo xtask profile`, with so many CPUs in either place.
    Profile(Spot, u32),
    /// `cargo xtask load`.
    Loads(Spot),
    /// wasmtime in a kernel: what it shows.
    Wasmtime(Spot, Wasmtime),
    /// The specification's tests of WebAssembly, shared by so many tasks.
    WasmSpec(Spot, u32),
    /// A kernel that must refuse to boot.
    Boot(&'a Variant, Spot),
}

/// A row of the report.
#[derive(Clone)]
pub struct Suite<'a> {
    /// Its name.
    pub name: String,
    /// What it does.
    pub kind: Kind<'a>,
}

/// Every suite, in the order they run.
pub fn all() -> Vec<Suite<'static>> {
    let host = HOST_TESTS
        .iter()
        .map(|tests| Suite { name: format!("host: {tests}"), kind: Kind::Host(tests) });
    let memcheck = MEMCHECKED.iter().map(|(tests, skipped)| Suite {
        name: format!("memcheck: {tests}"),
        kind: Kind::Memcheck(tests, skipped),
    });
    let suites = [Spot::Process, Spot::Qemu(1), Spot::Qemu(4)]
        .map(|spot| Suite { name: format!("suites: {spot}"), kind: Kind::Suites(spot) });
    let users = [Spot::Process, Spot::Qemu(4)]
        .map(|spot| Suite { name: format!("std users: {spot}"), kind: Kind::StdUsers(spot) });
    let demo = [Spot::Process, Spot::Qemu(1)]
        .map(|spot| Suite { name: format!("demo: {spot}"), kind: Kind::Demo(spot) });
    let stable = [Spot::Process, Spot::Qemu(1)]
        .map(|spot| Suite { name: format!("stable kernel: {spot}"), kind: Kind::Stable(spot) });
    let stable_unwind = [Spot::Process, Spot::Qemu(1)].map(|spot| Suite {
        name: format!("stable unwind: {spot}"),
        kind: Kind::StableUnwind(spot),
    });
    let boot = boot::VARIANTS.iter().flat_map(|variant| {
        [Spot::Process, Spot::Qemu(1)].map(|spot| Suite {
            name: format!("boot {}: {spot}", variant.name),
            kind: Kind::Boot(variant, spot),
        })
    });
    let deaths = [Spot::Process, Spot::Qemu(1), Spot::Qemu(4)]
        .map(|spot| Suite { name: format!("deaths: {spot}"), kind: Kind::Deaths(spot) });
    let said = [Spot::Process, Spot::Qemu(1)]
        .map(|spot| Suite { name: format!("said: {spot}"), kind: Kind::Said(spot) });
    let decodes = [Spot::Process, Spot::Qemu(1)]
        .map(|spot| Suite { name: format!("decode: {spot}"), kind: Kind::Decodes(spot) });
    let lines = [Spot::Process, Spot::Qemu(1), Spot::Qemu(4)]
        .map(|spot| Suite { name: format!("lines: {spot}"), kind: Kind::Lines(spot) });
    let loads = [Spot::Process, Spot::Qemu(1), Spot::Qemu(4)]
        .map(|spot| Suite { name: format!("load: {spot}"), kind: Kind::Loads(spot) });
    let profiles =
        [(Spot::Process, 2), (Spot::Qemu(1), 1), (Spot::Qemu(4), 4)].map(|(spot, cpus)| Suite {
            name: format!("profile: {spot}"),
            kind: Kind::Profile(spot, cpus),
        });
    let wasmtime = [Spot::Process, Spot::Qemu(4)].map(|spot| Suite {
        name: format!("wasmtime: {spot}"),
        kind: Kind::Wasmtime(spot, Wasmtime::Locked),
    });
    let newer = [Spot::Process, Spot::Qemu(4)].map(|spot| Suite {
        name: format!("newer wasmtime: {spot}"),
        kind: Kind::Wasmtime(spot, Wasmtime::Newer),
    });
    let specification = [(Spot::Qemu(1), 1), (Spot::Qemu(4), 8)].map(|(spot, tasks)| Suite {
        name: format!("wasm-spec: {spot}, {tasks} tasks"),
        kind: Kind::WasmSpec(spot, tasks),
    });
    let so_demo = Suite { name: "so-demo".to_owned(), kind: Kind::SoDemo };
    let caches = super::caches::VARIANTS
        .iter()
        .map(|variant| Suite { name: format!("cache {variant}"), kind: Kind::Cache(variant) });
    host.chain(memcheck)
        .chain([so_demo])
        .chain(suites)
        .chain(caches)
        .chain(users)
        .chain(loads)
        .chain(deaths)
        .chain(said)
        .chain(decodes)
        .chain(lines)
        .chain(profiles)
        .chain(demo)
        .chain(stable)
        .chain(stable_unwind)
        .chain(boot)
        .chain(wasmtime)
        .chain(newer)
        .chain(specification)
        .collect()
}

/// What is left of `suites` with `filter`, and what is left of the filter for the tests in them.
///
/// A filter that is part of a suite's name (in any case) means whole suites; any other one means
/// tests, wherever there are tests with names.
pub fn select<'a, 'f>(
    mut suites: Vec<Suite<'a>>,
    filter: Option<&'f str>,
) -> (Vec<Suite<'a>>, Option<&'f str>) {
    let Some(filter) = filter else { return (suites, None) };
    let lower = filter.to_lowercase();
    let named = |suite: &Suite<'_>| suite.name.to_lowercase().contains(&lower);
    if suites.iter().any(named) {
        suites.retain(named);
        (suites, None)
    } else {
        suites.retain(|suite| {
            matches!(suite.kind, Kind::Host(_) | Kind::Suites(_) | Kind::StdUsers(_))
        });
        (suites, Some(filter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(filter: &str) -> (Vec<String>, Option<&str>) {
        let (suites, filter) = select(all(), Some(filter));
        (suites.into_iter().map(|suite| suite.name).collect(), filter)
    }

    #[test]
    fn part_of_a_suites_name_means_the_suite() {
        assert_eq!(names("host: unspool-tls"), (vec!["host: unspool-tls".to_owned()], None));
        assert_eq!(names("unspool-tls").0.len(), 2);
        let (qemu, filter) = names("qemu");
        assert!(qemu.len() >= 4 && filter.is_none());
        assert!(qemu.iter().all(|name| name.contains("QEMU")));
    }

    #[test]
    fn anything_else_means_tests() {
        let (suites, filter) = names("late_block");
        assert_eq!(filter, Some("late_block"));
        assert_eq!(suites.len(), HOST_TESTS.len() + 5);
    }

    #[test]
    fn no_filter_means_everything() {
        let (suites, filter) = select(all(), None);
        assert_eq!((suites.len(), filter), (all().len(), None));
    }
}
