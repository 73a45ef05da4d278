//! Finds the programs that tests need, or gets them from Debian when that is allowed.
//!
//! ```text
//! in PATH? ──yes──► use it
//!    └─no─► apt-get, and root or sudo without a password? ──yes──► install, use it
//!              └─no─► say what to type
//! ```

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::command::{self, Finished, first_line};
use crate::progress::Step;
use crate::qemu::PROGRAM;

/// A program that cargo does not bring.
#[derive(Debug, PartialEq, Eq)]
pub struct Tool {
    /// The program; or a file, by its whole path.
    pub program: &'static str,
    /// Its Debian packages; what they depend on (firmware, say) comes with them.
    package: &'static str,
    /// What it is called elsewhere.
    elsewhere: &'static str,
}

/// The emulator.
pub const QEMU: Tool = Tool {
    program: PROGRAM,
    package: "qemu-system-x86",
    elsewhere: "Fedora: dnf install qemu-system-x86-core; Arch: pacman -S qemu-system-x86; Nix: \
                nix-shell -p qemu",
};

/// The second C compiler, whose objects the suites load besides those of the first.
pub const CLANG: Tool = Tool {
    program: "clang",
    package: "clang",
    elsewhere: "Fedora: dnf install clang; Arch: pacman -S clang; Nix: nix-shell -p clang",
};

/// The linker of WebAssembly.
pub const WASM_LD: Tool = Tool {
    program: "wasm-ld",
    package: "lld",
    elsewhere: "Fedora: dnf install lld; Arch: pacman -S lld; Nix: nix-shell -p lld",
};

/// A C library for WebAssembly, and with it what clang's code calls there.
pub const WASI_LIBC: Tool = Tool {
    program: "/usr/lib/wasm32-wasi/crt1.o",
    package: "wasi-libc libclang-rt-dev-wasm32",
    elsewhere: "its headers and libraries must be where Debian's wasi-libc has them",
};

/// What looks at every access to memory that host tests make.
pub const VALGRIND: Tool = Tool {
    program: "valgrind",
    package: "valgrind",
    elsewhere: "Fedora: dnf install valgrind; Arch: pacman -S valgrind; Nix: nix-shell -p valgrind",
};

/// A download on a slow line.
const LIMIT: Duration = Duration::from_secs(15 * 60);
/// How many lines of a failed installation are shown.
const TAIL: usize = 15;

/// A program that is not there. Displayed with what to do about it.
#[derive(Debug)]
pub struct Missing {
    tool: &'static Tool,
    reason: Reason,
}

/// Why it is not there.
#[derive(Debug)]
enum Reason {
    /// The user said `--no-install`.
    NotAllowed,
    /// No `apt-get`: not a Debian.
    NoApt,
    /// Neither root nor sudo without a password.
    NoRights,
    /// `apt-get` failed: its last lines.
    AptFailed(String),
    /// `apt-get` succeeded, but the program is still not there.
    NoEffect,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tool { program, package, elsewhere } = self.tool;
        write!(f, "{program} is not installed")?;
        match &self.reason {
            Reason::NotAllowed => write!(f, ", and --no-install was given")?,
            Reason::NoApt => {
                return write!(
                    f,
                    ", and there is no apt-get here. Install it with your system's package manager \
                     ({elsewhere})"
                );
            }
            Reason::NoRights => write!(f, ", and installing it needs root")?,
            Reason::AptFailed(_) => write!(f, ", and apt-get failed")?,
            Reason::NoEffect => write!(f, ", although apt-get says so")?,
        }
        write!(f, ". Type:\n    sudo apt-get update\n    ")?;
        write!(f, "sudo apt-get install --no-install-recommends {package}")?;
        if let Reason::AptFailed(tail) = &self.reason {
            write!(f, "\nWhat apt-get said last:\n{tail}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Missing {}

/// Where `tool` is; installed first if it is missing and `may_install`.
///
/// # Errors
/// It is missing, and why it could not be installed.
pub fn find_or_install(tool: &'static Tool, may_install: bool) -> Result<PathBuf, Missing> {
    in_path(tool.program)
        .map_or_else(|| get(tool, may_install), Ok)
        .map_err(|reason| Missing { tool, reason })
}

fn get(tool: &Tool, may_install: bool) -> Result<PathBuf, Reason> {
    if !may_install {
        return Err(Reason::NotAllowed);
    }
    in_path("apt-get").ok_or(Reason::NoApt)?;
    let prefix = root_prefix().ok_or(Reason::NoRights)?;
    install(tool, prefix)?;
    in_path(tool.program).ok_or(Reason::NoEffect)
}

/// The program of this name that a shell would start; a whole path is itself, if there is such a file.
pub fn in_path(program: &str) -> Option<PathBuf> {
    if program.starts_with('/') {
        return Some(PathBuf::from(program)).filter(|file| file.is_file());
    }
    let path = env::var_os("PATH")?;
    find(program, env::split_paths(&path))
}

fn find(program: &str, mut folders: impl Iterator<Item = PathBuf>) -> Option<PathBuf> {
    folders.find_map(|folder| Some(folder.join(program)).filter(|path| executable(path)))
}

fn executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// What goes before a command to run it as root; `None` if nothing does without a question.
fn root_prefix() -> Option<&'static [&'static str]> {
    if first_line("id", &["-u"])? == "0" {
        return Some(&[]);
    }
    first_line("sudo", &["-n", "true"]).map(|_| &["sudo", "-n"][..])
}

fn install(tool: &Tool, prefix: &[&str]) -> Result<(), Reason> {
    let Tool { program, package, .. } = tool;
    let mut step = Step::start(format!("{program} is missing; installing {package} with apt-get"));
    // A stale or unreachable list need not matter; the installation decides.
    let _ = apt(prefix, &["update"], &mut step);
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(package.split(' '));
    match apt(prefix, &arguments, &mut step) {
        Ok(finished) if finished.end.success() => {
            step.end("installed");
            Ok(())
        }
        Ok(finished) => {
            step.end("failed");
            let lines: Vec<_> = finished.output.lines().collect();
            Err(Reason::AptFailed(lines[lines.len().saturating_sub(TAIL)..].join("\n")))
        }
        Err(error) => Err(Reason::AptFailed(format!("{error:#}"))),
    }
}

fn apt(prefix: &[&str], arguments: &[&str], step: &mut Step) -> anyhow::Result<Finished> {
    // `env`, because sudo does not hand the environment on.
    let words = prefix.iter().chain(&["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
    let mut words = words.copied().chain(["-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=60"]);
    let mut command = Command::new(words.next().unwrap_or("env"));
    command.args(words).args(arguments);
    command::run(command, LIMIT, &mut |bytes| step.feed(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_as_a_shell_does() {
        assert!(in_path("sh").is_some_and(|path| path.ends_with("sh")));
        assert_eq!(in_path("no-such-program-here"), None);
        assert!(in_path("/etc/passwd").is_some() && in_path("/etc").is_none());
        // A directory is no program.
        assert_eq!(find("bin", ["/usr".into()].into_iter()), None);
    }

    #[test]
    fn every_reason_names_the_next_step() {
        let reasons = [
            Reason::NotAllowed,
            Reason::NoRights,
            Reason::AptFailed("E: no network".to_owned()),
            Reason::NoEffect,
        ];
        for reason in reasons {
            let text = Missing { tool: &QEMU, reason }.to_string();
            assert!(text.contains("apt-get install --no-install-recommends qemu-system-x86"));
        }
        assert!(Missing { tool: &CLANG, reason: Reason::NoApt }.to_string().contains("pacman"));
    }
}
