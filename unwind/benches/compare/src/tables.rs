//! Tables of frames: those of this process, for its walks, and what others take.
//!
//! ```text
//!   loaded objects ─► NAME.frames, …     read by each process that walks by them
//!   kernel, libstd, librustc_driver ─► size, time and memory of building
//! ```

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use object::{Object as _, ObjectSection as _, SectionKind};
use unspool_unwind::table::{FrameTable, build};
use unspool_unwind::{Module, Section};

use crate::heap;
use crate::measure::median;
use crate::objects::{self, Object};
use crate::report::{Row, Target};

const ROUNDS: usize = 7;

fn path(folder: &Path, object: &Object) -> PathBuf {
    folder.join(format!("{}.frames", object.name.replace('/', "_")))
}

/// Writes those of the objects of this process, in place of all that were there.
pub fn write(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)?;
    for object in objects::all() {
        let code: Vec<_> = object.code.iter().map(|code| Section::in_memory(code)).collect();
        fs::write(path(folder, &object), build(&object.module(), &code)?)?;
    }
    Ok(())
}

/// Reads that of an object; objects that were loaded since the tables were written have none.
pub fn read(folder: &Path, object: &Object) -> Result<FrameTable<'static>> {
    let bytes = match fs::read(path(folder, object)) {
        Ok(bytes) => bytes.leak(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(FrameTable::NONE),
        Err(error) => return Err(error.into()),
    };
    FrameTable::parse(bytes, &object.module().eh_frame)
        .with_context(|| format!("the table of {:?}", object.name))
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
    let (mut times, mut size) = (Vec::new(), 0);
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        size = build(&module, &code)?.len();
        times.push(begin.elapsed().as_secs_f64() * 1e3);
    }
    let (table, memory) = heap::peak_of(|| build(&module, &code));
    table?;
    let percent = size as f64 * 100.0 / eh_frame.data.len() as f64;
    let row = |what, unit, value, targets| {
        Row::new(format!("table/{what}/{name}"), unit, vec![("ours".into(), value)], targets)
    };
    Ok([
        row("size", "% of .eh_frame", percent, vec![Target::at_most(20.0)]),
        row("build_time", "ms", median(times), Vec::new()),
        row("build_memory", "KiB", memory as f64 / 1024.0, Vec::new()),
    ])
}
