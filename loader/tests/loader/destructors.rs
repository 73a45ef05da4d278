//! Destructors that tasks still have to run keep their object loaded; what an object wants to have
//! called at its own exit is called.

use crate::compile;
use crate::memory::HostMemory;
use crate::program::{Program, registry};
use crate::stacks::Frames;
use crate::task;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use unspool_loader::{Loader, UnloadError};

static DESTROYED: AtomicU64 = AtomicU64::new(0);
static OUTSIDE: u64 = 7;

unsafe extern "C-unwind" fn of_the_program(object: *mut u8) {
    // SAFETY: the objects under test register a `long` with it.
    DESTROYED.fetch_add(unsafe { *object.cast::<u64>() }, Ordering::Relaxed);
}

fn program() -> Program {
    Program::bare()
        .with("__tls_get_addr", unspool_tls::__tls_get_addr as *const () as u64)
        .with("__cxa_thread_atexit", unspool_tls::__cxa_thread_atexit as *const () as u64)
        .with("of_the_program", of_the_program as *const () as u64)
        .with("outside", &raw const OUTSIDE as u64)
}

extern "C" fn run_destructors() -> u64 {
    // SAFETY: a task at its end, whose FS base is its area's.
    unsafe { unspool_tls::run_destructors() };
    0
}

/// Loads the object, has two tasks call `start`, and unloads it when they have come to their ends.
fn check(file: Option<Vec<u8>>) {
    let Some(file) = file else { return };
    for full in [false, true] {
        let (memory, program, tls) = (HostMemory::default(), program(), registry());
        let rest = full.then(|| tls.reserve(tls.surplus_free(), 1).unwrap());
        let loader = Loader::new(&memory, &program, &tls);
        let object = loader.load("guest", &file).unwrap();
        let (first, second) = (tls.new_area(0).unwrap(), tls.new_area(0).unwrap());
        let start = function!(object, "start", fn() -> u64);
        for area in [&first, &second] {
            task::run(area, start);
        }
        let pending = |count| Err(UnloadError::PendingDestructors { count });
        assert_eq!(loader.unload(&object, &Frames::none()), pending(2));
        task::run(&first, run_destructors);
        assert_eq!(loader.unload(&object, &Frames::none()), pending(1));
        // A task that is gone without running them has forgotten them.
        drop(second);
        assert_eq!(loader.unload(&object, &Frames::none()), Ok(()));
        assert_eq!(memory.live(), 0);
        drop((first, rest));
    }
}

const REGISTER: &str = "extern int __cxa_thread_atexit(void (*)(void *), void *, void *);
    extern void of_the_program(void *); extern char __dso_handle; long count;";

fn c(source: &str) -> Option<Vec<u8>> {
    compile::c(&format!("{REGISTER}{source}"), &["-fPIC"])
}

#[test]
fn a_destructor_in_the_object_keeps_it() {
    check(c("static long other; static void mine(void *p) { ++*(long *)p; }
        long start(void) { return __cxa_thread_atexit(mine, &other, 0); }"));
}

#[test]
fn a_destructor_of_others_for_its_thread_local_variable_keeps_an_object() {
    check(c("static __thread long x = 5;
        long start(void) { return __cxa_thread_atexit(of_the_program, &x, 0); }"));
}

#[test]
fn a_destructor_that_was_registered_with_its_handle_keeps_an_object() {
    check(c(
        "extern long outside;
        long start(void) { return __cxa_thread_atexit(of_the_program, &outside, &__dso_handle); }",
    ));
}

#[test]
fn a_thread_local_object_of_cpp_is_destroyed_and_keeps_its_object_until_then() {
    let source = "extern \"C\" { void of_the_program(void *); long start(); }
        struct Noisy { long value = 3; ~Noisy() { of_the_program(&value); } };
        static thread_local Noisy noisy; long start() { return noisy.value; }";
    let before = DESTROYED.load(Ordering::Relaxed);
    let file = compile::cpp(source, &["-fPIC", "-fno-exceptions"]);
    let compiled = file.is_some();
    check(file);
    assert!(!compiled || DESTROYED.load(Ordering::Relaxed) >= before + 3);
}

static ORDER: Mutex<Vec<u64>> = Mutex::new(Vec::new());

extern "C" fn note(number: u64) {
    ORDER.lock().unwrap().push(number);
}

#[test]
fn what_an_object_wants_at_its_exit_is_called_before_it_is_unloaded() {
    let source = "int __cxa_atexit(void (*)(void *), void *, void *); int atexit(void (*)(void));
        void note(long); extern char __dso_handle; static long numbers[] = {1, 2, 3};
        static void pointed(void *number) { note(*(long *)number); } static void last(void) { note(9); }
        void start(void) { for (int i = 0; i < 3; i++) __cxa_atexit(pointed, numbers + i, &__dso_handle);
            atexit(last); }";
    let Some(file) = compile::c(source, &["-fPIC"]) else { return };
    let (memory, tls) = (HostMemory::default(), registry());
    let program = Program::bare().with("note", note as *const () as u64);
    let loader = Loader::new(&memory, &program, &tls);
    let (object, other) = (loader.load("c", &file).unwrap(), loader.load("other", &file).unwrap());
    for object in [&object, &other] {
        function!(object, "start", fn())();
    }
    let held = loader.object("c");
    assert_eq!(loader.unload(&object, &Frames::none()), Err(UnloadError::Held { handles: 1 }));
    assert_eq!(*ORDER.lock().unwrap(), []);
    drop(held);
    assert_eq!(loader.unload(&object, &Frames::none()), Ok(()));
    assert_eq!(*ORDER.lock().unwrap(), [9, 3, 2, 1]);
    // What goes with its loader is not asked.
    drop((object, other));
    drop(loader);
    assert_eq!((memory.live(), ORDER.lock().unwrap().len()), (0, 4));
}

#[test]
fn an_exception_out_of_a_function_that_was_registered_ends_the_program() {
    const NAME: &str =
        "destructors::an_exception_out_of_a_function_that_was_registered_ends_the_program";
    const CHILD: &str = "UNSPOOL_LOADER_EXIT_THROWS";
    extern "C-unwind" fn throws() {
        panic!("out of a function at exit");
    }
    let source = "int __cxa_atexit(void (*)(void *), void *, void *); int atexit(void (*)(void));
        void throws(void *); extern char __dso_handle; static void tail(void) { throws(0); }
        void with(void) { __cxa_atexit(throws, 0, &__dso_handle); } void without(void) { atexit(tail); }";
    let Some(file) = compile::c(source, &["-fPIC"]) else { return };
    let Ok(start) = std::env::var(CHILD) else {
        for start in ["with", "without"] {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", NAME, "--nocapture"]).env(CHILD, start);
            let output = child.output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.signal(), Some(libc::SIGABRT), "{start}: {text}");
            assert!(text.contains("panic in a function that cannot unwind"), "{start}: {text}");
        }
        return;
    };
    let (memory, tls) = (HostMemory::default(), registry());
    let program = Program::bare().with("throws", throws as *const () as u64);
    let loader = Loader::new(&memory, &program, &tls);
    let object = loader.load("c", &file).unwrap();
    function!(object, &start, fn())();
    let _ = loader.unload(&object, &Frames::none());
}
