//! What can go wrong, with the numbers.
#![forbid(unsafe_code)]

use core::fmt;

use unspool::unwind::RegisterError;

/// Why a module's frames cannot be unwound and named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FramesError {
    /// The image of a module is not the ELF file that it should be (bytes of it).
    Image {
        /// Its size.
        size: usize,
    },
    /// It has no unwind tables: `Config::native_unwind_info` was off.
    NoTables,
    /// The unwinder does not take its tables.
    Register(RegisterError),
    /// There are names of so many modules already.
    NamesFull {
        /// How many.
        capacity: usize,
    },
}

impl fmt::Display for FramesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image { size } => write!(f, "the module's image of {size} bytes is no ELF file"),
            Self::NoTables => f.write_str("the module has no unwind tables"),
            Self::Register(error) => error.fmt(f),
            Self::NamesFull { capacity } => {
                write!(f, "names of {capacity} modules are kept already")
            }
        }
    }
}

impl core::error::Error for FramesError {}
