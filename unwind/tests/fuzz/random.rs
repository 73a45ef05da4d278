//! Numbers that look random and are the same every time.
//!
//! ```text
//!   seed of a run + number of a case ──► splitmix64 ──► every choice that the case makes
//! ```
//!
//! So a case can be repeated alone, from two numbers.

/// A generator (splitmix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators").
pub struct Random(u64);

impl Random {
    pub fn new(run: u64, case: u64) -> Self {
        let mut random = Self(run);
        random.0 = random.next() ^ case;
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `end`; 0 if there is none.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    pub fn byte(&mut self) -> u8 {
        self.next() as u8
    }

    /// Once in so many times.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn choose<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
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
