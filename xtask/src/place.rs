//! Where a kernel runs: in QEMU, or as a bare Linux process.

use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::build::Image;
use crate::command::{self, End, Stream};
use crate::qemu::{self, Errors, ExitFile, Monitor, Order, Outcome};

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
        let exit = ExitFile::new();
        let command = self.command(image, arguments, Errors::Together, &exit);
        let finished = command::run(command, limit, sink)?;
        Ok(Ran { outcome: self.outcome(finished.end, &exit), output: finished.output })
    }

    /// As [`run`](Self::run), in QEMU, whose monitor gets an order.
    ///
    /// # Errors
    /// It cannot be started, or does not listen.
    pub fn run_with_order(
        &self,
        image: &Image,
        arguments: &[String],
        limit: Duration,
        order: &Order,
        sink: &mut dyn FnMut(&[u8]),
    ) -> Result<Ran> {
        let exit = ExitFile::new();
        let mut command = self.command(image, arguments, Errors::Together, &exit);
        let mut monitor = Monitor::of(&mut command);
        let (mut shown, mut said) = (Vec::new(), Ok(()));
        let finished = command::run(command, limit, &mut |bytes| {
            sink(bytes);
            shown.extend_from_slice(bytes);
            if said.is_ok() && String::from_utf8_lossy(&shown).contains(order.after) {
                said = monitor.say_once(order.command);
            }
        })?;
        said.context("QEMU's monitor")?;
        Ok(Ran { outcome: self.outcome(finished.end, &exit), output: finished.output })
    }

    /// As [`run`](Self::run), but tells the kernel's two streams apart, and keeps neither.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn run_apart(
        &self,
        image: &Image,
        arguments: &[String],
        limit: Duration,
        sink: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<Outcome> {
        let exit = ExitFile::new();
        let command = self.command(image, arguments, Errors::Apart, &exit);
        let end = command::run_apart(command, limit, sink)?;
        Ok(self.outcome(end, &exit))
    }

    fn command(
        &self,
        image: &Image,
        arguments: &[String],
        errors: Errors,
        exit: &ExitFile,
    ) -> Command {
        match self {
            Self::Process => {
                let mut command = Command::new(&image.elf);
                command.arg(&image.modules).args(arguments);
                command
            }
            Self::Qemu { program, cpus } => {
                qemu::command(program, image, *cpus, arguments, errors, exit)
            }
        }
    }

    fn outcome(&self, end: End, exit: &ExitFile) -> Outcome {
        match (self, end) {
            (Self::Process, End::Code(code)) => Outcome::Exit(code),
            (Self::Process, other) => Outcome::Broken(other),
            (Self::Qemu { .. }, end) => qemu::outcome(end, &exit.codes()),
        }
    }
}
