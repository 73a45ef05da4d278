//! Our unwinder and the others, on the same stacks, in one run.
//!
//! ```text
//!   cargo xtask bench unspool-unwind
//!     walks    in this process, all walkers on one stack, in turn
//!     throws   processes, in turn         instructions   under callgrind
//!     ─► a table; unwind.json, unwind.svg and unwind.md in target/bench/
//! ```

mod chain;
mod chart;
mod children;
mod heap;
mod markdown;
mod measure;
mod objects;
mod reach;
mod report;
mod sizes;
mod tables;
mod throws;
mod walkers;
mod walks;

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use indicatif::ProgressBar;

use crate::report::Row;
use crate::throws::Programs;
use crate::walkers::Places;

/// Where everything is, and what to do.
#[derive(Parser)]
struct Options {
    /// Our shared library
    #[arg(long)]
    ours: PathBuf,
    /// The `unwinding` crate as a shared library
    #[arg(long)]
    unwinding: PathBuf,
    /// The kernel program that throws
    #[arg(long)]
    bare: Option<PathBuf>,
    /// Where to put what is made
    #[arg(long, default_value = ".")]
    output: PathBuf,
    /// Where tables of frames are put; a folder in `output` if it is not said
    #[arg(long)]
    tables: Option<PathBuf>,
    /// Only parts with this in their names
    #[arg(long, default_value = "")]
    only: String,
    /// Does one thing, for a run that has started this process
    #[arg(long, num_args = 1.., allow_hyphen_values = true)]
    child: Vec<String>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let tables = options.tables.clone().unwrap_or_else(|| options.output.join("tables"));
    let places = Places { tables: &tables, ours: &options.ours, unwinding: &options.unwinding };
    match options.child.split_first() {
        Some((what, words)) => child(what, words, &places),
        None => run(&options, &places),
    }
}

fn child(what: &str, words: &[String], places: &Places<'_>) -> Result<()> {
    match (what, words) {
        ("first", [name]) => walks::first_here(name, places),
        ("walk", [name, walks]) => walks::count_here(name, walks.parse()?, places),
        _ => throws::here(what, words),
    }
}

/// A part of the run, and its rows.
type Part<'a> = (&'a str, Box<dyn FnOnce() -> Result<Vec<Row>> + 'a>);

fn run(options: &Options, places: &Places<'_>) -> Result<()> {
    tables::write(places.tables)?;
    let bare = options.bare.as_deref().context("--bare is needed")?;
    let programs = Programs::new(bare, places, &options.output)?;
    let programs = &programs;
    let parts: Vec<Part<'_>> = vec![
        ("walk", Box::new(|| walks::warm(places))),
        ("evicted", Box::new(|| walks::evicted(places))),
        ("first", Box::new(|| walks::first(places, bare))),
        ("throw", Box::new(|| throws::rows(programs))),
        ("threads", Box::new(|| throws::threads(programs))),
        ("walk_instructions", Box::new(|| walks::instructions(places))),
        ("throw_instructions", Box::new(|| throws::instructions(programs))),
        ("table", Box::new(|| tables::rows(bare))),
        ("size", Box::new(|| sizes::rows(&options.ours, programs, &options.output))),
    ];
    let mut rows = Vec::new();
    for (name, part) in parts.into_iter().filter(|(name, _)| name.contains(&options.only)) {
        let bar = ProgressBar::new_spinner().with_message(name.to_owned());
        bar.enable_steady_tick(std::time::Duration::from_millis(100));
        let made = part();
        bar.finish_and_clear();
        for row in made? {
            println!("{row}");
            rows.push(row);
        }
    }
    summary(&rows);
    report::json(&options.output.join("unwind.json"), &rows)?;
    chart::draw(&options.output.join("unwind.svg"), &rows)?;
    markdown::write(&options.output.join("unwind.md"), &rows)?;
    println!("written: {}/unwind.{{json,svg,md}}", options.output.display());
    Ok(())
}

fn summary(rows: &[Row]) {
    let missed: Vec<_> = rows.iter().filter(|row| row.missed().next().is_some()).collect();
    let absent: BTreeSet<_> = rows.iter().flat_map(|row| &row.absent).collect();
    for each in absent {
        println!("absent: {each}");
    }
    println!("{} of {} rows miss a target", missed.len(), rows.len());
    for row in missed {
        let targets: Vec<_> = row.missed().map(|target| target.to_string()).collect();
        println!("    {:44} {}", row.name, targets.join(", "));
    }
}
