//! Rounds of all sides in turn, and what came of them.
//!
//! ```text
//!  a · b · c · b · c · a · c · a · b · …      ─► median of each
//! ```
//!
//! What else the machine does hits all sides alike.

use std::arch::x86_64::_rdtsc;
use std::hint::black_box;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::Result;

/// One side: its name, and what does a round and says how long an operation took.
pub struct Side<'a> {
    pub name: &'a str,
    pub round: Box<dyn FnMut() -> Result<f64> + 'a>,
}

impl<'a> Side<'a> {
    pub fn new(name: &'a str, round: impl FnMut() -> Result<f64> + 'a) -> Self {
        Self { name, round: Box::new(round) }
    }
}

/// The median of each side's rounds, which take turns; the first of each is for warming up.
pub fn interleave(rounds: usize, sides: Vec<Side<'_>>) -> Result<Vec<(String, f64)>> {
    let mut all: Vec<(Side<'_>, Vec<f64>)> =
        sides.into_iter().map(|side| (side, Vec::new())).collect();
    for number in 0..=rounds {
        let count = all.len();
        for place in 0..count {
            let (side, times) = &mut all[(place + number) % count];
            let time = (side.round)()?;
            if number > 0 {
                times.push(time);
            }
        }
    }
    Ok(all.into_iter().map(|(side, times)| (side.name.to_owned(), median(times))).collect())
}

/// The middle one.
pub fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Time stamps now.
pub fn stamps() -> u64 {
    // SAFETY: every x86-64 CPU has the instruction.
    unsafe { _rdtsc() }
}

/// Time stamps of reading them twice.
pub fn overhead() -> u64 {
    static OVERHEAD: OnceLock<u64> = OnceLock::new();
    *OVERHEAD.get_or_init(|| {
        let pair = || {
            let start = stamps();
            black_box(stamps()) - start
        };
        median((0..10_001).map(|_| pair() as f64).collect()) as u64
    })
}

/// Nanoseconds of a time stamp.
pub fn tick() -> f64 {
    static TICK: OnceLock<f64> = OnceLock::new();
    *TICK.get_or_init(|| {
        let (time, start) = (Instant::now(), stamps());
        while time.elapsed() < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        time.elapsed().as_nanos() as f64 / (stamps() - start) as f64
    })
}
