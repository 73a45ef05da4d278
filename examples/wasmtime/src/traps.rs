//! Every trap of WebAssembly, from the CPU exception that it is to the error that it becomes.

use unspool_kernel::println;
use wasmtime::{Error, Instance, Linker, Result, Store, Trap, WasmBacktrace};

use crate::wasm::Wasm;

/// By the name of a function of edges.wat.
const TRAPS: [(&str, Trap); 11] = [
    ("unreachable", Trap::UnreachableCodeReached),
    ("divide_by_zero", Trap::IntegerDivisionByZero),
    ("divide_overflow", Trap::IntegerOverflow),
    ("bad_conversion", Trap::BadConversionToInteger),
    ("memory_out_of_bounds", Trap::MemoryOutOfBounds),
    ("memory_far_out_of_bounds", Trap::MemoryOutOfBounds),
    ("store_out_of_bounds", Trap::MemoryOutOfBounds),
    ("table_out_of_bounds", Trap::TableOutOfBounds),
    ("null_reference", Trap::IndirectCallToNull),
    ("bad_signature", Trap::BadSignature),
    ("stack_overflow", Trap::StackOverflow),
];

pub fn run(wasm: &Wasm) -> bool {
    match all(wasm) {
        Ok(right) => right,
        Err(error) => {
            println!("  {error:?}");
            false
        }
    }
}

fn all(wasm: &Wasm) -> Result<bool> {
    let mut store = Store::new(&wasm.engine, ());
    let mut linker = Linker::new(&wasm.engine);
    linker.func_wrap("host", "enter", || ())?;
    linker.func_wrap("host", "leave", || ())?;
    let instance = linker.instantiate(&mut store, &wasm.module("edges.cwasm"))?;
    let mut right = true;
    for (name, expected) in TRAPS {
        right &= traps(&mut store, &instance, name, expected)?;
    }
    // The store is as good as before.
    let add = instance.get_typed_func::<(u32, u32), u32>(&mut store, "add")?;
    Ok(right && add.call(&mut store, (2, 3))? == 5)
}

/// Whether a function traps in this way, with a trace that names it.
fn traps(store: &mut Store<()>, instance: &Instance, name: &str, expected: Trap) -> Result<bool> {
    let function = instance.get_typed_func::<(), ()>(&mut *store, name)?;
    let Err(error) = function.call(store, ()) else { return Ok(false) };
    let trace = error.downcast_ref::<WasmBacktrace>();
    let frames = trace.map_or(0, |trace| trace.frames().len());
    println!("  {name}: {}, {frames} frames of WebAssembly", kind(&error));
    Ok(error.downcast_ref::<Trap>() == Some(&expected) && frames > 0)
}

fn kind(error: &Error) -> impl core::fmt::Display + '_ {
    error.root_cause()
}
