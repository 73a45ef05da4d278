//! What may stand in which source file.
#![forbid(unsafe_code)]

use super::Violation;
use super::lexer;
use super::tree::Tree;

/// Lines a file may have.
const MOST_LINES: usize = 550;

/// Files that may give symbols C names, besides those of programs.
const LINKER_NAMES: &[&str] =
    &["tls/src/abi.rs", "unwind/src/abi.rs", "panic_runtime/src/personality.rs"];

/// Files that only parse, lay out, or decide: they have no reason to be unsafe.
const SAFE_FILES: &[&str] = &[
    "tls/src/layout.rs",
    "unwind/src/fde.rs",
    "unwind/src/cfi.rs",
    "unwind/src/expression.rs",
    "unwind/src/rule.rs",
    "unwind/src/lsda.rs",
    "stack_trace/src/table.rs",
    "stack_trace/src/print.rs",
    "loader/src/elf.rs",
    "loader/src/placement.rs",
];

/// Words of unfinished work, put together here so that this file has none.
const UNFINISHED: &[&str] = &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];

/// Everything wrong with the sources.
pub fn violations(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for (path, text) in tree.files(".rs") {
        let lines = text.lines().count();
        if lines > MOST_LINES {
            let what = format!("{lines} lines, the most is {MOST_LINES}: split it");
            found.push(Violation::new(path, what));
        }
        let code = lexer::code(text);
        for (index, line) in code.lines().enumerate() {
            found.extend(line_of_code(path, line).map(|what| Violation::at(path, index + 1, what)));
        }
        if SAFE_FILES.contains(&path) && !code.contains("#![forbid(unsafe_code)]") {
            found.push(Violation::new(path, "must open with #![forbid(unsafe_code)]"));
        }
    }
    for end in [".rs", ".c", ".ld", ".toml", ".sh"] {
        for (path, text) in tree.files(end) {
            found.extend(unfinished(path, text));
        }
    }
    found
}

fn line_of_code(path: &str, line: &str) -> Option<&'static str> {
    let program = path.starts_with("examples/") || path.starts_with("tests/");
    let names = has_word(line, "no_mangle") || has_word(line, "export_name");
    if names && !program && !LINKER_NAMES.contains(&path) {
        return Some("gives a symbol a C name: only abi.rs, personality.rs and programs may");
    }
    let assembly = ["asm!", "global_asm!", "naked_asm!"].iter().any(|word| has_word(line, word));
    let arch = path.split('/').any(|folder| folder == "arch")
        || path.starts_with("tests/")
        || path == "loader/src/reloc/x86_64.rs";
    if assembly && !arch {
        return Some("assembly: only arch/ folders, loader/src/reloc/x86_64.rs and tests/ may");
    }
    let compact: String = line.split_whitespace().collect();
    if compact.contains("#[ignore") {
        return Some("an ignored test: make it pass, or delete it");
    }
    let silenced = compact.contains("allow(") || compact.contains("expect(");
    if silenced && has_word(line, "dead_code") {
        return Some("silenced dead code: delete the code");
    }
    None
}

/// Whether `word` stands in `line` as a whole name (or begins one that ends in `!`).
fn has_word(line: &str, word: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(part_of_name) && !line[at + word.len()..].starts_with(part_of_name)
    })
}

fn unfinished(path: &str, text: &str) -> Vec<Violation> {
    let lines = text.lines().enumerate();
    let marked = lines.filter_map(|(index, line)| {
        let word = UNFINISHED.iter().find(|word| has_word(line, word))?;
        Some(Violation::at(path, index + 1, format!("{word}: finish it, or open an issue")))
    });
    marked.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<Violation> {
        violations(&Tree::of(&[(path, text)]))
    }

    #[test]
    fn c_names_stand_in_their_files() {
        let code = "/// C.\n#[unsafe(no_mangle)]\npub fn f() {}\n";
        assert_eq!(found("tls/src/area.rs", code)[0].line, Some(2));
        for path in ["tls/src/abi.rs", "panic_runtime/src/personality.rs", "tests/objects/a.rs"] {
            assert_eq!(found(path, code), []);
        }
        assert_eq!(found("unwind/src/raise.rs", "#[export_name = \"x\"] fn f() {}").len(), 1);
        assert_eq!(found("unwind/src/raise.rs", "// no_mangle is for abi.rs\n"), []);
    }

    #[test]
    fn assembly_stands_in_arch() {
        for code in ["asm!(\"\");", "core::arch::naked_asm!(\"\")", "global_asm!{\"\"}"] {
            assert_eq!(found("tls/src/area.rs", code).len(), 1, "{code}");
            assert_eq!(found("examples/demo/src/main.rs", code).len(), 1, "{code}");
            for path in
                ["tls/src/arch/x86_64.rs", "examples/kernel/src/arch/boot.rs", "tests/suites/a.rs"]
            {
                assert_eq!(found(path, code), []);
            }
        }
        assert_eq!(found("tls/src/area.rs", "use core::arch::asm;\nlet s = \"asm!\";"), []);
    }

    #[test]
    fn policy_files_forbid_unsafe_code() {
        assert_eq!(found("loader/src/elf.rs", "//! Parses.\n#![forbid(unsafe_code)]\n"), []);
        assert_eq!(found("loader/src/elf.rs", "//! #![forbid(unsafe_code)]\n").len(), 1);
        assert_eq!(found("loader/src/object.rs", "//! May.\n"), []);
    }

    #[test]
    fn files_are_short() {
        assert_eq!(found("a.rs", &"\n".repeat(MOST_LINES)), []);
        assert_eq!(found("a.rs", &"\n".repeat(MOST_LINES + 1)).len(), 1);
    }

    #[test]
    fn nothing_is_left_unfinished_or_silenced() {
        let marks = UNFINISHED.iter().map(|word| format!("// {word}: later\n"));
        for text in marks {
            assert_eq!(found("a.rs", &text).len(), 1);
            assert_eq!(found("examples/kernel/kernel.ld", &text).len(), 1);
            assert_eq!(found("README.md", &text), []);
        }
        for code in ["#[ ignore ]", "#[ignore = \"x\"]", "#[allow(unused, dead_code)]"] {
            assert_eq!(found("a.rs", code).len(), 1, "{code}");
        }
        assert_eq!(found("a.rs", "#[allow(non_camel_case_types)]"), []);
    }
}
