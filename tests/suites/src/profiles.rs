//! Samples of what the CPUs do: of the right function, in the right task, at any rate.
//!
//! ```text
//!   start ─► busy functions, each in a task of its own ─► stop ─► their samples
//! ```

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::hint::black_box;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use unspool::backtrace::samples::Sample;
use unspool::panic::platform;
use unspool_kernel::{Error, cpu, machine, profile, task};

use crate::support::{PATIENCE, all_cpus_came_by};

crate::tests![
    a_busy_function_is_found_in_most_samples,
    every_sample_knows_its_task,
    a_sample_in_a_switch_is_of_the_task_whose_stack_it_is,
    samples_are_taken_of_all_cpus,
    what_has_no_room_is_counted_and_sampling_goes_on,
    tasks_take_turns_at_any_rate,
    no_sample_is_taken_before_the_beginning_and_after_the_end,
    impossible_rates_are_refused,
];

const RATE: u32 = 1000;
/// So many samples of each function are enough.
const ENOUGH: u64 = 40;

/// Computes until it is told to stop; each `N` is a function of its own.
#[inline(never)]
fn busy<const N: u64>(stop: &AtomicBool) -> u64 {
    let mut state = N | 1;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..100 {
            state = black_box(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(N));
        }
    }
    // Not the last thing: a tail call would leave no frame.
    black_box(state) + 1
}

/// Whether a function with all these parts in its name is in a sample.
fn has(sample: &Sample, part: &str) -> bool {
    sample.addresses().iter().any(|&address| {
        let symbol = platform().symbols().symbolize(address);
        symbol.is_some_and(|symbol| symbol.name.contains(part))
    })
}

/// Takes out all samples there are, with their CPUs.
fn taken() -> Vec<(usize, Sample)> {
    let all = (0..cpu::count()).filter_map(|cpu| Some((cpu, profile::samples(cpu)?)));
    all.flat_map(|(cpu, samples)| core::iter::from_fn(move || Some((cpu, samples.take()?))))
        .collect()
}

/// Runs `body` under sampling until `enough` of what was taken; returns all of it. In time it ends
/// anyway, and whoever counts finds too few.
fn sampled(rate: u32, mut enough: impl FnMut(&[(usize, Sample)]) -> bool) -> Vec<(usize, Sample)> {
    taken();
    let (mut all, begin) = (Vec::new(), machine().now());
    profile::start(rate).unwrap();
    while !enough(&all) && machine().now() - begin < PATIENCE {
        all.append(&mut taken());
        task::yield_now();
    }
    profile::stop();
    all
}

fn of(task: u64, samples: &[(usize, Sample)]) -> impl Iterator<Item = &Sample> {
    samples.iter().map(|(_, sample)| sample).filter(move |sample| sample.task == task)
}

fn a_busy_function_is_found_in_most_samples() {
    let stop = Arc::new(AtomicBool::new(false));
    let worker = task::spawn("busy", {
        let stop = Arc::clone(&stop);
        move || busy::<1>(&stop)
    });
    let id = worker.task().id();
    let samples = sampled(RATE, |samples| of(id, samples).count() as u64 >= ENOUGH);
    stop.store(true, Ordering::Relaxed);
    worker.join().unwrap();
    let all = of(id, &samples).count();
    let found = of(id, &samples).filter(|sample| has(sample, "busy")).count();
    assert!(all as u64 >= ENOUGH, "{all} samples");
    assert!(found * 10 >= all * 9, "{found} of {all}");
    // Its callers are there, too, and it is the innermost one.
    let deep = of(id, &samples).filter(|sample| sample.addresses().len() > 3).count();
    assert!(deep * 10 >= all * 9, "{deep} of {all}");
}

fn every_sample_knows_its_task() {
    let stop = Arc::new(AtomicBool::new(false));
    let bodies: [fn(&AtomicBool) -> u64; 3] = [first, second, third];
    let tasks: Vec<_> = bodies
        .into_iter()
        .map(|body| {
            let stop = Arc::clone(&stop);
            task::spawn("one of three", move || body(&stop))
        })
        .collect();
    let ids: Vec<_> = tasks.iter().map(|task| task.task().id()).collect();
    let enough = |samples: &[(usize, Sample)]| {
        ids.iter().all(|&id| of(id, samples).count() as u64 >= ENOUGH / 2)
    };
    let samples = sampled(RATE, enough);
    stop.store(true, Ordering::Relaxed);
    tasks.into_iter().for_each(|task| _ = task.join().unwrap());
    for (&id, name) in ids.iter().zip(["profiles5first", "profiles6second", "profiles5third"]) {
        let found = samples.iter().filter(|(_, sample)| has(sample, name)).count();
        let all = samples.iter().filter(|(_, sample)| has(sample, name) && sample.task == id);
        assert_eq!(all.count(), found, "samples of {name} in other tasks than {id}");
        assert!(found as u64 >= ENOUGH / 4, "{found} of {name}");
    }
    let mut times = samples.iter().map(|(cpu, sample)| (*cpu, sample.time)).collect::<Vec<_>>();
    times.sort_unstable();
    times.dedup();
    assert_eq!(times.len(), samples.len(), "no CPU does two things at once");
}

/// They do nothing else than give way: many samples are taken while one takes the place of the other.
fn a_sample_in_a_switch_is_of_the_task_whose_stack_it_is() {
    let stop = Arc::new(AtomicBool::new(false));
    // More than there are CPUs for.
    let spawn = |body: fn(&AtomicBool) -> u64| {
        let task = |_| {
            let stop = Arc::clone(&stop);
            task::spawn("gives way", move || body(&stop))
        };
        (0..cpu::count()).map(task).collect::<Vec<_>>()
    };
    let kinds =
        [(spawn(one_gives_way), "one_gives_way"), (spawn(other_gives_way), "other_gives_way")];
    let ids = kinds.each_ref().map(|(tasks, name)| {
        (tasks.iter().map(|task| task.task().id()).collect::<Vec<_>>(), *name)
    });
    let of_kind = |ids: &[u64], samples: &[(usize, Sample)]| {
        samples.iter().filter(|(_, sample)| ids.contains(&sample.task)).count() as u64
    };
    let samples = sampled(RATE, |samples| {
        // To count them takes its time, too: the others' is what there must be samples of.
        (0..1000).for_each(|_| task::yield_now());
        ids.iter().all(|(ids, _)| of_kind(ids, samples) >= 10 * ENOUGH)
    });
    stop.store(true, Ordering::Relaxed);
    kinds.into_iter().flat_map(|(tasks, _)| tasks).for_each(|task| _ = task.join().unwrap());
    for (ids, name) in &ids {
        let all: Vec<_> = samples.iter().filter(|(_, sample)| has(sample, name)).collect();
        let own = all.iter().filter(|(_, sample)| ids.contains(&sample.task)).count();
        assert!(own as u64 >= ENOUGH, "{own} of {name}");
        assert_eq!(own, all.len(), "samples of {name} in other tasks than {ids:?}");
    }
}

#[inline(never)]
fn one_gives_way(stop: &AtomicBool) -> u64 {
    gives_way(stop) + 1
}

#[inline(never)]
fn other_gives_way(stop: &AtomicBool) -> u64 {
    gives_way(stop) + 2
}

/// Gives way until it is told to stop.
fn gives_way(stop: &AtomicBool) -> u64 {
    let mut turns = 0;
    while !stop.load(Ordering::Relaxed) {
        (0..10).for_each(|_| task::yield_now());
        turns += 1;
    }
    turns
}

#[inline(never)]
fn first(stop: &AtomicBool) -> u64 {
    busy::<11>(stop) + 1
}

#[inline(never)]
fn second(stop: &AtomicBool) -> u64 {
    busy::<12>(stop) + 1
}

#[inline(never)]
fn third(stop: &AtomicBool) -> u64 {
    busy::<13>(stop) + 1
}

fn samples_are_taken_of_all_cpus() {
    let every = |samples: &[(usize, Sample)]| {
        (0..cpu::count()).all(|cpu| samples.iter().any(|&(of, _)| of == cpu))
    };
    let samples = sampled(RATE, every);
    assert!(every(&samples), "{} samples on {} CPUs", samples.len(), cpu::count());
}

fn what_has_no_room_is_counted_and_sampling_goes_on() {
    taken();
    let (before, begin) = (profile::counts(), machine().now());
    profile::start(profile::MAX_RATE).unwrap();
    while profile::counts().dropped == before.dropped && machine().now() - begin < PATIENCE {
        core::hint::spin_loop();
    }
    let full = profile::counts();
    assert!(full.dropped > before.dropped && full.kept > before.kept);
    // As soon as there is room, there are samples again.
    assert!(!taken().is_empty());
    while profile::counts().kept == full.kept && machine().now() - begin < PATIENCE {
        core::hint::spin_loop();
    }
    profile::stop();
    assert!(profile::counts().kept > full.kept);
    let last = profile::counts();
    assert_eq!(u64::from(profile::MAX_RATE), last.hertz);
    assert!(last.elapsed > before.elapsed && last.spent > before.spent);
    taken();
}

fn tasks_take_turns_at_any_rate() {
    for rate in [10, 300, RATE, 5000] {
        let stop = Arc::new(AtomicBool::new(false));
        let progress: Arc<Vec<AtomicU64>> = Arc::new((0..6).map(|_| AtomicU64::new(0)).collect());
        profile::start(rate).unwrap();
        let tasks: Vec<_> = (0..progress.len())
            .map(|number| {
                let (stop, progress) = (Arc::clone(&stop), Arc::clone(&progress));
                // They never yield.
                task::spawn("takes its turn", move || {
                    while !stop.load(Ordering::Relaxed) {
                        progress[number].fetch_add(1, Ordering::Relaxed);
                    }
                })
            })
            .collect();
        let begin = machine().now();
        let all = || progress.iter().all(|count| count.load(Ordering::Relaxed) > 0);
        while !all() && machine().now() - begin < PATIENCE {
            core::hint::spin_loop();
        }
        assert!(all(), "at {rate} samples a second somebody never had a turn");
        stop.store(true, Ordering::Relaxed);
        tasks.into_iter().for_each(|task| task.join().unwrap());
        profile::stop();
        taken();
    }
}

fn no_sample_is_taken_before_the_beginning_and_after_the_end() {
    assert_eq!(profile::rate(), 0);
    sampled(RATE, |samples| !samples.is_empty());
    // Who was at its last one is done then.
    all_cpus_came_by();
    taken();
    let before = profile::counts();
    let begin = machine().now();
    while machine().now() - begin < 30_000_000 {
        core::hint::spin_loop();
    }
    all_cpus_came_by();
    assert_eq!((profile::rate(), profile::counts()), (0, before));
    assert!(taken().is_empty());
}

fn impossible_rates_are_refused() {
    for hertz in [0, profile::MAX_RATE + 1, u32::MAX] {
        let limit = profile::MAX_RATE;
        assert_eq!(profile::start(hertz), Err(Error::SampleRate { hertz, limit }));
    }
    assert_eq!(profile::rate(), 0);
}
