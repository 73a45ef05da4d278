//! Where cargo keeps the sources of a crate that carries C code.
//!
//! The crates are dependencies of this program for a target that there is not: cargo fetches them and
//! builds nothing of them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::workspace::Workspace;

/// Folders with C code of substance, which others wrote.
pub struct Sources {
    /// zlib, of the crate `libz-sys`.
    pub zlib: PathBuf,
    /// lz4, of the crate `lz4-sys`.
    pub lz4: PathBuf,
}

impl Sources {
    /// Fetches them.
    ///
    /// # Errors
    /// cargo cannot, or one is missing.
    pub fn fetch(workspace: &Workspace) -> Result<Self> {
        let output = workspace.cargo().args(["metadata", "--format-version=1"]).output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`cargo metadata` failed:\n{errors}");
        let metadata: Value = serde_json::from_slice(&output.stdout)?;
        let zlib = folder(&metadata, "libz-sys").context("cargo does not name libz-sys")?;
        let lz4 = folder(&metadata, "lz4-sys").context("cargo does not name lz4-sys")?;
        Ok(Self { zlib: zlib.join("src/zlib"), lz4: lz4.join("liblz4/lib") })
    }
}

/// The folder of the package with this name.
fn folder(metadata: &Value, name: &str) -> Option<PathBuf> {
    let mut all = metadata["packages"].as_array()?.iter();
    let package = all.find(|package| package["name"] == name)?;
    Some(Path::new(package["manifest_path"].as_str()?).parent()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_where_its_manifest_is() {
        let package =
            serde_json::json!({ "name": "libx-sys", "manifest_path": "/r/x-1.0/Cargo.toml" });
        let metadata: Value = serde_json::json!({ "packages": [package] });
        assert_eq!(folder(&metadata, "libx-sys"), Some("/r/x-1.0".into()));
        assert_eq!(folder(&metadata, "x"), None);
    }
}
