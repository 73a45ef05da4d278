//! What is measured, in the kernel and on `std` alike: the same code, the same modules.
//!
//! ```text
//!   `measured NAME CYCLES`     of the time stamp counter, for one operation, in the best round
//! ```

use wasmtime::{Engine, Linker, Module, Result, Store};

/// Rounds of each measurement: others use the machine, too.
const ROUNDS: u32 = 25;
/// Calls in a round.
const CALLS: u32 = 200_000;
/// Traps in a round.
const TRAPS: u32 = 4_000;
/// The board of queens.c.
const BOARD: u32 = 9;

/// Measures, and tells `report` each name with cycles for one operation.
pub fn measure(
    engine: &Engine,
    calls: &Module,
    queens: &Module,
    mut report: impl FnMut(&str, f64),
) -> Result<()> {
    let mut store = Store::new(engine, ());
    let mut linker = Linker::new(engine);
    linker.func_wrap("host", "nothing", || ())?;
    let instance = linker.instantiate(&mut store, calls)?;
    let nothing = instance.get_typed_func::<(), ()>(&mut store, "nothing")?;
    let through = instance.get_typed_func::<(), ()>(&mut store, "through")?;
    let trap = instance.get_typed_func::<(), ()>(&mut store, "trap")?;
    report("host-wasm", best(CALLS, || nothing.call(&mut store, ()))?);
    report("host-wasm-host", best(CALLS, || through.call(&mut store, ()))?);
    let trapped = || match trap.call(&mut store, ()) {
        Ok(()) => wasmtime::bail!("it does not trap"),
        Err(_) => Ok(()),
    };
    report("trap", best(TRAPS, trapped)?);
    let instance = linker.instantiate(&mut store, queens)?;
    let queens = instance.get_typed_func::<u32, u32>(&mut store, "queens")?;
    report("queens", best(1, || queens.call(&mut store, BOARD).map(drop))?);
    Ok(())
}

/// Cycles for one operation, in the best round.
fn best(count: u32, mut operation: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut best = u64::MAX;
    for _ in 0..ROUNDS {
        let start = now();
        for _ in 0..count {
            operation()?;
        }
        best = best.min(now() - start);
    }
    Ok(best as f64 / f64::from(count))
}

/// The time stamp counter.
fn now() -> u64 {
    // SAFETY: every x86-64 CPU has it, and no system here forbids it.
    unsafe { core::arch::x86_64::_rdtsc() }
}
