//! Short rounds of both sides, in turn.
//!
//! ```text
//!  ours · theirs · theirs · ours · ours · theirs · …      ─► least, median; ratio of lower quartiles
//! ```
//!
//! What else the machine does makes rounds longer, never shorter, and hits both sides alike. So the
//! ratio is that of rounds that were left in peace, and not of the single best ones, either.

use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// What a round was timed with.
#[derive(Default)]
pub struct Clock(Duration);

/// What reading the clock twice takes. Measured when it is first asked for.
pub fn overhead() -> Duration {
    static OVERHEAD: OnceLock<Duration> = OnceLock::new();
    *OVERHEAD.get_or_init(|| {
        let mut pairs: Vec<_> = (0..10_001).map(|_| Instant::now().elapsed()).collect();
        pairs.sort();
        pairs[pairs.len() / 2]
    })
}

impl Clock {
    /// Takes over what was timed elsewhere.
    pub fn add(&mut self, time: Duration) {
        self.0 += time;
    }

    /// Times a part of a round.
    pub fn time(&mut self, act: impl FnOnce()) {
        let start = Instant::now();
        act();
        self.0 += start.elapsed().saturating_sub(overhead());
    }
}

/// Prints rows.
pub struct Table {
    note: String,
}

/// Nanoseconds of one operation in a round.
fn round(operations: usize, act: &mut dyn FnMut(&mut Clock)) -> f64 {
    let mut clock = Clock::default();
    act(&mut clock);
    clock.0.as_nanos() as f64 / operations as f64
}

/// What came of one side's rounds, in nanoseconds.
struct Summary {
    least: f64,
    quartile: f64,
    median: f64,
}

impl Summary {
    fn of(mut rounds: Vec<f64>) -> Self {
        rounds.sort_by(f64::total_cmp);
        let at = |part: usize| rounds[rounds.len() / part];
        Self { least: rounds[0], quartile: at(4), median: at(2) }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:10.2}{:10.2}", self.least, self.median)
    }
}

impl Table {
    /// The line above all rows.
    pub fn head() {
        let (ours, theirs) = ("unspool, ns", "glibc, ns");
        println!("{:44}{ours:>20}{theirs:>20}{:>8}", "", "ratio");
        println!("{:44}{:>10}{:>10}{:>10}{:>10}", "", "least", "median", "least", "median");
    }

    /// `note` stands behind glibc's numbers.
    pub fn new(note: String) -> Self {
        Self { note }
    }

    /// Rounds of both sides, alternating; each does so many operations.
    pub fn compare(
        &mut self,
        name: &str,
        rounds: usize,
        operations: usize,
        mut ours: impl FnMut(&mut Clock),
        mut theirs: impl FnMut(&mut Clock),
    ) {
        let (mut our, mut their) = (Vec::new(), Vec::new());
        for number in 0..rounds + rounds / 10 + 1 {
            let mut first = None;
            if number % 2 == 0 {
                first = Some(round(operations, &mut ours));
            }
            let theirs = round(operations, &mut theirs);
            let ours = first.unwrap_or_else(|| round(operations, &mut ours));
            // The first ones warm up.
            if number > rounds / 10 {
                our.push(ours);
                their.push(theirs);
            }
        }
        let (our, their) = (Summary::of(our), Summary::of(their));
        let ratio = our.quartile / their.quartile;
        println!("{name:44}{our}{their}{ratio:8.2}  {}", self.note);
    }

    /// A row without another side.
    pub fn alone(
        &mut self,
        name: &str,
        rounds: usize,
        operations: usize,
        mut act: impl FnMut(&mut Clock),
    ) {
        let all = (0..=rounds).map(|_| round(operations, &mut act)).collect();
        println!("{name:44}{}", Summary::of(all));
    }
}
