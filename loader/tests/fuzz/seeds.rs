//! What is changed: objects of all compilers, members of the toolchain's libraries, archives.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::archives::{Form, archive};
use crate::view::{self, AR};

/// Something to load, of which sets have at most one of a family: they define the same names.
pub struct Seed {
    pub family: usize,
    pub file: Vec<u8>,
}

/// How many families there are that sets are made of, besides those of libraries' members.
pub const FAMILIES: usize = 10;

const RUST: &str = r#"
use core::cell::Cell;
#[thread_local] static A: Cell<u32> = Cell::new(7);
#[thread_local] #[unsafe(no_mangle)] pub static B: Cell<[u64; 9]> = Cell::new([0; 9]);
static NAMES: [&str; 3] = ["a", "b", "c"];
static mut COUNTER: u64 = 5;
unsafe extern "C" { fn get(i: i32) -> i32; }
pub struct Guard; impl Drop for Guard { fn drop(&mut self) { unsafe { COUNTER += 100 } } }
#[unsafe(no_mangle)] pub extern "C-unwind" fn guarded(call: extern "C-unwind" fn()) -> u64 {
    let _guard = Guard; call(); A.set(A.get() + 1); B.get()[A.get() as usize]
}
#[unsafe(no_mangle)] pub extern "C" fn name(index: usize) -> u8 { NAMES[index].as_bytes()[0] }
#[unsafe(no_mangle)] pub extern "C" fn other(index: i32) -> i32 { unsafe { get(index) } }
"#;

const C: &str = "static __thread int x = 3; extern __thread int y; __thread int mine; int z[10];
    const char *const texts[] = {\"one\", \"two\"}; extern int far(int); extern int no __attribute__((weak));
    __attribute__((weak)) int weak(int i) { return z[i]; }
    __attribute__((visibility(\"hidden\"))) int hidden(int i) { return z[i] + mine; }
    int (*const table[])(int) = {weak, hidden, far};
    int get(int i) { return x++ + y + weak(i) + texts[i][0] + (&no ? 1 : 0) + table[i](i) + far(i); }";

const CPP: &str = "struct S { int x = 3; S(); ~S(); }; static thread_local S s; S global;
    inline thread_local int shared = 4; int get() { return s.x + shared; }
    template <class T> inline T twice(T t) { static T last; last = t; return last + t; }
    struct V { virtual int f() { return 1; } virtual ~V() {} };
    int use(V *v) { return v->f() + twice(3) + (int)twice(2.5); }
    V *make() { return new V; }
    int caught(void (*f)()) { try { f(); } catch (int i) { return i; } catch (...) { throw; } return 0; }";

/// Shares tentative definitions with [`C`], and refers to it.
const COMMON: &str = "int z[20]; __thread int mine; extern int get(int); int more; long long far_away[3];
    void first(void) __attribute__((constructor(101))); void first(void) { z[3] = 1; }
    void last(void) __attribute__((destructor)); void last(void) { more = mine; }
    __attribute__((weak)) int weak(int i) { return i; }
    int (*const gets[])(int) = {get, weak}; int far(int i) { return get(i) + z[i] + ++mine + more; }";

/// Has copies of groups of [`CPP`], constructors and destructors of its own, indirect functions.
const CPP_TOO: &str = "struct T { int x; T(); ~T(); }; T one, two; static thread_local T of_thread;
    inline thread_local int shared = 4; struct V { virtual int f() { return 1; } virtual ~V() {} };
    template <class T> inline T twice(T t) { static T last; last = t; return last + t; }
    extern V *make(); T::T() : x(twice(4) + make()->f()) {} T::~T() { shared += x + of_thread.x; }
    static int pick() { return 1; } extern \"C\" void *resolve() { return (void *)pick; }
    int indirect() __attribute__((ifunc(\"resolve\"))); int ask() { return indirect() + twice(2.5); }";

const C_MODELS: [&[&str]; 10] = [
    &["-fPIC"],
    &["-fno-pic"],
    &["-fcommon", "-fPIC"],
    &["-fPIC", "-fno-plt", "-ffunction-sections", "-fdata-sections"],
    &["-fPIC", "-mtls-dialect=gnu2"],
    &["-fPIC", "-mtls-dialect=gnu2", "-ftls-model=local-dynamic"],
    &["-fPIC", "-mcmodel=large"],
    &["-fPIC", "-mcmodel=large", "-ftls-model=initial-exec"],
    &["-fPIC", "-mcmodel=medium", "-ftls-model=local-dynamic"],
    &["-mcmodel=kernel", "-fno-pic", "-g"],
];

const RUST_MODELS: [&[&str]; 4] = [
    &["-Crelocation-model=static", "-Copt-level=0"],
    &["-Crelocation-model=static", "-Copt-level=2"],
    &["-Crelocation-model=pic", "-Copt-level=0"],
    &["-Crelocation-model=pic", "-Copt-level=2"],
];

const CPP_MODELS: [&[&str]; 3] =
    [&["-fPIC"], &["-fno-pic", "-O0"], &["-fPIC", "-ffunction-sections"]];

/// Compiles and collects them all; the same compilers give the same files every time.
pub fn all() -> Vec<Seed> {
    let name = format!("fuzz-{}", std::process::id());
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let mut families = compiled(&folder);
    std::fs::remove_dir_all(folder).unwrap();
    let members = [library("libcompiler_builtins-", 24), library("libhashbrown-", 4)].concat();
    let compiled: Vec<_> = families.iter().flatten().cloned().collect();
    let forms =
        [(2, Form::Plain), (5, Form::Gnu), (9, Form::Gnu), (7, Form::Bsd), (4, Form::Gnu64)];
    for (number, form) in forms {
        let some = compiled.iter().skip(number).chain(members.iter().skip(number));
        let some: Vec<_> = some.step_by(number).collect();
        families.push(vec![archive(&some, form)]);
    }
    // These have a name of their own each.
    families.extend(members.into_iter().map(|member| vec![member]));
    let seeds =
        |(family, files): (_, Vec<_>)| files.into_iter().map(move |file| Seed { family, file });
    families.into_iter().enumerate().flat_map(seeds).collect()
}

/// An object from C source, where there is a compiler.
pub fn one(source: &str) -> Option<Vec<u8>> {
    let name = format!("fuzz-{}-one", std::process::id());
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("a.c"), source).unwrap();
    let object = object(&folder, "gcc", &["-c", "-O2", "-fPIC", "-fno-builtin"], "a.c");
    std::fs::remove_dir_all(folder).unwrap();
    object
}

/// Family by family.
fn compiled(folder: &Path) -> Vec<Vec<Vec<u8>>> {
    let rust = format!("#![no_std]\n#![feature(thread_local)]\n{RUST}");
    let sources = [("a.rs", &*rust), ("a.c", C), ("b.c", COMMON), ("a.cc", CPP), ("b.cc", CPP_TOO)];
    for (name, source) in sources {
        std::fs::write(folder.join(name), source).unwrap();
    }
    let rustc = std::env::var("RUSTC").unwrap_or("rustc".into());
    let form = ["--edition=2024", "--crate-type=lib", "--crate-name=guest", "--emit=obj"];
    let form = [&form[..], &["-Cpanic=unwind", "-Ccodegen-units=1"]].concat();
    let rust = RUST_MODELS.iter().map(|flags| {
        object(folder, &rustc, &[&form[..], flags].concat(), "a.rs").expect("rustc is there")
    });
    let nowhere = format!("-ffile-prefix-map={}=.", folder.display());
    let plain = ["-c", "-O2", "-ffreestanding", "-fno-stack-protector", &nowhere];
    let with = |compiler: &str, source: &str, flags: &[&str]| {
        object(folder, compiler, &[&plain[..], flags].concat(), source)
    };
    let c = C_MODELS.iter().filter_map(|flags| with("gcc", "a.c", flags));
    let c = c.chain(with("clang", "a.c", &["-fPIC", "-fcommon"])).collect();
    let common: [&[&str]; 2] =
        [&["-fPIC", "-fcommon"], &["-fno-pic", "-fcommon", "-mcmodel=large"]];
    let common = common.iter().filter_map(|flags| with("gcc", "b.c", flags)).collect();
    let cpp = CPP_MODELS.iter().filter_map(|flags| with("g++", "a.cc", flags)).collect();
    let too = CPP_MODELS.iter().filter_map(|flags| with("g++", "b.cc", flags)).collect();
    vec![rust.collect(), c, common, cpp, too]
}

/// An object, where there is such a compiler. Nothing in it says where the folder is.
fn object(folder: &Path, compiler: &str, flags: &[&str], source: &str) -> Option<Vec<u8>> {
    let mut command = Command::new(compiler);
    // The Rust source uses a nightly feature; the loader is for stable compilers as well.
    command.current_dir(folder).env("RUSTC_BOOTSTRAP", "1");
    let output = command.args(flags).args([source, "-o", "a.o"]).output().ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(std::fs::read(folder.join("a.o")).unwrap())
}

/// Up to `count` small members of one of the toolchain's libraries.
fn library(name: &str, count: usize) -> Vec<Vec<u8>> {
    const SMALL: usize = 48 << 10;
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let output = Command::new(rustc).args(["--print", "target-libdir"]).output().unwrap();
    let folder = String::from_utf8(output.stdout).unwrap();
    let files = std::fs::read_dir(folder.trim()).unwrap().flatten().map(|entry| entry.path());
    let is_it = |path: &PathBuf| {
        let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        file.starts_with(name) && file.ends_with(".rlib")
    };
    let mut files: Vec<_> = files.filter(is_it).collect();
    files.sort();
    let file = std::fs::read(files.first().expect(name)).unwrap();
    let starts = view::members(&file);
    let ends = starts.iter().skip(1).copied().chain([file.len()]);
    let members = starts.iter().zip(ends).map(|(start, end)| &file[start + AR..end]);
    let objects: Vec<_> =
        members.filter(|file| file.starts_with(b"\x7fELF") && file.len() < SMALL).collect();
    let step = (objects.len() / count).max(1);
    objects.iter().step_by(step).take(count).map(|member| member.to_vec()).collect()
}
