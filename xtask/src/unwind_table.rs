//! `cargo xtask unwind-table`: works out the rules of an ELF file's frames.
//!
//! ```text
//!   ELF ──────────► ELF.frames       to be loaded, or linked in behind all code and data
//!   ELF --embed ──► ELF.embedded     the same program with its tables of symbols and frames
//! ```
//!
//! The program gives the table to `FrameTable::parse` with its `.eh_frame`, and that to
//! `Module::with_table`. The kernels of this workspace get theirs when they are built.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use crate::embed::{self, frames};
use crate::progress::show;

/// What to make of what.
#[derive(Args)]
pub struct Options {
    /// A linked program or shared library
    elf: PathBuf,
    /// Where to put the result; next to ELF if it is not said
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Write the program, with its tables of symbols and frames in the section that its linker
    /// script keeps for them (examples/kernel/kernel.ld), instead of the table alone
    #[arg(long)]
    embed: bool,
}

/// Does it.
///
/// # Errors
/// The file cannot be read or has no frames, or the result cannot be written.
pub fn unwind_table(options: &Options) -> Result<ExitCode> {
    let name = options.elf.display();
    let elf = fs::read(&options.elf).with_context(|| format!("cannot read {name}"))?;
    let (bytes, suffix, what) = if options.embed {
        let embedded = embed::embed(&elf).with_context(|| name.to_string())?;
        let what = embedded.to_string();
        (embedded.elf, ".embedded", what)
    } else {
        let made = frames::table(&elf).with_context(|| name.to_string())?;
        let (table, size) = made.with_context(|| format!("{name} has no .eh_frame"))?;
        (table, ".frames", format!("frames in {size}"))
    };
    let output = options.output.clone().unwrap_or_else(|| {
        let mut path = options.elf.clone().into_os_string();
        path.push(OsStr::new(suffix));
        path.into()
    });
    fs::write(&output, bytes).with_context(|| format!("cannot write {}", output.display()))?;
    show(&format!("{}: {what}", output.display()));
    Ok(ExitCode::SUCCESS)
}
