//! What can go wrong in the kernel, with the numbers.
#![forbid(unsafe_code)]

use alloc::string::String;
use core::fmt;

use unspool::tls::{AreaError, LayoutError};
use unspool::unwind::RegisterError;

use crate::arch::MissingSymbol;
use crate::cpio::CpioError;
use crate::machine::MapError;

/// Why the kernel cannot boot, or cannot make a task.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The boot loader did not pass PVH start info.
    BadStartInfo {
        /// Where it should be.
        address: u64,
        /// What is there instead of the magic.
        magic: u32,
    },
    /// The boot loader passed no memory map.
    NoMemoryMap,
    /// The command line is longer than the room for it (bytes).
    CommandLineTooLong {
        /// Its length.
        length: usize,
        /// The longest possible.
        limit: usize,
    },
    /// A word of the command line that is for the kernel does not end in a number (of 64 bits).
    NoNumber(&'static str),
    /// No piece of memory is large enough for the heap and page tables (bytes).
    NotEnoughMemory {
        /// What is needed in one piece.
        needed: u64,
        /// The largest piece.
        largest: u64,
    },
    /// The linker script does not define a symbol.
    MissingSymbol(&'static str),
    /// The unwind tables cannot be registered.
    Unwind(RegisterError),
    /// The TLS segment cannot be laid out.
    Tls(LayoutError),
    /// A task's TLS area cannot be made.
    Area(AreaError),
    /// Memory cannot be mapped.
    Map(MapError),
    /// The heap has no room.
    OutOfMemory {
        /// Bytes asked for, give or take a header.
        size: usize,
    },
    /// So many samples a second cannot be taken.
    SampleRate {
        /// What was asked for.
        hertz: u32,
        /// The most.
        limit: u32,
    },
    /// The heap has no room for what a task's panics need when it has none.
    Panics(unspool::panic::OutOfMemory),
    /// The file with the modules cannot be read.
    Archive {
        /// Its path.
        path: String,
        /// The system call that failed.
        call: &'static str,
        /// Its error number.
        errno: i32,
    },
    /// The modules are not a cpio archive.
    Modules(CpioError),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadStartInfo { address, magic } => {
                write!(f, "no PVH start info at {address:#x}: its magic is {magic:#x}")
            }
            Self::NoMemoryMap => f.write_str("the boot loader passed no memory map"),
            Self::CommandLineTooLong { length, limit } => {
                write!(f, "the command line has {length} bytes, {limit} are possible")
            }
            Self::NoNumber(word) => write!(f, "no number, or none that is possible: `{word}`"),
            Self::NotEnoughMemory { needed, largest } => write!(
                f,
                "{needed:#x} bytes of memory needed in one piece below 1 GiB, the largest has \
                 {largest:#x}"
            ),
            Self::MissingSymbol(name) => {
                write!(f, "the linker script does not define `{name}`")
            }
            Self::Unwind(error) => write!(f, "unwind tables: {error}"),
            Self::Tls(error) => error.fmt(f),
            Self::Area(error) => error.fmt(f),
            Self::Map(error) => error.fmt(f),
            Self::OutOfMemory { size } => write!(f, "no {size} bytes are left on the heap"),
            Self::SampleRate { hertz, limit } => {
                write!(f, "{hertz} samples a second cannot be taken: 1 to {limit} can")
            }
            Self::Panics(error) => error.fmt(f),
            Self::Archive { path, call, errno } => {
                write!(f, "modules in {path}: {call} failed with errno {errno}")
            }
            Self::Modules(error) => write!(f, "modules: {error}"),
        }
    }
}

impl Error {
    /// No room for a `T`.
    #[cfg(feature = "lang-items")]
    pub(crate) const fn out_of_memory_for<T>() -> Self {
        Self::OutOfMemory { size: size_of::<T>() }
    }
}

impl core::error::Error for Error {}

impl From<MissingSymbol> for Error {
    fn from(MissingSymbol(name): MissingSymbol) -> Self {
        Self::MissingSymbol(name)
    }
}

impl From<unspool::unwind::MissingSymbol> for Error {
    fn from(missing: unspool::unwind::MissingSymbol) -> Self {
        Self::MissingSymbol(missing.0)
    }
}

impl From<unspool::tls::MissingSymbol> for Error {
    fn from(missing: unspool::tls::MissingSymbol) -> Self {
        Self::MissingSymbol(missing.0)
    }
}

impl From<RegisterError> for Error {
    fn from(error: RegisterError) -> Self {
        Self::Unwind(error)
    }
}

impl From<LayoutError> for Error {
    fn from(error: LayoutError) -> Self {
        Self::Tls(error)
    }
}

impl From<AreaError> for Error {
    fn from(error: AreaError) -> Self {
        Self::Area(error)
    }
}

impl From<MapError> for Error {
    fn from(error: MapError) -> Self {
        Self::Map(error)
    }
}

impl From<unspool::panic::OutOfMemory> for Error {
    fn from(error: unspool::panic::OutOfMemory) -> Self {
        Self::Panics(error)
    }
}

impl From<CpioError> for Error {
    fn from(error: CpioError) -> Self {
        Self::Modules(error)
    }
}
