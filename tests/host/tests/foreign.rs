//! Programs that nobody here wrote the compiler of, each with libgcc's unwinder and with ours.
//!
//! ```text
//!   programs/*.cpp, *.c, *.rs ─ g++, clang++, gcc, rustc ─► program ─┬─ libgcc_s.so.1 ─────┐
//!        LD_LIBRARY_PATH with ours in its place ─────────────────────┼─ ours ── same output?
//!        LD_PRELOAD of ours ─────────────────────────────────────────┴─ ours ──────────────┘
//! ```

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs")
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{errors}", output.status);
}

/// Our library, and a folder where it has libgcc's name.
struct Ours {
    library: PathBuf,
    place: PathBuf,
}

fn ours() -> &'static Ours {
    static OURS: OnceLock<Ours> = OnceLock::new();
    OURS.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let cargo = std::env::var("CARGO").unwrap_or("cargo".into());
        let build = ["build", "--release", "--package", "unspool-unwind-so"];
        let target = scratch().join("so");
        let mut command = Command::new(cargo);
        run(command.args(build).arg("--target-dir").arg(&target).current_dir(root));
        let library = target.join("release/libunspool_unwind.so");
        let place = scratch().join("place");
        std::fs::create_dir_all(&place).unwrap();
        let link = place.join("libgcc_s.so.1");
        let _ = std::fs::remove_file(&link);
        symlink(&library, link).unwrap();
        Ours { library, place }
    })
}

fn scratch() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

/// Compiles sources with a compiler and its arguments.
fn compile(name: &str, compiler: &[&str], files: &[&str]) -> PathBuf {
    let program = scratch().join(name);
    let mut command = Command::new(compiler[0]);
    command.args(&compiler[1..]).args(files.iter().map(|file| sources().join(file)));
    run(command.arg("-o").arg(&program));
    program
}

/// What a program printed, and how it ended.
fn output(command: &mut Command) -> String {
    let output = command.output().expect("just compiled");
    let text = [&*output.stdout, &*output.stderr].map(String::from_utf8_lossy).concat();
    format!("{text}{}\n", output.status)
}

/// Runs a program three times: all outputs are the same, and have this in them.
fn compare(program: &Path, expected: &str) {
    let theirs = output(&mut Command::new(program));
    assert!(theirs.contains(expected), "{}: {theirs}", program.display());
    let replaced = output(Command::new(program).env("LD_LIBRARY_PATH", &ours().place));
    assert_eq!(replaced, theirs, "{}: in libgcc's place", program.display());
    let preloaded = output(Command::new(program).env("LD_PRELOAD", &ours().library));
    assert_eq!(preloaded, theirs, "{}: preloaded", program.display());
}

const OK: &str = "exit status: 0";

#[test]
fn cpp_exceptions_of_every_kind_are_the_same() {
    for compiler in [["g++", "-O2"], ["g++", "-O0"], ["clang++", "-O2"]] {
        let name = compiler.concat();
        let program = compile(&format!("exceptions-{name}"), &compiler, &["exceptions.cpp"]);
        compare(&program, "caught 42 while 1 in flight\nstill text\n");
        compare(&program, "exit status: 7");
    }
}

#[test]
fn frames_of_every_shape_are_unwound() {
    for compiler in [["g++", "-O2"], ["g++", "-O0"], ["clang++", "-O1"]] {
        let program = compile(&format!("frames-{}", compiler.concat()), &compiler, &["frames.cpp"]);
        compare(&program, OK);
    }
}

#[test]
fn c_frames_are_cleaned_up_on_the_way() {
    let object = compile("cleanup.o", &["gcc", "-O2", "-fexceptions", "-c"], &["cleanup.c"]);
    let compiler = ["g++", "-O2", object.to_str().unwrap()];
    compare(&compile("through", &compiler, &["through.cpp"]), "out of qsort 9");
}

#[test]
fn exceptions_leave_signal_handlers_on_any_stack() {
    let compiler = ["g++", "-O1", "-fnon-call-exceptions"];
    compare(&compile("signals", &compiler, &["signals.cpp"]), OK);
}

#[test]
fn threads_end_by_force_with_their_cleanups() {
    let program = compile("threads", &["g++", "-O2"], &["threads.cpp"]);
    compare(&program, "handler pushed\n~outer\njoined: cancelled");
}

#[test]
fn backtraces_of_the_c_library_are_the_same() {
    compare(&compile("backtrace", &["gcc", "-O1"], &["backtrace.c"]), "handler: ");
}

#[test]
fn code_made_at_run_time_is_unwound_while_it_is_registered() {
    compare(&compile("jit", &["g++", "-O2"], &["jit.cpp"]), "caught 5\n1\nterminate\n");
}

#[test]
fn libraries_in_the_place_of_others_are_not_taken_for_them() {
    let plugin =
        |name, size| compile(name, &["g++", "-O2", "-shared", "-fPIC", size], &["plugin.cpp"]);
    plugin("plugin_a.so", "-DSIZE=64");
    plugin("plugin_b.so", "-DSIZE=96");
    compare(&compile("unloading", &["g++", "-O2"], &["unloading.cpp"]), "plugin_b.so threw 96");
}

#[test]
fn rust_panics_on_std_are_the_same() {
    for level in ["opt-level=0", "opt-level=3"] {
        let compiler = ["rustc", "--edition=2024", "-C", level];
        compare(&compile(&format!("panics-{level}"), &compiler, &["panics.rs"]), OK);
    }
}

#[test]
fn exceptions_pass_from_language_to_language() {
    let object = compile("mixed.o", &["g++", "-O2", "-c"], &["mixed.cpp"]);
    let object = format!("link-arg={}", object.display());
    let compiler = ["rustc", "--edition=2024", "-O", "-C", &object, "-lstdc++"];
    compare(&compile("mixed", &compiler, &["mixed.rs"]), "cannot catch foreign exceptions");
}

/// Runs a program with ours only.
fn with_ours(program: &Path) -> String {
    output(Command::new(program).env("LD_LIBRARY_PATH", &ours().place))
}

#[test]
fn a_throw_in_a_process_fits_in_two_kib() {
    let program = compile("paint", &["g++", "-O2"], &["paint.cpp"]);
    // Binding a function when it is called first takes the dynamic linker 2.5 KiB.
    let mut command = Command::new(program);
    let printed = output(command.env("LD_LIBRARY_PATH", &ours().place).env("LD_BIND_NOW", "1"));
    let used: usize = printed.lines().next().unwrap().parse().expect("a number of bytes");
    println!("a throw used {used} bytes of stack");
    assert!((256..=2048).contains(&used), "{used} bytes");
}

#[test]
fn cleanups_have_the_control_words_that_the_unwinding_began_with() {
    // GCC's own leaves what a stop function made of them.
    let program = compile("control", &["g++", "-O1"], &["control.cpp"]);
    assert_eq!(with_ours(&program), format!("cleanup: kept\ncleanup: kept\nend of stack\n{OK}\n"));
}

#[test]
fn walks_of_smashed_stacks_end_without_a_fault() {
    // GCC's own cannot be compared: it does not survive this.
    let program = compile("smash", &["gcc", "-O1", "-fno-stack-protector"], &["smash.c"]);
    let expected = format!("9000 walks ended, after some frames\n{OK}\n");
    assert_eq!(with_ours(&program), expected);
}

#[test]
fn it_is_our_library_that_unwinds() {
    let program = compile("through-which", &["g++", "-O1"], &["jit.cpp"]);
    for (name, value) in [("LD_LIBRARY_PATH", &ours().place), ("LD_PRELOAD", &ours().library)] {
        let trace = output(Command::new(&program).env(name, value).env("LD_DEBUG", "bindings"));
        let binding = trace.lines().find(|line| line.contains("`_Unwind_RaiseException'"));
        let binding = binding.expect("libstdc++ asks for it");
        let (_, to) = binding.split_once(" to ").expect("a binding");
        assert!(to.starts_with(value.to_str().unwrap()), "{binding}");
    }
}
