//! Why the CPU stopped at an instruction.
//!
//! ```text
//!   vector, error code, CR2 ─► FaultKind ─► words
//! ```
//!
//! Promise: every vector has a kind; those that nobody knows are `Other`.
#![forbid(unsafe_code)]

use core::fmt;

/// What was tried with the page of a [`FaultKind::PageFault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageAccess {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

impl PageAccess {
    /// From the error code of a page fault (Intel SDM volume 3, §4.7).
    pub(crate) const fn from_error_code(code: u64) -> Self {
        match (code & 1 << 4 != 0, code & 1 << 1 != 0) {
            (true, _) => Self::Execute,
            (false, true) => Self::Write,
            (false, false) => Self::Read,
        }
    }
}

/// Why the CPU stopped at an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// Division by zero, or a quotient that does not fit.
    DivideError,
    /// A single step or a debug register.
    Debug,
    /// `int3`. The registers point to that instruction, not past it.
    Breakpoint,
    /// `int 4`, as for a breakpoint; `into` does not exist in 64-bit mode.
    Overflow,
    /// `int 5`; `bound` does not exist in 64-bit mode.
    BoundRange,
    /// `ud2`, or an instruction that this CPU does not have.
    InvalidOpcode,
    /// An x87 or SSE instruction while they are off.
    DeviceNotAvailable,
    /// An exception while another was being delivered.
    DoubleFault,
    /// The task state segment is wrong, or has no such stack.
    InvalidTss {
        /// The CPU's error code.
        error: u64,
    },
    /// A segment or a gate is not present.
    SegmentNotPresent {
        /// The CPU's error code.
        error: u64,
    },
    /// The stack pointer is not canonical, or the stack's segment is not present.
    StackSegment {
        /// The CPU's error code.
        error: u64,
    },
    /// A non-canonical address, a privileged instruction, or another protection rule.
    GeneralProtection {
        /// The CPU's error code.
        error: u64,
    },
    /// An access that the page tables forbid.
    PageFault {
        /// The address that was accessed.
        address: u64,
        /// How.
        access: PageAccess,
        /// Whether there is a page; if so, the access is not allowed.
        present: bool,
    },
    /// An unmasked x87 exception.
    X87,
    /// A misaligned access while they are checked.
    AlignmentCheck,
    /// The hardware is broken.
    MachineCheck,
    /// An unmasked SSE exception.
    Simd,
    /// A page that the hypervisor keeps.
    Virtualization,
    /// A return address that is not the one of the shadow stack, or a jump to what is no target.
    ControlProtection {
        /// The CPU's error code.
        error: u64,
    },
    /// Not an exception at all: a signal that somebody sent to this process.
    Signal {
        /// Its number.
        number: i32,
    },
    /// Any other exception.
    Other {
        /// Its vector.
        vector: u64,
        /// The CPU's error code.
        error: u64,
    },
}

impl FaultKind {
    /// The exception with this vector and error code; page faults know more (Intel SDM volume 3,
    /// table 6-1).
    pub(crate) const fn from_vector(vector: u64, error: u64) -> Self {
        match vector {
            0 => Self::DivideError,
            1 => Self::Debug,
            3 => Self::Breakpoint,
            4 => Self::Overflow,
            5 => Self::BoundRange,
            6 => Self::InvalidOpcode,
            7 => Self::DeviceNotAvailable,
            8 => Self::DoubleFault,
            10 => Self::InvalidTss { error },
            11 => Self::SegmentNotPresent { error },
            12 => Self::StackSegment { error },
            13 => Self::GeneralProtection { error },
            16 => Self::X87,
            17 => Self::AlignmentCheck,
            18 => Self::MachineCheck,
            19 => Self::Simd,
            20 => Self::Virtualization,
            21 => Self::ControlProtection { error },
            _ => Self::Other { vector, error },
        }
    }
}

impl FaultKind {
    /// Bytes of the instruction if the CPU reports this kind after it, and not at it: a trap
    /// (Intel SDM volume 3, §6.5). A single step has no instruction of its own.
    pub(crate) const fn trap_length(self) -> u64 {
        match self {
            Self::Breakpoint => 1,
            Self::Overflow => 2,
            _ => 0,
        }
    }

    /// Whether the interrupted code cannot go on: the registers need not mean anything (an abort,
    /// ibid.).
    pub(crate) const fn is_abort(self) -> bool {
        matches!(self, Self::DoubleFault | Self::MachineCheck)
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::DivideError => f.write_str("divide error"),
            Self::Debug => f.write_str("debug exception"),
            Self::Breakpoint => f.write_str("breakpoint"),
            Self::Overflow => f.write_str("overflow"),
            Self::BoundRange => f.write_str("bound range exceeded"),
            Self::InvalidOpcode => f.write_str("invalid opcode"),
            Self::DeviceNotAvailable => f.write_str("device not available"),
            Self::DoubleFault => f.write_str("double fault"),
            Self::InvalidTss { error } => write!(f, "invalid TSS, error code {error:#x}"),
            Self::SegmentNotPresent { error } => {
                write!(f, "segment not present, error code {error:#x}")
            }
            Self::StackSegment { error } => write!(f, "stack fault, error code {error:#x}"),
            Self::GeneralProtection { error } => {
                write!(f, "general protection fault, error code {error:#x}")
            }
            Self::PageFault { address, access, present } => {
                let access = match access {
                    PageAccess::Read => "read of",
                    PageAccess::Write => "write to",
                    PageAccess::Execute => "execution of",
                };
                let why = if present { "not allowed" } else { "not mapped" };
                write!(f, "page fault: {access} {address:#x}, which is {why}")
            }
            Self::X87 => f.write_str("x87 exception"),
            Self::AlignmentCheck => f.write_str("alignment check"),
            Self::MachineCheck => f.write_str("machine check"),
            Self::Simd => f.write_str("SSE exception"),
            Self::Virtualization => f.write_str("virtualization exception"),
            Self::ControlProtection { error } => {
                write!(f, "control protection fault, error code {error:#x}")
            }
            Self::Signal { number } => write!(f, "signal {number}, sent to the process"),
            Self::Other { vector, error } => {
                write!(f, "exception {vector}, error code {error:#x}")
            }
        }
    }
}
