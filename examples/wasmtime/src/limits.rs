//! What there is no room for is an error, and there is room again afterwards.

use unspool_kernel::println;
use wasmtime::{Memory, MemoryType, Result, Store};

use crate::wasm::Wasm;

/// More memories than there are addresses for: each takes 4 GiB and its guards.
const TOO_MANY: usize = 9_000;
/// No wasmtime takes so much for one that there are fewer.
const SOME: usize = 100;

pub fn run(wasm: &Wasm) -> bool {
    let (first, second) = (exhaust(wasm), exhaust(wasm));
    match (&first, &second) {
        (Ok(first), Ok(second)) => {
            println!("  then, after they are given back: {second} memories");
            first == second && (SOME..TOO_MANY).contains(first)
        }
        failed => {
            println!("  {failed:?}");
            false
        }
    }
}

/// How many memories there are addresses for.
fn exhaust(wasm: &Wasm) -> Result<usize> {
    let mut store = Store::new(&wasm.engine, ());
    for count in 0..TOO_MANY {
        if let Err(error) = Memory::new(&mut store, MemoryType::new(0, None)) {
            println!("  {count} memories, then: {}", error.root_cause());
            return Ok(count);
        }
    }
    Ok(TOO_MANY)
}
