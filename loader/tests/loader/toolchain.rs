//! The toolchain's own libraries are loaded as one set.

use crate::memory::HostMemory;
use crate::program::{Program, registry};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use unspool_loader::{Cause, Input, Loader, Set};
use unspool_stack_trace::Symbolize as _;
use unspool_unwind::FindModule as _;

const CRATES: [&str; 4] = ["core", "alloc", "compiler_builtins", "hashbrown"];

/// The folder of the toolchain's libraries.
fn libraries() -> PathBuf {
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let output = Command::new(rustc).args(["--print", "target-libdir"]).output().unwrap();
    assert!(output.status.success());
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

/// Names and contents of the libraries of these crates.
fn read() -> Vec<(String, Vec<u8>)> {
    let all = std::fs::read_dir(libraries()).unwrap().map(|file| file.unwrap().path());
    let all: Vec<_> = all.filter(|path| path.extension().is_some_and(|it| it == "rlib")).collect();
    let of = |name: &str| {
        let prefix = format!("lib{name}-");
        let is_it =
            |path: &&PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(&prefix);
        let path = all.iter().find(is_it).expect(name);
        (format!("lib{name}.rlib"), std::fs::read(path).unwrap())
    };
    CRATES.map(of).into()
}

/// The name of a Rust function without its crate and hash.
fn is_item(symbol: &str, name: &str) -> bool {
    symbol.ends_with(name)
}

/// What these libraries leave to others: to the panic runtime, to the allocator, to the C library.
fn is_left_to_others(symbol: &str) -> bool {
    const NAMES: [&str; 9] = [
        "memcpy",
        "memmove",
        "memset",
        "memcmp",
        "bcmp",
        "strlen",
        "rust_eh_personality",
        "_Unwind_Resume",
        "fmod",
    ];
    const ITEMS: [&str; 8] = [
        "rust_begin_unwind",
        "rust_alloc",
        "rust_alloc_zeroed",
        "rust_dealloc",
        "rust_realloc",
        "rust_no_alloc_shim_is_unstable_v2",
        "rust_alloc_error_handler",
        "rust_alloc_error_handler_should_panic_v2",
    ];
    NAMES.contains(&symbol) || ITEMS.iter().any(|item| is_item(symbol, item))
}

#[test]
fn the_libraries_below_std_are_one_set_with_nothing_undefined_but_what_they_leave_to_others() {
    let libraries = read();
    let inputs: Vec<_> =
        libraries.iter().map(|(name, bytes)| Input::new(name, bytes).whole()).collect();
    let (memory, tls) = (HostMemory::default(), registry());
    let program = Program::default();
    let loader = Loader::new(&memory, &program, &tls);
    let set = Set::new("libraries", &inputs);
    let error = loader.load_set(&set).unwrap_err();
    let Cause::Undefined(names) = error.into_cause() else { panic!() };
    let names: BTreeSet<String> = names.iter().map(|name| name.to_string()).collect();
    let others: Vec<_> = names.iter().filter(|name| !is_left_to_others(name)).collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(memory.live(), 0);

    let trap = crate::program::trap();
    let program = names
        .iter()
        .fold(Program::default(), |program, name| program.with(name.clone().leak(), trap));
    let loader = Loader::new(&memory, &program, &tls);
    let object = loader.load_set(&set).unwrap();
    for krate in CRATES {
        assert!(object.files().any(|file| file.starts_with(&format!("lib{krate}.rlib("))));
    }
    // A function of compiler_builtins, which is hidden, called; names and tables of all are found.
    assert_eq!(object.symbol("__udivti3"), None);
    let divide = object.sections().find(|section| section.name == ".text.__udivti3").unwrap();
    assert!(divide.file.starts_with("libcompiler_builtins.rlib("));
    let address = divide.address;
    let function = std::ptr::with_exposed_provenance::<()>(address as usize);
    // SAFETY: the section has a function of this type, and the object is held.
    let function =
        unsafe { std::mem::transmute::<*const (), extern "C" fn(u128, u128) -> u128>(function) };
    assert_eq!(function(1 << 100, 1 << 40), 1 << 60);
    assert_eq!(loader.symbolize(address).unwrap().name, "__udivti3");
    let module = unspool_unwind::global().find(address).unwrap();
    let functions = std::cell::Cell::new(0);
    module.for_each_entry(|_| functions.set(functions.get() + 1)).unwrap();
    assert!(functions.get() > 500);
}
