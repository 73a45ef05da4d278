//! Rows: what was measured, against what, and what was aimed at.
//!
//! ```text
//!   walk/warm/64_distinct          ns a frame
//!     ours                   9.10        ≤ 5: MISSED
//!     libgcc               104.00  11.4×  ≥ 20×: MISSED
//! ```

use std::fmt;
use std::path::Path;

use anyhow::Result;
use serde_json::json;

/// What is aimed at.
#[derive(Clone, Copy)]
pub enum Target {
    /// At most so much.
    AtMost(f64),
    /// At least so much.
    AtLeast(f64),
    /// This peer takes at least so many times as much.
    Ahead(&'static str, f64),
}

/// One kind of work.
pub struct Row {
    pub name: String,
    pub unit: &'static str,
    /// Ours first, then the peers.
    pub sides: Vec<(String, f64)>,
    pub targets: Vec<Target>,
}

impl Row {
    /// What ours took.
    fn ours(&self) -> f64 {
        self.sides.first().map_or(f64::NAN, |(_, value)| *value)
    }

    fn peer(&self, name: &str) -> Option<f64> {
        self.sides.iter().find(|(each, _)| each == name).map(|(_, value)| *value)
    }

    /// Whether a target is met; `None` if the peer is not there.
    fn met(&self, target: Target) -> Option<bool> {
        Some(match target {
            Target::AtMost(limit) => self.ours() <= limit,
            Target::AtLeast(limit) => self.ours() >= limit,
            Target::Ahead(peer, factor) => self.peer(peer)? >= factor * self.ours(),
        })
    }

    /// The targets that are missed.
    pub fn missed(&self) -> impl Iterator<Item = Target> + '_ {
        self.targets.iter().copied().filter(|target| self.met(*target) == Some(false))
    }

    fn verdict(&self, concerns: impl Fn(Target) -> bool) -> String {
        let targets = self.targets.iter().copied().filter(|target| concerns(*target));
        let verdicts = targets.map(|target| match self.met(target) {
            Some(true) => format!("{target}: met"),
            Some(false) => format!("{target}: MISSED"),
            None => format!("{target}: no peer"),
        });
        verdicts.collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "≤ {limit}"),
            Self::AtLeast(limit) => write!(f, "≥ {limit}"),
            Self::Ahead(_, factor) => write!(f, "≥ {factor:.3}×"),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:44} {}", self.name, self.unit)?;
        for (place, (name, value)) in self.sides.iter().enumerate() {
            let verdict = self.verdict(|target| match target {
                Target::Ahead(peer, _) => peer == name,
                _ => place == 0,
            });
            let ratio = match place {
                0 => String::new(),
                _ => format!("{:.2}×", value / self.ours()),
            };
            writeln!(f, "    {name:24}{value:12.2}{ratio:>10}  {verdict}")?;
        }
        Ok(())
    }
}

/// Writes all rows as JSON.
pub fn json(path: &Path, rows: &[Row]) -> Result<()> {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            let sides =
                row.sides.iter().map(|(name, value)| json!({ "name": name, "value": value }));
            let target = |target: Target| {
                let peer = match target {
                    Target::Ahead(peer, _) => peer,
                    _ => "",
                };
                json!({ "target": target.to_string(), "peer": peer, "met": row.met(target) })
            };
            json!({
                "row": row.name,
                "unit": row.unit,
                "sides": sides.collect::<Vec<_>>(),
                "targets": row.targets.iter().copied().map(target).collect::<Vec<_>>(),
            })
        })
        .collect();
    std::fs::write(path, serde_json::to_string_pretty(&rows)?)?;
    Ok(())
}
