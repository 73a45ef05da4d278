//! Programs in C: called, and given memory to work on.

use unspool_kernel::println;
use wasmtime::{Instance, Result, Store};

use crate::wasm::Wasm;

/// Bytes that are hashed: `abcabc…`.
const SIZE: u32 = 30_000;

pub fn run(wasm: &Wasm) -> bool {
    match (queens(wasm, 8), sha256(wasm, b"abc"), sha256(wasm, &[b'a'; SIZE as usize])) {
        (Ok(ways), Ok(short), Ok(long)) => {
            println!("  queens.c: {ways} ways to put 8 queens on a board");
            println!("  sha256.c: {short:08x} of `abc`, {long:08x} of {SIZE} bytes");
            ways == 92 && short == 0xba78_16bf && long != short
        }
        failed => {
            println!("  {failed:?}");
            false
        }
    }
}

/// What queens.c says about a board of `n` × `n`.
pub fn queens(wasm: &Wasm, n: u32) -> Result<u32> {
    let mut store = Store::new(&wasm.engine, ());
    let instance = Instance::new(&mut store, &wasm.module("queens.cwasm"), &[])?;
    instance.get_typed_func::<u32, u32>(&mut store, "queens")?.call(&mut store, n)
}

/// The first word of a digest.
fn sha256(wasm: &Wasm, text: &[u8]) -> Result<u32> {
    let mut store = Store::new(&wasm.engine, ());
    let instance = Instance::new(&mut store, &wasm.module("sha256.cwasm"), &[])?;
    let buffer = instance.get_typed_func::<(), u32>(&mut store, "buffer")?.call(&mut store, ())?;
    if let Some(memory) = instance.get_memory(&mut store, "memory") {
        memory.write(&mut store, buffer as usize, text)?;
    }
    instance.get_typed_func::<u32, u32>(&mut store, "sha256")?.call(&mut store, text.len() as u32)
}
