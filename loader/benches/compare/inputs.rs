//! What is loaded: a megabyte of C, and the toolchain's own `libcore`, each as an object and as a
//! shared library.

use std::ffi::{CString, OsStr};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::glibc::{Library, c_path};
use crate::program::Failure;

/// One piece of code in its forms.
pub struct Input {
    pub name: &'static str,
    pub file: PathBuf,
    pub object: Vec<u8>,
    /// The same without debug information, which our loader and `dlopen` do not touch.
    pub stripped: Vec<u8>,
    /// The same without unwind tables as well.
    pub without_unwind: Vec<u8>,
    /// Linked, as `cc -shared` does it: functions may be replaced by the program's.
    pub library: CString,
    /// Linked with `-Bsymbolic`: they may not.
    pub symbolic: CString,
    /// A global symbol.
    pub symbol: CString,
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
pub fn all(folder: &Path) -> Result<[Input; 2], Failure> {
    let source = folder.join("large.c");
    std::fs::write(&source, large())?;
    let large = folder.join("large.o");
    run(Command::new("cc").args(["-c", "-O1", "-fPIC", "-o"]).args([&large, &source]))?;
    let core = member(folder, "libcore-")?;
    offer_undefined(folder, &core)?;
    Ok([input("large", large)?, input("libcore", core)?])
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

/// The object in the toolchain's library whose name starts so.
fn member(folder: &Path, library: &str) -> Result<PathBuf, Failure> {
    let is_it = |path: &PathBuf| {
        let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
        name.starts_with(library) && name.ends_with(".rlib")
    };
    let files = std::fs::read_dir(target_folder()?)?.flatten().map(|entry| entry.path());
    let file = files.into_iter().find(is_it).ok_or("the toolchain has no such library")?;
    let members = run(Command::new("ar").arg("t").arg(&file))?;
    let member = members.lines().find(|name| name.ends_with(".o")).ok_or("no object in it")?;
    run(Command::new("ar").current_dir(folder).arg("x").arg(&file).arg(member))?;
    Ok(folder.join(member))
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

/// Makes a library that defines what `object` needs and nobody here has, and opens it.
fn offer_undefined(folder: &Path, object: &Path) -> Result<(), Failure> {
    let known = ["memcpy", "memmove", "memset", "memcmp", "bcmp", "strlen"];
    let symbols = symbols(object)?;
    let missing = symbols.iter().filter(|(section, _)| section == "UND").map(|(_, name)| name);
    let missing = missing.filter(|name| !known.contains(&name.as_str()));
    let text: String = missing.map(|name| format!("int {name};\n")).collect();
    let (source, library) = (folder.join("rest.c"), folder.join("librest.so"));
    std::fs::write(&source, text)?;
    run(Command::new("cc")
        .args(["-shared", "-fno-builtin", "-w", "-o"])
        .args([&library, &source]))?;
    Library::open(&c_path(&library)?, libc::RTLD_GLOBAL).map(|_| ())
}

/// Links an object with the toolchain's `rust-lld`, for one who has no library of it yet.
pub fn link_with_lld(object: &Path, library: &Path) -> Result<(), Failure> {
    let linker = target_folder()?.with_file_name("bin").join("rust-lld");
    let mut lld = Command::new(linker);
    lld.args(["-flavor", "gnu", "-shared", "-z", "now", "-Bsymbolic", "-o"]);
    run(lld.args([library, object])).map(|_| ())
}

/// Where the toolchain has its libraries.
fn target_folder() -> Result<PathBuf, Failure> {
    let rustc = std::env::var_os("RUSTC").unwrap_or("rustc".into());
    let folder = run(Command::new(rustc).args(["--print", "target-libdir"]))?;
    Ok(folder.trim().into())
}

fn link(object: &Path, extension: &str, option: &[&str]) -> Result<CString, Failure> {
    let library = object.with_extension(extension);
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-nostdlib", "-Wl,-z,now"]).args(option).arg("-o").arg(&library);
    run(cc.arg(object))?;
    c_path(&library)
}

fn input(name: &'static str, file: PathBuf) -> Result<Input, Failure> {
    let strip = |extension: &str, options: &[&str]| -> Result<Vec<u8>, Failure> {
        let to = file.with_extension(extension);
        run(Command::new("objcopy").arg("-g").args(options).args([&file, &to]))?;
        Ok(std::fs::read(to)?)
    };
    let symbols = symbols(&file)?;
    let symbol = symbols.into_iter().find(|(section, _)| section != "UND");
    let (sections, relocations) = count(&run(Command::new("readelf").arg("-SW").arg(&file))?);
    Ok(Input {
        name,
        object: std::fs::read(&file)?,
        stripped: strip("stripped.o", &[])?,
        without_unwind: strip("bare.o", &["-R", ".eh_frame", "-R", ".rela.eh_frame"])?,
        library: link(&file, "so", &[])?,
        symbolic: link(&file, "symbolic.so", &["-Wl,-Bsymbolic"])?,
        symbol: CString::new(symbol.ok_or("no function in it")?.1)?,
        file,
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
