//! What can go wrong, each with its numbers.
#![forbid(unsafe_code)]

use core::alloc::Layout;
use core::error::Error;
use core::fmt;

/// A module or an area that cannot be laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// The initialised part of the block (bytes) is longer than the whole block (bytes).
    ImageTooLarge {
        /// Length of `.tdata`.
        image: usize,
        /// Size of `.tdata` and `.tbss` together.
        size: usize,
    },
    /// `p_align` is neither zero nor a power of two.
    BadAlignment(usize),
    /// Some byte would be further from TP than a signed 32-bit offset reaches.
    TooLarge {
        /// Size of the kernel's block in bytes.
        size: usize,
        /// Its alignment in bytes.
        align: usize,
        /// The surplus asked for in bytes; zero while only a template is concerned.
        surplus: usize,
    },
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ImageTooLarge { image, size } => {
                write!(f, "TLS image of {image} bytes in a block of {size} bytes")
            }
            Self::BadAlignment(align) => {
                write!(f, "TLS alignment {align} is not a power of two")
            }
            Self::TooLarge { size, align, surplus } => write!(
                f,
                "TLS block of {size} bytes aligned to {align} with a surplus of {surplus} bytes \
                 is out of reach of a 32-bit offset"
            ),
        }
    }
}

impl Error for LayoutError {}

/// A task's area that cannot be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AreaError {
    /// The allocator has no memory for the area.
    OutOfMemory {
        /// Bytes asked for.
        size: usize,
        /// Alignment asked for in bytes.
        align: usize,
    },
}

impl fmt::Display for AreaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::OutOfMemory { size, align } = *self;
        write!(f, "no memory for a TLS area of {size} bytes aligned to {align}")
    }
}

impl Error for AreaError {}

/// A later module's block for which there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReserveError {
    /// The alignment is neither zero nor a power of two.
    BadAlignment(usize),
    /// The alignment is a power of two but larger than that of the areas.
    AlignmentTooLarge {
        /// Alignment asked for in bytes.
        needed: usize,
        /// Alignment of every area in bytes.
        area: usize,
    },
    /// The block is larger than any memory.
    TooLarge {
        /// Size asked for in bytes.
        size: usize,
        /// Alignment asked for in bytes.
        align: usize,
    },
    /// No gap of the surplus holds the block.
    SurplusExhausted {
        /// Size of the block in bytes.
        needed: usize,
        /// Alignment of the block in bytes.
        align: usize,
        /// Free bytes of the surplus, all gaps together.
        free: usize,
        /// Bytes of the largest gap. It may be as large as `needed` when `align` does not fit.
        largest: usize,
    },
    /// The allocator has no memory for the registry's own records.
    OutOfMemory,
}

impl fmt::Display for ReserveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::BadAlignment(align) => {
                write!(f, "TLS alignment {align} is not a power of two")
            }
            Self::AlignmentTooLarge { needed, area } => {
                write!(f, "TLS alignment {needed} in areas aligned to {area}")
            }
            Self::TooLarge { size, align } => {
                write!(f, "TLS block of {size} bytes aligned to {align} is larger than memory")
            }
            Self::SurplusExhausted { needed, align, free, largest } => write!(
                f,
                "TLS surplus exhausted: {needed} bytes aligned to {align} needed, {free} free, \
                 {largest} of them in one piece"
            ),
            Self::OutOfMemory => write!(f, "no memory to record a TLS block"),
        }
    }
}

impl Error for ReserveError {}

/// A reserved block that cannot be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishError {
    /// The image (bytes) is longer than what was reserved (bytes).
    ImageTooLarge {
        /// Length of the image.
        image: usize,
        /// Size reserved.
        size: usize,
    },
    /// The allocator has no memory for the registry's copy of the image.
    OutOfMemory {
        /// Length of the image in bytes.
        image: usize,
    },
    /// A module that was to be reserved in the same step could not be.
    Reserve(ReserveError),
}

impl From<ReserveError> for PublishError {
    fn from(error: ReserveError) -> Self {
        Self::Reserve(error)
    }
}

impl fmt::Display for PublishError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ImageTooLarge { image, size } => {
                write!(f, "TLS image of {image} bytes for a reserved block of {size} bytes")
            }
            Self::OutOfMemory { image } => {
                write!(f, "no memory to keep a TLS image of {image} bytes")
            }
            Self::Reserve(error) => error.fmt(f),
        }
    }
}

impl Error for PublishError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Reserve(error) => Some(error),
            Self::ImageTooLarge { .. } | Self::OutOfMemory { .. } => None,
        }
    }
}

/// A block that a task cannot have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessError {
    /// No published module has this number.
    NoSuchModule {
        /// The number.
        module: usize,
    },
    /// The allocator has no memory for the task's block, or for its vector of blocks.
    OutOfMemory {
        /// Bytes asked for.
        size: usize,
        /// Alignment asked for in bytes.
        align: usize,
    },
}

impl AccessError {
    pub(crate) const fn out_of_memory(asked: Layout) -> Self {
        Self::OutOfMemory { size: asked.size(), align: asked.align() }
    }
}

impl fmt::Display for AccessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoSuchModule { module } => {
                write!(f, "no TLS module has the number {module}")
            }
            Self::OutOfMemory { size, align } => {
                write!(f, "no memory for a TLS block of {size} bytes aligned to {align}")
            }
        }
    }
}

impl Error for AccessError {}

/// The allocator had no memory to record something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

impl fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no memory to record a thread-local destructor")
    }
}

impl Error for OutOfMemory {}

/// The linker script does not define this symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingSymbol(pub &'static str);

impl fmt::Display for MissingSymbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the linker script does not define `{}`", self.0)
    }
}

impl Error for MissingSymbol {}
