//! Objects as compilers make them are loaded and run.

use crate::compile::{self, RUST_FLAGS};
use crate::memory::HostMemory;
use crate::program::{Program, SURPLUS, registry};
use crate::task;
use std::sync::atomic::Ordering;
use unspool_loader::{Access, Loader, Object};
use unspool_stack_trace::Symbolize as _;
use unspool_unwind::FindModule as _;

const RUST: &str = r#"
static TABLE: [fn(u32) -> u32; 3] = [plus, twice, flip];
static mut COUNTER: u64 = 5;
static mut ZEROED: [u64; 100] = [0; 100];
static WORDS: [&str; 4] = ["a", "bc", "def", "ghij"];

#[inline(never)] fn plus(x: u32) -> u32 { x.wrapping_add(1) }
#[inline(never)] fn twice(x: u32) -> u32 { x.wrapping_mul(2) }
#[inline(never)] fn flip(x: u32) -> u32 { x ^ 0x55 }

#[unsafe(no_mangle)] pub extern "C" fn table(index: usize, x: u32) -> u32 { TABLE[index](x) }
#[unsafe(no_mangle)] pub extern "C" fn count() -> u64 {
    unsafe { COUNTER += 1; ZEROED[3] += COUNTER; ZEROED[3] }
}
#[unsafe(no_mangle)] pub extern "C" fn word_length(index: usize) -> usize { WORDS[index].len() }
#[unsafe(no_mangle)] pub extern "C" fn number(x: u32) -> f64 {
    match x { 0 => 1.5, 1 => 2.25, 2 => -3.0, 3 => 1e9, 4 => 0.125, _ => 7.0 }
}
#[unsafe(no_mangle)] pub extern "C" fn copy(byte: u8) -> u64 {
    let source = [byte; 1000];
    let mut target = [0; 1000];
    target.copy_from_slice(core::hint::black_box(&source));
    target.iter().map(|&byte| u64::from(byte)).sum()
}
trait Shape { fn area(&self) -> u64; }
struct Square(u64);
struct Pair(u64, u64);
impl Shape for Square { fn area(&self) -> u64 { self.0 * self.0 } }
impl Shape for Pair { fn area(&self) -> u64 { self.0 * self.1 } }
#[unsafe(no_mangle)] pub extern "C" fn shapes(which: bool) -> u64 {
    let shape: &dyn Shape = if which { &Square(7) } else { &Pair(3, 4) };
    core::hint::black_box(shape).area()
}
pub struct Guard;
impl Drop for Guard { fn drop(&mut self) { unsafe { COUNTER += 100 } } }
#[unsafe(no_mangle)] pub extern "C-unwind" fn guarded(call: extern "C-unwind" fn()) {
    let _guard = Guard;
    call();
}
"#;

#[test]
fn rust_objects_of_both_models_run() {
    for flags in RUST_FLAGS {
        let (memory, program, tls) = (HostMemory::default(), Program::full(), registry());
        let loader = Loader::new(&memory, &program, &tls);
        let file = compile::rust(RUST, flags);
        let object = loader.load("guest", &file).unwrap_or_else(|e| panic!("{flags:?}: {e}"));

        let table = function!(object, "table", fn(usize, u32) -> u32);
        assert_eq!([table(0, 20), table(1, 20), table(2, 20)], [21, 40, 20 ^ 0x55]);
        let count = function!(object, "count", fn() -> u64);
        assert_eq!([count(), count()], [6, 13]);
        let word_length = function!(object, "word_length", fn(usize) -> usize);
        assert_eq!([0, 1, 2, 3].map(|index| word_length(index)), [1, 2, 3, 4]);
        let number = function!(object, "number", fn(u32) -> f64);
        assert_eq!([0, 1, 2, 3, 4, 5].map(|x| number(x)), [1.5, 2.25, -3.0, 1e9, 0.125, 7.0]);
        assert_eq!(function!(object, "copy", fn(u8) -> u64)(3), 3000);
        let shapes = function!(object, "shapes", fn(bool) -> u64);
        assert_eq!([shapes(true), shapes(false)], [49, 12]);
    }
}

#[test]
fn an_object_is_sealed_named_and_unwindable() {
    for flags in RUST_FLAGS {
        let (memory, program, tls) = (HostMemory::default(), Program::full(), registry());
        let loader = Loader::new(&memory, &program, &tls);
        let file = compile::rust(RUST, flags);
        let object = loader.load("guest", &file).unwrap();

        assert_eq!(object.name(), "guest");
        assert_eq!(memory.access(object.text().start), Some(Access::ReadExecute));
        assert_eq!(memory.access(object.text().end - 1), Some(Access::ReadExecute));
        assert_eq!(memory.access(object.rodata().start), Some(Access::Read));
        assert_eq!(memory.access(object.rodata().end - 1), Some(Access::Read));
        assert_eq!(memory.access(object.data().start), Some(Access::ReadWrite));
        assert_eq!(memory.access(object.data().end - 1), Some(Access::ReadWrite));
        let count = object.sections().find(|section| section.name == ".text.count").unwrap();
        assert_eq!(count.address, object.symbol("count").unwrap());

        for name in ["table", "count", "word_length", "number", "guarded"] {
            let start = object.symbol(name).unwrap();
            for address in [start, start + 3] {
                let symbol = loader.symbolize(address).unwrap();
                assert_eq!((symbol.name, symbol.address), (name.into(), start));
            }
            let module = unspool_unwind::global().find(start).expect("registered");
            assert_eq!(module.text, (object.text().start, object.text().end));
            let function = module.function(start + 1).unwrap();
            assert_eq!((function.start(), function.end() > start + 1), (start, true), "{name}");
        }
        let guarded = object.symbol("guarded").unwrap();
        let module = unspool_unwind::global().find(guarded).unwrap();
        assert!(module.function(guarded).unwrap().lsda_data().is_some(), "{flags:?}");
        assert!(loader.symbolize(object.text().start - 1).is_none());
        assert!(loader.symbolize(object.text().end).is_none());
    }
}

#[test]
fn a_dropped_loader_leaves_nothing() {
    let (memory, program, tls) = (HostMemory::default(), Program::full(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    let file = compile::rust(TLS, RUST_FLAGS[3]);
    let text = loader.load("guest", &file).unwrap().text();
    assert!(tls.surplus_free() < SURPLUS);
    drop(loader);
    assert_eq!((memory.live(), tls.surplus_free()), (0, SURPLUS));
    assert_eq!(memory.maps.load(Ordering::Relaxed), 1);
    assert_eq!(memory.unmaps.load(Ordering::Relaxed), 1);
    // Another test's object may lie there by now, with other bounds or not at all.
    let found = unspool_unwind::global().find(text.start);
    assert!(found.is_none_or(|module| module.text != (text.start, text.end)));
}

const TLS: &str = r#"
use core::cell::Cell;
#[thread_local] static A: Cell<u32> = Cell::new(7);
#[thread_local] static B: Cell<u64> = Cell::new(0);
#[thread_local] static WHERE: &Cell<u64> = unsafe { &*(&raw const BUFFER).cast() };
static mut BUFFER: u64 = 40;
#[repr(align(64))] pub struct Aligned(pub [u8; 100]);
#[thread_local] #[unsafe(no_mangle)] pub static mut SHARED: Aligned = Aligned([3; 100]);

#[unsafe(no_mangle)] pub extern "C" fn bump() -> u64 {
    A.set(A.get() + 1);
    B.set(B.get() + u64::from(A.get()));
    B.get()
}
#[unsafe(no_mangle)] pub extern "C" fn shared() -> u64 {
    let bytes = unsafe { &raw mut SHARED };
    assert!(bytes as usize % 64 == 0);
    unsafe { (*bytes).0[99] += 1; (*bytes).0.iter().map(|&b| u64::from(b)).sum() }
}
#[unsafe(no_mangle)] pub extern "C" fn elsewhere() -> u64 { WHERE.get() }
"#;

#[test]
fn thread_local_variables_of_rust_live_in_old_and_new_tasks() {
    for flags in RUST_FLAGS {
        let (memory, program, tls) = (HostMemory::default(), Program::full(), registry());
        let loader = Loader::new(&memory, &program, &tls);
        let before = tls.new_area(0).unwrap();
        let file = compile::rust(TLS, flags);
        let object = loader.load("guest", &file).unwrap_or_else(|e| panic!("{flags:?}: {e}"));
        let after = tls.new_area(0).unwrap();

        let bump = function!(object, "bump", fn() -> u64);
        let shared = function!(object, "shared", fn() -> u64);
        for area in [&before, &after] {
            assert_eq!([task::run(area, bump), task::run(area, bump)], [8, 17]);
            assert_eq!(task::run(area, shared), 301);
            let elsewhere = function!(object, "elsewhere", fn() -> u64);
            assert_eq!(task::run(area, elsewhere), 40);
        }
        assert_eq!(task::run(&before, bump), 27);
        assert_eq!(task::run(&before, shared), 302);
        assert!(object.tls_offset("SHARED").unwrap() % 64 == 0);
        assert_eq!(object.symbol("SHARED"), None);
    }
}

const FIRST: &str = r#"
#[unsafe(no_mangle)] pub extern "C" fn base() -> u64 { core::hint::black_box(40) }
#[unsafe(no_mangle)] pub static LEVEL: u64 = 2;
#[thread_local] #[unsafe(no_mangle)] pub static NEAR: core::cell::Cell<u64> =
    core::cell::Cell::new(8);
pub struct Guard; impl Drop for Guard { fn drop(&mut self) { base(); } }
#[unsafe(no_mangle)] pub extern "C-unwind" fn one(call: extern "C-unwind" fn()) {
    let _guard = Guard; call();
}
"#;

const SECOND: &str = r#"
unsafe extern "C" {
    fn base() -> u64;
    static LEVEL: u64;
    #[thread_local] static NEAR: core::cell::Cell<u64>;
}
#[unsafe(no_mangle)] pub extern "C" fn sum() -> u64 { unsafe { base() + LEVEL } }
#[unsafe(no_mangle)] pub extern "C" fn near() -> u64 { unsafe { NEAR.get() } }
pub struct Guard; impl Drop for Guard { fn drop(&mut self) { sum(); } }
#[unsafe(no_mangle)] pub extern "C-unwind" fn two(call: extern "C-unwind" fn()) {
    let _guard = Guard; call();
}
"#;

#[test]
fn rust_objects_see_each_other_and_keep_hidden_symbols_to_themselves() {
    for flags in RUST_FLAGS {
        let (memory, program, tls) = (HostMemory::default(), Program::full(), registry());
        let loader = Loader::new(&memory, &program, &tls);
        let first = loader.load("first", &compile::rust(FIRST, flags)).unwrap();
        let second = loader.load("second", &compile::rust(SECOND, flags)).unwrap();

        assert_eq!(function!(second, "sum", fn() -> u64)(), 42);
        let area = tls.new_area(0).unwrap();
        assert_eq!(task::run(&area, function!(second, "near", fn() -> u64)), 8);
        for object in [&first, &second] {
            let name = "DW.ref.rust_eh_personality";
            let mut references = object.sections().filter(|section| section.name.ends_with(name));
            let reference = references.next().map(|section| section.address);
            assert_eq!(reference.is_some(), flags[0].ends_with("pic"), "{flags:?}");
            assert!(reference.is_none_or(|address| object.data().contains(&address)));
            assert_eq!(object.symbol(name), None);
        }

        let names: Vec<_> = loader.objects().map(|object| object.name().to_owned()).collect();
        assert_eq!(names, ["first", "second"]);
        assert_eq!(loader.symbol("base"), first.symbol("base"));
    }
}

#[test]
fn a_name_may_be_loaded_twice_and_strong_definitions_are_each_objects_own() {
    let (memory, program, tls) = (HostMemory::default(), Program::full(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    let file = compile::rust(RUST, RUST_FLAGS[3]);
    let first = loader.load("same", &file).unwrap();
    let second = loader.load("same", &file).unwrap();
    let count = |object: &Object| function!(object, "count", fn() -> u64)();
    assert_eq!([count(&first), count(&first), count(&second)], [6, 13, 6]);
    assert_eq!(loader.symbol("count"), first.symbol("count"));
}

#[test]
fn the_bytes_of_a_file_need_no_alignment() {
    let (memory, program, tls) = (HostMemory::default(), Program::full(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    let file = compile::rust(RUST, RUST_FLAGS[2]);
    for shift in 0..8 {
        let mut shifted = vec![0; shift];
        shifted.extend(&file);
        let object = loader.load("shifted", &shifted[shift..]).unwrap();
        assert_eq!(function!(object, "count", fn() -> u64)(), 6);
    }
}

#[test]
fn debug_information_stays_out_of_memory() {
    let (memory, program, tls) = (HostMemory::default(), Program::full(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    for flags in RUST_FLAGS {
        let flags: Vec<_> = flags.iter().copied().chain(["-g"]).collect();
        let object = loader.load("guest", &compile::rust(TLS, &flags)).unwrap();
        assert!(object.sections().all(|section| !section.name.starts_with(".debug")));
        let area = tls.new_area(0).unwrap();
        assert_eq!(task::run(&area, function!(object, "bump", fn() -> u64)), 8);
    }
}

#[test]
fn several_threads_load_and_look_up_at_the_same_time() {
    const EACH: usize = 20;
    let (memory, program, tls) = (HostMemory::default(), Program::full(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    let file = compile::rust(RUST, RUST_FLAGS[3]);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..EACH).for_each(|_| _ = loader.load("guest", &file).unwrap()));
        }
        while loader.objects().count() < 2 * EACH {
            for object in loader.objects() {
                let start = object.symbol("count").unwrap();
                assert_eq!(loader.symbolize(start).unwrap().address, start);
            }
        }
    });
    assert_eq!(memory.live(), 2 * EACH);
}
