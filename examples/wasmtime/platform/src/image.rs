//! What a module's image in memory (an ELF file) says about its code.
//!
//! ```text
//!   │ ELF header │ … │ .text │ .eh_frame │ .symtab: functions, trampolines │ .strtab │ … │
//! ```
#![forbid(unsafe_code)]

use alloc::vec::Vec;

use object::LittleEndian as LE;
use object::elf::{FileHeader64, SHT_SYMTAB, STT_FUNC};
use object::read::elf::{FileHeader as _, SectionHeader as _, Sym as _};

use crate::error::FramesError;

/// A function of compiled code.
#[derive(Clone, Copy)]
pub(crate) struct Function<'i> {
    /// Its address.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// As wasmtime calls it.
    pub name: &'i str,
}

/// The unwind tables, and the functions by address, of the image whose code is at `text`.
pub(crate) fn read(
    image: &'static [u8],
    text: u64,
) -> Result<(&'static [u8], Vec<Function<'static>>), FramesError> {
    let bad = |_| FramesError::Image { size: image.len() };
    let header = FileHeader64::<LE>::parse(image).map_err(bad)?;
    let sections = header.sections(LE, image).map_err(bad)?;
    let (_, tables) = sections.section_by_name(LE, b".eh_frame").ok_or(FramesError::NoTables)?;
    let tables = tables.data(LE, image).map_err(bad)?;
    let symbols = sections.symbols(LE, image, SHT_SYMTAB).map_err(bad)?;
    let mut functions = Vec::new();
    for symbol in symbols.iter().filter(|symbol| symbol.st_type() == STT_FUNC) {
        let name = symbol.name(LE, symbols.strings()).map_err(bad)?;
        if let Ok(name) = core::str::from_utf8(name) {
            let start = text + symbol.st_value(LE);
            functions.push(Function { start, size: symbol.st_size(LE), name });
        }
    }
    functions.sort_unstable_by_key(|function| function.start);
    Ok((tables, functions))
}
