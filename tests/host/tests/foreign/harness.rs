//! Compiles programs, and runs each with libgcc's unwinder and with ours.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Where the programs are.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("programs")
}

/// Runs a command that must succeed.
pub fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{errors}", output.status);
}

/// The cargo that runs the tests.
pub fn cargo() -> Command {
    Command::new(std::env::var("CARGO").unwrap_or("cargo".into()))
}

/// Our library, and a folder where it has libgcc's name.
pub struct Ours {
    pub library: PathBuf,
    pub place: PathBuf,
}

impl Ours {
    /// Builds it in a folder of its own, with more arguments for the linker.
    fn build(name: &str, linker: &[&str]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let target = scratch().join(name);
        let mut command = cargo();
        command.args(["rustc", "--release", "--package", "unspool-unwind-so", "--target-dir"]);
        command.arg(&target).arg("--").args(linker).current_dir(root);
        run(&mut command);
        let library = target.join("release/libunspool_unwind.so");
        let place = scratch().join(format!("{name}-place"));
        std::fs::create_dir_all(&place).unwrap();
        let link = place.join("libgcc_s.so.1");
        let _ = std::fs::remove_file(&link);
        symlink(&library, link).unwrap();
        Self { library, place }
    }
}

/// As it is built for users.
pub fn ours() -> &'static Ours {
    static OURS: OnceLock<Ours> = OnceLock::new();
    OURS.get_or_init(|| Ours::build("so", &[]))
}

/// As if the C library had no `_dl_find_object` (glibc before 2.35, musl): the weak reference is
/// null.
pub fn without_dl_find_object() -> &'static Ours {
    static OURS: OnceLock<Ours> = OnceLock::new();
    let null = "-Clink-arg=-Wl,--defsym=_dl_find_object=0";
    OURS.get_or_init(|| Ours::build("so-without-find-object", &[null]))
}

/// Where the tests put what they make.
pub fn scratch() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

/// Compiles sources with a compiler and its arguments.
pub fn compile(name: &str, compiler: &[&str], files: &[&str]) -> PathBuf {
    let program = scratch().join(name);
    let mut command = Command::new(compiler[0]);
    command.args(&compiler[1..]).args(files.iter().map(|file| sources().join(file)));
    run(command.arg("-o").arg(&program));
    program
}

/// What a program printed, and how it ended.
pub fn output(command: &mut Command) -> String {
    let output = command.output().expect("just compiled");
    let text = [&*output.stdout, &*output.stderr].map(String::from_utf8_lossy).concat();
    format!("{text}{}\n", output.status)
}

/// Runs a program three times: all outputs are the same, and have this in them.
pub fn compare(program: &Path, expected: &str) {
    let theirs = output(&mut Command::new(program));
    assert!(theirs.contains(expected), "{}: {theirs}", program.display());
    let replaced = output(Command::new(program).env("LD_LIBRARY_PATH", &ours().place));
    assert_eq!(replaced, theirs, "{}: in libgcc's place", program.display());
    let preloaded = output(Command::new(program).env("LD_PRELOAD", &ours().library));
    assert_eq!(preloaded, theirs, "{}: preloaded", program.display());
}

/// The end of a program that is well.
pub const OK: &str = "exit status: 0";

/// Runs a program with ours only.
pub fn with_ours(program: &Path) -> String {
    output(Command::new(program).env("LD_LIBRARY_PATH", &ours().place))
}
