//! The machine: QEMU's command line, and what its exit status says.
//!
//! ```text
//! program exits with c ──► outb(0xe9, c)         ──► a file with the byte c
//!                      ──► outb(0xf4, c + 0x10)  ──► QEMU exits with ((c + 0x10) << 1) | 1, 8 bits
//! ```
//!
//! The byte is the exit code, if the status agrees. A status that no program can have caused is told
//! apart from every exit code.
#![forbid(unsafe_code)]

use std::env;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::build::Image;
use crate::command::End;

/// The emulator's program.
pub const PROGRAM: &str = "qemu-system-x86_64";
/// What a program adds to its exit code before it writes it to the exit device.
const EXIT_BIAS: i32 = 0x10;
/// Memory of the machine: the kernel, its heap, and what it loads. QEMU takes what is used of it.
const MEMORY: &str = "1G";

/// How a kernel's run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// By itself, with this exit code.
    Exit(i32),
    /// The machine was reset: a CPU exception nobody could take.
    Reset,
    /// The emulator (or the process) went down otherwise.
    Broken(End),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit code {code}"),
            Self::Reset => write!(f, "the machine was reset (a triple fault?)"),
            Self::Broken(end) => write!(f, "{end}"),
        }
    }
}

/// A file for exit codes, which goes when this value does.
pub struct ExitFile(PathBuf);

impl ExitFile {
    /// A name that nobody else uses; QEMU makes the file.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(env::temp_dir().join(format!("unspool-{}-{number}.exit", process::id())))
    }

    /// What programs have written: one code, unless several CPUs ended the program at once.
    pub fn codes(&self) -> Vec<u8> {
        fs::read(&self.0).unwrap_or_default()
    }
}

impl Drop for ExitFile {
    fn drop(&mut self) {
        // Not there if QEMU did not start.
        let _ = fs::remove_file(&self.0);
    }
}

/// What the monitor is told, and when.
pub struct Order {
    /// When the console has shown this.
    pub after: &'static str,
    /// What an operator would type.
    pub command: &'static str,
}

/// A socket for QEMU's monitor, which goes when this value does.
pub struct Monitor {
    path: PathBuf,
    connection: Option<UnixStream>,
}

impl Monitor {
    /// Has `qemu`, which is to be started, listen.
    pub fn of(qemu: &mut Command) -> Self {
        let path = env::temp_dir().join(format!("unspool-{}.monitor", process::id()));
        let socket = format!("socket,id=monitor,path={},server=on,wait=off", path.display());
        qemu.args(["-chardev", &socket, "-mon", "chardev=monitor,mode=readline"]);
        Self { path, connection: None }
    }

    /// Types `command`, the first time.
    ///
    /// # Errors
    /// QEMU does not listen.
    pub fn say_once(&mut self, command: &str) -> io::Result<()> {
        if self.connection.is_some() {
            return Ok(());
        }
        let mut connection = UnixStream::connect(&self.path)?;
        writeln!(connection, "{command}")?;
        // Closed, it would forget the line.
        self.connection = Some(connection);
        Ok(())
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // QEMU removes it at an orderly end.
        let _ = fs::remove_file(&self.path);
    }
}

/// Where the second serial port leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errors {
    /// There is none; everything goes to the first, which leads to stdout.
    Together,
    /// To stderr.
    Apart,
}

/// QEMU, started with a kernel.
pub fn command(
    qemu: &Path,
    image: &Image,
    cpus: u32,
    arguments: &[String],
    errors: Errors,
    exit: &ExitFile,
) -> Command {
    let mut qemu = Command::new(qemu);
    qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
    qemu.args(["-accel", "tcg", "-cpu", "max", "-m", MEMORY, "-smp", &cpus.to_string()]);
    qemu.args(["-serial", "stdio", "-monitor", "none"]);
    if errors == Errors::Apart {
        qemu.args(["-chardev", "file,id=errors,path=/dev/stderr,append=on"]);
        qemu.args(["-serial", "chardev:errors"]);
    }
    qemu.arg("-debugcon").arg(format!("file:{}", exit.0.display()));
    qemu.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
    qemu.arg("-kernel").arg(&image.elf).arg("-initrd").arg(&image.modules);
    if !arguments.is_empty() {
        qemu.arg("-append").arg(arguments.join(" "));
    }
    qemu
}

/// What QEMU's end says about the program in it, which has written `codes` to be its exit code.
pub fn outcome(end: End, codes: &[u8]) -> Outcome {
    let causes = |code: &u8| End::Code((i32::from(*code) + EXIT_BIAS) << 1 & 0xff | 1) == end;
    match (end, codes.iter().copied().find(causes)) {
        // -no-reboot: the guest asked for a reset.
        (End::Code(0), _) => Outcome::Reset,
        (_, Some(code)) => Outcome::Exit(code.into()),
        // 1: QEMU could not start the machine.
        (other, None) => Outcome::Broken(other),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_exit_code_comes_back() {
        for code in 0..=0xff_u8 {
            let status = End::Code(((i32::from(code) + 0x10) << 1 | 1) & 0xff);
            assert_eq!(outcome(status, &[code]), Outcome::Exit(code.into()));
            // Two CPUs at once: the one that ended the machine counts.
            assert_eq!(outcome(status, &[code ^ 1, code]), Outcome::Exit(code.into()));
            assert_eq!(outcome(status, &[]), Outcome::Broken(status));
        }
    }

    #[test]
    fn what_no_program_can_cause_is_no_exit_code() {
        assert_eq!(outcome(End::Code(0), &[0]), Outcome::Reset);
        for end in [1, 2, 0x1f, 0x22].map(End::Code) {
            assert_eq!(outcome(end, &[0]), Outcome::Broken(end));
        }
        let late = End::TimedOut(Duration::from_secs(1));
        assert_eq!(outcome(late, &[0]), Outcome::Broken(late));
        assert_eq!(outcome(End::Signal(11), &[0]), Outcome::Broken(End::Signal(11)));
    }

    #[test]
    fn arguments_become_the_kernels_command_line() {
        let image = Image {
            elf: "k.elf".into(),
            plain: "k".into(),
            modules: "k.cpio".into(),
            lines: "l.cpio".into(),
        };
        let words = ["a".to_owned(), "b".to_owned()];
        let exit = ExitFile::new();
        let command = command(Path::new(PROGRAM), &image, 4, &words, Errors::Together, &exit);
        let line: Vec<_> = command.get_args().map(|each| each.to_str().unwrap()).collect();
        let pair = |key: &str, value: &str| line.windows(2).any(|two| two == [key, value]);
        assert!(pair("-append", "a b") && pair("-smp", "4") && pair("-initrd", "k.cpio"));
    }
}
