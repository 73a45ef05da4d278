//! Every allocation of a load fails in turn, and nothing stays.

use std::ptr::NonNull;
use std::sync::Mutex;

use crate::compile::{self, RUST_FLAGS};
use crate::memory::HostMemory;
use crate::program::{Program, SURPLUS, registry};
use crate::{SOURCE, alone, heap};
use unspool_loader::{Access, Cause, Input, Loader, MapError, Memory, Set, Stacks};
use unspool_tls::{PublishError, ReserveError};
use unspool_unwind::global;

/// Memory whose records are no part of what is tested.
struct Quiet(HostMemory);

// SAFETY: `HostMemory` does it all.
unsafe impl Memory for Quiet {
    fn map(&self, size: usize) -> Result<NonNull<u8>, MapError> {
        heap::untouched(|| self.0.map(size))
    }

    unsafe fn protect(
        &self,
        start: NonNull<u8>,
        size: usize,
        access: Access,
    ) -> Result<(), MapError> {
        // SAFETY: the caller's promise.
        heap::untouched(|| unsafe { self.0.protect(start, size, access) })
    }

    unsafe fn unmap(&self, start: NonNull<u8>, size: usize) {
        // SAFETY: the caller's promise.
        heap::untouched(|| unsafe { self.0.unmap(start, size) });
    }
}

/// Nothing of the objects runs when they are unloaded.
struct NoStacks;

// SAFETY: the test calls nothing but what loading and unloading themselves call.
unsafe impl Stacks for NoStacks {
    fn anyone_in(&self, _: std::ops::Range<u64>) -> bool {
        false
    }
}

/// Files of all sorts: groups, archives, common symbols, constructors, TLS, unwind tables.
fn files() -> Option<[Vec<u8>; 5]> {
    let header = "inline int shared(int n) { struct D { ~D() {} } d; static int c; return c += n; }
        int other(int); struct S { S(); ~S(); }; ";
    let one = format!("{header} static S s; int one() {{ return shared(1) + other(2); }}");
    let two = format!("{header} int other(int n) {{ return shared(n); }} S::S() {{}} S::~S() {{}}");
    let flags = ["-fPIC", "-fno-threadsafe-statics"];
    let (one, two) = compile::cpp(&one, &flags).zip(compile::cpp(&two, &flags))?;
    let common = "int tentative[9]; __thread int t = 3; static int pick(void) { return 1; }
        static void *resolve(void) { return pick; }
        int indirect(void) __attribute__((ifunc(\"resolve\")));
        extern int member(void); int use(void) { return member() + t + indirect(); }";
    let common = compile::c(common, &["-fPIC", "-fcommon"])?;
    let member = compile::c("int member(void) { return 4; }", &["-fPIC"])?;
    let archive = compile::archive(&[("unused.o", &common), ("a_long_name_for_it.o", &member)])?;
    Some([compile::rust(SOURCE, RUST_FLAGS[3]), one, two, common, archive])
}

/// Whether an error says that there is no memory on the heap.
fn is_exhaustion(cause: &Cause) -> bool {
    matches!(
        cause,
        Cause::OutOfMemory
            | Cause::TlsReserve(ReserveError::OutOfMemory)
            | Cause::TlsPublish(PublishError::OutOfMemory { .. })
    )
}

/// Loads the set when another object is there, with one allocation failing; whether that failed.
fn round(set: &Set<'_>, earlier: &[u8], program: &Program, failing: usize) -> bool {
    let (memory, tls) = (Quiet(HostMemory::default()), registry());
    let area = tls.new_area(0).unwrap();
    let loader = Loader::new(&memory, program, &tls);
    let first = loader.load("earlier", earlier).unwrap();
    let (mapped, free, tables) = (memory.0.live(), tls.surplus_free(), global().len());
    let (result, failed) = heap::failing_at(failing, || loader.load_set(set));
    match result {
        Ok(object) => {
            assert!(!failed, "allocation {failing} was not needed");
            assert_eq!(heap::failing_always(|| loader.objects().count()), 2);
            heap::failing_always(|| loader.unload(&object, &NoStacks)).unwrap();
        }
        Err(error) => {
            assert!(failed && is_exhaustion(error.cause()), "allocation {failing}: {error}");
        }
    }
    assert_eq!((memory.0.live(), tls.surplus_free(), global().len()), (mapped, free, tables));
    assert_eq!(loader.objects().count(), 1);
    heap::failing_always(|| loader.unload(&first, &NoStacks)).unwrap();
    assert_eq!((memory.0.live(), tls.surplus_free()), (0, SURPLUS));
    drop(area);
    failed
}

#[test]
fn every_allocation_of_a_load_fails_in_turn_and_nothing_stays() {
    let _alone = alone();
    let Some(files) = files() else { return };
    let names = ["guest.o", "one.o", "two.o", "common.o", "lib.a"];
    let inputs: Vec<_> =
        names.iter().zip(&files).map(|(name, file)| Input::new(name, file)).collect();
    let set = Set::new("set", &inputs);
    let earlier = "__attribute__((weak)) int base; int *at = &base;";
    let earlier = compile::c(earlier, &["-fPIC"]).unwrap();
    let program = runtime(&set);
    let mut failing = 0;
    loop {
        let before = heap::used();
        let failed = round(&set, &earlier, &program, failing);
        assert_eq!(heap::used(), before, "allocation {failing}");
        if !failed {
            break;
        }
        failing += 1;
    }
    assert!(failing > 50, "only {failing} allocations");
}

/// What a set wants of others, without what comes in groups.
fn runtime(set: &Set<'_>) -> Program {
    extern "C" fn register() -> i32 {
        0
    }
    let (memory, tls) = (HostMemory::default(), registry());
    let program = Program::bare().with("__cxa_atexit", register as *const () as u64);
    let loader = Loader::new(&memory, &program, &tls);
    let Err(error) = loader.load_set(set) else { panic!("nothing is undefined") };
    let Cause::Undefined(names) = error.into_cause() else { panic!() };
    let program = Program::bare().with("__cxa_atexit", register as *const () as u64);
    names.iter().fold(program, |program, name| program.with(keep(name), 1))
}

/// The name, for as long as the process lives; somebody still has it, so that it is no leak.
fn keep(name: &str) -> &'static str {
    static NAMES: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());
    let name: &'static str = name.to_string().leak();
    NAMES.lock().unwrap().push(name);
    name
}

#[test]
fn without_memory_errors_are_told_all_the_same() {
    let _alone = alone();
    let (memory, program, tls) = (Quiet(HostMemory::default()), Program::bare(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    let error =
        heap::failing_always(|| loader.load("script", b"#!/bin/sh").map(|_| ()).unwrap_err());
    assert_eq!(*error.cause(), Cause::NotElf(*b"#!/b"));
    let text = "(no memory for the name): not an ELF file: starts with [23, 21, 2f, 62]";
    assert_eq!(error.to_string(), text);
}
