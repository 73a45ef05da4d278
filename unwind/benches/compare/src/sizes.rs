//! How large the code that walks and raises is.

use std::path::Path;

use anyhow::Result;
use object::{Object as _, ObjectSymbol as _, SymbolKind};

use crate::report::{Row, Target};

/// The row of code sizes: functions of `unspool_unwind` in a program that panics.
pub fn rows(bare: &Path) -> Result<Vec<Row>> {
    let data = std::fs::read(bare)?;
    let file = object::File::parse(&*data)?;
    let functions = file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text);
    let ours = functions.filter(|symbol| {
        symbol.name().is_ok_and(|name| name.contains("unspool_unwind") || name.contains("_Unwind_"))
    });
    let bytes: u64 = ours.map(|symbol| symbol.size()).sum();
    Ok(vec![Row {
        name: "size/walking_and_raising".into(),
        unit: "KiB",
        sides: vec![("ours, bare".into(), bytes as f64 / 1024.0)],
        targets: vec![Target::AtMost(20.0)],
    }])
}
