//! Tasks that give way to each other: whose turn it is, and how long a change takes.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use unspool_kernel::machine::machine;
use unspool_kernel::{cpu, println, task};

crate::tests![tasks_that_give_way_take_turns];

/// Turns of each task.
const TURNS: u32 = 10_000;

fn cycles() -> u64 {
    // SAFETY: every x86-64 CPU has the counter, and nothing here forbids reading it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Two tasks for each CPU, so that there is always one to change to. None gets ahead: with one CPU
/// they take turns, but for one more after each tick, which takes the other's turn away. There is one
/// more of them than whole periods, and one may have been late already when the first period began.
fn tasks_that_give_way_take_turns() {
    let count = 2 * cpu::count();
    let turns: Arc<Vec<AtomicU32>> = Arc::new((0..count).map(|_| AtomicU32::new(0)).collect());
    let (start, begin) = (cycles(), machine().now());
    let tasks: Vec<_> = (0..count)
        .map(|mine| {
            let turns = Arc::clone(&turns);
            task::spawn("polite", move || {
                let mut ahead = 0;
                for turn in 1..=TURNS {
                    turns[mine].store(turn, Ordering::Relaxed);
                    task::yield_now();
                    let slowest = turns.iter().map(|turns| turns.load(Ordering::Relaxed)).min();
                    ahead = ahead.max(turn - slowest.unwrap_or(0).min(turn));
                }
                ahead
            })
        })
        .collect();
    let ahead: Vec<u32> = tasks.into_iter().map(|task| task.join().unwrap()).collect();
    let elapsed = (cycles() - start) * cpu::count() as u64;
    println!(
        "note: a change of tasks takes {} cycles ({count} tasks, {} CPUs)",
        elapsed / (u64::from(TURNS) * count as u64),
        cpu::count()
    );
    let ticks = (machine().now() - begin) * u64::from(machine().tick_hertz()) / 1_000_000_000;
    let most = 3 + u32::try_from(ticks).unwrap();
    assert!(cpu::count() > 1 || ahead.iter().all(|&ahead| ahead <= most), "{ahead:?}, {most}");
    assert!(turns.iter().all(|turns| turns.load(Ordering::Relaxed) == TURNS));
}
