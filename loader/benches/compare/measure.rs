//! Times of alternating rounds, and memory before and after.

use std::ops::AddAssign;
use std::time::{Duration, Instant};

/// What one round took.
#[derive(Clone, Copy, Default)]
pub struct Took {
    pub load: Duration,
    pub unload: Duration,
}

impl Took {
    /// Times a load and the unload of what it gave.
    pub fn both<T>(load: impl FnOnce() -> T, unload: impl FnOnce(T)) -> Self {
        let start = Instant::now();
        let loaded = load();
        let load = start.elapsed();
        let start = Instant::now();
        unload(loaded);
        Self { load, unload: start.elapsed() }
    }

    fn sum(&self) -> Duration {
        self.load + self.unload
    }
}

impl AddAssign for Took {
    fn add_assign(&mut self, other: Self) {
        self.load += other.load;
        self.unload += other.unload;
    }
}

/// One side of a comparison.
pub struct Side<'s> {
    pub name: &'s str,
    pub round: Box<dyn FnMut() -> Took + 's>,
}

/// The shortest round and the median one, in microseconds.
#[derive(Clone, Copy)]
struct Figures {
    min: f64,
    median: f64,
}

impl Figures {
    fn of(rounds: &[Took], what: impl Fn(&Took) -> Duration) -> Self {
        let mut all: Vec<_> = rounds.iter().map(|took| what(took).as_secs_f64() * 1e6).collect();
        all.sort_by(f64::total_cmp);
        Self { min: all[0], median: all[all.len() / 2] }
    }
}

/// The head of the table of times.
pub fn print_head() {
    println!(
        "{:36}{:>10}{:>10}{:>10}{:>10}{:>9}",
        "us", "load", "unload", "both", "both min", "ratio"
    );
}

/// Runs the sides in turn, prints a row of medians for each, with how many times the first side's
/// time it takes, and gives the median load of the first in seconds.
pub fn compare(name: &str, rounds: usize, sides: &mut [Side<'_>]) -> f64 {
    let mut took: Vec<Vec<Took>> = sides.iter().map(|_| Vec::with_capacity(rounds)).collect();
    let warm_up = rounds / 10 + 1;
    for number in 0..rounds + warm_up {
        for (side, took) in sides.iter_mut().zip(&mut took) {
            let round = (side.round)();
            if number >= warm_up {
                took.push(round);
            }
        }
    }
    let first = Figures::of(&took[0], Took::sum).median;
    for (side, took) in sides.iter().zip(&took) {
        let (load, unload) =
            (Figures::of(took, |t| t.load).median, Figures::of(took, |t| t.unload).median);
        let Figures { min, median } = Figures::of(took, Took::sum);
        let ratio = median / first;
        let name = format!("{name}/{}", side.name);
        println!("{name:36}{load:10.1}{unload:10.1}{median:10.1}{min:10.1}{ratio:9.2}");
    }
    Figures::of(&took[0], |took| took.load).median / 1e6
}

/// Bytes that this process has mapped (without the heap's own mappings) and allocated.
pub fn held() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("Linux says what is mapped");
    let size = |line: &str| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let bytes = usize::from_str_radix(end, 16).ok()? - usize::from_str_radix(start, 16).ok()?;
        (!rest.ends_with("[heap]")).then_some(bytes)
    };
    let mapped: usize = maps.lines().filter_map(size).sum();
    drop(maps);
    // SAFETY: fills a structure in.
    mapped + unsafe { libc::mallinfo2() }.uordblks
}

/// Has malloc keep what it got and take it from the heap, so that no side pays for its page
/// faults and none of its mappings are counted.
pub fn keep_memory() {
    for option in [libc::M_TRIM_THRESHOLD, libc::M_MMAP_THRESHOLD, libc::M_TOP_PAD] {
        // SAFETY: sets an option.
        unsafe { libc::mallopt(option, 64 << 20) };
    }
}
