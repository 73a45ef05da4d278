//! The rows as a table for a README.
//!
//! ```text
//!   | work | ours | all registers read | … | libgcc | … | target | result |
//!   date, processor, versions of the peers
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::report::{Row, Target};
use crate::walkers::{STEPS, TABLE};

/// Columns of the peers that most rows have, and which sides go there.
const COLUMNS: [(&str, &[&str]); 6] = [
    ("all registers read", &[STEPS]),
    ("with a table", &[TABLE, "ours, bare, table"]),
    ("libgcc", &["libgcc", "std, libgcc"]),
    ("`unwinding`", &["unwinding"]),
    ("framehop ¹", &["framehop (ra)"]),
    ("nongnu trace ¹", &["nongnu trace (ra)"]),
];

/// Crates among the peers.
const CRATES: [&str; 3] = ["framehop", "lithium", "unwinding"];
/// Debian packages among them.
const PACKAGES: [&str; 3] = ["libgcc-s1", "libunwind8", "libunwind-*"];

/// Writes the rows that have targets.
pub fn write(path: &Path, rows: &[Row]) -> Result<()> {
    let names = COLUMNS.map(|(name, _)| name).join(" | ");
    let mut text = format!("| work | ours | {names} | others | target | result |\n");
    text += &format!("|---|{}\n", "---|".repeat(COLUMNS.len() + 4));
    for row in rows.iter().filter(|row| !row.targets.is_empty()) {
        line(&mut text, row)?;
    }
    write!(
        text,
        "\n¹ Return addresses only. In brackets: how many times ours that is.\n\n{}; {}; {}.\n",
        said("date", &["--utc", "+%F"]).unwrap_or_else(|| "date unknown".into()),
        processor().unwrap_or_else(|| "processor unknown".into()),
        versions().join(", ")
    )?;
    std::fs::write(path, text)?;
    Ok(())
}

fn line(text: &mut String, row: &Row) -> Result<()> {
    write!(text, "| {}, {} | {}", row.name, row.unit, value(row.ours()))?;
    let ratio = |side: f64| format!("{} ({}×)", value(side), value(side / row.ours()));
    for (_, sides) in COLUMNS {
        let cell = sides.iter().find_map(|side| row.side(side)).map(ratio);
        write!(text, " | {}", cell.as_deref().unwrap_or("–"))?;
    }
    // Others stand in the JSON file, unless something is aimed at that has to do with them.
    let is_other = |name: &str| !COLUMNS.iter().any(|(_, sides)| sides.contains(&name));
    let others = row.sides.iter().skip(1).filter(|(name, _)| is_other(name));
    let others = others.filter(|(name, _)| row.targets.iter().any(|target| target.is_about(name)));
    let others: Vec<_> = others.map(|(name, side)| format!("{name} {}", ratio(*side))).collect();
    let others = if others.is_empty() { "–".into() } else { others.join(", ") };
    let not_met = row.not_met().map(described).collect::<Vec<_>>().join(", ");
    let result = match (row.missed().next(), &*not_met) {
        (None, "") => "met".to_owned(),
        (None, wish) => format!("met, not: {wish}"),
        (Some(_), missed) => format!("**missed**: {missed}"),
    };
    writeln!(text, " | {others} | {} | {result} |", targets(row))?;
    Ok(())
}

/// A target, with the column of its side.
fn described(target: Target) -> String {
    let column = |side| COLUMNS.iter().find(|(_, sides)| sides.contains(&side));
    match target.side.and_then(column) {
        Some((column, _)) => format!("{}{column} {}", target.prefix(), target.goal),
        None => target.to_string(),
    }
}

/// What is aimed at, once if it is aimed at for two sides.
fn targets(row: &Row) -> String {
    let mut goals = BTreeMap::<String, Vec<Target>>::new();
    let mut order = Vec::new();
    for target in &row.targets {
        let goal = format!("{}{}", target.prefix(), target.goal);
        if !order.contains(&goal) {
            order.push(goal.clone());
        }
        goals.entry(goal).or_default().push(*target);
    }
    let goals = order.into_iter().map(|goal| match goals.get(&goal).map(Vec::as_slice) {
        Some([target]) => described(*target),
        _ => goal,
    });
    goals.collect::<Vec<_>>().join(", ")
}

/// With three digits, as far as it has them.
fn value(number: f64) -> String {
    match number {
        100.0.. => format!("{number:.0}"),
        10.0..100.0 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("model name"))?;
    Some(line.trim_start_matches([' ', '\t', ':']).to_owned())
}

/// The versions of the peers, as far as they can be told.
fn versions() -> Vec<String> {
    let mut all = Vec::new();
    let lines: Vec<_> = include_str!("../Cargo.lock").lines().collect();
    for pair in lines.windows(2) {
        let quoted =
            |line: &str, key| Some(String::from(line.strip_prefix(key)?.trim_matches('"')));
        let name = quoted(pair[0], "name = ").filter(|name| CRATES.contains(&&**name));
        if let (Some(name), Some(version)) = (name, quoted(pair[1], "version = ")) {
            all.push(format!("{name} {version}"));
        }
    }
    let mut words = vec!["--show", "--showformat=${db:Status-Abbrev}${Package} ${Version}\\n"];
    words.extend(PACKAGES);
    let packages = said("dpkg-query", &words).unwrap_or_default();
    all.extend(packages.lines().filter_map(|line| Some(line.strip_prefix("ii ")?.to_owned())));
    all.extend(said("rustc", &["--version"]));
    all
}

/// What a program says.
fn said(program: &str, words: &[&str]) -> Option<String> {
    let output = Command::new(program).args(words).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (!text.is_empty()).then_some(text)
}
