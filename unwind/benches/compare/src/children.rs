//! Processes that measure, or that are measured.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::measure::tick;
use crate::walkers::Places;

/// This program, to do one thing.
pub fn this(what: &str, words: &[&str], places: &Places<'_>) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--ours").arg(places.ours).arg("--unwinding").arg(places.unwinding);
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
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    valgrind.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        valgrind.env(name, value.unwrap_or_default());
    }
    let output = valgrind.output().context("valgrind")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}\n{text}", output.status);
    let line = text.lines().find_map(|line| line.split_once("Collected : "));
    Ok(line.context("callgrind says nothing")?.1.trim().parse()?)
}
