//! `cargo xtask load`: tries object files out in a running kernel.
//!
//! ```text
//! FILE… ──► cpio ──► unspool-load ── output ──► stdout, byte for byte
//!                         │       └─ errors ──► stderr, as is everything else
//!                         └─ exit code ───────► exit code
//! ```
//!
//! What the exit codes mean is said in [`EXIT_CODES`], which `--help` shows.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, value_parser};

use crate::build::{self, Program};
use crate::command::{End, Stream};
use crate::cpio::Member;
use crate::packages::LOAD;
use crate::place::Place;
use crate::qemu::Outcome;
use crate::run::{MACHINE_FAILED, TIMED_OUT};
use crate::setup::{self, QEMU};
use crate::workspace::Workspace;

/// What `--help` says after all options.
const EXIT_CODES: &str = "\
The files (relocatable objects, and archives of them) are loaded as one set. The function runs on a \
task that was there before; it is called as `int main(int, char **)` would be. What it prints is all \
that goes to stdout.

Exit codes:
  0…255  what the function returned, its lowest eight bits
  3      the files cannot be loaded, or do not define the function; stderr says why
  4      the function returned 0, but the files cannot be unloaded; stderr says why
  101    the function panicked or faulted, or nobody could go on
  124    it did not end in time
  125    the kernel cannot be built or started
Each of the last five is explained on stderr; what the function returned is not.";

/// How a kernel begins that says why it cannot boot; and how many bytes of what it says are looked at.
const NO_BOOT: &str = "unspool-kernel: cannot boot: ";
const START: usize = 4096;

/// What to load, and how.
#[derive(Args)]
#[command(after_help = EXIT_CODES)]
pub struct Options {
    /// Objects and archives; of an archive, the members that define what is still undefined
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// In QEMU instead of in a bare Linux process
    #[arg(long)]
    qemu: bool,
    /// CPUs of the machine (default: 1), or threads of the process (default: one for each CPU); at
    /// most 4
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    smp: Option<u32>,
    /// The function to call (default: test_main, or else main)
    #[arg(long, value_name = "SYMBOL")]
    entry: Option<String>,
    /// Bytes that each task's TLS area keeps for what is loaded (default: 32768)
    #[arg(long, value_name = "BYTES")]
    surplus: Option<usize>,
    /// Take all members of archives
    #[arg(long)]
    whole_archive: bool,
    /// List on stderr what is loaded, before the function is called: for each object its address,
    /// bytes of code, read-only data, data and thread-local storage, handles, name and files
    #[arg(long)]
    list: bool,
    /// Stop it after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
    /// Do not install QEMU when it is missing
    #[arg(long)]
    no_install: bool,
}

/// Does it.
///
/// # Errors
/// None: they are told, and have an exit code of their own.
pub fn load(options: &Options) -> Result<ExitCode> {
    let code = run(options).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        MACHINE_FAILED
    });
    Ok(ExitCode::from(code))
}

fn run(options: &Options) -> Result<u8> {
    // A file that cannot be read is told before anything is built.
    let members = options.files.iter().map(|path| member(path)).collect::<Result<Vec<_>>>()?;
    let workspace = Workspace::load()?;
    let place = place(options)?;
    let program = Program {
        package: LOAD,
        name: LOAD,
        release: true,
        script: None,
        may_install: !options.no_install,
    };
    // Several of this program may run at once.
    let modules = Temporary(workspace.output().join(format!("{LOAD}-{}.cpio", process::id())));
    let image = build::build_with(&workspace, &program, |_| Ok((modules.0.clone(), members)))?;
    let limit = Duration::from_secs(options.timeout);
    let mut errors = Vec::new();
    let outcome = place.run_apart(&image, &words(options), limit, &mut |stream, bytes| {
        if stream == Stream::Errors && errors.len() < START {
            errors.extend_from_slice(bytes);
        }
        // A reader that went away is no reason to stop the kernel.
        let _ = match stream {
            Stream::Output => write(&mut io::stdout(), bytes),
            Stream::Errors => write(&mut io::stderr(), bytes),
        };
    })?;
    if outcome == Outcome::Exit(1) && String::from_utf8_lossy(&errors).contains(NO_BOOT) {
        return Ok(MACHINE_FAILED);
    }
    if let Outcome::Exit(code) = outcome {
        return Ok(u8::try_from(code).unwrap_or(u8::MAX));
    }
    eprintln!("{LOAD} did not end by itself: {outcome}");
    Ok(if matches!(outcome, Outcome::Broken(End::TimedOut(_))) {
        TIMED_OUT
    } else {
        MACHINE_FAILED
    })
}

fn write(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

/// An archive of modules that goes when this value does, as does what is made along with it.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Not there if the build failed.
        let _ = fs::remove_file(&self.0);
        let _ = fs::remove_file(build::with_lines(&self.0));
    }
}

fn member(path: &Path) -> Result<Member> {
    let data = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Member { name: path.to_string_lossy().into_owned(), data })
}

fn place(options: &Options) -> Result<Place> {
    if !options.qemu {
        return Ok(Place::Process);
    }
    let found = setup::find_or_install(&QEMU, !options.no_install);
    let program = found.map_err(|missing| anyhow::anyhow!("{missing}"))?;
    Ok(Place::Qemu { program, cpus: options.smp.unwrap_or(1) })
}

/// What the program is told.
fn words(options: &Options) -> Vec<String> {
    let number = |prefix: &str, number: Option<usize>| Some(format!("{prefix}{}", number?));
    let cpus = options.smp.filter(|_| !options.qemu).map(|cpus| cpus as usize);
    let words = [
        options.entry.as_ref().map(|entry| format!("entry={entry}")),
        options.whole_archive.then(|| "whole".to_owned()),
        options.list.then(|| "list".to_owned()),
        number("surplus=", options.surplus),
        number("cpus=", cpus),
    ];
    words.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::scratch::Scratch;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn options(line: &str) -> Options {
        Line::parse_from(["load"].into_iter().chain(line.split(' '))).options
    }

    #[test]
    fn options_become_words() {
        assert!(words(&options("a.o")).is_empty());
        let all = options("--entry f --surplus 64 --whole-archive --list --smp 3 a.o b.a");
        assert_eq!(words(&all), ["entry=f", "whole", "list", "surplus=64", "cpus=3"]);
        // There, the machine has so many.
        assert!(words(&options("--qemu --smp 3 a.o")).is_empty());
    }

    #[test]
    fn nothing_stays_of_what_was_made_to_load_files() {
        let scratch = Scratch::new("load");
        let modules = Temporary(scratch.path().join("x-1.cpio"));
        let others = scratch.path().join("x-2.cpio");
        for file in [&modules.0, &build::with_lines(&modules.0), &others] {
            fs::write(file, "").unwrap();
        }
        drop(modules);
        let left = fs::read_dir(scratch.path()).unwrap().map(|file| file.unwrap().file_name());
        assert_eq!(left.collect::<Vec<_>>(), ["x-2.cpio"]);
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = member(Path::new("no/such.o")).unwrap_err();
        assert!(error.to_string().contains("no/such.o"));
    }
}
