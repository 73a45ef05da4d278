//! `cargo xtask so-demo`: the unwinder under programs of g++ and rustc, in libgcc_s.so.1's place.
//!
//! ```text
//!   unspool-unwind-so ─► libunspool_unwind.so ─┬─ as libgcc_s.so.1 in LD_LIBRARY_PATH ─┐
//!   unwind/so/demo ─ g++, rustc ─► program ────┼─ by LD_PRELOAD ───────────────────────┼─► same words,
//!                                              └─ neither: libgcc ─────────────────────┘   other times
//! ```
//!
//! It fails if a program says something else than with libgcc, or was unwound by another library.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::command;
use crate::packages::UNWIND_SO;
use crate::progress::{Step, show};
use crate::workspace::Workspace;

/// Building the library or a program.
const BUILD_LIMIT: Duration = Duration::from_secs(10 * 60);
/// A program throws for a second.
const RUN_LIMIT: Duration = Duration::from_secs(300);

/// The programs: source, compiler with its arguments.
const PROGRAMS: &[(&str, &[&str])] = &[
    ("throws.cpp", &["g++", "-O2", "-ldl"]),
    ("panics.rs", &["rustc", "--edition=2024", "-O", "-Cpanic=unwind"]),
];

/// Nothing to say.
#[derive(Args)]
pub struct Options {}

/// How the library gets into a program.
#[derive(Clone, Copy)]
enum Way {
    Libgcc,
    Place,
    Preload,
}

impl Way {
    const ALL: [Self; 3] = [Self::Libgcc, Self::Place, Self::Preload];

    const fn name(self) -> &'static str {
        match self {
            Self::Libgcc => "as it is",
            Self::Place => "LD_LIBRARY_PATH",
            Self::Preload => "LD_PRELOAD",
        }
    }
}

/// Does it.
///
/// # Errors
/// Something does not build, or a program does not say what it says with libgcc.
pub fn so_demo(_: &Options) -> Result<ExitCode> {
    demo(&Workspace::load()?, &mut show)?;
    Ok(ExitCode::SUCCESS)
}

/// Shows the demo, line by line; how many runs there were.
///
/// # Errors
/// As [`so_demo`].
pub fn demo(workspace: &Workspace, line: &mut dyn FnMut(&str)) -> Result<u64> {
    let library = build(workspace)?;
    let folder = workspace.output().join("so-demo");
    let place = folder.join("lib");
    fs::create_dir_all(&place)?;
    let link = place.join("libgcc_s.so.1");
    if link.symlink_metadata().is_ok() {
        fs::remove_file(&link)?;
    }
    symlink(&library, &link)?;
    for (source, compiler) in PROGRAMS {
        let program = compile(workspace, &folder, source, compiler)?;
        line(&format!("{} {source}", compiler.join(" ")));
        let mut libgcc: Option<Said> = None;
        for way in Way::ALL {
            let said = run(&program, way, &library, &place)?;
            let ratio = libgcc.as_ref().map(|libgcc| {
                ensure!(said.words == libgcc.words, "it says `{}` with ours", said.words);
                Ok(format!("{:.1} times as fast", libgcc.microseconds / said.microseconds))
            });
            let ratio = ratio.transpose()?.unwrap_or_default();
            line(&format!(
                "  {:<16} {:>6.2} µs  {ratio:<17}  {}",
                way.name(),
                said.microseconds,
                said.unwinder.display()
            ));
            libgcc.get_or_insert(said);
        }
        line(&format!("  each time: {}\n", libgcc.map(|said| said.words).unwrap_or_default()));
    }
    Ok((PROGRAMS.len() * Way::ALL.len()) as u64)
}

/// The library, optimized.
fn build(workspace: &Workspace) -> Result<PathBuf> {
    let mut step = Step::start(format!("building {UNWIND_SO}"));
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", UNWIND_SO]);
    let finished = command::run(cargo, BUILD_LIMIT, &mut |bytes| step.feed(bytes))?;
    if !finished.end.success() {
        step.end("failed");
        bail!("{}\ncargo build: {}", finished.messages(), finished.end);
    }
    step.end("done");
    let library = workspace.target.join("release/libunspool_unwind.so");
    fs::canonicalize(&library).with_context(|| format!("no {}", library.display()))
}

fn compile(
    workspace: &Workspace,
    folder: &Path,
    source: &str,
    compiler: &[&str],
) -> Result<PathBuf> {
    let program = folder.join(Path::new(source).with_extension(""));
    let mut command = Command::new(compiler[0]);
    command.current_dir(&workspace.root).arg(format!("unwind/so/demo/{source}"));
    command.args(&compiler[1..]).arg("-o").arg(&program);
    let finished = command::run(command, BUILD_LIMIT, &mut |_| ())?;
    ensure!(finished.end.success(), "{}\n{}: {}", finished.output, compiler[0], finished.end);
    Ok(program)
}

/// What a program said.
#[derive(Debug, PartialEq)]
struct Said {
    words: String,
    /// The file that `_Unwind_RaiseException` is in.
    unwinder: PathBuf,
    /// Each throw.
    microseconds: f64,
}

fn run(program: &Path, way: Way, library: &Path, place: &Path) -> Result<Said> {
    let mut command = Command::new(program);
    command.env_remove("LD_LIBRARY_PATH").env_remove("LD_PRELOAD");
    match way {
        Way::Libgcc => {}
        Way::Place => _ = command.env("LD_LIBRARY_PATH", place),
        Way::Preload => _ = command.env("LD_PRELOAD", library),
    }
    let finished = command::run(command, RUN_LIMIT, &mut |_| ())?;
    let output = &finished.output;
    let what = || format!("{}, {}:\n{output}", program.display(), way.name());
    ensure!(finished.end.success(), "{}{}", what(), finished.end);
    let said = said(output).with_context(what)?;
    let unwinder = fs::canonicalize(&said.unwinder)?;
    let ours = unwinder == library;
    ensure!(ours != matches!(way, Way::Libgcc), "unwound by {}\n{}", unwinder.display(), what());
    Ok(Said { unwinder, ..said })
}

/// The words, then `unwinder: FILE` and `microseconds: NUMBER`.
fn said(output: &str) -> Option<Said> {
    let (words, rest) = output.split_once("\nunwinder: ")?;
    let (unwinder, rest) = rest.split_once("\nmicroseconds: ")?;
    let microseconds = rest.trim().parse().ok()?;
    Some(Said { words: words.to_owned(), unwinder: unwinder.into(), microseconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_says_words_its_unwinder_and_a_time() {
        let expected =
            Said { words: "a\nb".into(), unwinder: "/lib/x.so".into(), microseconds: 1.5 };
        assert_eq!(said("a\nb\nunwinder: /lib/x.so\nmicroseconds: 1.50\n"), Some(expected));
        assert_eq!(said("a\nunwinder: /lib/x.so\n"), None);
        assert_eq!(said("a\nunwinder: /lib/x.so\nmicroseconds: many\n"), None);
    }
}
