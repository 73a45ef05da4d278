//! Numbers that mean something to a loader.
//!
//! ```text
//!   nothing in particular │ near what stands there │ one bit off │ limits of ELF's fields
//! ```

pub use crate::case::Random;

impl Random {
    /// A number that is likely to be at some limit: `near` is one that means something here.
    pub fn number(&mut self, near: u64) -> u64 {
        const LIMITS: [u64; 22] = [
            0,
            1,
            2,
            3,
            4,
            8,
            16,
            0x7f,
            0x80,
            0xff,
            0xfff,
            0x1000,
            0x7fff,
            0xff00,
            0xfff1,
            0xfff2,
            0xffff,
            i32::MAX as u64,
            u32::MAX as u64,
            i64::MAX as u64,
            i64::MIN as u64,
            u64::MAX,
        ];
        let little = self.below(17) as u64;
        match self.below(6) {
            0 => self.next(),
            1 => self.next() & 0xffff,
            2 => near.wrapping_add(little).wrapping_sub(8),
            3 => near ^ 1 << self.below(64),
            4 => near,
            _ => *self.choose(&LIMITS),
        }
    }
}
