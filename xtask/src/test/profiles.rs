//! The demo's load under `cargo xtask profile`: what is busy there must be what the files show.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::packages::DEMO;
use crate::place::Place;
use crate::profile::{Made, Run};

/// For how long the demo works.
pub const SECONDS: u32 = 2;

/// It may take far longer to write what was seen, on a busy machine.
const LIMIT: Duration = Duration::from_secs(600);

/// Where most of the time goes, and how it is called.
const BUSY: &str = "unspool_demo::load::crunch";
const STACK: [&str; 2] = ["unspool_demo::load::work", BUSY];
/// What else must have been seen.
const ALSO: &[&str] = &["unspool_demo::load::go_down;", ";unspool_unwind::"];

/// A short profile.
pub fn run(cpus: u32, place: Place) -> Run<'static> {
    // The lines of an emulated serial port are slow.
    let hertz = if matches!(place, Place::Process) { 1000 } else { 250 };
    Run { name: DEMO, place, cpus, hertz, memory: 1024, limit: LIMIT }
}

/// What was wrong with it, if anything was.
///
/// # Errors
/// A file is not there.
pub fn judge(made: &Made) -> Result<Option<String>> {
    let read = |path| fs::read_to_string(path).with_context(|| format!("{path:?}"));
    let (folded, graph) = (read(&made.folded)?, read(&made.graph)?);
    let top = made.text.lines().skip_while(|line| !line.contains("function")).nth(1);
    if !top.is_some_and(|line| line.ends_with(BUSY)) {
        return Ok(Some(format!("{BUSY} is not at the top:\n{}", made.text)));
    }
    // What was inlined into it stands behind it.
    if !folded.contains(&STACK.join(";")) {
        return Ok(Some(format!("no stack of {} has {STACK:?}", made.folded.display())));
    }
    if let Some(missing) = ALSO.iter().find(|part| !folded.contains(**part)) {
        return Ok(Some(format!("no stack of {} has {missing}", made.folded.display())));
    }
    if !(graph.starts_with("<?xml") && graph.contains(BUSY) && graph.contains("</svg>")) {
        return Ok(Some(format!("{} is no flame graph of it", made.graph.display())));
    }
    let works = made.text.contains("the same work, by turns");
    Ok((!works).then(|| format!("it does not tell what it cost:\n{}", made.text)))
}
