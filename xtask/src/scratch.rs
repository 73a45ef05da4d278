//! A directory that one test may write in.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// Removed when dropped.
pub struct Scratch(PathBuf);

impl Scratch {
    /// An empty directory of its own for the test called `name`.
    pub fn new(name: &str) -> Self {
        let path = env::temp_dir().join(format!("unspool-xtask-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Where.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
