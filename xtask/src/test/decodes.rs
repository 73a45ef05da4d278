//! Traces of addresses, from a kernel, through `cargo xtask decode`.
//!
//! ```text
//! unspool-suites without its table  ── panic ──────► addresses       ─┐
//! unspool-suites with its table     ── show:places ► module+offset   ─┴─► decode ─► names, lines
//! ```

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::libtest::tail;

/// A log to decode, and what it must become.
pub struct Case {
    /// What the kernel is told.
    pub word: &'static str,
    /// Whether the kernel has its symbol table.
    pub named: bool,
    /// What its log must not have in it before it is decoded.
    hidden: &'static str,
    /// What must be there afterwards, in this order.
    words: &'static [&'static str],
}

/// Every case.
pub const CASES: &[Case] = &[
    Case {
        word: "die:panic_leaves_extern_c",
        named: false,
        hidden: "rust_begin_unwind",
        words: &[
            "against the wall\nstack backtrace:\n   0: ",
            "rust_begin_unwind\n",
            "unspool_suites",
            "::deaths::panic_leaves_extern_c::wall\n",
            "at tests/suites/src/deaths.rs:",
            "panic in a function that cannot unwind",
            "at tests/suites/src/deaths.rs:",
        ],
    },
    Case {
        word: "show:places",
        named: true,
        hidden: "backtraces",
        words: &[
            "stack backtrace:\n   0: ",
            "::backtraces::show_places\n",
            "at tests/suites/src/backtraces.rs:",
            " - calls_back\n",
            "::backtraces::places\n",
            "at tests/suites/src/backtraces.rs:",
        ],
    },
];

/// The object that [`CASES`] trace through, as the workspace's `output` has it.
pub fn object(output: &Path) -> PathBuf {
    output.join("objects/calls.static.o")
}

/// What was wrong with a log or with what became of it, if anything was.
///
/// # Errors
/// This program cannot be started again.
pub fn judge(
    case: &Case,
    log: &str,
    kernel: &Path,
    object: &Path,
    root: &Path,
) -> Result<Option<String>> {
    if !log.contains("stack backtrace:") || log.contains(case.hidden) {
        return Ok(Some(format!("{} is no trace of addresses:\n{}", case.word, tail(log, 60))));
    }
    let input = object.with_extension("log");
    fs::write(&input, log).with_context(|| input.display().to_string())?;
    let mut decode = Command::new(env::current_exe()?);
    decode.arg("decode").args([kernel, object]).stdin(Stdio::from(fs::File::open(&input)?));
    let done = decode.output()?;
    // The compiler was given paths from wherever the workspace is.
    let text = String::from_utf8_lossy(&done.stdout).replace(&format!("{}/", root.display()), "");
    let text = text.replace('\r', "");
    let mut rest = text.as_str();
    for word in case.words {
        match rest.split_once(word) {
            Some((_, after)) => rest = after,
            None => {
                let errors = String::from_utf8_lossy(&done.stderr);
                return Ok(Some(format!("{}: no `{word}` in\n{text}{errors}", case.word)));
            }
        }
    }
    Ok((!done.status.success()).then(|| format!("{}: {}", case.word, done.status)))
}
