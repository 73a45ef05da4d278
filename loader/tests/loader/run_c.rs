//! Objects as gcc makes them: its relocations, its TLS models, weak and far symbols. Where there is
//! no gcc, these tests have nothing to load and pass.

use crate::memory::HostMemory;
use crate::program::{Program, SURPLUS, registry};
use crate::{compile, task};
use unspool_loader::{Cause, LoadError, Loader, Problem};
use unspool_stack_trace::Symbolize as _;

const MODELS: [&[&str]; 8] = [
    &["-fno-pic"],
    &["-fPIE"],
    &["-fPIC"],
    &["-fPIC", "-fno-plt"],
    &["-fno-pic", "-mcmodel=medium", "-mlarge-data-threshold=8"],
    &["-fPIC", "-mcmodel=medium", "-mlarge-data-threshold=8"],
    &["-fno-pic", "-mcmodel=large"],
    &["-fPIC", "-mcmodel=large"],
];

#[test]
fn c_objects_of_all_models_run() {
    let source = r#"
        static int calls = 3; int zeroed[1000]; const char *const names[] = {"x", "yy", "zzz"};
        void *memset(void *, int, unsigned long);
        static int square(int x) { return x * x; } static int cube(int x) { return x * x * x; }
        int (*const powers[])(int) = {square, cube};
        int power(int n, int x) { calls++; return powers[n](x); }
        int called(void) { return calls; }
        int fill(int v) { memset(zeroed, v, sizeof zeroed); return zeroed[999] & 0xff; }
        char name(int i) { return names[i][0]; }
        int choose(int x) { switch (x) { case 0: return 9; case 1: return called(); case 2:
            return 77; case 3: return fill(x); case 4: return -1; default: return 0; } }
    "#;
    for flags in MODELS {
        let Some(file) = compile::c(source, flags) else { return };
        let (memory, program, tls) = (HostMemory::default(), Program::bare(), registry());
        let loader = Loader::new(&memory, &program, &tls);
        let object = loader.load("c", &file).unwrap_or_else(|e| panic!("{flags:?}: {e}"));
        let power = function!(object, "power", fn(i32, i32) -> i32);
        assert_eq!([power(0, 7), power(1, 3)], [49, 27]);
        let choose = function!(object, "choose", fn(i32) -> i32);
        assert_eq!([0, 1, 2, 3, 4, 5].map(|x| choose(x)), [9, 5, 77, 3, -1, 0]);
        let name = function!(object, "name", fn(i32) -> u8);
        assert_eq!([0, 1, 2].map(|i| name(i)), [b'x', b'y', b'z']);
        let fill = object.symbol("fill").unwrap();
        assert_eq!(loader.symbolize(fill + 1).unwrap().name, "fill");
    }
}

#[test]
fn the_programs_thread_local_variables_can_be_reached() {
    for flags in MODELS {
        let source = "extern __thread long far; long *place(void) { return &far; }";
        let Some(file) = compile::c(source, flags) else { return };
        let (memory, tls) = (HostMemory::default(), registry());
        let program = Program::bare().with_tls("far", -0x123450);
        let loader = Loader::new(&memory, &program, &tls);
        let object = loader.load("c", &file).unwrap();
        let area = tls.new_area(0).unwrap();
        let place = task::run(&area, function!(object, "place", fn() -> u64));
        assert_eq!(place, area.thread_pointer().address() - 0x123450);

        let without = Program::bare().with("far", 0x1000);
        let loader = Loader::new(&memory, &without, &tls);
        let undefined = Err(Cause::Undefined(vec!["far".into()]));
        let loaded = loader.load("c", &file).map(|object| object.text());
        assert_eq!(loaded.map_err(LoadError::into_cause), undefined);
    }
}

#[test]
fn a_protected_weak_definition_is_its_objects_own_and_offered() {
    let source = |number| {
        format!(
            "__attribute__((weak, noinline, visibility(\"protected\")))
             int weak(void) {{ return {number}; }} int call(void) {{ return weak() + 10; }}"
        )
    };
    for flags in MODELS {
        let Some(files) = compile::c(&source(1), flags).zip(compile::c(&source(2), flags)) else {
            return;
        };
        let (memory, program, tls) = (HostMemory::default(), Program::bare(), registry());
        let loader = Loader::new(&memory, &program, &tls);
        let (first, second) =
            (loader.load("1", &files.0).unwrap(), loader.load("2", &files.1).unwrap());
        let call = |object: &unspool_loader::Object| function!(object, "call", fn() -> i32)();
        assert_eq!((call(&first), call(&second)), (11, 12), "{flags:?}");
        let own = second.symbol("weak").expect("offered");
        assert!(second.text().contains(&own), "{flags:?}");
    }
}

#[test]
fn a_name_goes_no_further_than_the_function() {
    let source = ".globl f, g; .type f, @function; f: nop; ret; .size f, . - f
        .balign 64; local: nop; ret; .type g, @function; g: nop; ret; .zero 16";
    let Some(file) = compile::gnu("gcc", source, "s", &[]) else { return };
    let (memory, program, tls) = (HostMemory::default(), Program::bare(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    let object = loader.load("s", &file).unwrap();
    let (f, g) = (object.symbol("f").unwrap(), object.symbol("g").unwrap());
    let name = |address| loader.symbolize(address).map(|symbol| symbol.name.to_string());
    assert_eq!([f, f + 1].map(|at| name(at).unwrap()), ["f", "f"]);
    assert_eq!([f + 2, g - 2].map(name), [None, None]);
    assert_eq!([g, g + 17].map(|at| name(at).unwrap()), ["g", "g"], "no size: open-ended");
}

#[test]
fn what_lies_in_a_function_does_not_hide_the_rest_of_it() {
    let source = ".globl f, g, last; .type f, @function; f: nop; nop
        .type label, @function; label: nop; nop
        .type g, @function; g: nop; .size g, . - g; nop; ret; .size f, . - f
        .type same, @function; same: .type last, @function; last: ret
        .size same, . - same; .size last, 0x1000000000
        .section .text.other, \"ax\"; .globl h; .type h, @function; h: ret; .size h, . - h";
    let Some(file) = compile::gnu("gcc", source, "s", &[]) else { return };
    let (memory, program, tls) = (HostMemory::default(), Program::bare(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    let object = loader.load("s", &file).unwrap();
    let name = |address| loader.symbolize(address).map(|symbol| symbol.name.to_string());
    let f = object.symbol("f").unwrap();
    for offset in 0..7 {
        assert_eq!(name(f + offset).as_deref(), Some("f"), "{offset}");
    }
    assert_eq!(object.symbol("g"), Some(f + 4));
    for own in ["last", "h"] {
        assert_eq!(name(object.symbol(own).unwrap()).as_deref(), Some(own), "whatever sizes say");
    }
}

#[test]
fn the_first_weak_definition_wins_and_a_strong_one_is_its_objects_own() {
    let source = |number| {
        format!(
            "__attribute__((weak, noinline)) int weak(void) {{ return {number}; }}
             __attribute__((noinline)) int strong(void) {{ return {number}; }}
             int program(void); __attribute__((weak, noinline)) int program(void) {{ return 1; }}
             int call_weak(void) {{ return weak(); }} int call_strong(void) {{ return strong(); }}
             int call_program(void) {{ return program(); }}"
        )
    };
    extern "C" fn of_the_program() -> i32 {
        99
    }
    for flags in [&["-fno-pic"], &["-fPIC"]] {
        let Some(first) = compile::c(&source(1), flags) else { return };
        let second = compile::c(&source(2), flags).unwrap();
        let (memory, tls) = (HostMemory::default(), registry());
        let program = Program::bare().with("program", of_the_program as *const () as u64);
        let loader = Loader::new(&memory, &program, &tls);
        let (first, second) =
            (loader.load("1", &first).unwrap(), loader.load("2", &second).unwrap());
        assert_eq!(function!(first, "call_weak", fn() -> i32)(), 1);
        assert_eq!(function!(second, "call_weak", fn() -> i32)(), 1);
        assert_eq!(second.symbol("weak"), first.symbol("weak"));
        assert_eq!(function!(first, "call_strong", fn() -> i32)(), 1);
        assert_eq!(function!(second, "call_strong", fn() -> i32)(), 2);
        // Far from low memory, so through a stub.
        assert_eq!(function!(first, "call_program", fn() -> i32)(), 99);
        assert_eq!(function!(second, "call_program", fn() -> i32)(), 99);
    }
}

#[test]
fn undefined_weak_symbols_are_zero() {
    let source = "extern int maybe(void) __attribute__((weak)); extern int datum __attribute__((weak));
        int has(void) { return (maybe ? 2 : 0) + (&datum ? 1 : 0); } int call(void) { return maybe(); }";
    for flags in MODELS {
        let Some(file) = compile::c(source, flags) else { return };
        let (memory, program, tls) = (HostMemory::default(), Program::bare(), registry());
        let loader = Loader::new(&memory, &program, &tls);
        let object = loader.load("c", &file).unwrap_or_else(|e| panic!("{flags:?}: {e}"));
        assert_eq!(function!(object, "has", fn() -> i32)(), 0);
    }
}

#[test]
fn a_symbol_that_is_out_of_reach_is_an_error_with_its_value() {
    let source = "extern int far; int *place(void) { return &far; }";
    let Some(file) = compile::c(source, &["-fno-pic"]) else { return };
    let (memory, tls) = (HostMemory::default(), registry());
    let address = 0x1234_5678_9abc;
    let program = Program::bare().with("far", address);
    let loader = Loader::new(&memory, &program, &tls);
    match loader.load("c", &file).map_err(LoadError::into_cause) {
        Err(Cause::Relocation { section, symbol, problem, .. }) => {
            assert_eq!((&*section, &*symbol), (".text", "far"));
            let Problem::Overflow { value, .. } = problem else { panic!("{problem}") };
            assert_eq!(value, i128::from(address));
            let range = "0x123456789abc is not between 0x0 and 0xffffffff";
            assert_eq!(problem.to_string(), format!("value {range}"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(memory.live(), 0);
    let file = compile::c(source, &["-fPIC"]).unwrap();
    let object = loader.load("c", &file).unwrap();
    assert_eq!(function!(object, "place", fn() -> u64)(), address);
}

#[test]
fn pieces_of_startup_functions_are_refused_by_name() {
    let source = "__asm__(\".section .init,\\\"ax\\\"; nop; .text\");";
    let Some(file) = compile::c(source, &[]) else { return };
    let (memory, program, tls) = (HostMemory::default(), Program::full(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    let error = loader.load("c", &file).map(|_| ()).unwrap_err();
    assert_eq!(*error.cause(), Cause::Constructors { section: ".init".into(), size: 1 });
    assert_eq!((memory.live(), tls.surplus_free()), (0, SURPLUS));
}

#[test]
fn an_object_with_more_sections_than_a_symbol_can_number_is_loaded() {
    const COUNT: u32 = 65_400;
    let functions = (0..COUNT).map(|n| {
        let section = format!(".section .text.f{n}, \\\"ax\\\"");
        format!("{section}\\n.globl f{n}\\nf{n}: mov ${n}, %eax\\nret\\n")
    });
    let source = format!("__asm__(\"{}\");", functions.collect::<String>());
    let Some(file) = compile::c(&source, &[]) else { return };
    let (memory, program, tls) = (HostMemory::default(), Program::bare(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    let object = loader.load("large", &file).unwrap();
    for n in [0, 1, 65_270, 65_290, COUNT - 1] {
        assert_eq!(function!(object, &format!("f{n}"), fn() -> u32)(), n);
    }
}
