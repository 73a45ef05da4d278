//! Eight tasks that run WebAssembly at once, on whatever CPUs there are.
//!
//! ```text
//!   8 tasks, fewer CPUs: if more than one for each CPU have begun when the first ends, some were
//!                        preempted inside of WebAssembly, because they never yield there; who comes
//!                        to its end before that, works on
//!   one of the 8 waits in a host function, and is killed there while the others work
//! ```

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use alloc::format;
use alloc::vec::Vec;

use unspool_kernel::machine::machine;
use unspool_kernel::{cpu, println, task};

use crate::calls;
use crate::panics::Victim;
use crate::wasm::{self, Wasm};

/// Those that work.
const TASKS: u32 = 7;
/// A board, and how many ways there are for it: work for longer than a tick.
const BOARD: (u32, u32) = (13, 73_712);

/// Nanoseconds after which more than one for each CPU should have begun, however busy the machine is.
const PATIENCE: u64 = 60_000_000_000;

/// All tasks are there.
static GO: AtomicBool = AtomicBool::new(false);
/// How many tasks have begun; and how many had when the first ended.
static BEGUN: AtomicU32 = AtomicU32::new(0);
static BEGUN_AT_FIRST_END: AtomicU32 = AtomicU32::new(0);

pub fn run(wasm: &Wasm) -> bool {
    let spawn = |index| {
        let wasm = wasm.clone();
        wasm::spawn(&format!("queens {index}"), move || {
            while !GO.load(Ordering::SeqCst) {
                task::yield_now();
            }
            BEGUN.fetch_add(1, Ordering::SeqCst);
            let begin = machine().now();
            let mut right = true;
            let begun = loop {
                right &= calls::queens(&wasm, BOARD.0).is_ok_and(|ways| ways == BOARD.1);
                let begun = BEGUN.load(Ordering::SeqCst);
                // A CPU of the machine may be away, with tasks that are about to begin.
                if !right || begun as usize > cpu::count() || machine().now() - begin > PATIENCE {
                    break begun;
                }
            };
            // Only the first one's stays.
            let _ =
                BEGUN_AT_FIRST_END.compare_exchange(0, begun, Ordering::SeqCst, Ordering::SeqCst);
            right
        })
    };
    let tasks: Vec<_> = (0..TASKS).map(spawn).collect();
    let victim = Victim::spawn(wasm);
    GO.store(true, Ordering::SeqCst);
    let killed = victim.kill();
    let right =
        tasks.into_iter().filter_map(|task| task.join().ok()).filter(|&right| right).count();
    let begun = BEGUN_AT_FIRST_END.load(Ordering::SeqCst);
    println!("  {right} of the other {TASKS} tasks came to {} on {} CPUs", BOARD.1, cpu::count());
    println!("  {begun} had begun when the first one ended");
    killed && right == TASKS as usize && begun as usize > cpu::count()
}
