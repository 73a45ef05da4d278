//! What a kernel says of its own addresses, next to what binutils' `addr2line` says.
//!
//! ```text
//!   show:lines ─► 0: 0x200123 - f │ at a.rs:3:5 │ 0: … g │ at b.rs:9 ─► 0x200123: a.rs:3 b.rs:9
//!   addr2line -a -i               ────────────────────────────────────► the same
//! ```

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};

use crate::place::Ran;
use crate::qemu::Outcome;

/// An address, and `file:line` of the functions there, innermost first.
type Said = (u64, Vec<String>);

/// So few addresses show nothing.
const FEW: usize = 1000;
/// How many differences are shown.
const SHOWN: usize = 10;

/// What was wrong with what the kernel showed, if anything was.
///
/// # Errors
/// There is no `addr2line`.
pub fn judge(ran: &Ran, elf: &Path) -> Result<Option<String>> {
    let ours = shown(&ran.output);
    if ran.outcome != Outcome::Exit(0) || ours.len() < FEW {
        return Ok(Some(format!("{}, lines of {} addresses", ran.outcome, ours.len())));
    }
    let theirs = addr2line(elf, ours.iter().map(|(address, _)| *address))?;
    let mut differ = ours.iter().zip(&theirs).filter(|(ours, theirs)| ours != theirs).peekable();
    Ok(differ.peek().is_some().then(|| {
        let (first, all): (Vec<_>, _) = (differ.clone().take(SHOWN).collect(), differ.count());
        format!("{all} of {} differ from addr2line: {first:#x?}", ours.len())
    }))
}

/// What the kernel says.
fn shown(log: &str) -> Vec<Said> {
    let mut all = Vec::<Said>::new();
    for line in log.lines() {
        let address = line.strip_prefix("   0: ").and_then(|line| line.split_once(" - "));
        let address = address.and_then(|(address, _)| address.trim().strip_prefix("0x"));
        if let Some(address) = address.and_then(|address| u64::from_str_radix(address, 16).ok()) {
            all.push((address, Vec::new()));
        } else if let (Some(at), Some((_, lines))) =
            (line.trim().strip_prefix("at "), all.last_mut())
        {
            let column = at.rsplit_once(':').filter(|_| at.matches(':').count() > 1);
            lines.push(column.map_or(at, |(at, _)| at).to_owned());
        }
    }
    all
}

/// What `addr2line` says.
fn addr2line(elf: &Path, addresses: impl Iterator<Item = u64>) -> Result<Vec<Said>> {
    let mut command = Command::new("addr2line");
    command.args(["-a", "-i", "-e"]).arg(elf).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context("cannot start addr2line (binutils)")?;
    let mut input = child.stdin.take().context("a pipe")?;
    let list: String = addresses.map(|address| format!("{address:#x}\n")).collect();
    let writer = thread::spawn(move || input.write_all(list.as_bytes()));
    let output = child.wait_with_output()?;
    ensure!(output.status.success() && writer.join().is_ok(), "addr2line: {}", output.status);
    let mut all = Vec::<Said>::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some(address) = line.strip_prefix("0x") {
            all.push((u64::from_str_radix(address, 16)?, Vec::new()));
        } else if let Some((_, lines)) = all.last_mut() {
            let place = line.split_once(" (discriminator").map_or(line, |(place, _)| place);
            // Without a file or a line there is nothing to say.
            if !place.starts_with("??") && !place.ends_with(":?") {
                lines.push(place.to_owned());
            }
        }
    }
    Ok(all)
}
