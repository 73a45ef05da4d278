//! Tells a return address from the address of an instruction that is being executed.
//!
//! ```text
//!   call panic      ◄─ the instruction to look up: Return(ip) − 1
//!   ud2             ◄─ Return(ip) points here, maybe into the next function
//! ```
#![forbid(unsafe_code)]

use core::fmt;

/// A program counter, with what it points at.
///
/// The `call` that pushed a return address lies *before* it and may be the last instruction of
/// its function, so tables are searched at `ip − 1` for a return address and at `ip` exactly for
/// an instruction that was interrupted (Itanium EH §1.5.3, `_Unwind_GetIPInfo`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pc {
    /// The address that a call returns to.
    Return(u64),
    /// The address of an instruction that has not completed: a fault, an interrupt.
    Exact(u64),
}

impl Pc {
    /// The address as it stands in the register or on the stack.
    pub const fn address(self) -> u64 {
        match self {
            Self::Exact(address) | Self::Return(address) => address,
        }
    }

    /// Whether it is the address that a call returns to.
    pub(crate) const fn is_return(self) -> bool {
        matches!(self, Self::Return(_))
    }

    /// The address to search tables for.
    pub const fn lookup(self) -> u64 {
        match self {
            Self::Exact(address) => address,
            Self::Return(address) => address.wrapping_sub(1),
        }
    }
}

impl fmt::LowerHex for Pc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::LowerHex::fmt(&self.address(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::Pc;

    #[test]
    fn a_return_address_is_looked_up_one_byte_earlier() {
        assert_eq!(Pc::Return(0x1000).lookup(), 0xfff);
        assert_eq!(Pc::Exact(0x1000).lookup(), 0x1000);
        assert_eq!(Pc::Return(0x1000).address(), 0x1000);
    }
}
