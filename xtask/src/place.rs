//! Where a kernel runs: in QEMU, or as a bare Linux process.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::build::Image;
use crate::command::{self, End};
use crate::qemu::{self, Outcome};

/// A place to run a kernel in.
#[derive(Clone, Debug)]
pub enum Place {
    /// The same ELF file as a static Linux process, without libc.
    Process,
    /// A machine with so many CPUs.
    Qemu { program: PathBuf, cpus: u32 },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process => write!(f, "bare process"),
            Self::Qemu { cpus: 1, .. } => write!(f, "QEMU, 1 CPU"),
            Self::Qemu { cpus, .. } => write!(f, "QEMU, {cpus} CPUs"),
        }
    }
}

/// A kernel that ran.
pub struct Ran {
    /// How it ended.
    pub outcome: Outcome,
    /// What it wrote to its console.
    pub output: String,
}

impl Place {
    /// Runs `image` here with `arguments`, for at most `limit`. `sink` sees the console live.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn run(
        &self,
        image: &Image,
        arguments: &[String],
        limit: Duration,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<Ran> {
        let command = match self {
            Self::Process => {
                let mut command = Command::new(&image.elf);
                command.arg(&image.modules).args(arguments);
                command
            }
            Self::Qemu { program, cpus } => qemu::command(program, image, *cpus, arguments),
        };
        let finished = command::run(command, limit, sink)?;
        let outcome = match (self, finished.end) {
            (Self::Process, End::Code(code)) => Outcome::Exit(code),
            (Self::Process, other) => Outcome::Broken(other),
            (Self::Qemu { .. }, end) => qemu::outcome(end),
        };
        Ok(Ran { outcome, output: finished.output })
    }
}
