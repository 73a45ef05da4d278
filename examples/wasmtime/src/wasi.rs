//! A little of WASI (`wasi_snapshot_preview1`): what a C library asks for whose program prints.
//!
//! ```text
//!   words, environment ─► args_*, environ_* ┐
//!                                           ├─ _start ─► fd_write ─► output
//!   the kernel's clock ─► clock_time_get    ┘      └───► proc_exit ─► exit code
//! ```
//!
//! There are no files: 1 and 2 are the output, and every other descriptor is an error.
#![forbid(unsafe_code)]

use core::fmt;

use alloc::borrow::ToOwned;
use alloc::string::String;
use alloc::vec::Vec;

use unspool_kernel::machine::machine;
use wasmtime::{Caller, Extern, Linker, Module, Result, Store};

use crate::wasm::Wasm;

/// Where the functions are imported from.
const WASI: &str = "wasi_snapshot_preview1";
/// `__WASI_ERRNO_*`.
const SUCCESS: i32 = 0;
const BADF: i32 = 8;
const FAULT: i32 = 21;
const SPIPE: i32 = 70;
/// `__WASI_FILETYPE_CHARACTER_DEVICE`, and the bytes of what `fd_fdstat_get` writes.
const CHARACTER_DEVICE: u8 = 2;
const FDSTAT_SIZE: usize = 24;
/// Bytes of a piece that is written: where it is, and how long.
const CIOVEC_SIZE: u32 = 8;

/// A program, as WASI shows it the world.
#[derive(Default)]
struct Process {
    words: Vec<String>,
    environment: Vec<String>,
    output: Vec<u8>,
}

type Inside<'c> = Caller<'c, Process>;

/// What `proc_exit` ends a program with.
#[derive(Debug)]
struct Exit(i32);

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exit code {}", self.0)
    }
}

impl core::error::Error for Exit {}

/// Runs a program. Returns its exit code, and what it printed.
///
/// # Errors
///
/// It asks for something that there is not, or it traps.
pub fn run(
    wasm: &Wasm,
    module: &Module,
    words: &[&str],
    environment: &[&str],
) -> Result<(i32, Vec<u8>)> {
    let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    let process =
        Process { words: owned(words), environment: owned(environment), output: Vec::new() };
    let mut store = Store::new(&wasm.engine, process);
    let mut linker = Linker::new(&wasm.engine);
    define(&mut linker)?;
    let instance = linker.instantiate(&mut store, module)?;
    let start = instance.get_typed_func::<(), ()>(&mut store, "_start")?;
    let code = match start.call(&mut store, ()).map_err(|error| error.downcast::<Exit>()) {
        Ok(()) => 0,
        Err(Ok(Exit(code))) => code,
        Err(Err(error)) => return Err(error),
    };
    Ok((code, store.into_data().output))
}

fn define(linker: &mut Linker<Process>) -> Result<()> {
    linker.func_wrap(WASI, "args_sizes_get", |mut caller: Inside<'_>, count: u32, size: u32| {
        let numbers = sizes(&caller.data().words);
        number(put_pair(&mut caller, [count, size], numbers))
    })?;
    linker.func_wrap(WASI, "args_get", |mut caller: Inside<'_>, pointers: u32, text: u32| {
        let words = caller.data().words.clone();
        number(strings(&mut caller, &words, pointers, text))
    })?;
    linker.func_wrap(
        WASI,
        "environ_sizes_get",
        |mut caller: Inside<'_>, count: u32, size: u32| {
            let numbers = sizes(&caller.data().environment);
            number(put_pair(&mut caller, [count, size], numbers))
        },
    )?;
    linker.func_wrap(WASI, "environ_get", |mut caller: Inside<'_>, pointers: u32, text: u32| {
        let words = caller.data().environment.clone();
        number(strings(&mut caller, &words, pointers, text))
    })?;
    linker.func_wrap(
        WASI,
        "clock_time_get",
        |mut caller: Inside<'_>, _: u32, _: u64, to: u32| {
            number(put(&mut caller, to, &machine().now().to_le_bytes()))
        },
    )?;
    linker.func_wrap(WASI, "fd_close", |fd: u32| number(output(fd)))?;
    linker.func_wrap(WASI, "fd_fdstat_get", |mut caller: Inside<'_>, fd: u32, to: u32| {
        let mut status = [0; FDSTAT_SIZE];
        status[0] = CHARACTER_DEVICE;
        number(output(fd).and_then(|()| put(&mut caller, to, &status)))
    })?;
    // One cannot seek in what is printed.
    linker.func_wrap(WASI, "fd_seek", |fd: u32, _: i64, _: u32, _: u32| {
        number(output(fd).and(Err(SPIPE)))
    })?;
    linker.func_wrap(WASI, "fd_write", |mut caller: Inside<'_>, fd, pieces, count, to| {
        number(write(&mut caller, fd, pieces, count, to))
    })?;
    linker.func_wrap(WASI, "proc_exit", |code: i32| -> Result<()> {
        Err(wasmtime::Error::new(Exit(code)))
    })?;
    Ok(())
}

fn number(result: Result<(), i32>) -> i32 {
    result.err().unwrap_or(SUCCESS)
}

/// Whether the descriptor is one of the two that there are.
fn output(fd: u32) -> Result<(), i32> {
    if matches!(fd, 1 | 2) { Ok(()) } else { Err(BADF) }
}

/// How many strings, and the bytes that they take with a NUL each.
fn sizes(strings: &[String]) -> [u32; 2] {
    let bytes = strings.iter().map(|string| string.len() + 1).sum::<usize>();
    [strings.len() as u32, bytes as u32]
}

/// Writes each string with a NUL to `text` on, and where each begins to `pointers` on.
fn strings(
    caller: &mut Inside<'_>,
    strings: &[String],
    mut pointers: u32,
    mut text: u32,
) -> Result<(), i32> {
    let after = |at: u32, size: usize| at.checked_add(size as u32).ok_or(FAULT);
    for string in strings {
        put(caller, pointers, &text.to_le_bytes())?;
        put(caller, text, string.as_bytes())?;
        put(caller, after(text, string.len())?, &[0])?;
        pointers = after(pointers, size_of::<u32>())?;
        text = after(text, string.len() + 1)?;
    }
    Ok(())
}

/// `fd_write`: the pieces, one after the other.
fn write(caller: &mut Inside<'_>, fd: u32, pieces: u32, count: u32, to: u32) -> Result<(), i32> {
    output(fd)?;
    let mut written = 0_u32;
    for index in 0..count {
        let at = index.checked_mul(CIOVEC_SIZE).and_then(|offset| pieces.checked_add(offset));
        let [start, size] = pair(caller, at.ok_or(FAULT)?)?;
        let piece = bytes(caller, start, size)?.to_vec();
        caller.data_mut().output.extend(piece);
        written = written.checked_add(size).ok_or(FAULT)?;
    }
    put(caller, to, &written.to_le_bytes())
}

/// Two numbers of a program's memory.
fn pair(caller: &mut Inside<'_>, at: u32) -> Result<[u32; 2], i32> {
    let bytes = bytes(caller, at, CIOVEC_SIZE)?;
    let (numbers, _) = bytes.as_chunks();
    let number = |index: usize| numbers.get(index).map(|&number| u32::from_le_bytes(number));
    number(0).zip(number(1)).map(<[u32; 2]>::from).ok_or(FAULT)
}

/// Bytes of a program's memory.
fn bytes<'m>(caller: &'m mut Inside<'_>, start: u32, size: u32) -> Result<&'m [u8], i32> {
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else { return Err(FAULT) };
    let (start, size) = (start as usize, size as usize);
    memory.data(caller).get(start..).and_then(|rest| rest.get(..size)).ok_or(FAULT)
}

fn put_pair(caller: &mut Inside<'_>, to: [u32; 2], numbers: [u32; 2]) -> Result<(), i32> {
    put(caller, to[0], &numbers[0].to_le_bytes())?;
    put(caller, to[1], &numbers[1].to_le_bytes())
}

fn put(caller: &mut Inside<'_>, to: u32, bytes: &[u8]) -> Result<(), i32> {
    let Some(Extern::Memory(memory)) = caller.get_export("memory") else { return Err(FAULT) };
    memory.write(caller, to as usize, bytes).map_err(|_| FAULT)
}
