//! `ARCHITECTURE.md` must name the files there are.
//!
//! ```text
//! tls/src/     lib (essay) · layout · area ·       ◄── a folder of sources, then its files
//!              registry · arch/{mod,x86_64}        ◄── more of them
//! ```
//!
//! Such lists stand in fenced blocks. Names are without `.rs`; what is in parentheses is for readers.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use super::Violation;
use super::layers::floor;
use super::tree::Tree;
use crate::workspace::Package;

/// The document.
const DOCUMENT: &str = "ARCHITECTURE.md";
/// Packages up to this floor (the kernel library) must be listed; others may be.
const LISTED_UP_TO: u32 = 5;

/// What the document has too much or too little.
pub fn violations(tree: &Tree, packages: &[Package]) -> Vec<Violation> {
    let Some(document) = tree.text(DOCUMENT) else {
        return vec![Violation::new(DOCUMENT, "is missing")];
    };
    let lists = lists(document);
    let mut found = Vec::new();
    for package in packages {
        let folder = format!("{}/src/", package.folder);
        let must = floor(&package.folder).is_some_and(|floor| floor <= LISTED_UP_TO);
        if must && !lists.contains_key(&folder) {
            found.push(Violation::new(DOCUMENT, format!("does not list the files of {folder}")));
        }
    }
    for (folder, listed) in &lists {
        let there: BTreeSet<_> = tree
            .files(".rs")
            .filter_map(|(path, _)| path.strip_prefix(folder.as_str())?.strip_suffix(".rs"))
            .map(str::to_owned)
            .collect();
        for name in there.difference(listed) {
            found.push(Violation::new(DOCUMENT, format!("does not list {folder}{name}.rs")));
        }
        for name in listed.difference(&there) {
            found.push(Violation::new(
                DOCUMENT,
                format!("lists {folder}{name}.rs, which is not there"),
            ));
        }
    }
    found
}

/// The file lists of a document: folder (`tls/src/`) to names (`arch/mod`).
fn lists(document: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut lists = BTreeMap::<String, BTreeSet<String>>::new();
    let mut fenced = false;
    let mut folder: Option<String> = None;
    for line in document.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            folder = None;
            continue;
        }
        if !fenced || line.trim().is_empty() {
            folder = None;
            continue;
        }
        let first = line.split_whitespace().next().unwrap_or_default();
        let mut rest = line;
        if !line.starts_with(char::is_whitespace) {
            folder = first.ends_with("/src/").then(|| first.to_owned());
            rest = &line[first.len()..];
        }
        if let Some(folder) = &folder {
            lists.entry(folder.clone()).or_default().extend(names(rest));
        }
    }
    lists
}

/// The names in one line of a list.
fn names(line: &str) -> Vec<String> {
    let plain = without_parentheses(line);
    let entries = plain.split('·').map(str::trim).filter(|entry| !entry.is_empty());
    entries.flat_map(expand).collect()
}

/// `arch/{mod,x86_64}` is two names.
fn expand(entry: &str) -> Vec<String> {
    let braces = entry.split_once('{').and_then(|(prefix, rest)| {
        let (inside, suffix) = rest.split_once('}')?;
        Some((prefix, inside, suffix))
    });
    match braces {
        None => vec![entry.to_owned()],
        Some((prefix, inside, suffix)) => {
            let parts = inside.split(',').map(str::trim);
            parts.map(|part| format!("{prefix}{part}{suffix}")).collect()
        }
    }
}

fn without_parentheses(line: &str) -> String {
    let mut depth = 0_usize;
    let mut plain = String::new();
    for c in line.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ if depth == 0 => plain.push(c),
            _ => {}
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT_TEXT: &str = "\
# The house
tls/src/   not · in · a · fence
```text
4  unspool/     the façade
tls/src/        lib (essay, picture) · layout ·
                area (one task's memory: a(b)) · arch/{mod,x86_64}

unwind/src/     lib
```
";

    fn tree(files: &[&str]) -> Tree {
        let mut all = vec![(DOCUMENT, DOCUMENT_TEXT)];
        all.extend(files.iter().map(|path| (*path, "")));
        Tree::of(&all)
    }

    const FILES: &[&str] = &[
        "tls/src/lib.rs",
        "tls/src/layout.rs",
        "tls/src/area.rs",
        "tls/src/arch/mod.rs",
        "tls/src/arch/x86_64.rs",
        "unwind/src/lib.rs",
    ];

    fn package(folder: &str) -> Package {
        Package {
            name: folder.to_owned(),
            folder: folder.to_owned(),
            dependencies: Vec::new(),
            is_default: true,
        }
    }

    #[test]
    fn a_true_list_is_fine() {
        assert_eq!(violations(&tree(FILES), &[package("tls"), package("unwind")]), []);
    }

    #[test]
    fn files_too_many_and_too_few_are_named() {
        let mut files = FILES.to_vec();
        files[1] = "tls/src/registry.rs";
        let found = violations(&tree(&files), &[]);
        let what: Vec<_> = found.iter().map(|each| each.what.as_str()).collect();
        let expected =
            ["does not list tls/src/registry.rs", "lists tls/src/layout.rs, which is not there"];
        assert_eq!(what, expected);
    }

    #[test]
    fn libraries_must_be_listed_and_programs_may() {
        let found = violations(&tree(FILES), &[package("loader"), package("tests/suites")]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].what, "does not list the files of loader/src/");
    }

    #[test]
    fn the_document_must_be_there() {
        assert_eq!(violations(&Tree::of(&[]), &[])[0].what, "is missing");
    }
}
