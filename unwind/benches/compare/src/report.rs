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
pub enum Goal {
    /// At most so much.
    AtMost(f64),
    /// At least so much.
    AtLeast(f64),
    /// This peer takes at least so many times as much.
    Ahead(&'static str, f64),
}

/// By which side.
#[derive(Clone, Copy)]
pub struct Target {
    /// The first one if none is named.
    pub side: Option<&'static str>,
    pub goal: Goal,
    /// Whether more is wished for than must be: then it is no target that can be missed.
    pub is_wish: bool,
}

impl Target {
    /// Ours takes at most so much.
    pub const fn at_most(limit: f64) -> Self {
        Self { side: None, goal: Goal::AtMost(limit), is_wish: false }
    }

    /// Ours reaches so much.
    pub const fn at_least(limit: f64) -> Self {
        Self { side: None, goal: Goal::AtLeast(limit), is_wish: false }
    }

    /// Ours is so many times as fast as this peer.
    pub const fn ahead(peer: &'static str, factor: f64) -> Self {
        Self { side: None, goal: Goal::Ahead(peer, factor), is_wish: false }
    }

    /// The same is aimed at for this side.
    #[must_use]
    pub const fn of(self, side: &'static str) -> Self {
        Self { side: Some(side), ..self }
    }

    /// The same is only wished for.
    #[must_use]
    pub const fn as_wish(self) -> Self {
        Self { is_wish: true, ..self }
    }

    /// Whose line tells of it: that of the peer that ours is measured by, or that of the side.
    fn is_told_at(self, name: &str, place: usize) -> bool {
        match (self.side, self.goal) {
            (Some(side), _) => side == name,
            (None, Goal::Ahead(peer, _)) => peer == name,
            (None, _) => place == 0,
        }
    }

    /// Whether it has to do with this side.
    pub fn is_about(self, name: &str) -> bool {
        self.side == Some(name) || matches!(self.goal, Goal::Ahead(peer, _) if peer == name)
    }

    /// What stands before a wish.
    pub const fn prefix(self) -> &'static str {
        if self.is_wish { "wish " } else { "" }
    }

    /// As in a line that does not name the peer.
    fn brief(self) -> String {
        match (self.side, self.goal) {
            (None, Goal::Ahead(_, factor)) => format!("{}≥ {}×", self.prefix(), short(factor)),
            _ => format!("{}{}", self.prefix(), self.goal),
        }
    }
}

/// One kind of work.
pub struct Row {
    pub name: String,
    pub unit: &'static str,
    /// Ours first, then the peers.
    pub sides: Vec<(String, f64)>,
    pub targets: Vec<Target>,
    /// Who is not here, and why.
    pub absent: Vec<String>,
}

impl Row {
    pub fn new(
        name: impl Into<String>,
        unit: &'static str,
        sides: Vec<(String, f64)>,
        targets: Vec<Target>,
    ) -> Self {
        Self { name: name.into(), unit, sides, targets, absent: Vec::new() }
    }

    /// What ours took.
    pub fn ours(&self) -> f64 {
        self.sides.first().map_or(f64::NAN, |(_, value)| *value)
    }

    /// What a side took.
    pub fn side(&self, name: &str) -> Option<f64> {
        self.sides.iter().find(|(each, _)| each == name).map(|(_, value)| *value)
    }

    /// Whether a target is met; `None` if a side is not there.
    pub fn met(&self, target: Target) -> Option<bool> {
        let value = match target.side {
            Some(side) => self.side(side)?,
            None => self.ours(),
        };
        Some(match target.goal {
            Goal::AtMost(limit) => value <= limit,
            Goal::AtLeast(limit) => value >= limit,
            Goal::Ahead(peer, factor) => self.side(peer)? >= factor * value,
        })
    }

    /// The targets that are missed, or that nobody is there for.
    pub fn missed(&self) -> impl Iterator<Item = Target> + '_ {
        self.not_met().filter(|target| !target.is_wish)
    }

    /// The same, and the wishes.
    pub fn not_met(&self) -> impl Iterator<Item = Target> + '_ {
        self.targets.iter().copied().filter(|target| self.met(*target) != Some(true))
    }

    fn verdict(&self, name: &str, place: usize) -> String {
        let targets = self.targets.iter().filter(|target| target.is_told_at(name, place));
        let verdicts = targets.map(|&target| match self.met(target) {
            Some(true) => format!("{}: met", target.brief()),
            Some(false) if target.is_wish => format!("{}: not reached", target.brief()),
            Some(false) => format!("{}: MISSED", target.brief()),
            None => format!("{}: NOBODY TO COMPARE WITH", target.brief()),
        });
        verdicts.collect::<Vec<_>>().join(", ")
    }
}

/// With three digits after the point at most.
pub fn short(number: f64) -> String {
    format!("{number:.3}").trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "≤ {}", short(*limit)),
            Self::AtLeast(limit) => write!(f, "≥ {}", short(*limit)),
            Self::Ahead(peer, factor) => write!(f, "≥ {}× {peer}", short(*factor)),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.side {
            Some(side) => write!(f, "{}{side} {}", self.prefix(), self.goal),
            None => write!(f, "{}{}", self.prefix(), self.goal),
        }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:44} {}", self.name, self.unit)?;
        for (place, (name, value)) in self.sides.iter().enumerate() {
            let ratio = match place {
                0 => String::new(),
                _ => format!("{:.2}×", value / self.ours()),
            };
            let verdict = self.verdict(name, place);
            writeln!(f, "    {name:24}{value:12.2}{ratio:>10}  {verdict}")?;
        }
        for absent in &self.absent {
            writeln!(f, "    absent: {absent}")?;
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
            let target =
                |target: Target| json!({ "target": target.to_string(), "met": row.met(target) });
            json!({
                "row": row.name,
                "unit": row.unit,
                "sides": sides.collect::<Vec<_>>(),
                "targets": row.targets.iter().copied().map(target).collect::<Vec<_>>(),
                "absent": row.absent,
            })
        })
        .collect();
    std::fs::write(path, serde_json::to_string_pretty(&rows)?)?;
    Ok(())
}
