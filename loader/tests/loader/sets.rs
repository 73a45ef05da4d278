//! Files of a set are one object: they share names, groups, slots and the TLS block.

use crate::compile;
use crate::memory::HostMemory;
use crate::program::{Program, SURPLUS, registry, trap};
use crate::stacks::Frames;
use crate::task;
use unspool_loader::{Cause, Handle, Input, LoadError, Loader, Problem, Set};
use unspool_stack_trace::Symbolize as _;

const MODELS: [&[&str]; 4] =
    [&["-fno-pic"], &["-fPIC"], &["-fPIC", "-fno-plt"], &["-fPIC", "-mcmodel=large"]];

/// Loads files called `0.o`, `1.o`, … as the set `set`.
fn load<'l>(loader: &'l Loader<'_>, files: &[&[u8]]) -> Result<Handle<'l>, LoadError> {
    const NAMES: [&str; 6] = ["0.o", "1.o", "2.o", "3.o", "4.o", "5.o"];
    let inputs: Vec<_> =
        files.iter().zip(NAMES).map(|(file, name)| Input::new(name, file)).collect();
    loader.load_set(&Set::new("set", &inputs))
}

/// Loads C sources with a bare program, and gives the object to `check`.
fn with_c(sources: &[&str], flags: &[&str], check: impl FnOnce(&Loader<'_>, Handle<'_>)) {
    let Some(files) = sources.iter().map(|source| compile::c(source, flags)).collect() else {
        return;
    };
    let files: Vec<Vec<u8>> = files;
    let (memory, program, tls) = (HostMemory::default(), Program::bare(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    let files: Vec<_> = files.iter().map(|file| &**file).collect();
    let object = load(&loader, &files).unwrap_or_else(|error| panic!("{flags:?}: {error}"));
    check(&loader, object);
    drop(loader);
    assert_eq!((memory.live(), tls.surplus_free()), (0, SURPLUS));
}

/// What is wrong with a set of C sources.
fn error_of(sources: &[&str], flags: &[&str]) -> Option<LoadError> {
    let files: Option<Vec<_>> = sources.iter().map(|source| compile::c(source, flags)).collect();
    let files = files?;
    let (memory, program, tls) = (HostMemory::default(), Program::bare(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    let files: Vec<_> = files.iter().map(|file| &**file).collect();
    let error = load(&loader, &files).map(|_| ()).unwrap_err();
    assert_eq!((memory.live(), loader.objects().count()), (0, 0));
    Some(error)
}

#[test]
fn files_refer_to_each_other_in_any_order() {
    let one = "extern int two(int); extern int data[3]; int depth = 5;
        int one(int n) { return n ? two(n - 1) + data[1] : 0; }";
    let two = "extern int one(int); extern int depth; int data[3] = {1, 20, 3};
        int *where = &depth; int two(int n) { return one(n) + *where; }";
    for flags in MODELS {
        for sources in [[one, two], [two, one]] {
            with_c(&sources, flags, |loader, object| {
                assert_eq!(function!(object, "one", fn(i32) -> i32)(4), 100, "{flags:?}");
                assert_eq!(object.files().collect::<Vec<_>>(), ["0.o", "1.o"]);
                assert_eq!(object.name(), "set");
                let of = |file| object.sections().find(|it| it.file == file && it.size != 0);
                assert!(of("0.o").is_some() && of("1.o").is_some() && of("set").is_none());
                for name in ["one", "two"] {
                    let address = object.symbol(name).unwrap();
                    assert_eq!(loader.symbolize(address).unwrap().name, name);
                }
                assert_eq!(memory_of(&object), 3);
            });
        }
    }
}

/// How many parts the object has that are not empty.
fn memory_of(object: &Handle<'_>) -> usize {
    let parts = [object.text(), object.rodata(), object.data()];
    parts.iter().filter(|part| !part.is_empty()).count()
}

#[test]
fn strong_definitions_win_over_common_ones_and_these_over_weak_ones() {
    let weak = "__attribute__((weak)) int x = 1; int a(void) { return x; }";
    let common = "int x; int b(void) { return x; } void set(int n) { x = n; }";
    let strong = "int x = 3; int c(void) { return x; }";
    let flags = ["-fcommon", "-fPIC"];
    for sources in [[weak, common, strong], [strong, common, weak], [common, strong, weak]] {
        with_c(&sources, &flags, |_, object| {
            let values = ["a", "b", "c"].map(|name| function!(object, name, fn() -> i32)());
            assert_eq!(values, [3; 3]);
        });
    }
    for sources in [[weak, common], [common, weak]] {
        with_c(&sources, &flags, |_, object| {
            let values = || ["a", "b"].map(|name| function!(object, name, fn() -> i32)());
            assert_eq!(values(), [0; 2]);
            function!(object, "set", fn(i32))(7);
            assert_eq!(values(), [7; 2]);
        });
    }
}

#[test]
fn common_symbols_are_as_large_and_as_aligned_as_the_largest() {
    let small = "char shared[3]; char *small(void) { return shared; } int only;
        int *alone(void) { return &only; }";
    let large = "char shared[4000] __attribute__((aligned(512)));
        char *large(void) { return shared; }";
    for flags in [["-fcommon", "-fno-pic"], ["-fcommon", "-fPIC"]] {
        for sources in [[small, large], [large, small]] {
            with_c(&sources, &flags, |_, object| {
                let [small, large, alone] =
                    ["small", "large", "alone"].map(|name| function!(object, name, fn() -> u64)());
                assert_eq!((small, small % 512), (large, 0));
                assert_eq!(object.symbol("shared"), Some(small));
                assert!(object.data().contains(&small) && object.data().contains(&(small + 3999)));
                assert!(object.data().contains(&alone) && !(small..small + 4000).contains(&alone));
                // SAFETY: the object's own data.
                let bytes = unsafe {
                    std::slice::from_raw_parts(
                        std::ptr::with_exposed_provenance::<u8>(small as usize),
                        4000,
                    )
                };
                assert!(bytes.iter().all(|&byte| byte == 0));
            });
        }
    }
}

#[test]
fn two_strong_definitions_are_an_error_that_names_both_files() {
    let sources = ["int x = 1;", "int y;", "int x = 2;"];
    let Some(error) = error_of(&sources, &[]) else { return };
    assert_eq!(error.object(), "2.o");
    assert_eq!(*error.cause(), Cause::Duplicate { symbol: "x".into(), first: "0.o".into() });
    assert_eq!(error.to_string(), "2.o: `x` is also defined by 0.o");
}

#[test]
fn undefined_symbols_of_all_files_are_listed_once() {
    let sources = [
        "extern int p, q; int a(void) { return p + q; }",
        "extern int q, r; int b(void) { return q + r; } extern int a(void); int c(void) { return a(); }",
    ];
    let Some(error) = error_of(&sources, &[]) else { return };
    assert_eq!(error.object(), "set");
    let Cause::Undefined(mut names) = error.into_cause() else { panic!() };
    names.sort_by(|a, b| (**a).cmp(b));
    assert_eq!(names, ["p", "q", "r"]);
}

#[test]
fn what_is_wrong_with_a_file_is_told_with_its_name() {
    let source = "extern int far; int *place(void) { return &far; }";
    let (Some(good), Some(file)) =
        (compile::c("int good;", &[]), compile::c(source, &["-fno-pic"]))
    else {
        return;
    };
    let (memory, tls) = (HostMemory::default(), registry());
    let program = Program::bare().with("far", 1 << 40);
    let loader = Loader::new(&memory, &program, &tls);
    let error = load(&loader, &[&good, &file]).unwrap_err();
    assert_eq!(error.object(), "1.o");
    assert!(error.to_string().starts_with("1.o: .text+"), "{error}");
    let error = load(&loader, &[&good, &file[..100]]).unwrap_err();
    assert_eq!(error.object(), "1.o");
    assert!(matches!(error.cause(), Cause::Truncated { .. }));
}

#[test]
fn hidden_symbols_are_seen_in_the_set_and_nowhere_else() {
    let one = "__attribute__((visibility(\"hidden\"))) int secret(void) { return 5; }
        __attribute__((visibility(\"hidden\"), weak)) int shy(void) { return 6; }";
    let two =
        "extern int secret(void), shy(void); int tell(void) { return 10 * secret() + shy(); }";
    let Some(user) = compile::c("extern int secret(void); int use(void) { return secret(); }", &[])
    else {
        return;
    };
    for flags in MODELS {
        with_c(&[one, two], flags, |loader, object| {
            assert_eq!(function!(object, "tell", fn() -> i32)(), 56);
            assert_eq!((object.symbol("secret"), object.symbol("shy")), (None, None));
            let undefined = Cause::Undefined(vec!["secret".into()]);
            assert_eq!(*loader.load("user", &user).unwrap_err().cause(), undefined);
        });
    }
}

#[test]
fn all_tls_models_reach_the_variables_of_other_files() {
    let one = "__thread int a = 5; __thread long b[4] = {1, 2, 3, 4}; static __thread int c = 7;
        int local(void) { return c++ + a; } __thread int zero;";
    let two =
        "extern __thread int a, zero; extern __thread long b[4]; static __thread long own = 40;
        long sum(void) { zero++; own += a; return a + b[2] + own + zero; }";
    let hidden = "#pragma GCC visibility push(hidden)\n";
    let models: [&[&str]; 7] = [
        &["-fno-pic"],
        &["-fPIC"],
        &["-fPIC", "-mtls-dialect=gnu2"],
        &["-fPIC", "-ftls-model=initial-exec"],
        &["-fPIC", "-ftls-model=local-dynamic"],
        &["-fPIC", "-mtls-dialect=gnu2", "-ftls-model=local-dynamic"],
        &["-fPIC", "-mcmodel=large"],
    ];
    for flags in models {
        let local = flags.contains(&"-ftls-model=local-dynamic");
        let two =
            if local { format!("{hidden}{two}\n#pragma GCC visibility pop\n") } else { two.into() };
        let two = two.replace("long sum", "__attribute__((visibility(\"default\"))) long sum");
        let Some(files) = compile::c(one, flags).zip(compile::c(&two, flags)) else { return };
        for full in [false, true] {
            if full && ["-fno-pic", "-ftls-model=initial-exec"].iter().any(|it| flags.contains(it))
            {
                continue;
            }
            let (memory, tls) = (HostMemory::default(), registry());
            let answer = unspool_tls::__tls_get_addr as *const () as u64;
            let program = Program::bare().with("__tls_get_addr", answer);
            let rest = full.then(|| tls.reserve(tls.surplus_free(), 1).unwrap());
            let loader = Loader::new(&memory, &program, &tls);
            let old = tls.new_area(0).unwrap();
            let object = load(&loader, &[&files.0, &files.1])
                .unwrap_or_else(|error| panic!("{flags:?}: {error}"));
            for area in [old, tls.new_area(0).unwrap()] {
                let run = |name| task::run(&area, function!(object, name, fn() -> u64));
                assert_eq!([run("sum"), run("sum")], [5 + 3 + 45 + 1, 5 + 3 + 50 + 2], "{flags:?}");
                assert_eq!([run("local"), run("local")], [12, 13], "{flags:?}");
            }
            drop((object, rest));
        }
    }
}

#[test]
fn common_thread_local_variables_are_zero_in_every_task() {
    let source = "__asm__(\".type shared, @tls_object; .tls_common shared, 64, 32\");
        extern __thread int shared; int bump(void) { return ++shared; }
        int *place(void) { return &shared; }";
    let Some(file) = compile::c(source, &["-fPIC"]) else { return };
    let (memory, program, tls) = (HostMemory::default(), Program::bare(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    let object = load(&loader, &[&file]).unwrap();
    for _ in 0..2 {
        let area = tls.new_area(0).unwrap();
        let bump = function!(object, "bump", fn() -> u64);
        assert_eq!([task::run(&area, bump), task::run(&area, bump)], [1, 2]);
        assert_eq!(task::run(&area, function!(object, "place", fn() -> u64)) % 32, 0);
    }
}

const GROUPS: &str = "
    struct Base { virtual int value() { return LEVEL; } virtual ~Base() {} };
    inline int counter() { static int count = 10; return ++count; }
    template <typename T> T twice(T x) { try { return x + x; } catch (...) { return 0; } }
    inline int thrower(int n) { struct D { ~D() {} } d; return n > 0 ? NEXT(n - 1) + 1 : 0; }
";

fn cpp(level: u32, body: &str) -> Option<Vec<u8>> {
    let source = format!("#define LEVEL {level}\nint NEXT(int);{GROUPS}{body}");
    compile::cpp(&source, &["-fPIC", "-O0", "-fno-threadsafe-statics"])
}

#[test]
fn of_a_group_there_is_one_copy_and_unwind_tables_only_for_it() {
    let first = "extern \"C\" { int a() { return counter(); } int va() { Base b; Base &r = b;
        return r.value() + twice(1) + thrower(2); } } int NEXT(int n) { return thrower(n); }";
    let second = "extern \"C\" { int b() { return counter(); } int vb() { Base b; Base &r = b;
        return r.value() + twice(1) + thrower(3); } }";
    let Some(files) = cpp(1, first).zip(cpp(2, second)) else { return };
    let (memory, tls) = (HostMemory::default(), registry());
    // What the C++ runtime has; none of it is called.
    let runtime = [
        "__gxx_personality_v0",
        "_Unwind_Resume",
        "__cxa_begin_catch",
        "__cxa_end_catch",
        "_ZdlPvm",
        "_ZdlPv",
        "_ZTVN10__cxxabiv117__class_type_infoE",
    ];
    let program = runtime.iter().fold(Program::bare(), |it, name| it.with(name, trap()));
    let loader = Loader::new(&memory, &program, &tls);
    let object = load(&loader, &[&files.0, &files.1]).unwrap();
    let call = |name| function!(object, name, fn() -> i32)();
    assert_eq!([call("a"), call("b"), call("a")], [11, 12, 13]);
    // Virtual functions and all else that comes in groups is the first file's.
    assert_eq!([call("va"), call("vb")], [1 + 2 + 2, 1 + 2 + 3]);
    let copies = |name: &str| object.sections().filter(|it| it.name.ends_with(name)).count();
    assert_eq!(copies("._Z7counterv"), 1);
    let program = runtime.iter().fold(Program::full(), |it, name| it.with(name, trap()));
    let other = Loader::new(&memory, &program, &tls);
    let separate = [&files.0, &files.1].map(|file| other.load("separate", file).unwrap());
    assert!(
        object.rodata().end - object.rodata().start
            < separate.iter().map(|it| it.rodata().end - it.rodata().start).sum()
    );
    // The table is whole: every function is found by its address, and by no other's entry.
    use unspool_unwind::FindModule as _;
    for name in ["a", "b", "va", "vb", "_Z7counterv", "_Z7throweri", "_Z5twiceIiET_S0_"] {
        let address = object.symbol(name).unwrap_or_else(|| panic!("{name}"));
        let module = unspool_unwind::global().find(address).unwrap();
        assert_eq!(module.function(address).unwrap().start(), address, "{name}");
        assert_eq!(loader.symbolize(address).unwrap().name, name);
    }
    drop(separate);
    loader.unload(&object, &Frames::none()).unwrap();
}

#[test]
fn code_that_needs_a_copy_which_was_left_out_is_an_error() {
    let source = |label: &str| {
        format!(
            "__asm__(\".section .text.f,\\\"axG\\\",@progbits,f,comdat; .weak f; f: {label}: ret;\"
            \".data; .quad {label}; .text\");"
        )
    };
    let sources = [source("one"), source("two")];
    let Some(error) = error_of(&[&sources[0], &sources[1]], &[]) else { return };
    assert_eq!(error.object(), "1.o");
    let Cause::Relocation { section, problem, .. } = error.into_cause() else { panic!() };
    assert_eq!((&*section, problem), (".data", Problem::Discarded));
}

#[test]
fn indirect_functions_are_what_their_resolvers_say() {
    let one = "static int one(void) { return 1; } static int two(void) { return 2; } int which = 1;
        static int (*pick(void))(void) { return which ? two : one; }
        int chosen(void) __attribute__((ifunc(\"pick\")));
        static int (*pick_own(void))(void) { return one; }
        static int own(void) __attribute__((ifunc(\"pick_own\")));
        int call(void) { return chosen() * 10 + own(); } int (*table[])(void) = { chosen, own };
        int call_table(void) { return table[0]() * 10 + table[1](); }";
    let two = "extern int chosen(void); int call_other(void) { return chosen() + 100; }
        int (*get(void))(void) { return chosen; }";
    for flags in MODELS {
        let Some(user) =
            compile::c("extern int chosen(void); int user(void) { return chosen(); }", flags)
        else {
            return;
        };
        with_c(&[one, two], flags, |loader, object| {
            let call = |name| function!(object, name, fn() -> i32)();
            assert_eq!([call("call"), call("call_table"), call("call_other")], [21, 21, 102]);
            assert_eq!(function!(object, "get", fn() -> u64)(), object.symbol("chosen").unwrap());
            let user = loader.load("user", &user).unwrap();
            assert_eq!(function!(user, "user", fn() -> i32)(), 2);
        });
    }
}

extern "C" fn chosen_by_the_program() -> i32 {
    7
}

#[test]
fn a_weak_indirect_function_yields_to_the_program_however_it_is_called() {
    let source = "static int one(void) { return 1; } static int (*pick(void))(void) { return one; }
        int chosen(void) __attribute__((ifunc(\"pick\"))); __asm__(\".weak chosen\");
        int call(void) { return chosen() + 10; } int (*get(void))(void) { return chosen; }";
    let address = chosen_by_the_program as *const () as u64;
    for flags in MODELS.into_iter().filter(|flags| flags.contains(&"-fPIC")) {
        let Some(file) = compile::c(source, flags) else { return };
        let (memory, tls) = (HostMemory::default(), registry());
        let program = Program::bare().with("chosen", address);
        let loader = Loader::new(&memory, &program, &tls);
        let object = loader.load("c", &file).unwrap();
        assert_eq!(function!(object, "get", fn() -> u64)(), address, "{flags:?}");
        assert_eq!(function!(object, "call", fn() -> i32)(), 17, "{flags:?}");
        drop(object);
    }
}

#[test]
fn sections_of_the_large_model_are_placed_like_others() {
    let source = "static char zeroes[70000]; static int table[20000] = {1, 2, 3};
        const int fixed[20000] = {4, 5};
        int sum(int i) { zeroes[i]++; return zeroes[i] + table[i] + fixed[i]; }";
    for model in ["-mcmodel=large", "-mcmodel=medium"] {
        with_c(&[source], &["-fPIC", model], |_, object| {
            let sum = function!(object, "sum", fn(i32) -> i32);
            assert_eq!([sum(0), sum(0), sum(1)], [6, 7, 8], "{model}");
        });
    }
}

#[test]
fn an_empty_set_is_an_empty_object() {
    let (memory, program, tls) = (HostMemory::default(), Program::bare(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    let object = load(&loader, &[]).unwrap();
    assert_eq!((object.files().count(), object.sections().count()), (0, 0));
    loader.unload(&object, &Frames::none()).unwrap();
    assert_eq!(memory.live(), 0);
}
