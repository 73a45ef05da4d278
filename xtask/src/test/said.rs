//! What panics say, against what std says of the same source: line by line.
//!
//! ```text
//! tests/suites/src/scenarios.rs ─┬─ rustc on_std.rs ─► std's stderr ──┐
//!                                └─ unspool-suites ──► kernel's errors ┴─► normal ─► the same lines
//! ```
//!
//! What may differ, and is made the same before:
//!
//! - numbers of threads, which are the system's;
//! - how to get more of a trace ([`NOTES`]): there is no environment variable;
//! - addresses and hashes of crates; frames of either runtime, and of libc; what is below the scenario;
//! - places in std's own source, which is not ours;
//! - std's SIGABRT, where a kernel exits with a panic's code.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::command::{self, End, Stream};
use crate::qemu::Outcome;

/// What std's programs exit with when their main thread panics.
const PANICKED: i32 = 101;
/// What std's programs die of when a panic cannot unwind.
const SIGABRT: i32 = 6;
/// A scenario takes milliseconds.
const LIMIT: Duration = Duration::from_secs(180);
/// Compiling one file.
const COMPILE_LIMIT: Duration = Duration::from_secs(300);

/// How much of a trace: what `RUST_BACKTRACE` is, what the kernel is told.
pub const STYLES: [(&str, &str); 3] = [("1", "short"), ("0", "off"), ("full", "full")];

/// All scenarios that are survived, in one run.
pub const ALL: &str = "all";

/// The program on std.
pub struct OnStd(PathBuf);

/// What a program wrote to its errors, and how it ended.
pub struct Said {
    pub text: String,
    pub outcome: Outcome,
}

impl OnStd {
    /// Compiles it, with optimizations and names as the kernel has them.
    ///
    /// # Errors
    /// It does not compile.
    pub fn compile(root: &Path, output: &Path) -> Result<Self> {
        let program = output.join("scenarios-on-std");
        let mut rustc = Command::new("rustc");
        rustc.current_dir(root).args(["--edition=2024", "--crate-name=unspool_suites"]);
        rustc.args(["-O", "-Ccodegen-units=1", "-Cstrip=debuginfo"]);
        rustc.arg("tests/suites/on_std.rs").arg("-o").arg(&program);
        let done = command::run(rustc, COMPILE_LIMIT, &mut |_| {})?;
        ensure!(done.end.success(), "on_std.rs: {}\n{}", done.end, done.output);
        Ok(Self(program))
    }

    /// The scenarios to run: all that are survived, and each of the others.
    ///
    /// # Errors
    /// The program does not start.
    pub fn scenarios(&self) -> Result<Vec<String>> {
        let deadly = self.run("deadly", "0")?.text;
        Ok([ALL].into_iter().chain(deadly.lines()).map(str::to_owned).collect())
    }

    /// Runs one of them.
    ///
    /// # Errors
    /// The program does not start.
    pub fn run(&self, name: &str, backtrace: &str) -> Result<Said> {
        let mut program = Command::new(&self.0);
        program.arg(name).env("RUST_BACKTRACE", backtrace).env_remove("RUST_LIB_BACKTRACE");
        let mut errors = Errors::default();
        let outcome =
            match command::run_apart(program, LIMIT, &mut |from, it| errors.add(from, it))? {
                End::Code(code) => Outcome::Exit(code),
                End::Signal(SIGABRT) => Outcome::Exit(PANICKED),
                other => Outcome::Broken(other),
            };
        Ok(Said { text: errors.text(), outcome })
    }
}

/// What was written to one of two streams.
#[derive(Default)]
pub struct Errors(Vec<u8>);

impl Errors {
    /// One more piece.
    pub fn add(&mut self, stream: Stream, piece: &[u8]) {
        if stream == Stream::Errors {
            self.0.extend_from_slice(piece);
        }
    }

    /// All of it.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

/// What is different, if anything is.
pub fn judge(what: &str, std: &Said, ours: &Said) -> Option<String> {
    let (expected, found) = (normal(&std.text), normal(&ours.text));
    let longest = expected.len().max(found.len());
    let line = |lines: &[String], index: usize| {
        lines.get(index).cloned().unwrap_or_else(|| "(nothing more)".to_owned())
    };
    for index in 0..longest {
        let (expected, found) = (line(&expected, index), line(&found, index));
        if !same(&expected, &found) {
            return Some(format!(
                "{what}, line {index}: std says `{expected}`, here it is `{found}`"
            ));
        }
    }
    let ends = |said: &Said| said.outcome.to_string();
    (std.outcome != ours.outcome)
        .then(|| format!("{what} ends on std with {}, here with {}", ends(std), ends(ours)))
}

/// Whether two normal lines are the same: a panic in std's own source is somewhere else here.
fn same(std: &str, ours: &str) -> bool {
    const AT: &str = " panicked at ";
    if let (Some((who, place)), Some((our_who, _))) = (std.split_once(AT), ours.split_once(AT))
        && place.contains("/library/std/src/")
    {
        return who == our_who;
    }
    std == ours
}

/// Ours, std's.
const NOTES: [(&str, &str); 2] = [
    (
        "note: set the platform's backtrace style to display a backtrace",
        "note: run with `RUST_BACKTRACE=1` environment variable to display a backtrace",
    ),
    (
        "note: Some details are omitted, ask for the full style for a verbose backtrace.",
        "note: Some details are omitted, run with `RUST_BACKTRACE=full` for a verbose backtrace.",
    ),
];

/// The lines, without what may differ.
fn normal(text: &str) -> Vec<String> {
    let mut normal = Vec::new();
    let mut lines = text.lines().map(|line| line.trim_end_matches('\r')).peekable();
    while let Some(line) = lines.next() {
        normal.push(sentence(line));
        if line != "stack backtrace:" {
            continue;
        }
        let mut names = Vec::new();
        let mut number = 0;
        while let Some(line) = lines.peek() {
            match name(line, number) {
                Some(name) => names.push(name),
                // Of libc, which comes with its lines.
                None if line.trim_start().starts_with("at ./") && number > 0 => number -= 1,
                None => break,
            }
            number += 1;
            lines.next();
        }
        normal.extend(shown(&names));
    }
    normal
}

/// A line that is none of a trace.
fn sentence(line: &str) -> String {
    if let Some((_, std)) = NOTES.iter().find(|(ours, _)| *ours == line) {
        return (*std).to_owned();
    }
    if line.starts_with("thread '")
        && let Some((name, rest)) = line.split_once("' (")
        && let Some((id, rest)) = rest.split_once(") ")
        && id.parse::<u64>().is_ok()
    {
        return format!("{name}' (N) {rest}");
    }
    line.to_owned()
}

/// The name in the line of frame `number`, after `full: ` if the line is of the full style, which has the
/// address in 18 columns. `None` if it is no such line.
fn name(line: &str, number: usize) -> Option<String> {
    let rest = line.strip_prefix(&format!("{number:4}: "))?;
    let full = rest.split_at_checked(18).and_then(|(address, rest)| {
        let digits = address.trim_start().strip_prefix("0x")?;
        u64::from_str_radix(digits, 16).ok()?;
        Some(format!("full: {}", without_hashes(rest.strip_prefix(" - ")?)))
    });
    Some(full.unwrap_or_else(|| rest.to_owned()))
}

/// `core[0123456789abcdef]::fmt` is `core::fmt`.
fn without_hashes(name: &str) -> String {
    let mut out = String::new();
    let mut rest = name;
    while let Some((before, after)) = rest.split_once('[') {
        out.push_str(before);
        let is_hash = |hash: &str| hash.len() == 16 && u64::from_str_radix(hash, 16).is_ok();
        rest = match after.split_once(']') {
            Some((hash, after)) if is_hash(hash) => after,
            _ => {
                out.push('[');
                after
            }
        };
    }
    out + rest
}

/// The frames of a trace that both must have.
fn shown(names: &[String]) -> Vec<String> {
    /// Those of a short trace, of the hundred that it looks at: the rest are the runtime's.
    const SURELY: usize = 90;
    let marker = |name: &str| names.iter().position(|each| each.contains(name));
    let start = marker("__rust_end_short_backtrace").map_or(0, |end| end + 1);
    let end = marker("__rust_begin_short_backtrace").unwrap_or(names.len());
    let between = names.get(start..end).unwrap_or_default();
    let mut shown: Vec<_> = between.iter().filter(|name| !of_a_runtime(name)).cloned().collect();
    while shown.last().is_some_and(|name| !name.contains("::scenarios::")) {
        shown.pop();
    }
    shown.truncate(SURELY);
    shown
}

/// Whether a frame is of std, of what stands for it here, or of no Rust code at all.
fn of_a_runtime(name: &str) -> bool {
    /// Those of ours that are not the program's.
    const OURS: [&str; 9] = [
        "std::",
        "unspool::",
        "unspool_panic::",
        "unspool_unwind::",
        "unspool_stack_trace::",
        "unspool_thread_local::",
        "unspool_tls::",
        "unspool_kernel::",
        "unspool_suites::on::",
    ];
    !name.contains("::")
        || name.ends_with("unspool_suites::main")
        || OURS.iter().any(|each| name.contains(each))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str, code: i32) -> Said {
        Said { text: text.to_owned(), outcome: Outcome::Exit(code) }
    }

    const STD: &str = "\nthread 'a' (4711) panicked at a.rs:1:2:\nwords\nstack backtrace:\n   \
                       0: std::panicking::begin_panic::<u8>\n   1: core::f\n   \
                       2: x::scenarios::g\n   3: start_thread\n             at ./nptl/x.c:1:2\n   \
                       4: <unknown>\n\
                       note: Some details are omitted, run with `RUST_BACKTRACE=full` for a verbose \
                       backtrace.\nend\n";
    const OURS: &str = "\nthread 'a' (2) panicked at a.rs:1:2:\nwords\nstack backtrace:\n   \
                        0: core::f\n   1: unspool_panic::call\n   2: x::scenarios::g\n   \
                        3: core::ops::call_once\n\
                        note: Some details are omitted, ask for the full style for a verbose \
                        backtrace.\nend\n";

    #[test]
    fn what_may_differ_does_not_count() {
        assert_eq!(judge("x", &said(STD, 101), &said(OURS, 101)), None);
    }

    #[test]
    fn anything_else_does() {
        for (from, to) in [
            ("words", "worlds"),
            ("'a'", "'b'"),
            ("a.rs:1:2", "a.rs:1:3"),
            ("(2)", "(two)"),
            ("0: core::f", "0: core::g"),
            ("2: x::scenarios::g", "2: core::g"),
            ("1: unspool_panic::call", "7: unspool_panic::call"),
            ("1: unspool_panic::call", "1: core::call"),
            ("end\n", ""),
            ("end\n", "end\nmore\n"),
            ("note: Some", "note: Few"),
        ] {
            assert!(OURS.contains(from));
            let wrong = OURS.replace(from, to);
            assert!(judge("x", &said(STD, 101), &said(&wrong, 101)).is_some(), "{from} {to}");
        }
        let end = judge("x", &said(STD, 101), &said(OURS, 1)).unwrap();
        assert_eq!(end, "x ends on std with exit code 101, here with exit code 1");
    }

    #[test]
    fn full_lines_lose_address_and_hashes_only() {
        let line = "   7:     0x5575cde01da8 - core[667c7a611d73a360]::f::<[u8]>";
        assert_eq!(name(line, 7).unwrap(), "full: core::f::<[u8]>");
        assert_eq!(name(line, 8), None);
        assert_ne!(name(&line.replace("   0x", "  0x"), 7).unwrap(), "full: core::f::<[u8]>");
    }

    #[test]
    fn a_place_in_stds_source_is_another_here() {
        let std = "thread 'a' (N) panicked at /rustc/0/library/std/src/thread/local.rs:428:25:";
        assert!(same(std, "thread 'a' (N) panicked at tls.rs:1:1:"));
        assert!(!same(std, "thread 'b' (N) panicked at tls.rs:1:1:"));
        assert!(!same(&std.replace("/std/", "/core/"), "thread 'a' (N) panicked at tls.rs:1:1:"));
    }
}
