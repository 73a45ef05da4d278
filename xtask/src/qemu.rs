//! The machine: QEMU's command line, and what its exit status says.
//!
//! ```text
//! program exits with c ──► outb(0xf4, c + 0x10) ──► QEMU exits with ((c + 0x10) << 1) | 1
//! ```
//!
//! A status that no program can have caused is told apart from every exit code.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::Path;
use std::process::Command;

use crate::build::Image;
use crate::command::End;

/// The emulator's program.
pub const PROGRAM: &str = "qemu-system-x86_64";
/// What a program adds to its exit code before it writes it to the exit device.
const EXIT_BIAS: i32 = 0x10;
/// Memory of the machine: the kernel, its heap, and what it loads.
const MEMORY: &str = "512M";

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

/// QEMU, started with a kernel.
pub fn command(qemu: &Path, image: &Image, cpus: u32, arguments: &[String]) -> Command {
    let mut qemu = Command::new(qemu);
    qemu.args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]);
    qemu.args(["-accel", "tcg", "-cpu", "max", "-m", MEMORY, "-smp", &cpus.to_string()]);
    qemu.args(["-serial", "stdio", "-monitor", "none"]);
    qemu.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]);
    qemu.arg("-kernel").arg(&image.elf).arg("-initrd").arg(&image.modules);
    if !arguments.is_empty() {
        qemu.arg("-append").arg(arguments.join(" "));
    }
    qemu
}

/// What QEMU's end says about the program in it.
pub fn outcome(end: End) -> Outcome {
    match end {
        // -no-reboot: the guest asked for a reset.
        End::Code(0) => Outcome::Reset,
        End::Code(status) if status & 1 == 1 && status >> 1 >= EXIT_BIAS => {
            Outcome::Exit((status >> 1) - EXIT_BIAS)
        }
        // 1: QEMU could not start the machine.
        other => Outcome::Broken(other),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_exit_code_comes_back() {
        for code in 0..=0x6f {
            let status = ((code + 0x10) << 1) | 1;
            assert!(status <= 0xff);
            assert_eq!(outcome(End::Code(status)), Outcome::Exit(code));
        }
    }

    #[test]
    fn what_no_program_can_cause_is_no_exit_code() {
        assert_eq!(outcome(End::Code(0)), Outcome::Reset);
        for end in [1, 2, 0x1f, 0x22].map(End::Code) {
            assert_eq!(outcome(end), Outcome::Broken(end));
        }
        let late = End::TimedOut(Duration::from_secs(1));
        assert_eq!(outcome(late), Outcome::Broken(late));
        assert_eq!(outcome(End::Signal(11)), Outcome::Broken(End::Signal(11)));
    }

    #[test]
    fn arguments_become_the_kernels_command_line() {
        let image = Image { elf: "k.elf".into(), modules: "k.cpio".into() };
        let words = ["a".to_owned(), "b".to_owned()];
        let command = command(Path::new(PROGRAM), &image, 4, &words);
        let line: Vec<_> = command.get_args().map(|each| each.to_str().unwrap()).collect();
        let pair = |key: &str, value: &str| line.windows(2).any(|two| two == [key, value]);
        assert!(pair("-append", "a b") && pair("-smp", "4") && pair("-initrd", "k.cpio"));
    }
}
