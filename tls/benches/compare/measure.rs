//! Medians of alternating rounds.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// What a round was timed with.
#[derive(Default)]
pub struct Clock(Duration);

/// What reading the clock twice takes.
fn overhead() -> Duration {
    static OVERHEAD: OnceLock<Duration> = OnceLock::new();
    *OVERHEAD.get_or_init(|| {
        let mut pairs: Vec<_> = (0..10_001).map(|_| Instant::now().elapsed()).collect();
        pairs.sort();
        pairs[pairs.len() / 2]
    })
}

impl Clock {
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

fn median(rounds: &mut [f64]) -> f64 {
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

impl Table {
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
            let pair = (round(operations, &mut ours), round(operations, &mut theirs));
            // The first ones warm up.
            if number > rounds / 10 {
                our.push(pair.0);
                their.push(pair.1);
            }
        }
        let (our, their) = (median(&mut our), median(&mut their));
        let ratio = our / their;
        println!("{name:44}{our:9.2} ns{their:9.2} ns{ratio:9.2}  {}", self.note);
    }

    /// A row without another side.
    pub fn alone(
        &mut self,
        name: &str,
        rounds: usize,
        operations: usize,
        mut act: impl FnMut(&mut Clock),
    ) {
        let mut all: Vec<_> = (0..=rounds).map(|_| round(operations, &mut act)).collect();
        println!("{name:44}{:9.2} ns", median(&mut all));
    }
}
