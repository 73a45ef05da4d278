//! Tables of frames: those of this process, for its walks, and what others take.
//!
//! ```text
//!   loaded objects ─► 0.frames, 1.frames, …     read by each process that walks by them
//!   kernel, libstd, librustc_driver ─► size, time and memory of building
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use object::{Object as _, ObjectSection as _, SectionKind};
use unspool_unwind::table::{FrameTable, build};
use unspool_unwind::{Module, Section};

use crate::measure::median;
use crate::objects;
use crate::report::{Row, Target};

const ROUNDS: usize = 7;

fn path(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("{number}.frames"))
}

/// Writes those of the objects of this process.
pub fn write(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    for (number, object) in objects::all().iter().enumerate() {
        let code: Vec<_> = object.code.iter().map(|code| Section::in_memory(code)).collect();
        fs::write(path(folder, number), build(&object.module(), &code)?)?;
    }
    Ok(())
}

/// Reads that of an object.
pub fn read(folder: &Path, number: usize, module: &Module<'_>) -> Result<FrameTable<'static>> {
    let bytes = fs::read(path(folder, number))?.leak();
    Ok(FrameTable::parse(bytes, &module.eh_frame)?)
}

/// Rows of sizes, times and memory.
pub fn rows(kernel: &Path) -> Result<Vec<Row>> {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output()?.stdout;
    let sysroot = PathBuf::from(String::from_utf8(sysroot)?.trim());
    let standard = library(&sysroot.join("lib/rustlib/x86_64-unknown-linux-gnu/lib"), "libstd-")?;
    let large = library(&sysroot.join("lib"), "librustc_driver-")?;
    let mut rows = Vec::new();
    for (name, path) in [("kernel", kernel), ("libstd", &standard), ("rustc_driver", &large)] {
        rows.extend(rows_of(name, path).with_context(|| path.display().to_string())?);
    }
    Ok(rows)
}

fn library(folder: &Path, name: &str) -> Result<PathBuf> {
    let mut files = fs::read_dir(folder)?.filter_map(|entry| Some(entry.ok()?.path()));
    let wanted = |path: &PathBuf| {
        let file = path.file_name().map(|file| file.to_string_lossy());
        file.is_some_and(|file| file.starts_with(name) && file.ends_with(".so"))
    };
    files.find(wanted).with_context(|| format!("{name}*.so in {}", folder.display()))
}

fn rows_of(name: &str, path: &Path) -> Result<[Row; 3]> {
    let data = fs::read(path)?;
    let file = object::File::parse(&*data)?;
    let section = file.section_by_name(".eh_frame").context("no .eh_frame")?;
    let eh_frame = Section { data: section.data()?, address: section.address() };
    let mut code = Vec::new();
    for part in file.sections().filter(|part| part.kind() == SectionKind::Text) {
        code.push(Section { data: part.data()?, address: part.address() });
    }
    let module = Module::new(0..0, eh_frame);
    let (mut times, mut size, mut memory) = (Vec::new(), 0, 0);
    for round in 0..ROUNDS {
        // Linux: the peak is from now on.
        fs::write("/proc/self/clear_refs", "5")?;
        let (before, begin) = (status("VmRSS:")?, Instant::now());
        size = build(&module, &code)?.len();
        times.push(begin.elapsed().as_secs_f64() * 1e3);
        if round == 0 {
            memory = status("VmHWM:")?.saturating_sub(before);
        }
    }
    let percent = size as f64 * 100.0 / eh_frame.data.len() as f64;
    let row = |what, unit, value, targets| Row {
        name: format!("table/{what}/{name}"),
        unit,
        sides: vec![("ours".into(), value)],
        targets,
    };
    Ok([
        row("size", "% of .eh_frame", percent, vec![Target::AtMost(20.0)]),
        row("build_time", "ms", median(times), Vec::new()),
        row("build_memory", "KiB", memory as f64, Vec::new()),
    ])
}

/// A number of this process, in KiB.
fn status(name: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).context("proc(5)")?;
    Ok(line.split_whitespace().next().context("proc(5)")?.parse()?)
}
