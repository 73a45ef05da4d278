//! C code of substance for `cargo xtask load`: zlib and lz4, from the crates that carry their sources.
//!
//! ```text
//! libz-sys, lz4-sys ─┬─ gcc, clang ──► libvendored.gcc.a ──► cargo xtask load ──► stdout  ┐ the same,
//! compress.c ────────┤                                                                  ├ byte for
//! a real file ───────┴─ gcc ─────────► a program of the host ─────────────────► stdout  ┘ byte
//! ```

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::loads::succeed;
use crate::fetched;
use crate::setup::{self, CLANG};
use crate::workspace::Workspace;

/// All of zlib but for what reads and writes files; what has lz4's two formats without frames.
const ZLIB_SOURCES: [&str; 9] =
    ["adler32", "compress", "crc32", "deflate", "inffast", "inflate", "inftrees", "trees", "zutil"];
const LZ4_SOURCES: [&str; 2] = ["lz4", "lz4hc"];

/// Bytes of a program that the file to compress has besides sources.
const PROGRAM: usize = 256 << 10;

/// What is compiled, and where to.
struct Sources {
    zlib: PathBuf,
    lz4: PathBuf,
    /// Where `compress.c` is, and the header.
    ours: [PathBuf; 2],
    output: PathBuf,
}

/// Compiles the libraries and `compress.c` with both compilers, and the program of the host, whose
/// output is kept as `compressed.expected`.
///
/// # Errors
/// The crates cannot be fetched, a compiler is missing, something does not compile, or the program of
/// the host finds something wrong.
pub fn compile(workspace: &Workspace, ours: [PathBuf; 2], output: &Path) -> Result<()> {
    let fetched::Sources { zlib, lz4 } = fetched::Sources::fetch(workspace)?;
    let sources = Sources { zlib, lz4, ours, output: output.to_owned() };
    sources.write_file()?;
    let clang = setup::find_or_install(&CLANG, true)?;
    for (name, compiler) in [("gcc", Path::new("cc")), ("clang", &clang)] {
        sources.objects(name, compiler)?;
    }
    sources.run_on_host()
}

impl Sources {
    /// The file to compress: text, and a program.
    fn write_file(&self) -> Result<()> {
        let mut file = fs::read(self.zlib.join("deflate.c"))?;
        file.extend(fs::read(self.lz4.join("lz4.c"))?);
        let program = fs::read(env::current_exe()?)?;
        file.extend_from_slice(program.get(..PROGRAM).context("this program is larger")?);
        fs::write(self.output.join("compressed_file"), file)?;
        Ok(())
    }

    /// Source files, and what each is called.
    fn files(&self) -> Vec<(PathBuf, &'static str)> {
        let zlib = ZLIB_SOURCES.map(|name| (self.zlib.join(name), name));
        let lz4 = LZ4_SOURCES.map(|name| (self.lz4.join(name), name));
        zlib.into_iter().chain(lz4).chain([(self.ours[0].join("compress"), "compress")]).collect()
    }

    fn compiler(&self, program: &Path) -> Command {
        let mut compiler = Command::new(program);
        compiler.current_dir(&self.output).arg("-O2");
        // For `.incbin`.
        compiler.arg("-Wa,-I.");
        for folder in [&self.zlib, &self.lz4, &self.ours[1]] {
            compiler.arg("-I").arg(folder);
        }
        compiler
    }

    /// `compress.NAME.o`, and an archive of the libraries.
    fn objects(&self, name: &str, program: &Path) -> Result<()> {
        let archive = format!("vendored.{name}.a");
        // `ar` would add to it.
        let _ = fs::remove_file(self.output.join(&archive));
        let mut ar = Command::new("ar");
        ar.current_dir(&self.output).args(["rcs", &archive]);
        for (source, file) in self.files() {
            let object = format!("{file}.{name}.o");
            let mut compiler = self.compiler(program);
            compiler.args(["-c", "-o", &object]).arg(source.with_extension("c"));
            succeed(compiler)?;
            if file != "compress" {
                ar.arg(object);
            }
        }
        succeed(ar)
    }

    fn run_on_host(&self) -> Result<()> {
        let program = self.output.join("compress.host");
        let mut compiler = self.compiler(Path::new("cc"));
        compiler.args(self.files().iter().map(|(source, _)| source.with_extension("c")));
        compiler.arg(self.ours[0].join("on_host.c")).arg("-pthread").arg("-o").arg(&program);
        succeed(compiler)?;
        let output = Command::new(&program).output()?;
        ensure!(output.status.code() == Some(WELL), "on the host: {}", output.status);
        fs::write(self.output.join(EXPECTED), output.stdout)?;
        Ok(())
    }
}

/// What the program of the host printed.
pub const EXPECTED: &str = "compressed.expected";

/// Ways to compress, all of which do.
pub const WELL: i32 = 6;
