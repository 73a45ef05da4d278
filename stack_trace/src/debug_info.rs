//! Names, inlined functions and lines from DWARF.
//!
//! ```text
//!   .debug_info .debug_line … as slices ──► addr2line ──► inlined functions, file:line:column
//! ```
//!
//! Unlike everything else here this allocates, when it reads a part of the information for the first
//! time, and has a lock. The lock is never waited for: who meets it held gets no answer, so that in
//! a pair with a symbol table the table answers instead.
#![forbid(unsafe_code)]

use core::fmt;

use addr2line::Context;
use addr2line::gimli::{Dwarf, EndianSlice, Error, LittleEndian, SectionId};
use spin::Mutex;

use crate::symbolize::{Function, Location, Symbol, Symbolize};

type Reader<'a> = EndianSlice<'a, LittleEndian>;

/// Debug information of a program or of a loaded file, in place.
///
/// It does not find bounds of functions: [`symbolize`](Symbolize::symbolize) has no answer.
pub struct DebugInfo<'a> {
    context: Mutex<Context<Reader<'a>>>,
    /// What was added to the addresses in the file when it was loaded.
    bias: u64,
}

/// Why there is no debug information.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DebugError {
    /// The sections contradict DWARF or each other.
    Malformed(Error),
    /// The file is no little-endian ELF64 file with sound headers.
    NotElf(object::Error),
    /// What a section has in it does not fit into it, or into the address space.
    Outside {
        /// The section's number in the file.
        section: usize,
        /// Where, in bytes.
        offset: u64,
    },
}

impl From<object::Error> for DebugError {
    fn from(error: object::Error) -> Self {
        Self::NotElf(error)
    }
}

impl fmt::Display for DebugError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(error) => write!(f, "the debug information cannot be read: {error}"),
            Self::NotElf(error) => write!(f, "not a sound ELF64 file: {error}"),
            Self::Outside { section, offset } => {
                write!(f, "section {section}: nothing fits at {offset:#x}")
            }
        }
    }
}

impl core::error::Error for DebugError {}

impl<'a> DebugInfo<'a> {
    /// Reads the sections that `section` returns by their names (`.debug_info`, …), empty if there is
    /// none, of a file that was loaded `bias` bytes above the addresses in it.
    ///
    /// # Errors
    ///
    /// The units or their ranges make no sense.
    pub fn new(section: impl Fn(&str) -> &'a [u8], bias: u64) -> Result<Self, DebugError> {
        let dwarf = Dwarf::load(|id: SectionId| {
            Ok::<_, Error>(EndianSlice::new(section(id.name()), LittleEndian))
        });
        let context = dwarf.and_then(Context::from_dwarf).map_err(DebugError::Malformed)?;
        Ok(Self { context: Mutex::new(context), bias })
    }

    /// Where the compiler ran that made the code at `address` (DWARF 5 §3.1.1, `DW_AT_comp_dir`).
    pub fn directory(&self, address: u64) -> Option<&'a str> {
        let context = self.context.try_lock()?;
        let unit = context.find_dwarf_and_unit(address.wrapping_sub(self.bias)).skip_all_loads();
        str::from_utf8(unit?.comp_dir?.slice()).ok()
    }
}

impl fmt::Debug for DebugInfo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DebugInfo").field("bias", &self.bias).finish_non_exhaustive()
    }
}

impl Symbolize for DebugInfo<'_> {
    fn symbolize(&self, _address: u64) -> Option<Symbol<'_>> {
        None
    }

    fn functions(&self, address: u64, each: &mut dyn FnMut(&Function<'_>)) -> bool {
        let Some(context) = self.context.try_lock() else { return false };
        let found = context.find_frames(address.wrapping_sub(self.bias)).skip_all_loads();
        let Ok(mut frames) = found else { return false };
        let mut any = false;
        while let Ok(Some(frame)) = frames.next() {
            let name = frame.function.as_ref().and_then(|function| function.raw_name().ok());
            let location = frame.location.as_ref().and_then(|location| {
                let (file, line) = (location.file?, location.line?);
                Some(Location { file, line, column: location.column.filter(|&column| column != 0) })
            });
            if name.is_none() && location.is_none() {
                continue;
            }
            any = true;
            each(&Function { name: name.as_deref().map(Into::into), location });
        }
        any
    }
}
