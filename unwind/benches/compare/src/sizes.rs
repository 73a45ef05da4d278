//! How large the code that walks and raises is, in three sizes.
//!
//! ```text
//!   all functions of the library             registering, the C names, printing, …
//!     └─ reachable from walk, raise, resume  … with reading DWARF, expressions, forced unwinding
//!          └─ warm                           what repeated walks and throws execute
//! ```
//!
//! The target is for the warm ones: they run for every frame, and push other code out of the CPU's
//! caches; what reads DWARF runs once for each address. Whole functions count in all three, also
//! where only a part of them is executed or reached.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::reach::Library;
use crate::report::{Row, Target};
use crate::throws::Programs;

/// How everything begins, by the C names. What walks ask the library for, as stacks and objects, is
/// known to what it does when it is loaded.
const ENTRIES: [&str; 3] = ["_Unwind_Backtrace", "_Unwind_RaiseException", "_Unwind_Resume"];
const LOADED: &str = "14unspool_unwind4init";

/// The row of code sizes; `output` is for what callgrind writes.
pub fn rows(library: &Path, programs: &Programs<'_>, output: &Path) -> Result<Vec<Row>> {
    let library = Library::read(&std::fs::read(library)?)?;
    let is_ours = |name: &str| name.contains("unspool_unwind") || name.contains("_Unwind_");
    let is_entry = |name: &str| {
        let plain = name.split('@').next().unwrap_or(name);
        ENTRIES.contains(&plain) || name.ends_with(LOADED)
    };
    let entries = library.named(is_entry);
    ensure!(entries.len() == ENTRIES.len() + 1, "the library's entries are not all there");
    let executed = programs.executed(output)?;
    let warm = library.named(|name| executed.contains(name));
    ensure!(!warm.is_empty(), "no function of the library is in the profile");
    let reachable = library.reachable(entries);
    let side = |name: &str, functions: &BTreeSet<u64>| {
        (name.to_owned(), library.size(functions) as f64 / 1024.0)
    };
    let sides = vec![
        side("warm", &warm),
        side("reachable, with DWARF", &reachable),
        side("whole library", &library.named(is_ours)),
    ];
    Ok(vec![Row::new("size/walking_and_raising", "KiB", sides, vec![Target::at_most(20.0)])])
}
