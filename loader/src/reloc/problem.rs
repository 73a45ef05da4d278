//! What can be wrong with one relocation, in numbers.
//!
//! ```text
//!   the type      UnknownType, MissingTlsCall
//!   the place     OutsideSection, UnexpectedCode, NoAddress
//!   the symbol    NotThreadLocal, ThreadLocal, NoStaticSpace, OtherModule, NoModule, NoSize,
//!                 Discarded
//!   the value     Overflow, Addend, NoSlot
//! ```
#![forbid(unsafe_code)]

use core::fmt;
use core::ops::Deref;

use object::elf;

/// The type of a relocation, as in `r_info` (psABI x86-64 §4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelocationType(pub u32);

impl RelocationType {
    /// What may help against this problem, to be said after it.
    pub(crate) fn advice(self, problem: &Problem) -> &'static str {
        let short = [elf::R_X86_64_PC32, elf::R_X86_64_32, elf::R_X86_64_32S].map(|kind| kind.0);
        match problem {
            Problem::Overflow { .. } if short.contains(&self.0) => {
                "; position-independent code (-fPIC) or a larger code model reaches farther"
            }
            _ => "",
        }
    }
}

/// What is wrong with a relocation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Problem {
    /// The type is not one that this loader knows.
    UnknownType,
    /// The bytes to relocate do not lie in the section.
    OutsideSection {
        /// How many bytes.
        width: u64,
        /// The size of the section in bytes.
        size: u64,
    },
    /// The value does not fit the place.
    Overflow {
        /// The value.
        value: i128,
        /// The smallest that fits.
        min: i64,
        /// The largest that fits.
        max: i64,
    },
    /// The type is for thread-local variables, the symbol is not one.
    NotThreadLocal,
    /// The symbol is a thread-local variable, the type is not for one.
    ThreadLocal,
    /// The value would depend on the address of an initial value that every task has a copy of.
    NoAddress,
    /// `R_X86_64_TLSGD` or `R_X86_64_TLSLD` is not followed by its call of `__tls_get_addr`.
    MissingTlsCall,
    /// The instructions are not those that go with the type, so they cannot be rewritten.
    UnexpectedCode {
        /// The bytes where the instructions should be.
        found: Code,
    },
    /// The code needs the variable at a fixed distance from TP; the object that has it got no
    /// such space, because its own code did not need it and the surplus was full.
    NoStaticSpace,
    /// A local dynamic access to a variable of another object, whose block is somewhere else.
    OtherModule,
    /// A module's number is asked for, for a variable of which only the distance from TP is known,
    /// and the object's own module, from which it could be counted, has no such distance.
    NoModule,
    /// The size is asked for of a symbol that others define, who tell only where it is.
    NoSize,
    /// A TLS descriptor in data, or an access to a variable that is made on first use, names a place
    /// beside the variable.
    Addend(i64),
    /// There is no GOT slot for the place.
    NoSlot,
    /// The symbol is a local one of a section that was left out, because another file brought the
    /// same COMDAT group before.
    Discarded,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::UnknownType => f.write_str("unknown type"),
            Self::OutsideSection { width, size } => {
                write!(f, "{width} bytes there are not inside the section of {size:#x} bytes")
            }
            Self::Overflow { value, min, max } => {
                let (value, min, max) = (Signed(value), Signed(min.into()), Signed(max.into()));
                write!(f, "value {value} is not between {min} and {max}")
            }
            Self::NotThreadLocal => f.write_str("not a thread-local variable"),
            Self::ThreadLocal => f.write_str("a thread-local variable"),
            Self::NoAddress => f.write_str("the initial value of a TLS block has no address"),
            Self::MissingTlsCall => f.write_str("no call of __tls_get_addr follows"),
            Self::UnexpectedCode { ref found } => write!(f, "unexpected instructions {found:02x?}"),
            Self::NoStaticSpace => f.write_str("not at a fixed distance from the thread pointer"),
            Self::OtherModule => f.write_str("a thread-local variable of another object"),
            Self::NoModule => f.write_str("the number of its module is not known"),
            Self::NoSize => f.write_str("defined elsewhere, so its size is not known"),
            Self::Addend(addend) => {
                write!(f, "{} beside the variable itself", Signed(addend.into()))
            }
            Self::NoSlot => f.write_str("no GOT slot for it"),
            Self::Discarded => f.write_str("in a group of which another file has the copy"),
        }
    }
}

impl core::error::Error for Problem {}

/// A number in hexadecimal with a sign.
struct Signed(i128);

impl fmt::Display for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{:#x}", if self.0 < 0 { "-" } else { "" }, self.0.unsigned_abs())
    }
}

/// Some bytes of code: a `[u8]` that needs no memory of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Code {
    bytes: [u8; Self::MAX],
    len: u8,
}

impl Code {
    /// As many bytes as the longest sequence of a TLS model has, and some.
    pub const MAX: usize = 24;

    /// The first [`MAX`](Self::MAX) bytes of `code`.
    pub fn new(code: &[u8]) -> Self {
        let mut bytes = [0; Self::MAX];
        let len = code.len().min(Self::MAX);
        bytes[..len].copy_from_slice(&code[..len]);
        Self { bytes, len: len as u8 }
    }
}

impl Deref for Code {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len.into()]
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_told_with_their_sign() {
        let overflow = Problem::Overflow { value: -0x8000_0001, min: -0x8000_0000, max: 0x7f };
        let told = "value -0x80000001 is not between -0x80000000 and 0x7f";
        assert_eq!(overflow.to_string(), told);
        assert_eq!(Problem::Addend(-8).to_string(), "-0x8 beside the variable itself");
    }

    #[test]
    fn code_is_its_bytes() {
        let found = Code::new(&[0x48, 0x0f]);
        let told = "unexpected instructions [48, 0f]";
        assert_eq!(Problem::UnexpectedCode { found }.to_string(), told);
        assert_eq!(*Code::new(&[7; 30]), [7; Code::MAX]);
    }
}
