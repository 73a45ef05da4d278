//! Code that others wrote: zlib and lz4 in C, and crates in Rust. What they print must be what they
//! print on the host, byte for byte.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use unspool_kernel::{boot, println};
use wasmtime::{Instance, Module, Result, Store, bail};

use crate::wasi;
use crate::wasm::Wasm;

/// How names of modules with expectations end.
const SUFFIX: &str = ".expected";

/// The programs that must be there.
const PROGRAMS: usize = 2;

pub fn run(wasm: &Wasm) -> bool {
    let expected = boot::boot().modules().filter(|module| module.name.ends_with(SUFFIX));
    let right = expected.filter(|module| {
        let name = module.name.trim_end_matches(SUFFIX);
        as_expected(wasm, name, module.bytes).unwrap_or_else(|error| {
            println!("  {name}: {error:?}");
            false
        })
    });
    right.count() == PROGRAMS
}

/// Runs a program, and compares. The first line of what is expected is how it is called.
fn as_expected(wasm: &Wasm, name: &str, expected: &[u8]) -> Result<bool> {
    let mut lines = expected.splitn(2, |&byte| byte == b'\n');
    let called = core::str::from_utf8(lines.next().unwrap_or_default())?;
    let expected = lines.next().unwrap_or_default();
    let (environment, words): (Vec<_>, Vec<_>) =
        called.split('\t').partition(|word| word.contains('='));
    let module = wasm.module(&format!("{name}.cwasm"));
    let printed = if module.get_export("_start").is_some() {
        match wasi::run(wasm, &module, &words, &environment)? {
            (0, printed) => printed,
            (code, _) => bail!("exit code {code}"),
        }
    } else {
        report(wasm, &module)?
    };
    let same = printed == expected;
    println!("  {name}: {} bytes, the same as on the host: {same}", printed.len());
    if let Some(last) = String::from_utf8_lossy(&printed).lines().last() {
        println!("    {last}");
    }
    Ok(same)
}

/// The text of a module without a main function.
fn report(wasm: &Wasm, module: &Module) -> Result<Vec<u8>> {
    let mut store = Store::new(&wasm.engine, ());
    let instance = Instance::new(&mut store, module, &[])?;
    let text = instance.get_typed_func::<(), u32>(&mut store, "report")?.call(&mut store, ())?;
    let Some(memory) = instance.get_memory(&mut store, "memory") else { bail!("it has no memory") };
    let memory = memory.data(&store);
    let part = |start: u32, size: u32| memory.get(start as usize..)?.get(..size as usize);
    let number = |at: u32| Some(u32::from_le_bytes(*part(at, 4)?.first_chunk()?));
    let start = number(text);
    let size = text.checked_add(4).and_then(number);
    let found = start.zip(size).and_then(|(start, size)| part(start, size));
    match found {
        Some(text) => Ok(text.to_owned()),
        None => bail!("its text is out of its memory"),
    }
}
