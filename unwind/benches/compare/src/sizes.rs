//! How large the code that walks and raises is.

use std::path::Path;

use anyhow::Result;
use object::{Object as _, ObjectSymbol as _, SymbolKind};

use crate::report::{Row, Target};

/// The row of code sizes: our functions in the shared library, from which the linker has thrown
/// away what nobody calls, but for those that print.
pub fn rows(library: &Path) -> Result<Vec<Row>> {
    let data = std::fs::read(library)?;
    let file = object::File::parse(&*data)?;
    let functions = file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text);
    let ours = functions.filter(|symbol| {
        symbol.name().is_ok_and(|name| {
            let ours = name.contains("unspool_unwind") || name.contains("_Unwind_");
            ours && !name.contains("fmt")
        })
    });
    let bytes: u64 = ours.map(|symbol| symbol.size()).sum();
    Ok(vec![Row {
        name: "size/walking_and_raising".into(),
        unit: "KiB",
        sides: vec![("ours.so".into(), bytes as f64 / 1024.0)],
        targets: vec![Target::AtMost(20.0)],
    }])
}
