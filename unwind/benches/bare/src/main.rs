//! Throws and catches in a kernel program: what a panic costs without `std`.
//!
//! ```text
//!   throw DEPTH GUARDS BATCH TASKS ─► time stamps of one throw
//!   catch COUNT                       catches without a panic, to count instructions
//!   first DEPTH                       the first throw there ever was
//! ```
//!
//! The last line is what was measured.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use unspool::panic::{catch_unwind, resume_unwind};
use unspool_kernel::{Boot, ExitCode, println, task};

include!("../../compare/programs/work.rs");

unspool_kernel::entry!(main);

fn main(boot: &Boot) -> ExitCode {
    let words: Vec<&str> = boot.args().collect();
    let number = |place: usize| words.get(place).and_then(|word| word.parse::<u32>().ok());
    let numbers = [1, 2, 3, 4].map(|place| number(place).unwrap_or(0));
    match (words.first(), numbers) {
        (Some(&"throw"), [depth, guards, batch, tasks]) if tasks > 0 => {
            println!("{:.1}", in_tasks(stack(depth as usize, guards != 0), batch, tasks));
        }
        (Some(&"catch"), [count, ..]) => {
            (0..count).for_each(|n| drop(black_box(catch_unwind(move || black_box(n)))));
            println!("0");
        }
        (Some(&"count"), [depth, guards, count, _]) => {
            let frames = stack(depth as usize, guards != 0);
            (0..count).for_each(|_| once(frames));
            println!("0");
        }
        (Some(&"first"), [depth, guards, ..]) => {
            let start = stamps();
            once(stack(depth as usize, guards != 0));
            println!("{}", stamps() - start);
        }
        _ => return ExitCode::FAILURE,
    }
    ExitCode::SUCCESS
}

fn throw() -> ! {
    resume_unwind(Box::new(1u64))
}

fn once(frames: &'static [Frame]) {
    let thrown = catch_unwind(|| next(black_box(frames), throw));
    assert!(thrown.is_err_and(|payload| payload.is::<u64>()));
}

/// Mean over tasks that throw at the same time.
fn in_tasks(frames: &'static [Frame], batch: u32, tasks: u32) -> f64 {
    static READY: AtomicU32 = AtomicU32::new(0);
    let spawn = |_| {
        task::spawn("throws", move || {
            READY.fetch_add(1, Ordering::SeqCst);
            while READY.load(Ordering::SeqCst) < tasks {
                core::hint::spin_loop();
            }
            median(batch, || once(frames))
        })
    };
    let all: Vec<_> = (0..tasks).map(spawn).collect();
    let sum: f64 = all.into_iter().filter_map(|each| each.join().ok()).sum();
    sum / f64::from(tasks)
}
