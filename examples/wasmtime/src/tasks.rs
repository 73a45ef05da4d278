//! Eight tasks that run WebAssembly at once, on whatever CPUs there are.

use alloc::format;
use alloc::vec::Vec;

use unspool_kernel::{cpu, println};

use crate::calls;
use crate::wasm::{self, Wasm};

const TASKS: u32 = 8;
/// A board, and how many ways there are for it.
const BOARD: (u32, u32) = (9, 352);

pub fn run(wasm: &Wasm) -> bool {
    let spawn = |index| {
        let wasm = wasm.clone();
        wasm::spawn(&format!("queens {index}"), move || {
            (0..4).all(|_| calls::queens(&wasm, BOARD.0).is_ok_and(|ways| ways == BOARD.1))
        })
    };
    let tasks: Vec<_> = (0..TASKS).map(spawn).collect();
    let right =
        tasks.into_iter().filter_map(|task| task.join().ok()).filter(|&right| right).count();
    println!("  {right} of {TASKS} tasks came to {} on {} CPUs", BOARD.1, cpu::count());
    right == TASKS as usize
}
