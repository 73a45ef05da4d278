//! Why a walk or a raise ended early, with the addresses.
#![forbid(unsafe_code)]

use core::fmt;

use crate::exception::Reason;

/// Why the caller of a frame could not be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnwindError {
    /// No registered module contains this address.
    NoModule(u64),
    /// The module has no FDE for this address: it was compiled without unwind tables, or the
    /// address is not code.
    NoFde(u64),
    /// The unwind table for this address is malformed or uses what the parser does not know.
    BadTable {
        /// The address that was looked up.
        pc: u64,
        /// What the parser says.
        source: gimli::Error,
    },
    /// The CFI program uses a register, an offset or an operation that x86-64 does not have.
    Unsupported {
        /// The address that was looked up.
        pc: u64,
    },
    /// A word that the rules ask for is not on the stack.
    StackRead {
        /// The address of the frame's code.
        pc: u64,
        /// The address of the missing word.
        address: u64,
    },
    /// The caller's frame would not lie above this one: the stack is corrupt.
    CfaNotAbove {
        /// The address of the frame's code.
        pc: u64,
        /// The canonical frame address that the rules gave.
        cfa: u64,
        /// The frame's stack pointer.
        sp: u64,
    },
}

impl fmt::Display for UnwindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoModule(pc) => write!(f, "no module contains {pc:#x}"),
            Self::NoFde(pc) => write!(f, "no FDE for {pc:#x}"),
            Self::BadTable { pc, source } => write!(f, "bad unwind table for {pc:#x}: {source}"),
            Self::Unsupported { pc } => write!(f, "unsupported unwind rule for {pc:#x}"),
            Self::StackRead { pc, address } => {
                write!(f, "frame of {pc:#x} needs {address:#x}, which is not on the stack")
            }
            Self::CfaNotAbove { pc, cfa, sp } => {
                write!(
                    f,
                    "frame of {pc:#x} has its CFA {cfa:#x} at or below its stack pointer {sp:#x}"
                )
            }
        }
    }
}

impl core::error::Error for UnwindError {}

/// Why an exception could not be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RaiseError {
    /// The outermost frame was reached and nobody catches.
    EndOfStack,
    /// The search could not go past a frame.
    Unwind(UnwindError),
    /// In the search, a personality function answered with something that it does not allow, or
    /// with a fatal error of its own.
    Personality {
        /// The frame's program counter.
        pc: u64,
        /// What it answered.
        reason: Reason,
    },
    /// Phase 2 could not go past a frame, although phase 1 had: tables changed, or the stack did.
    CleanupUnwind(UnwindError),
    /// In phase 2, a personality function answered with something that it does not allow, or with
    /// a fatal error of its own.
    CleanupPersonality {
        /// The frame's program counter.
        pc: u64,
        /// What it answered.
        reason: Reason,
    },
    /// In a forced unwinding, the stop function or a personality answered with something that
    /// ends it.
    Forced {
        /// The frame's program counter.
        pc: u64,
        /// What it answered.
        reason: Reason,
    },
    /// Phase 2 went past the frame that phase 1 had chosen: tables changed, or the stack did.
    HandlerLost {
        /// The CFA of the chosen frame.
        cfa: u64,
    },
}

impl RaiseError {
    /// The code that the C ABI returns for this (Itanium EH §1.3).
    pub const fn code(self) -> Reason {
        match self {
            Self::EndOfStack => Reason::END_OF_STACK,
            Self::Unwind(_) | Self::Personality { .. } => Reason::FATAL_PHASE1_ERROR,
            Self::CleanupUnwind(_)
            | Self::CleanupPersonality { .. }
            | Self::HandlerLost { .. }
            | Self::Forced { .. } => Reason::FATAL_PHASE2_ERROR,
        }
    }

    /// The same error, in phase 2.
    pub(crate) const fn in_phase_2(self) -> Self {
        match self {
            Self::Unwind(error) => Self::CleanupUnwind(error),
            Self::Personality { pc, reason } => Self::CleanupPersonality { pc, reason },
            other => other,
        }
    }
}

impl From<UnwindError> for RaiseError {
    fn from(error: UnwindError) -> Self {
        Self::Unwind(error)
    }
}

impl fmt::Display for RaiseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EndOfStack => f.write_str("end of stack, and nobody catches"),
            Self::Unwind(error) => error.fmt(f),
            Self::CleanupUnwind(error) => write!(f, "in phase 2, {error}"),
            Self::Personality { pc, reason } => {
                write!(f, "the personality of {pc:#x} answered {}", reason.0)
            }
            Self::CleanupPersonality { pc, reason } => {
                write!(f, "in phase 2, the personality of {pc:#x} answered {}", reason.0)
            }
            Self::Forced { pc, reason } => {
                write!(f, "forced unwinding stopped at {pc:#x} with {}", reason.0)
            }
            Self::HandlerLost { cfa } => write!(f, "the handler frame with CFA {cfa:#x} is gone"),
        }
    }
}

impl core::error::Error for RaiseError {}

/// Why a module could not be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegisterError {
    /// The table of modules is full.
    Full {
        /// How many it holds.
        capacity: usize,
    },
    /// The text overlaps that of a registered module.
    Overlap {
        /// Where the text to register starts.
        start: u64,
        /// Where the registered module's text starts.
        existing: u64,
    },
    /// The text range is empty.
    Empty {
        /// Where it would start.
        start: u64,
    },
    /// The `.eh_frame` section to register cannot be read.
    BadFrames(gimli::Error),
    /// No `.eh_frame` section was registered that begins there.
    NotRegistered {
        /// Where it would begin.
        begin: u64,
    },
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Full { capacity } => write!(f, "all {capacity} places for modules are taken"),
            Self::Overlap { start, existing } => {
                write!(f, "text at {start:#x} overlaps the module at {existing:#x}")
            }
            Self::Empty { start } => write!(f, "the text range at {start:#x} is empty"),
            Self::BadFrames(source) => write!(f, "bad .eh_frame: {source}"),
            Self::NotRegistered { begin } => {
                write!(f, "no .eh_frame at {begin:#x} is registered")
            }
        }
    }
}

impl core::error::Error for RegisterError {}
