//! The same measurements as in the kernel, in an ordinary program on `std`.
//!
//! ```text
//!   peer calls.cwasm queens.cwasm ─► measured NAME CYCLES …
//! ```

#[path = "../../shared/config.rs"]
mod config;
#[path = "../../shared/measure.rs"]
mod measure;

use wasmtime::error::Context;
use wasmtime::{Engine, Module, Result};

fn main() -> Result<()> {
    let engine = Engine::new(&config::config())?;
    let mut arguments = std::env::args_os().skip(1);
    let mut module = || {
        let path = arguments.next().context("usage: peer calls.cwasm queens.cwasm")?;
        let code = std::fs::read(path)?;
        // SAFETY: the build compiled it with the same version and configuration.
        unsafe { Module::deserialize(&engine, code) }
    };
    let (calls, queens) = (module()?, module()?);
    measure::measure(&engine, &calls, &queens, |name, cycles| {
        println!("measured {name} {cycles:.1}");
    })
}
