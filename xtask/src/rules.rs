//! The architecture's rules that a program can check.
//!
//! ```text
//! cargo metadata ──► layers     who names whom
//! *.rs ──► lexer ──► source     where linker names and assembly stand, what must not stand at all
//! ARCHITECTURE.md ─► documents  its file lists name the files there are
//! ```
//!
//! A rule reads, and says what is wrong where; it never changes a file.
#![forbid(unsafe_code)]

mod documents;
mod layers;
mod lexer;
mod source;
mod tree;

use std::fmt;

use anyhow::Result;

use self::tree::Tree;
use crate::workspace::Workspace;

/// A rule that is broken somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// A file (`tls/src/lib.rs`), or a package.
    pub place: String,
    /// The line, if it is one line.
    pub line: Option<usize>,
    /// What is wrong, and what the rule is.
    pub what: String,
}

impl Violation {
    fn new(place: &str, what: impl Into<String>) -> Self {
        Self { place: place.to_owned(), line: None, what: what.into() }
    }

    fn at(place: &str, line: usize, what: impl Into<String>) -> Self {
        Self { place: place.to_owned(), line: Some(line), what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.place, self.what),
            None => write!(f, "{}: {}", self.place, self.what),
        }
    }
}

/// Everything that is wrong with the workspace.
///
/// # Errors
/// A file cannot be read.
pub fn violations(workspace: &Workspace) -> Result<Vec<Violation>> {
    let tree = Tree::read(&workspace.root)?;
    let mut found = layers::violations(&workspace.packages);
    found.extend(source::violations(&tree));
    found.extend(documents::violations(&tree, &workspace.packages));
    Ok(found)
}
