//! What many turns of two programs say about each other.
//!
//! ```text
//!   turn: kernel ─► `measured NAME CYCLES` … ─┐
//!         std    ─► `measured NAME CYCLES` … ─┴─► name: medians │ ratio │ target: met, MISSED
//! ```
//!
//! Each process says how long an operation took in its best round: what others use of the machine is
//! not in it. Of the turns it is the median: the system puts a program on `std` elsewhere in memory
//! each time, and the kernel always in the same place. The best of many places says nothing about
//! one.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

/// The programs, by the place of their numbers.
const SIDES: [&str; 2] = ["kernel", "std"];

/// What the kernel's time is to be, as a part of that of `std`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Target {
    AtMost(f64),
    Below(f64),
}

/// By the name of a measurement.
const TARGETS: [(&str, Target); 4] = [
    ("host-wasm", Target::AtMost(1.03)),
    ("host-wasm-host", Target::AtMost(1.03)),
    ("queens", Target::AtMost(1.03)),
    ("trap", Target::Below(1.0)),
];

impl Target {
    fn is_met(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(limit) => ratio <= limit,
            Self::Below(limit) => ratio < limit,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "≤ {limit}"),
            Self::Below(limit) => write!(f, "< {limit}"),
        }
    }
}

/// Cycles for one operation, of each side in each turn, by the name of the measurement.
#[derive(Debug, Default)]
pub struct Turns(BTreeMap<String, [Vec<f64>; 2]>);

impl Turns {
    /// Adds what one of the two programs wrote.
    pub fn add(&mut self, side: usize, output: &str) {
        for (name, cycles) in output.lines().filter_map(measured) {
            self.0.entry(name.to_owned()).or_default()[side].push(cycles);
        }
    }

    /// Names, medians, and the ratio of these.
    fn rows(&self) -> impl Iterator<Item = (&str, [f64; 2], f64)> {
        self.0.iter().map(|(name, sides)| {
            let medians = sides.each_ref().map(|turns| median(turns));
            (name.as_str(), medians, medians[0] / medians[1])
        })
    }

    /// All of it, for programs.
    pub fn json(&self) -> Value {
        let rows = self.rows().map(|(name, medians, ratio)| {
            let side = |place: usize| {
                json!({ "name": SIDES[place], "median": medians[place], "turns": self.0[name][place] })
            };
            let target = target(name).map(
                |target| json!({ "target": target.to_string(), "met": target.is_met(ratio) }),
            );
            json!({
                "name": name, "unit": "cycles", "ratio": ratio, "sides": [side(0), side(1)],
                "target": target,
            })
        });
        rows.collect()
    }
}

impl fmt::Display for Turns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [ours, theirs] = SIDES;
        writeln!(f, "{:<16} {ours:>12} {theirs:>12} {:>7}  target", "cycles", "ratio")?;
        for (name, [ours, theirs], ratio) in self.rows() {
            write!(f, "{name:<16} {ours:>12.1} {theirs:>12.1} {ratio:>7.3}")?;
            match target(name) {
                Some(target) if target.is_met(ratio) => writeln!(f, "  {target}: met")?,
                Some(target) => writeln!(f, "  {target}: MISSED")?,
                None => writeln!(f)?,
            }
        }
        Ok(())
    }
}

fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|(each, _)| *each == name).map(|(_, target)| target)
}

/// The one in the middle; of an even number, what is between the two there.
fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length.is_multiple_of(2) => f64::midpoint(sorted[upper - 1], sorted[upper]),
        _ => sorted[upper],
    }
}

/// The name and the cycles of a line of a measurement.
fn measured(line: &str) -> Option<(&str, f64)> {
    let (name, cycles) = line.trim().strip_prefix("measured ")?.split_once(' ')?;
    Some((name, cycles.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_measurement_has_a_name_and_cycles() {
        assert_eq!(measured("measured trap 102.5\r"), Some(("trap", 102.5)));
        for other in ["measured trap", "measured trap x", "journey complete", ""] {
            assert_eq!(measured(other), None);
        }
    }

    #[test]
    fn one_turn_out_of_line_changes_no_median() {
        assert_eq!(median(&[3.0, 1.0, 90.0]), 3.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 90.0]), 3.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn what_misses_its_target_says_so() {
        let mut turns = Turns::default();
        turns.add(0, "measured queens 103.0\nmeasured trap 100.0\r\nmeasured other 1.0");
        turns.add(1, "measured queens 100.0\nmeasured trap 100.0\nmeasured other 2.0");
        let table = turns.to_string();
        let line = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(line("queens").ends_with("1.030  ≤ 1.03: met"), "{table}");
        assert!(line("trap").ends_with("1.000  < 1: MISSED"), "{table}");
        assert!(line("other").ends_with("0.500"), "{table}");
        assert_eq!(turns.json()[2]["target"]["met"], false);
        assert_eq!(turns.json()[0]["sides"][1]["turns"][0], 2.0);
    }

    #[test]
    fn a_side_that_says_nothing_meets_no_target() {
        let mut turns = Turns::default();
        turns.add(0, "measured trap 1.0");
        assert!(turns.to_string().contains("< 1: MISSED"));
    }
}
