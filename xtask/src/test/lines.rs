//! What a kernel says of its own addresses, next to what binutils' `addr2line` says.
//!
//! ```text
//!   show:lines ─► 0: 0x200123 - f │ at a.rs:3:5 │ 0: … g │ at b.rs:9 ─► 0x200123: a.rs:3 b.rs:9
//!   addr2line -a -i               ────────────────────────────────────► the same
//!   show:lines ─► in m.o(.text.f)+0x8 │ 0: … │ at a.rs:3:5 ───────────► .text.f 0x8: a.rs:3
//!   addr2line -j .text.f          ────────────────────────────────────► the same
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use object::read::elf::ElfFile64;
use object::{LittleEndian, Object as _};

use crate::build::Image;
use crate::cpio;
use crate::libtest::tail;
use crate::place::Ran;
use crate::qemu::Outcome;

/// The object that the kernel shows addresses of.
const OBJECT: &str = "unspool_plugin.o";

/// An address, and `file:line` of the functions there, innermost first.
type Said = (u64, Vec<String>);

/// Addresses in the program, and in sections of the object.
type Shown = (Vec<Said>, BTreeMap<String, Vec<Said>>);

/// So few addresses show nothing.
const FEW: usize = 1000;
/// Nor do so few of an object.
const FEW_IN_OBJECT: usize = 100;
/// How many differences are shown.
const SHOWN: usize = 10;

/// What was wrong with what the kernel showed, if anything was.
///
/// # Errors
/// There is no `addr2line`.
pub fn judge(ran: &Ran, elf: &Path, modules: &Path) -> Result<Option<String>> {
    let (program, sections) = shown(&ran.output);
    let (all, with_lines) = sections
        .values()
        .flatten()
        .fold((0, 0), |(all, with), (_, lines)| (all + 1, with + usize::from(!lines.is_empty())));
    if ran.outcome != Outcome::Exit(0) || program.len() < FEW || with_lines < FEW_IN_OBJECT {
        let (outcome, program) = (&ran.outcome, program.len());
        let end = tail(&ran.output, 20);
        let lines = format!("lines of {with_lines} of {all} in the object");
        return Ok(Some(format!("{outcome}, {program} addresses, {lines}:\n{end}")));
    }
    let object = modules.with_extension("object.o");
    let archive = fs::read(modules)?;
    fs::write(&object, cpio::member(&archive, OBJECT).context("the object is no module")?)?;
    let mut complaint = compare(&program, elf, None)?;
    for (section, ours) in sections {
        complaint = complaint.or(compare(&ours, &object, Some(&section))?);
    }
    Ok(complaint)
}

/// How what the kernel says of addresses in a file, or in one section, differs from what `addr2line`
/// says.
fn compare(ours: &[Said], elf: &Path, section: Option<&str>) -> Result<Option<String>> {
    let theirs = addr2line(elf, section, ours.iter().map(|(address, _)| *address))?;
    let mut differ = ours.iter().zip(&theirs).filter(|(ours, theirs)| ours != theirs).peekable();
    let short = ours.len() != theirs.len();
    Ok((short || differ.peek().is_some()).then(|| {
        let (first, all): (Vec<_>, _) = (differ.clone().take(SHOWN).collect(), differ.count());
        let section = section.unwrap_or("the program");
        format!("{section}: {all} of {} differ from addr2line: {first:#x?}", ours.len())
    }))
}

/// What the kernel says.
fn shown(log: &str) -> Shown {
    let (mut program, mut sections) = (Vec::<Said>::new(), BTreeMap::<_, Vec<Said>>::new());
    let (mut place, mut all) = (None, &mut program);
    for line in log.lines() {
        if let Some(within) = line.strip_prefix("in ") {
            place = section(within);
            continue;
        }
        let address = line.strip_prefix("   0: ").and_then(|line| line.split_once(" - "));
        if let Some(address) = address.and_then(|(address, _)| hexadecimal(address)) {
            let offset = match place.take() {
                None => address,
                Some((section, offset)) => {
                    all = sections.entry(section.to_owned()).or_default();
                    offset
                }
            };
            all.push((offset, Vec::new()));
        } else if let (Some(at), Some((_, lines))) =
            (line.trim().strip_prefix("at "), all.last_mut())
        {
            let column = at.rsplit_once(':').filter(|_| at.matches(':').count() > 1);
            lines.push(column.map_or(at, |(at, _)| at).to_owned());
        }
    }
    (program, sections)
}

/// Section and offset of `module(section)+0x10`.
fn section(place: &str) -> Option<(&str, u64)> {
    let (section, offset) =
        place.trim().strip_prefix(OBJECT)?.strip_prefix('(')?.split_once(")+")?;
    Some((section, hexadecimal(offset)?))
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
}

/// The modules of `image` with debug information of another build, written to another file.
///
/// # Errors
/// A file cannot be read or written, or the kernel has no build ID.
pub fn of_another_build(image: &Image) -> Result<PathBuf> {
    let elf = fs::read(&image.plain)?;
    let id = ElfFile64::<LittleEndian>::parse(&*elf)?.build_id()?.context("no build ID")?;
    let mut modules = fs::read(&image.lines)?;
    let at = modules.windows(id.len()).rposition(|bytes| bytes == id).context("no build ID")?;
    modules[at] ^= 1;
    let path = image.lines.with_extension("other.cpio");
    fs::write(&path, modules)?;
    Ok(path)
}

/// What was wrong with what a kernel said that got debug information of another build, if anything was.
pub fn judge_refusal(ran: &Ran) -> Option<String> {
    let (program, _) = shown(&ran.output);
    let refused = ran.output.contains("kernel.debug is not of this build of the kernel");
    let without_lines = program.len() >= FEW && program.iter().all(|(_, lines)| lines.is_empty());
    let end = || format!("{}, refused: {refused}:\n{}", ran.outcome, tail(&ran.output, 20));
    (!refused || !without_lines || ran.outcome != Outcome::Exit(0)).then(end)
}

/// What `addr2line` says.
fn addr2line(
    elf: &Path,
    section: Option<&str>,
    addresses: impl Iterator<Item = u64>,
) -> Result<Vec<Said>> {
    let mut command = Command::new("addr2line");
    command.args(["-a", "-i", "-e"]).arg(elf).stdin(Stdio::piped()).stdout(Stdio::piped());
    command.args(section.into_iter().flat_map(|section| ["-j", section]));
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
