//! What objects want to have called when they come and before they go is called, in its order.

use crate::compile;
use crate::memory::HostMemory;
use crate::program::{Program, registry};
use crate::stacks::Frames;
use std::sync::{Mutex, MutexGuard, PoisonError};
use unspool_loader::{Input, Loader, Set, UnloadError};
use unspool_stack_trace::Symbolize as _;

static CALLS: Mutex<Vec<i32>> = Mutex::new(Vec::new());

extern "C" fn note(call: i32) {
    CALLS.lock().unwrap().push(call);
}

fn calls() -> Vec<i32> {
    std::mem::take(&mut CALLS.lock().unwrap())
}

/// One test at a time: all note what is called in one list.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn program() -> Program {
    Program::bare().with("note", note as *const () as u64)
}

const C: [&str; 2] = [
    "void note(int);
    __attribute__((constructor)) static void a(void) { note(10); }
    __attribute__((constructor(200))) static void b(void) { note(2); }
    __attribute__((destructor)) static void c(void) { note(-10); }
    __attribute__((destructor(300))) static void d(void) { note(-3); }
    static void early(int count, char **arguments, char **environment) {
        note(count + !!*arguments + !!*environment);
    }
    __attribute__((section(\".preinit_array\"), used)) static void *pre = early;",
    "void note(int);
    __attribute__((constructor)) static void a(void) { note(11); }
    __attribute__((constructor(101))) static void b(void) { note(1); }
    __attribute__((destructor)) static void c(void) { note(-11); }
    __attribute__((destructor(200))) static void d(void) { note(-2); }",
];

#[test]
fn priorities_come_first_then_files_and_everything_goes_backwards() {
    let _alone = alone();
    for flags in [&["-fPIC"], &["-fno-pic"]] {
        let Some(files) = compile::c(C[0], flags).zip(compile::c(C[1], flags)) else { return };
        let (memory, program, tls) = (HostMemory::default(), program(), registry());
        let loader = Loader::new(&memory, &program, &tls);
        let inputs = [Input::new("0.o", &files.0), Input::new("1.o", &files.1)];
        let object = loader.load_set(&Set::new("set", &inputs)).unwrap();
        assert_eq!(calls(), [0, 1, 2, 10, 11]);
        loader.unload(&object, &Frames::none()).unwrap();
        assert_eq!(calls(), [-11, -10, -3, -2]);
    }
}

#[test]
fn old_tables_are_read_from_their_ends() {
    let _alone = alone();
    let source = "void note(int); typedef void F(void);
        static void a(void) { note(1); } static void b(void) { note(2); }
        static void c(void) { note(3); } static void d(void) { note(4); }
        #define IN(name) __attribute__((section(name), used)) static
        IN(\".ctors\") F *ctors[] = { (F *)-1, a, b, 0 };
        IN(\".ctors.65435\") F *first[] = { d, c };
        IN(\".dtors\") F *dtors[] = { (F *)-1, a, b, 0 };
        IN(\".dtors.65435\") F *last[] = { c };";
    let Some(file) = compile::c(source, &["-fPIC"]) else { return };
    let (memory, program, tls) = (HostMemory::default(), program(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    let object = loader.load("c", &file).unwrap();
    assert_eq!(calls(), [3, 4, 2, 1]);
    loader.unload(&object, &Frames::none()).unwrap();
    assert_eq!(calls(), [1, 2, 3]);
}

#[test]
fn cpp_objects_are_constructed_and_destroyed() {
    let _alone = alone();
    let source = |n: i32| {
        format!(
            "extern \"C\" void note(int); namespace {{ struct S {{ int n; S(int n) : n(n) {{ note(n); }}
            ~S() {{ note(-n); }} }}; }} static S one({n}), two({n} + 1);
            namespace {{ struct Late {{ ~Late() {{ note(-{n} - 5); }} }}; }}
            extern \"C\" void late{n}() {{ static Late late; }}"
        )
    };
    let flags = ["-fPIC", "-fno-threadsafe-statics", "-fno-exceptions"];
    let Some(files) = compile::cpp(&source(10), &flags).zip(compile::cpp(&source(20), &flags))
    else {
        return;
    };
    let (memory, program, tls) = (HostMemory::default(), program(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    let inputs = [Input::new("0.o", &files.0), Input::new("1.o", &files.1)];
    let object = loader.load_set(&Set::new("set", &inputs)).unwrap();
    assert_eq!(calls(), [10, 11, 20, 21]);
    let other = loader.load("other", &files.0).unwrap();
    assert_eq!(calls(), [10, 11]);
    function!(object, "late20", fn())();
    loader.unload(&object, &Frames::none()).unwrap();
    assert_eq!(calls(), [-25, -21, -20, -11, -10]);
    loader.unload(&other, &Frames::none()).unwrap();
    assert_eq!(calls(), [-11, -10]);
}

/// What the functions of an object see of the loader, which is not locked meanwhile.
static LOADER: Mutex<Option<&'static Loader<'static>>> = Mutex::new(None);

extern "C" fn look(file: *const u8, len: usize) -> i32 {
    let loader = LOADER.lock().unwrap().unwrap();
    // SAFETY: the test gives the object a file.
    let file = unsafe { std::slice::from_raw_parts(file, len) };
    let inner = loader.load("inner", file).unwrap();
    let value = function!(inner, "value", fn() -> i32)();
    loader.unload(&inner, &Frames::none()).unwrap();
    value + i32::from(loader.object("outer").is_some())
}

#[test]
fn constructors_and_destructors_may_load_and_unload() {
    let _alone = alone();
    let source = "void note(int); int look(void *, long); extern char file[]; extern long len;
        __attribute__((constructor)) static void a(void) { note(look(file, (long)&len)); }
        __attribute__((destructor)) static void b(void) { note(look(file, (long)&len)); }";
    let Some(outer) = compile::c(source, &["-fPIC"]) else { return };
    let inner = compile::c("int value(void) { return 70; }", &["-fPIC"]).unwrap();
    let inner: &'static [u8] = inner.leak();
    let memory: &'static HostMemory = Box::leak(Box::default());
    let program = program()
        .with("look", look as *const () as u64)
        .with("file", inner.as_ptr() as u64)
        .with("len", inner.len() as u64);
    let program: &'static Program = Box::leak(Box::new(program));
    let loader = Box::leak(Box::new(Loader::new(memory, program, Box::leak(Box::new(registry())))));
    let loader: &'static Loader<'static> = loader;
    *LOADER.lock().unwrap() = Some(loader);
    let object = loader.load("outer", &outer).unwrap();
    assert_eq!(calls(), [71]);
    loader.unload(&object, &Frames::none()).unwrap();
    // Nobody gets a handle of what is being unloaded.
    assert_eq!(calls(), [70]);
    assert_eq!(memory.live(), 0);
}

#[test]
fn what_was_refused_after_cleaning_up_stays_and_does_not_clean_up_again() {
    let _alone = alone();
    let source = "void note(int); int leave(void *); static __thread int mine;
        __attribute__((destructor)) static void b(void) { note(-1); leave(&mine); }
        int value(void) { return 7; }";
    let Some(file) = compile::c(source, &["-fPIC", "-ftls-model=initial-exec"]) else { return };
    /// The text of an object of which, from now on, a frame is found.
    static STAYS: Mutex<bool> = Mutex::new(false);
    extern "C" fn leave(_: *mut u8) -> i32 {
        *STAYS.lock().unwrap() = true;
        0
    }
    struct Late;
    // SAFETY: no code of the object runs in this test when it is asked last.
    unsafe impl unspool_loader::Stacks for Late {
        fn anyone_in(&self, _: std::ops::Range<u64>) -> bool {
            *STAYS.lock().unwrap()
        }
    }
    let (memory, tls) = (HostMemory::default(), registry());
    let program = program().with("leave", leave as *const () as u64);
    let loader = Loader::new(&memory, &program, &tls);
    let object = loader.load("c", &file).unwrap();
    assert_eq!(loader.unload(&object, &Late), Err(UnloadError::OnStack));
    assert_eq!(calls(), [-1]);
    assert_eq!(function!(object, "value", fn() -> i32)(), 7);
    assert!(loader.symbolize(object.symbol("value").unwrap()).is_some());
    assert!(loader.object("c").is_some());
    *STAYS.lock().unwrap() = false;
    assert_eq!(loader.unload(&object, &Late), Ok(()));
    assert_eq!((calls(), memory.live()), (vec![], 0));
}

#[test]
fn what_destructors_register_is_called_after_them() {
    let _alone = alone();
    let source = "int __cxa_atexit(void (*)(void *), void *, void *); void note(int);
        extern char __dso_handle; static void late(void *p) { note(-5); }
        __attribute__((destructor)) static void a(void) {
            note(-1); __cxa_atexit(late, 0, &__dso_handle); }";
    let Some(file) = compile::c(source, &["-fPIC"]) else { return };
    let (memory, program, tls) = (HostMemory::default(), program(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    let object = loader.load("c", &file).unwrap();
    loader.unload(&object, &Frames::none()).unwrap();
    assert_eq!(calls(), [-1, -5]);
}
