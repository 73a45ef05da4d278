//! The table of an ELF file's frames.
//!
//! ```text
//!   .eh_frame, executable sections ─► unspool_unwind::table::build ─► bytes, a sixth of .eh_frame
//! ```
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fmt;
use std::time::{Duration, Instant};

use object::{Object as _, ObjectSection as _, SectionKind};
use unspool_unwind::table::build;
use unspool_unwind::{Module, Section};

use super::EmbedError;

/// How large a table became, and how long that took.
pub struct Size {
    /// The table's size, in bytes.
    pub table: usize,
    /// The size of `.eh_frame`, in bytes.
    pub eh_frame: usize,
    /// The time to build it.
    pub time: Duration,
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = self.table as f64 * 100.0 / self.eh_frame as f64;
        let (size, time) = (self.table.div_ceil(1024), self.time.as_secs_f64() * 1e3);
        write!(f, "{size} KiB ({percent:.1} % of .eh_frame, {time:.1} ms)")
    }
}

/// The table of `elf`'s frames; `None` if it has no `.eh_frame`.
///
/// # Errors
/// The file is no ELF file, or its frames cannot be read.
pub fn table(elf: &[u8]) -> Result<Option<(Vec<u8>, Size)>, EmbedError> {
    let file = object::File::parse(elf)?;
    let Some(section) = file.section_by_name(".eh_frame") else { return Ok(None) };
    let (data, address) = (section.uncompressed_data()?, section.address());
    let mut code: Vec<(Cow<'_, [u8]>, u64)> = Vec::new();
    for part in file.sections().filter(|part| part.kind() == SectionKind::Text) {
        code.push((part.uncompressed_data()?, part.address()));
    }
    let code = code.iter().map(|(data, address)| Section { data, address: *address });
    let code: Vec<_> = code.collect();
    let begin = Instant::now();
    let table = build(&Module::new(0..0, Section { data: &data, address }), &code)?;
    let size = Size { table: table.len(), eh_frame: data.len(), time: begin.elapsed() };
    Ok(Some((table, size)))
}
