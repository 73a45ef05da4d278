//! The program's own template, from the symbols of its linker script.
//!
//! ```text
//!  __tdata_start        __tdata_end            __tls_end
//!  │ .tdata (in the file) │ .tbss (takes no space) │        __tls_align = max of both
//! ```
//!
//! A script that defines none of them gives an error that names the first one missing, not a
//! program that reads garbage.

use crate::arch::{LinkerSymbols, linker_symbols};
use crate::error::MissingSymbol;
use crate::layout::Template;

impl Template<'static> {
    /// The `PT_TLS` segment of the running program.
    ///
    /// `__tls_align` may be zero when there are no thread-local variables: that is what
    /// `ALIGNOF` of a section that does not exist yields.
    ///
    /// # Errors
    /// The linker script lacks `__tdata_start`, `__tdata_end`, `__tls_end` or `__tls_align`.
    ///
    /// # Panics
    /// The script's symbols contradict each other, such as an end before the start.
    pub fn from_linker() -> Result<Self, MissingSymbol> {
        let symbols = linker_symbols();
        let Extent { image, size, align } = extent(&symbols)?;
        // SAFETY:
        // 1. The linker script guarantees that the image lies between these symbols, as loaded.
        // 2. Nothing writes to it: tasks use copies, and the image has no other name.
        let tdata = unsafe { core::slice::from_raw_parts(symbols.tdata_start, image) };
        match Template::new(tdata, size, align) {
            Ok(template) => Ok(template.starting_at(symbols.tdata_start.addr() as u64)),
            Err(error) => panic!("the linker script's TLS symbols are inconsistent: {error}"),
        }
    }
}

/// Sizes in bytes.
#[derive(Debug, PartialEq, Eq)]
struct Extent {
    image: usize,
    size: usize,
    align: usize,
}

/// The sizes that the symbols describe.
fn extent(symbols: &LinkerSymbols) -> Result<Extent, MissingSymbol> {
    let LinkerSymbols { tdata_start, tdata_end, tls_end, tls_align } = *symbols;
    let named =
        [("__tdata_start", tdata_start), ("__tdata_end", tdata_end), ("__tls_end", tls_end)];
    if let Some((name, _)) = named.into_iter().find(|(_, value)| value.is_null()) {
        return Err(MissingSymbol(name));
    }
    let from_start = |end: *const u8| match end.addr().checked_sub(tdata_start.addr()) {
        Some(bytes) => bytes,
        None => panic!("the linker script ends TLS at {end:p}, before {tdata_start:p}"),
    };
    let extent =
        Extent { image: from_start(tdata_end), size: from_start(tls_end), align: tls_align };
    if extent.size > 0 && extent.align == 0 {
        return Err(MissingSymbol("__tls_align"));
    }
    Ok(extent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn symbols(start: usize, tdata_end: usize, tls_end: usize, tls_align: usize) -> LinkerSymbols {
        LinkerSymbols {
            tdata_start: core::ptr::without_provenance(start),
            tdata_end: core::ptr::without_provenance(tdata_end),
            tls_end: core::ptr::without_provenance(tls_end),
            tls_align,
        }
    }

    #[test]
    fn a_program_linked_without_the_symbols_is_told_the_first_one() {
        let error = Template::from_linker().unwrap_err();
        assert_eq!(error, MissingSymbol("__tdata_start"));
        assert_eq!(std::format!("{error}"), "the linker script does not define `__tdata_start`");
    }

    #[test]
    fn each_missing_symbol_is_named() {
        let missing = |symbols| extent(&symbols).unwrap_err().0;
        assert_eq!(missing(symbols(0, 0x1008, 0x1010, 8)), "__tdata_start");
        assert_eq!(missing(symbols(0x1000, 0, 0x1010, 8)), "__tdata_end");
        assert_eq!(missing(symbols(0x1000, 0x1008, 0, 8)), "__tls_end");
        assert_eq!(missing(symbols(0x1000, 0x1008, 0x1010, 0)), "__tls_align");
    }

    #[test]
    fn sizes_are_measured_from_the_start_of_the_image() {
        assert_eq!(
            extent(&symbols(0x1004, 0x1008, 0x1013, 16)),
            Ok(Extent { image: 4, size: 15, align: 16 })
        );
    }

    #[test]
    fn no_variables_need_no_alignment() {
        assert_eq!(
            extent(&symbols(0x1000, 0x1000, 0x1000, 0)),
            Ok(Extent { image: 0, size: 0, align: 0 })
        );
    }

    #[test]
    #[should_panic(expected = "before 0x1000")]
    fn an_end_before_the_start_is_refused() {
        let _ = extent(&symbols(0x1000, 0xfff, 0x1010, 8));
    }
}
