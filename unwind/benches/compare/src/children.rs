//! Processes that measure, or that are measured.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::measure::tick;
use crate::walkers::Places;

/// This program, to do one thing.
pub fn this(what: &str, words: &[&str], places: &Places<'_>) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--ours").arg(places.ours).arg("--unwinding").arg(places.unwinding);
    command.arg("--tables").arg(places.tables);
    command.arg("--child").arg(what).args(words);
    Ok(command)
}

/// As it is, or with our library in libgcc's place.
pub fn replaced(mut command: Command, place: Option<&Path>) -> Command {
    if let Some(place) = place {
        command.env("LD_LIBRARY_PATH", place);
    }
    command
}

/// Runs it; its last line is a number of time stamps; nanoseconds times `scale`.
pub fn stamps(mut command: Command, scale: f64) -> Result<f64> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    let number: f64 = text.lines().last().unwrap_or_default().trim().parse()?;
    Ok(number * tick() * scale)
}

/// Instructions of one operation: those of a process that does it three times as often, less
/// those of one that does it so often.
pub fn instructions(command: &dyn Fn(usize) -> Result<Command>, operations: usize) -> Result<f64> {
    let few = collected(&command(operations)?)?;
    let many = collected(&command(3 * operations)?)?;
    Ok((many - few) / (2 * operations) as f64)
}

/// What callgrind counts.
fn collected(command: &Command) -> Result<f64> {
    let text = callgrind(command, Path::new("/dev/null"))?;
    let line = text.lines().find_map(|line| line.split_once("Collected : "));
    Ok(line.context("callgrind says nothing")?.1.trim().parse()?)
}

/// The functions, by their symbols, in which a process spends more instructions the oftener it does
/// its operation: what an operation executes when nothing about it is new. `file` is written over.
pub fn functions(
    command: &dyn Fn(usize) -> Result<Command>,
    operations: usize,
    file: &Path,
) -> Result<BTreeSet<String>> {
    let run = |operations| -> Result<_> {
        callgrind(&command(operations)?, file)?;
        Ok(profile(&std::fs::read_to_string(file)?))
    };
    let (few, many) = (run(operations)?, run(3 * operations)?);
    let grows = |(name, cost): &(String, u64)| *cost > few.get(name).copied().unwrap_or(0);
    Ok(many.into_iter().filter(grows).map(|(name, _)| name).collect())
}

/// Instructions of each function itself, from callgrind's file (Callgrind Format Specification §3).
fn profile(text: &str) -> BTreeMap<String, u64> {
    let mut names = BTreeMap::new();
    let mut costs = BTreeMap::new();
    let (mut function, mut is_call) = (String::new(), false);
    for line in text.lines() {
        if let Some((key @ ("fn" | "cfn"), name)) = line.split_once('=') {
            // "(number) name" the first time, "(number)" from then on.
            let (number, name) = name.split_once(' ').unwrap_or((name, ""));
            let known = names.entry(number.to_owned()).or_insert_with(|| name.to_owned());
            if key == "fn" {
                function.clone_from(known);
            }
        } else if line.starts_with("calls=") {
            // What the callee takes is on the next line.
            is_call = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit() || "+-*".contains(first)) {
            let cost = line.split(' ').nth(1).and_then(|cost| cost.parse::<u64>().ok());
            if !is_call {
                *costs.entry(function.clone()).or_insert(0) += cost.unwrap_or(0);
            }
            is_call = false;
        }
    }
    costs
}

/// Runs it under callgrind, which writes to `file`; what callgrind says.
fn callgrind(command: &Command, file: &Path) -> Result<String> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--demangle=no"]);
    valgrind.arg(format!("--callgrind-out-file={}", file.display()));
    valgrind.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        valgrind.env(name, value.unwrap_or_default());
    }
    let output = valgrind.output().context("valgrind")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    Ok(text.into_owned())
}
