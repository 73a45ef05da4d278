//! wasmtime in a kernel: unmodified, on the platform of `unspool-wasmtime`.
//!
//! ```text
//!   1 calls   2 programs of others   3 every trap   4 a panic through WebAssembly
//!   5 a fault, likewise   6 a trace through it   7 a kill   8 eight tasks at once   9 no addresses left
//! ```
//!
//! `cargo xtask run wasmtime` boots it in QEMU. Modules are compiled on the host, by the same version.
#![no_std]
#![no_main]

extern crate alloc;

mod calls;
#[path = "../shared/config.rs"]
mod config;
mod host;
mod limits;
#[path = "../shared/measure.rs"]
mod measure;
mod others;
mod panics;
#[path = "../shared/record.rs"]
mod record;
mod spec;
mod tasks;
mod traps;
mod wasi;
mod wasm;

use unspool_kernel::{Boot, ExitCode, println};

use self::wasm::Wasm;

unspool_kernel::entry!(main);

/// What is shown, by name.
type Step = (&'static str, fn(&Wasm) -> bool);

const STEPS: [Step; 9] = [
    ("calls, from the kernel and back", calls::run),
    ("programs that others wrote, as on the host", others::run),
    ("every trap is an error", traps::run),
    ("a host function panics inside of nested WebAssembly", panics::payload),
    ("a host function faults there", panics::fault),
    ("a trace from a host function, through WebAssembly", panics::trace),
    ("a task is killed in a host function", panics::killed),
    ("eight tasks at once, one of which is killed", tasks::run),
    ("addresses run out", limits::run),
];

fn main(boot: &Boot) -> ExitCode {
    host::install();
    if spec::is_wanted(boot) {
        return spec::run(boot);
    }
    if boot.args().any(|word| word == "measure") {
        return measured();
    }
    println!("wasmtime on Unspool");
    // On a task of its own: WebAssembly takes a larger stack than the main task has.
    let right = wasm::spawn("shows", || {
        let wasm = Wasm::new();
        STEPS
            .iter()
            .enumerate()
            .filter(|(index, (heading, step))| {
                println!("\n== {}. {heading} ==", index + 1);
                let right = step(&wasm);
                if !right {
                    println!("that is not what should have happened");
                }
                right
            })
            .count()
    });
    let right = right.join().ok().unwrap_or(0);
    println!("\njourney complete: {right} of {} steps went as they should", STEPS.len());
    if right == STEPS.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What `cargo xtask bench wasmtime` compares with a program on `std`.
fn measured() -> ExitCode {
    let task = wasm::spawn("measures", || {
        let wasm = Wasm::new();
        let modules = ["calls.cwasm", "queens.cwasm"].map(|name| wasm.module(name));
        measure::measure(&wasm.engine, &modules[0], &modules[1], |name, cycles| {
            println!("measured {name} {cycles:.1}");
        })
    });
    if let Some(Ok(())) = task.join().ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
