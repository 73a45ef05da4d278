//! Unwind tables with changes that mean harm: nothing panics, nothing is read outside, everything
//! ends, and what both can read is to us what it is to gimli.
//!
//! ```text
//!   entries of real binaries ──► change ──► guarded memory ──┬─► ours ──┐
//!   (seeds)                                                  └─► gimli ─┴─ equal
//! ```
//!
//! A case is made of two numbers, which are printed if it fails, and the input is kept then. More
//! than the few that are always run:
//!
//! ```console
//! $ UNSPOOL_FUZZ_SECONDS=600 cargo test --release -p unspool-unwind --test fuzz -- --nocapture
//! $ UNSPOOL_FUZZ_CASES=1 UNSPOOL_FUZZ_FIRST=4711 cargo test -p unspool-unwind --test fuzz frames
//! ```
//!
//! `UNSPOOL_FUZZ_RUN` chooses other cases. Where we may differ from gimli stands where it is
//! compared; the seeds depend on what is installed.

#[path = "../../../tests/fuzz/case.rs"]
mod case;
mod expressions;
mod frames;
mod header;
mod lsda;
mod oracle;
mod random;
mod registered;
mod report;
mod room;
mod section;
mod seeds;
#[cfg(feature = "build")]
mod tables;

use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use random::Random;
use report::Running;
use room::Room;
use seeds::Seeds;

/// Cases of a target that take two seconds or so without optimization.
const CASES: u64 = 20_000;
/// The longest that a case may run, and how often one may do so again that took longer: a machine's
/// processor may have been away, which counts as time of the thread.
const LONGEST: Duration = Duration::from_secs(1);
const AGAIN: u32 = 4;

static SEEDS: LazyLock<Seeds> = LazyLock::new(Seeds::new);

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Runs the cases of a target: `make` makes inputs, `check` says how much there was to compare.
fn fuzz(
    target: &'static str,
    make: impl Fn(&Seeds, &mut Random) -> Vec<Vec<u8>>,
    check: impl Fn(&[&[u8]]) -> u64,
) {
    let run = from_environment("UNSPOOL_FUZZ_RUN").unwrap_or(1);
    let first = from_environment("UNSPOOL_FUZZ_FIRST").unwrap_or(0);
    let seconds = from_environment("UNSPOOL_FUZZ_SECONDS");
    let most = if seconds.is_some() { u64::MAX } else { CASES };
    let count = from_environment("UNSPOOL_FUZZ_CASES").unwrap_or(most);
    let seeds = &*SEEDS;
    let mut rooms = [Room::new(), Room::new()];
    let (begun, begun_cpu) = (Instant::now(), report::cpu_time());
    let progress = report::watch(target);
    report::on_faults();
    let (mut case, mut compared, mut useful, mut longest) = (first, 0, 0, 0);
    let ended =
        |case| seconds.is_some_and(|limit| case % 64 == 0 && begun.elapsed().as_secs() >= limit);
    while case - first < count && !ended(case) {
        let mut random = Random::new(run, case);
        let inputs = make(seeds, &mut random);
        let running = Running { target, run, case, inputs: &inputs };
        running.note();
        let at_the_end = !random.once_in(3);
        let placed = inputs.iter().zip(&mut rooms);
        let placed: Vec<_> = placed.map(|(input, room)| room.put(input, at_the_end)).collect();
        let timed = || {
            let before = report::cpu_time();
            (check(&placed), report::cpu_time() - before)
        };
        let (in_common, mut time) = timed();
        for _ in 0..AGAIN {
            if Duration::from_nanos(time) >= LONGEST {
                time = timed().1;
            }
        }
        assert!(Duration::from_nanos(time) < LONGEST, "{time} ns");
        longest = longest.max(time);
        compared += in_common;
        useful += u64::from(in_common != 0);
        case += 1;
        progress.store(case, Ordering::Relaxed);
    }
    let (count, seconds) = (case - first, begun.elapsed().as_secs_f32());
    let cpu_seconds = Duration::from_nanos(report::cpu_time() - begun_cpu).as_secs_f32();
    println!(
        "{target}: {count} inputs in {seconds:.1} s, {cpu_seconds:.1} s of a CPU, {useful} of them with something to compare, \
         {compared} comparisons, the longest took {} us",
        longest / 1000
    );
    assert!(count < CASES || useful * 8 > count, "too little is compared");
}

#[test]
fn frames_are_read_as_gimli_reads_them() {
    fuzz(
        "frames",
        |seeds, random| vec![section::make(&seeds.pairs, random)],
        |inputs| frames::check(inputs[0]),
    );
}

#[test]
fn headers_lead_to_the_functions_that_gimli_finds() {
    fuzz("headers", header::inputs, |inputs| header::check(inputs[0], inputs[1]));
}

#[test]
fn expressions_have_the_values_that_gimli_computes() {
    fuzz(
        "expressions",
        |seeds, random| vec![expressions::input(seeds, random)],
        |inputs| frames::check(inputs[0]),
    );
}

#[test]
fn call_sites_are_those_that_a_plain_reader_finds() {
    fuzz(
        "areas",
        |seeds, random| vec![lsda::input(seeds, random)],
        |inputs| lsda::check(inputs[0]),
    );
}

#[test]
fn registered_frames_are_found_and_leave_nothing() {
    fuzz(
        "registered",
        |seeds, random| vec![section::make(&seeds.pairs, random)],
        |inputs| registered::check(inputs[0]),
    );
}

#[cfg(feature = "build")]
#[test]
fn tables_of_frames_say_what_dwarf_says() {
    fuzz("tables", tables::inputs, |inputs| tables::check(inputs[0], inputs[1]));
}
