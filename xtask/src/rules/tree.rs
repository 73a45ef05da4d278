//! The project's text files, by path.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// Kinds of files that rules read, by the ends of their names.
const KINDS: &[&str] = &["rs", "c", "ld", "toml", "md", "sh", "yml"];

/// Files and their text. Paths are relative to the root, with `/`.
#[derive(Default)]
pub struct Tree(BTreeMap<String, String>);

impl Tree {
    /// Reads the files below `root`, build directories and hidden ones left out.
    pub fn read(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        tree.folder(root, "")?;
        Ok(tree)
    }

    fn folder(&mut self, folder: &Path, prefix: &str) -> Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let known = path.extension().and_then(|kind| kind.to_str());
            if name.starts_with('.') || (path.is_dir() && name.starts_with("target")) {
                continue;
            }
            if path.is_dir() {
                self.folder(&path, &format!("{prefix}{name}/"))?;
            } else if known.is_some_and(|kind| KINDS.contains(&kind)) {
                let text = fs::read_to_string(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                self.0.insert(format!("{prefix}{name}"), text);
            }
        }
        Ok(())
    }

    /// The text of a file.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.0.get(path).map(String::as_str)
    }

    /// All files whose names end so, with their text.
    pub fn files<'t>(&'t self, end: &'t str) -> impl Iterator<Item = (&'t str, &'t str)> {
        let all = self.0.iter().map(|(path, text)| (path.as_str(), text.as_str()));
        all.filter(move |(path, _)| path.ends_with(end))
    }

    /// A made-up tree.
    #[cfg(test)]
    pub fn of(files: &[(&str, &str)]) -> Self {
        Self(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn sources_are_read_and_builds_are_not() {
        let scratch = Scratch::new("tree");
        for folder in ["a/src", "target/debug", ".git"] {
            fs::create_dir_all(scratch.path().join(folder)).unwrap();
        }
        for file in ["a/src/lib.rs", "a/image.bin", "target/debug/x.rs", ".git/y.rs", "README.md"] {
            fs::write(scratch.path().join(file), "text").unwrap();
        }
        let tree = Tree::read(scratch.path()).unwrap();
        let paths: Vec<_> = tree.files("").map(|(path, _)| path).collect();
        assert_eq!(paths, ["README.md", "a/src/lib.rs"]);
        assert_eq!(tree.text("README.md"), Some("text"));
    }
}
