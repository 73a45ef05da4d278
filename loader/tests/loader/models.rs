//! Every TLS model, where the object's block has a fixed distance from TP and where it has none.

use crate::compile::{self, RUST_FLAGS};
use crate::memory::HostMemory;
use crate::program::{Program, SURPLUS, registry};
use crate::task;
use unspool_loader::{Cause, LoadError, Loader, Object, Problem, Text};
use unspool_tls::{Registry, ReserveError};

const DEFINES: &str = "__thread int a = 5; __thread long b; static __thread short c = 7;
    static __thread char pad[64] __attribute__((aligned(64)));
    long local(void) { pad[63] = 1; a += 1; b += a; c += b; return c * 10 + pad[63]; }
    long aligned(void) { return (long)pad % 64; } long *place(void) { return &b; }";

const USES: &str = "extern __thread int a; extern __thread long b;
    long other(void) { b += a; return b; } long *other_place(void) { return &b; }";

/// Models that ask for addresses: general and local dynamic in all their forms, and descriptors.
const DYNAMIC: [&[&str]; 9] = [
    &["-fPIC"],
    &["-fPIC", "-O0"],
    &["-fPIC", "-fno-plt"],
    &["-fPIC", "-mcmodel=large"],
    &["-fPIC", "-ftls-model=local-dynamic"],
    &["-fPIC", "-ftls-model=local-dynamic", "-fno-plt"],
    &["-fPIC", "-ftls-model=local-dynamic", "-mcmodel=large"],
    &["-fPIC", "-mtls-dialect=gnu2"],
    &["-fPIC", "-mtls-dialect=gnu2", "-ftls-model=local-dynamic"],
];

/// Models that have offsets from TP in code or GOT.
const STATIC: [&[&str]; 6] = [
    &["-fPIC", "-ftls-model=initial-exec"],
    &["-fPIC", "-ftls-model=initial-exec", "-mcmodel=large"],
    &["-fPIC", "-ftls-model=local-exec"],
    &["-fPIC", "-ftls-model=local-exec", "-mcmodel=large"],
    &["-fno-pic"],
    &["-fno-pic", "-mcmodel=large"],
];

fn models() -> impl Iterator<Item = &'static [&'static str]> {
    DYNAMIC.into_iter().chain(STATIC)
}

fn is_local(flags: &[&str]) -> bool {
    flags.contains(&"-ftls-model=local-dynamic")
}

/// A program that answers dynamic accesses.
fn answering(program: Program) -> Program {
    program.with("__tls_get_addr", unspool_tls::__tls_get_addr as *const () as u64)
}

/// Takes the whole surplus.
fn fill(tls: &Registry) -> impl Drop {
    tls.reserve(tls.surplus_free(), 1).unwrap()
}

#[test]
fn every_model_in_static_space_needs_no_function_to_ask() {
    for flags in models() {
        let Some(first) = compile::c(DEFINES, flags) else { return };
        let second = compile::c(USES, flags).unwrap();
        let (memory, program, tls) = (HostMemory::default(), Program::bare(), registry());
        let loader = Loader::new(&memory, &program, &tls);
        let old = tls.new_area(1).unwrap();
        let first = loader.load("first", &first).unwrap_or_else(|e| panic!("{flags:?}: {e}"));
        let second = loader.load("second", &second).unwrap_or_else(|e| panic!("{flags:?}: {e}"));
        let new = tls.new_area(2).unwrap();
        for area in [&old, &new] {
            let run = |name, object: &Object| task::run(area, function!(object, name, fn() -> u64));
            assert_eq!(run("local", &first), 131, "{flags:?}");
            assert_eq!(run("aligned", &first), 0, "{flags:?}");
            assert_eq!(run("other", &second), 12, "{flags:?}");
            let expected = area.thread_pointer().address();
            let expected = expected.wrapping_add_signed(first.tls_offset("b").unwrap().into());
            assert_eq!(run("place", &first), expected, "{flags:?}");
            assert_eq!(run("other_place", &second), expected, "{flags:?}");
        }
        let block = first.tls_block().unwrap();
        assert!(block.is_static && block.size > 64 && first.tls_module() == Some(block.module));
        assert_eq!(second.tls_block(), None);
        let again = loader.object("first").unwrap();
        assert_eq!((first.handles(), second.handles()), (2, 1));
        drop(again);
        assert_eq!(first.handles(), 1);
    }
}

#[test]
fn dynamic_models_work_without_static_space_in_old_and_new_tasks() {
    for flags in DYNAMIC {
        let Some(file) = compile::c(DEFINES, flags) else { return };
        let users: Vec<_> = DYNAMIC.into_iter().filter(|flags| !is_local(flags)).collect();
        let (memory, program, tls) =
            (HostMemory::default(), answering(Program::bare()), registry());
        let rest = fill(&tls);
        let loader = Loader::new(&memory, &program, &tls);
        let old = tls.new_area(1).unwrap();
        let first = loader.load("first", &file).unwrap_or_else(|e| panic!("{flags:?}: {e}"));
        let others: Vec<_> = users
            .iter()
            .map(|flags| loader.load("other", &compile::c(USES, flags).unwrap()).unwrap())
            .collect();
        let new = tls.new_area(2).unwrap();
        let mut places = Vec::new();
        for area in [&old, &new] {
            let run = |name, object: &Object| task::run(area, function!(object, name, fn() -> u64));
            assert_eq!(run("aligned", &first), 0, "{flags:?}");
            assert_eq!(run("local", &first), 131, "{flags:?}");
            places.push(run("place", &first));
            for (n, other) in (2..).zip(&others) {
                assert_eq!(run("other", other), n * 6, "{flags:?}, {:?}", users[n as usize - 2]);
                assert_eq!(run("other_place", other), *places.last().unwrap());
            }
        }
        assert_ne!(places[0], places[1]);
        assert_eq!((first.tls_offset("b"), first.symbol("b")), (None, None));
        assert!(first.tls_block().is_some_and(|block| !block.is_static && block.size > 64));
        drop((others, rest));
        assert_eq!(tls.surplus_free(), SURPLUS);
    }
}

#[test]
fn rust_works_without_static_space() {
    let source = r#"
        use core::cell::Cell;
        #[thread_local] static A: Cell<u32> = Cell::new(7);
        #[thread_local] static B: Cell<u64> = Cell::new(0);
        #[thread_local] static WHERE: &Cell<u64> = unsafe { &*(&raw const BUFFER).cast() };
        static mut BUFFER: u64 = 40;
        #[unsafe(no_mangle)] pub extern "C" fn bump() -> u64 {
            A.set(A.get() + 1); B.set(B.get() + u64::from(A.get())); B.get() + WHERE.get()
        }"#;
    for flags in &RUST_FLAGS[2..] {
        for model in ["global-dynamic", "local-dynamic"] {
            let flags: Vec<_> = flags.iter().copied().chain(["-Z", "tls-model"]).collect();
            let mut flags = flags;
            let model = format!("tls-model={model}");
            *flags.last_mut().unwrap() = &model;
            let file = compile::rust(source, &flags);
            let (memory, program, tls) =
                (HostMemory::default(), answering(Program::full()), registry());
            let _rest = fill(&tls);
            let loader = Loader::new(&memory, &program, &tls);
            let old = tls.new_area(1).unwrap();
            let object = loader.load("guest", &file).unwrap_or_else(|e| panic!("{flags:?}: {e}"));
            let bump = function!(object, "bump", fn() -> u64);
            for area in [old, tls.new_area(2).unwrap()] {
                assert_eq!([task::run(&area, bump), task::run(&area, bump)], [48, 57]);
            }
        }
    }
}

#[test]
fn static_models_without_static_space_are_refused_with_numbers() {
    for flags in STATIC {
        let Some(file) = compile::c(DEFINES, flags) else { return };
        let (memory, program, tls) =
            (HostMemory::default(), answering(Program::bare()), registry());
        let _rest = fill(&tls);
        let loader = Loader::new(&memory, &program, &tls);
        match loader.load("c", &file).map_err(LoadError::into_cause) {
            Err(Cause::TlsReserve(ReserveError::SurplusExhausted { needed, free, .. })) => {
                assert_eq!((needed >= 64 + 4 + 8 + 2, free), (true, 0), "{flags:?}");
            }
            other => panic!("{flags:?}: {other:?}"),
        }
        assert_eq!((memory.live(), loader.objects().count()), (0, 0));
    }
}

#[test]
fn others_cannot_have_offsets_from_tp_to_what_has_none() {
    let Some(file) = compile::c(DEFINES, &["-fPIC"]) else { return };
    let (memory, program, tls) = (HostMemory::default(), answering(Program::bare()), registry());
    let _rest = fill(&tls);
    let loader = Loader::new(&memory, &program, &tls);
    loader.load("first", &file).unwrap();
    let load = |flags| loader.load("second", &compile::c(USES, flags).unwrap());
    let problem = |flags| match load(flags).map_err(LoadError::into_cause) {
        Err(Cause::Relocation { problem, .. }) => problem,
        other => panic!("{other:?}"),
    };
    assert_eq!(problem(&["-fPIC", "-ftls-model=initial-exec"]), Problem::NoStaticSpace);
    assert_eq!(problem(&["-fPIC", "-ftls-model=local-exec"]), Problem::NoStaticSpace);
    assert_eq!(problem(&["-fPIC", "-ftls-model=local-dynamic"]), Problem::OtherModule);
    assert_eq!(memory.live(), 1);
}

#[test]
fn an_object_may_use_variables_of_both_kinds() {
    let both = "extern __thread int a; extern __thread long far; __thread int own = 3;
        long sum(void) { return a + far + own++; }";
    for flags in DYNAMIC.into_iter().filter(|flags| !is_local(flags)) {
        let Some(first) = compile::c("__thread int a = 30;", flags) else { return };
        let second = compile::c("__thread long far = 500;", flags).unwrap();
        let third = compile::c(both, flags).unwrap();
        let (memory, program, tls) =
            (HostMemory::default(), answering(Program::bare()), registry());
        let loader = Loader::new(&memory, &program, &tls);
        let first = loader.load("static", &first).unwrap();
        let _rest = fill(&tls);
        let second = loader.load("dynamic", &second).unwrap();
        assert!(first.tls_offset("a").is_some() && second.tls_offset("far").is_none());
        let third = loader.load("both", &third).unwrap();
        let area = tls.new_area(0).unwrap();
        let sum = function!(third, "sum", fn() -> u64);
        assert_eq!([task::run(&area, sum), task::run(&area, sum)], [533, 534], "{flags:?}");
    }
}

#[test]
fn who_cannot_be_asked_is_listed_with_all_that_is_undefined() {
    let source =
        "extern int missing(void); __thread int x; int get(void) { return x + missing(); }";
    for flags in [&["-fPIC"][..], &["-fPIC", "-fno-plt"], &["-fPIC", "-mcmodel=large"]] {
        let Some(file) = compile::c(source, flags) else { return };
        let (memory, program, tls) = (HostMemory::default(), Program::bare(), registry());
        let loader = Loader::new(&memory, &program, &tls);
        let undefined = |names: &[&str]| {
            let names = names.iter().map(|&name| Text::from(name)).collect();
            Err(Cause::Undefined(names))
        };
        let load =
            || loader.load("c", &file).map(|object| object.text()).map_err(LoadError::into_cause);
        assert_eq!(load(), undefined(&["missing"]), "{flags:?}");
        let _rest = fill(&tls);
        assert_eq!(load(), undefined(&["missing", "__tls_get_addr"]), "{flags:?}");
    }
}

#[test]
fn initial_exec_in_any_instruction_works_through_the_got() {
    let source = "__thread long x = 9; long *address(void);
        __asm__(\".globl address; address: xor %eax, %eax; sub x@gottpoff(%rip), %rax;\"
            \"neg %rax; add %fs:0, %rax; ret\");
        long get(void) { return *address(); }";
    let Some(file) = compile::c(source, &["-fPIC"]) else { return };
    let (memory, program, tls) = (HostMemory::default(), Program::bare(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    let object = loader.load("c", &file).unwrap();
    let area = tls.new_area(0).unwrap();
    assert_eq!(task::run(&area, function!(object, "get", fn() -> u64)), 9);
}
