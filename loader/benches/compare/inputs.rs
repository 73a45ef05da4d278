//! What is loaded: a megabyte of C, the toolchain's own `libcore`, and the set of all objects of it, of
//! `liballoc`, and of `libcompiler_builtins`; each as objects and as a shared library.

use std::collections::{BTreeSet, HashSet};
use std::ffi::{CString, OsStr};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::glibc::{Library, c_path};
use crate::program::Failure;

/// One piece of code in its forms.
pub struct Input {
    pub name: &'static str,
    pub files: Vec<PathBuf>,
    pub objects: Vec<Vec<u8>>,
    /// The same without debug information, which our loader and `dlopen` do not touch.
    pub stripped: Vec<Vec<u8>>,
    /// The same without unwind tables as well.
    pub without_unwind: Vec<Vec<u8>>,
    /// Linked, as `cc -shared` does it: functions may be replaced by the program's.
    pub library: CString,
    /// Linked with `-Bsymbolic`: they may not.
    pub symbolic: CString,
    /// A global function of each object that has any.
    pub functions: Vec<CString>,
    /// Bytes of its sections in memory.
    pub sections: usize,
    /// How many relocations these have.
    pub relocations: usize,
}

fn run(command: &mut Command) -> Result<String, Failure> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?);
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

/// Makes the inputs in `folder`.
pub fn all(folder: &Path) -> Result<[Input; 3], Failure> {
    let source = folder.join("large.c");
    std::fs::write(&source, large())?;
    let large = folder.join("large.o");
    run(Command::new("cc").args(["-c", "-O1", "-fPIC", "-o"]).args([&large, &source]))?;
    let core = members(folder, "libcore-")?;
    let mut set = core.clone();
    set.extend(members(folder, "liballoc-")?);
    set.extend(members(folder, "libcompiler_builtins-")?);
    offer_undefined(folder, &set)?;
    let input = |name, files| input(folder, name, files);
    Ok([input("large", vec![large])?, input("libcore", core)?, input("core_set", set)?])
}

/// An object with a function `tiny`.
pub fn tiny(folder: &Path) -> Result<Vec<u8>, Failure> {
    let (source, object) = (folder.join("tiny.c"), folder.join("tiny.o"));
    std::fs::write(&source, "int tiny(void) { return 1; }\n")?;
    run(Command::new("cc").args(["-c", "-O1", "-fPIC", "-o"]).args([&object, &source]))?;
    Ok(std::fs::read(object)?)
}

/// C source whose sections in memory come to a megabyte: functions that call others, read
/// variables, pass strings, and are listed in a table.
fn large() -> String {
    const FUNCTIONS: usize = 4400;
    let mut text = String::from("int puts(const char *);\n");
    for n in 0..FUNCTIONS {
        // Two are known already, at distances as in real code: near and far.
        let (near, far) = (n.saturating_sub(7), n * 31 % (n + 1));
        let (scope, call) = (["static ", ""][n % 2], [near, far]);
        writeln!(
            text,
            "static int s{n} = {n}; int g{n}; {scope}__attribute__((noinline)) int f{n}(int x) {{
                for (int i = 0; i < x; i++) {{ s{n} += x * i ^ g{n}; g{n} -= s{n} >> 3; }}
                if (x == {n} + g{far}) puts(\"text number {n}\");
                return x > {n} ? f{}(x - 1) + s{n} : x ? f{}(x - 2) * s{near} : g{n}; }}",
            call[0], call[1]
        )
        .expect("to a string");
    }
    text.push_str("int (*const table[])(int) = {");
    (0..FUNCTIONS).for_each(|n| write!(text, "f{n},").expect("to a string"));
    text + "};\n"
}

/// The objects in the toolchain's library whose name starts so.
fn members(folder: &Path, library: &str) -> Result<Vec<PathBuf>, Failure> {
    let is_it = |path: &PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        name.starts_with(library) && name.ends_with(".rlib")
    };
    let files = std::fs::read_dir(target_folder()?)?.flatten().map(|entry| entry.path());
    let file = files.into_iter().find(is_it).ok_or("the toolchain has no such library")?;
    let members = run(Command::new("ar").arg("t").arg(&file))?;
    let objects: Vec<_> = members.lines().filter(|name| name.ends_with(".o")).collect();
    run(Command::new("ar").current_dir(folder).arg("x").arg(&file).args(&objects))?;
    Ok(objects.into_iter().map(|name| folder.join(name)).collect())
}

/// Section (`UND`: none) and name of the global functions and of what is used and not defined.
fn symbols(object: &Path) -> Result<Vec<(String, String)>, Failure> {
    let text = run(Command::new("readelf").arg("-sW").arg(object))?;
    let lines = text.lines().filter_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        match columns[..] {
            [_, _, _, kind, "GLOBAL" | "WEAK", "DEFAULT", section, name]
                if kind == "FUNC" || section == "UND" =>
            {
                Some((section.into(), name.into()))
            }
            _ => None,
        }
    });
    Ok(lines.collect())
}

/// Makes a library that defines what `objects` need and nobody here has, and opens it.
fn offer_undefined(folder: &Path, objects: &[PathBuf]) -> Result<(), Failure> {
    let mut known: HashSet<String> =
        ["memcpy", "memmove", "memset", "memcmp", "bcmp", "strlen"].map(String::from).into();
    let mut missing = BTreeSet::new();
    for object in objects {
        for (section, name) in symbols(object)? {
            if section == "UND" {
                missing.insert(name)
            } else {
                known.insert(name)
            };
        }
    }
    let missing = missing.into_iter().filter(|name| !known.contains(name));
    let text: String = missing.map(|name| format!("int {name};\n")).collect();
    let (source, library) = (folder.join("rest.c"), folder.join("librest.so"));
    std::fs::write(&source, text)?;
    run(Command::new("cc")
        .args(["-shared", "-fno-builtin", "-w", "-o"])
        .args([&library, &source]))?;
    Library::open(&c_path(&library)?, libc::RTLD_GLOBAL).map(|_| ())
}

/// Links objects with the toolchain's `rust-lld`, for one who has no library of them yet.
pub fn link_with_lld(objects: &[PathBuf], library: &Path) -> Result<(), Failure> {
    let linker = target_folder()?.with_file_name("bin").join("rust-lld");
    let mut lld = Command::new(linker);
    lld.args(["-flavor", "gnu", "-shared", "-z", "now", "-Bsymbolic", "-o"]);
    run(lld.arg(library).args(objects)).map(|_| ())
}

/// Where the toolchain has its libraries.
fn target_folder() -> Result<PathBuf, Failure> {
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let folder = run(Command::new(rustc).args(["--print", "target-libdir"]))?;
    Ok(folder.trim().into())
}

fn link(objects: &[PathBuf], library: &Path, option: &[&str]) -> Result<CString, Failure> {
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-nostdlib", "-Wl,-z,now"]).args(option).arg("-o").arg(library);
    run(cc.args(objects))?;
    c_path(library)
}

fn input(folder: &Path, name: &'static str, files: Vec<PathBuf>) -> Result<Input, Failure> {
    let strip = |extension: &str, options: &[&str]| -> Result<Vec<Vec<u8>>, Failure> {
        let strip = |file: &PathBuf| {
            let to = file.with_extension(extension);
            run(Command::new("objcopy").arg("-g").args(options).args([file, &to]))?;
            Ok(std::fs::read(to)?)
        };
        files.iter().map(strip).collect()
    };
    let (mut functions, mut sections, mut relocations) = (Vec::new(), 0, 0);
    for file in &files {
        let mut symbols = symbols(file)?.into_iter();
        if let Some((_, symbol)) = symbols.find(|(section, _)| section != "UND") {
            functions.push(CString::new(symbol)?);
        }
        let (bytes, count) = count(&run(Command::new("readelf").arg("-SW").arg(file))?);
        sections += bytes;
        relocations += count;
    }
    let library = |extension: &str| folder.join(name).with_extension(extension);
    Ok(Input {
        name,
        objects: files.iter().map(std::fs::read).collect::<Result<_, _>>()?,
        stripped: strip("stripped", &[])?,
        without_unwind: strip("bare", &["-R", ".eh_frame", "-R", ".rela.eh_frame"])?,
        library: link(&files, &library("so"), &[])?,
        symbolic: link(&files, &library("symbolic.so"), &["-Wl,-Bsymbolic"])?,
        functions,
        files,
        sections,
        relocations,
    })
}

/// Bytes of the sections in memory, and how many relocations these have, of what `readelf` says.
fn count(headers: &str) -> (usize, usize) {
    let (mut bytes, mut relocations, mut allocated) = (0, 0, Vec::new());
    for line in headers.lines() {
        let Some((number, rest)) = line.split_once(']') else { continue };
        let columns: Vec<_> = rest.split_whitespace().collect();
        let hex = |text: &str| usize::from_str_radix(text, 16).unwrap_or(0);
        let number = number.trim_start_matches([' ', '[']).trim().parse().unwrap_or(0);
        match columns[..] {
            [_, "RELA", _, _, size, .., target, _] => {
                let of = target.parse().unwrap_or(0);
                relocations += if allocated.contains(&of) { hex(size) / 24 } else { 0 };
            }
            [_, _, _, _, size, _, flags, ..] if flags.contains('A') => {
                allocated.push(number);
                bytes += hex(size);
            }
            _ => {}
        }
    }
    (bytes, relocations)
}
