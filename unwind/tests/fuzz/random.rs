//! Numbers that mean something in unwind tables.
//!
//! ```text
//!   nothing in particular │ small │ small and negative │ where LEB128 needs another byte
//! ```

pub use crate::case::Random;

impl Random {
    pub fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    /// A number that is likely to be small, or at some limit.
    pub fn number(&mut self) -> u64 {
        const LIMITS: [u64; 12] = [
            0,
            0x3f,
            0x40,
            0x7f,
            0x80,
            0xff,
            0xffff,
            i32::MAX as u64,
            u32::MAX as u64,
            i64::MAX as u64,
            i64::MIN as u64,
            u64::MAX,
        ];
        match self.below(8) {
            0 => self.next(),
            1 => self.next() & 0xffff,
            2 => (self.below(64) as u64).wrapping_neg(),
            3 => self.choose(&LIMITS).wrapping_add(self.below(3) as u64),
            _ => self.below(32) as u64,
        }
    }
}
