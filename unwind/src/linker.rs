//! The running program's own module, from the symbols that its linker script defines.
//!
//! ```text
//!   __text_start … __text_end   __eh_frame_start … __eh_frame_end        required
//!   __eh_frame_hdr_start … _end   __gcc_except_table_start … _end        optional
//! ```
//!
//! All are read through weak references, so that a missing one is an error at boot with its name
//! and not at the link.

use core::fmt;

use crate::arch::linker_symbols;
use crate::module::{FdeIndex, Module, Section};

/// A symbol that the linker script does not define.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingSymbol(pub &'static str);

impl fmt::Display for MissingSymbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the linker script does not define `{}`", self.0)
    }
}

impl core::error::Error for MissingSymbol {}

impl Module<'static> {
    /// The running program, as its linker script describes it.
    ///
    /// The script must define `__text_start`, `__text_end`, `__eh_frame_start` and
    /// `__eh_frame_end`. It should define `__eh_frame_hdr_start` and `__eh_frame_hdr_end` (without
    /// them `.eh_frame` is searched linearly), and, if anything is to be cleaned up or caught in
    /// compiled code, `__gcc_except_table_start` and `__gcc_except_table_end`.
    ///
    /// # Errors
    ///
    /// Names the first required symbol that is missing: unwinding would find nothing.
    ///
    /// # Safety
    ///
    /// The symbols, where they are defined, must delimit what they are named after, and that
    /// memory must stay mapped and unchanged while the program runs.
    pub unsafe fn from_linker() -> Result<Self, MissingSymbol> {
        let symbols = linker_symbols();
        let required = |address: usize, name| {
            if address == 0 { Err(MissingSymbol(name)) } else { Ok(address) }
        };
        let text_start = required(symbols.text_start, "__text_start")?;
        let text_end = required(symbols.text_end, "__text_end")?;
        let eh_frame_start = required(symbols.eh_frame_start, "__eh_frame_start")?;
        let eh_frame_end = required(symbols.eh_frame_end, "__eh_frame_end")?;
        // SAFETY: the caller vouches for the symbols.
        let eh_frame = unsafe { section(eh_frame_start, eh_frame_end) };
        // SAFETY: as above.
        let header = unsafe { section(symbols.eh_frame_hdr_start, symbols.eh_frame_hdr_end) };
        // SAFETY: as above.
        let lsda = unsafe { section(symbols.except_table_start, symbols.except_table_end) };
        let index =
            if header.data.is_empty() { FdeIndex::Linear } else { FdeIndex::Header(header) };
        Ok(Module::new(text_start as u64..text_end as u64, eh_frame)
            .with_index(index)
            .with_lsda(lsda))
    }
}

/// The section between two symbols; empty if one of them is missing.
///
/// # Safety
///
/// Non-zero bounds must delimit mapped memory that never changes.
unsafe fn section(start: usize, end: usize) -> Section<'static> {
    if start == 0 || end <= start {
        return Section::EMPTY;
    }
    let first = core::ptr::with_exposed_provenance::<u8>(start);
    // SAFETY: the caller promises that `start..end` is mapped and never changes.
    let data = unsafe { core::slice::from_raw_parts(first, end - start) };
    Section { data, address: start as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_the_symbols_is_told_which_one() {
        // SAFETY: an ordinary test program defines none of the symbols.
        let module = unsafe { Module::from_linker() };
        assert_eq!(module, Err(MissingSymbol("__text_start")));
        assert_eq!(
            module.unwrap_err().to_string(),
            "the linker script does not define `__text_start`"
        );
    }
}
