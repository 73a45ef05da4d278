//! `cargo xtask load`, as a user would type it.
//!
//! ```text
//! tests/objects/load/NAME.c ──cc──► NAME.o ──► cargo xtask load … ──► stdout, exit code, stderr
//! ```
//!
//! stdout must be exactly what the code printed. To add a case, add a [`Case`].

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::plan::Spot;
use super::vendored;
use crate::command::{self, End, Stream, first_line};
use crate::workspace::Workspace;

/// Where the sources are, and the header that they include.
const FOLDER: &str = "tests/objects/load";
const HEADER: &str = "examples/load/include/unspool.h";
/// A compiler takes a fraction of a second.
const COMPILE_LIMIT: Duration = Duration::from_secs(300);
/// The kernel may have to be built.
const LOAD_LIMIT: Duration = Duration::from_secs(15 * 60);

/// A command line, and what must come of it.
pub struct Case {
    /// What follows `load`, in words; `@NAME` is what is made of `NAME`.
    arguments: &'static str,
    /// All of stdout.
    output: Output,
    /// What stderr must have in it.
    errors: &'static [&'static str],
    code: i32,
}

/// What is to be printed.
enum Output {
    Bytes(&'static [u8]),
    /// What is in this file.
    File(&'static str),
}

const fn case(arguments: &'static str, output: &'static [u8], code: i32) -> Case {
    failure(arguments, output, code, &[])
}

const fn failure(
    arguments: &'static str,
    output: &'static [u8],
    code: i32,
    errors: &'static [&'static str],
) -> Case {
    Case { arguments, output: Output::Bytes(output), errors, code }
}

/// zlib and lz4, compiled by both compilers.
const fn compresses(arguments: &'static str) -> Case {
    let output = Output::File(vendored::EXPECTED);
    Case { arguments, output, errors: &[], code: vendored::WELL }
}

/// All bytes, and a line without an end.
const BYTES: [u8; 277] = {
    let (mut bytes, line) = ([0; 277], b"no newline at the end");
    let mut at = 0;
    while at < bytes.len() {
        bytes[at] = if at < 256 { at as u8 } else { line[at - 256] };
        at += 1;
    }
    bytes
};

/// What `runtime.c` prints.
const RUNTIME: &[u8] = b"9 trunc|  -42|42   |-0042|007|4294967295\n\
ff ff 10 10000000000 6 -1099511627776 c % abc|    ab|\n";

/// What `kills.cpp` prints where a frame does not let a kill through, and after that.
const REFUSED: &[u8] = b"not here, inner here outer ";

/// What GNU's C++ runtime says.
const UNCAUGHT_INT: &[&str] =
    &["terminate called after throwing an instance of 'int'", "abort was called"];
const UNCAUGHT_CLASS: &[&str] = &["throwing an instance of '(anonymous namespace)::Named'"];
const PENDING: &[&str] = &["lingering.o: not unloaded: thread-local destructors", "pending (1)"];
const LISTED: &[&str] = &[" rodata ", " none       1  ", "user.o\n", "members.a(needed.o)\n"];

/// All of them.
pub const CASES: &[Case] = &[
    case("@basics.o", &BYTES, 0),
    case("--entry seven @basics.o", b"", 7),
    case("--entry two_hundred @basics.o", b"", 200),
    case("--entry minus_one @basics.o", b"", 255),
    case("--entry no_tasks @basics.o", b"", 0),
    case("@arguments.o", b"arguments.o", 42),
    case("@static_tls.o", b"", 1),
    failure("@runtime.o", RUNTIME, 0, &["to stderr"]),
    failure("--entry aborts @runtime.o", b"", 101, &["abort was called"]),
    case("@user.o @needed.o", b"", 42),
    case("@needed.o @user.o", b"", 42),
    case("@members.a", b"", 42),
    case("@members.a @user.o", b"", 42),
    failure("@user.o", b"", 3, &["user.o", "`helper`"]),
    failure("--whole-archive @members.a", b"", 3, &["`nobody_at_all`"]),
    case("@constructors.o", b"begin entry ended ", 0),
    case("@exceptions.o @libsupc++.a", b"", 129),
    failure("--entry uncaught @exceptions.o @libsupc++.a", b"", 101, UNCAUGHT_INT),
    failure("--entry uncaught_on_a_task @exceptions.o @libsupc++.a", b"", 101, UNCAUGHT_CLASS),
    failure("@kills.o @libsupc++.a", b"inner outer ", 101, &["the task was killed"]),
    failure("--entry rethrows @kills.o @libsupc++.a", REFUSED, 101, &["the task was killed"]),
    failure("--entry swallows @kills.o @libsupc++.a", REFUSED, 101, &["the task was killed"]),
    failure("--entry is_noexcept @kills.o @libsupc++.a", REFUSED, 101, &["the task was killed"]),
    failure("@throws.o", b"", 101, &["nobody catches a C++ exception"]),
    failure("--entry of_nobody @throws.o", b"", 101, &["cannot catch foreign exceptions"]),
    failure("@lingering.o", b"", 4, PENDING),
    failure("--entry five @lingering.o", b"", 5, PENDING),
    failure("--list --entry test_main @user.o @members.a", b"", 42, LISTED),
    failure("--list @static_tls.o", b"", 1, &[" 4096 static "]),
    failure("--list --surplus 64 @dynamic_tls.o", b"", 1, &[" 4096 dynamic "]),
    failure("--surplus 64 @static_tls.o", b"", 3, &["4096", "64"]),
    failure("--entry nobody @basics.o", b"", 3, &["basics.o: defines no nobody"]),
    failure("@../undefined.o", b"", 3, &["nobody_has_this_function", "nobody_has_this_either"]),
    failure("@basics.c", b"", 3, &["ELF"]),
    failure("--entry fault @basics.o", b"", 101, &["page fault: read of 0x8", "fault"]),
    failure("--entry panic @basics.o", b"cleaned up ", 101, &["as asked", "'entry'"]),
    failure("--entry tasks_panic @basics.o", b"before", 101, &["the second of three", "'C task'"]),
    failure(
        "--entry too_many @basics.o",
        b"",
        101,
        &["unspool_run_tasks: no task 0 of 2147483647"],
    ),
    compresses("@compress.gcc.o @vendored.gcc.a"),
    compresses("@compress.clang.o @vendored.clang.a"),
    // Of both, in one set.
    compresses("@vendored.clang.a @compress.gcc.o"),
    failure("@nobody.o", b"", 125, &["nobody.o"]),
    failure("--surplus 4294967296 @basics.o", b"", 125, &["cannot boot: TLS block"]),
];

/// Compiles what the cases load; returns the folder of it.
///
/// # Errors
/// A source does not compile, or the header not by itself.
pub fn compile(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.output().join("objects/load");
    fs::create_dir_all(&folder)?;
    let source = workspace.root.join(FOLDER);
    let header = workspace.root.join(HEADER);
    for (compiler, standard, language) in [("cc", "c99", "c"), ("c++", "c++11", "c++")] {
        let mut check = Command::new(compiler);
        check.args(["-fsyntax-only", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]);
        check.args([&format!("-std={standard}"), "-x", language]).arg(&header);
        succeed(check)?;
    }
    let objects: [(&str, &[&str]); 11] = [
        ("basics", &[]),
        ("arguments", &[]),
        // As it stands there: neither folded nor warned about.
        ("runtime", &["-fno-builtin"]),
        ("static_tls", &["-fPIC", "-ftls-model=initial-exec"]),
        ("dynamic_tls", &["-fPIC"]),
        ("throws", &[]),
        ("../undefined", &[]),
        ("constructors", &[]),
        ("needed", &[]),
        ("unneeded", &[]),
        ("user", &[]),
    ];
    let c = objects.map(|(name, flags)| ("cc", format!("{name}.c"), flags));
    let cpp =
        ["exceptions", "kills", "lingering"].map(|name| ("c++", format!("{name}.cpp"), &[][..]));
    for (compiler, file, flags) in c.into_iter().chain(cpp) {
        let mut compile = Command::new(compiler);
        compile.args(["-c", "-O2", "-fexceptions", "-Wall", "-Werror"]).args(flags).arg("-I");
        compile.arg(header.with_file_name("")).arg(source.join(&file));
        compile.arg("-o").arg(folder.join(file).with_extension("o"));
        succeed(compile)?;
    }
    let archive = folder.join("members.a");
    // `ar` would add to it.
    let _ = fs::remove_file(&archive);
    let mut ar = Command::new("ar");
    ar.current_dir(&folder).args(["rcs", "members.a", "needed.o", "unneeded.o", "user.o"]);
    succeed(ar)?;
    let runtime = first_line("c++", &["-print-file-name=libsupc++.a"]).context("no libsupc++.a")?;
    fs::copy(runtime, folder.join("libsupc++.a"))?;
    fs::copy(source.join("basics.c"), folder.join("basics.c"))?;
    vendored::compile(workspace, [source, header.with_file_name("")], &folder)?;
    Ok(folder)
}

/// Runs a compiler.
///
/// # Errors
/// It cannot be started, or fails; with what it says.
pub fn succeed(command: Command) -> Result<()> {
    let name = format!("{command:?}");
    let finished = command::run(command, COMPILE_LIMIT, &mut |_| {})?;
    if !finished.end.success() {
        bail!("{name}: {}\n{}", finished.end, finished.output);
    }
    Ok(())
}

/// What was wrong with a case, if anything was.
///
/// # Errors
/// This program cannot be started again.
pub fn run(case: &Case, folder: &Path, spot: Spot) -> Result<Option<String>> {
    let mut load = Command::new(env::current_exe()?);
    load.arg("load");
    match spot {
        Spot::Process => &mut load,
        Spot::Qemu(cpus) => load.args(["--qemu", "--smp", &cpus.to_string()]),
    };
    load.args(case.arguments.split(' ').map(|word| match word.strip_prefix('@') {
        Some(name) => folder.join(name).into_os_string(),
        None => word.into(),
    }));
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let end = command::run_apart(load, LOAD_LIMIT, &mut |stream, bytes| match stream {
        Stream::Output => output.extend_from_slice(bytes),
        Stream::Errors => errors.extend_from_slice(bytes),
    })?;
    let errors = String::from_utf8_lossy(&errors);
    let expected = match case.output {
        Output::Bytes(bytes) => bytes.to_vec(),
        Output::File(name) => fs::read(folder.join(name))?,
    };
    let what = if end != End::Code(case.code) {
        format!("{end}, expected {}", case.code)
    } else if output != expected {
        let start = String::from_utf8_lossy(&output[..output.len().min(4096)]);
        format!("printed {} bytes: {start:?}", output.len())
    } else if let Some(missing) = case.errors.iter().find(|words| !errors.contains(**words)) {
        format!("did not say `{missing}`")
    } else {
        return Ok(None);
    };
    Ok(Some(format!("load {}: {what}; stderr:\n{errors}", case.arguments)))
}
