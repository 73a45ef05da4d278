//! The only way the unwinder looks at stack memory.
//!
//! ```text
//!  low ──────────────────────────────► high
//!  │ free │ frames …                   │      a word is read if it lies wholly inside
//! ```

use core::ops::Range;

use crate::arch::prefetch;

/// Words ahead of a climb that are fetched, in case they are in no cache of the CPU.
const AHEAD: usize = 128;

/// Answers the one question unwinding has about a stack.
pub trait ReadStack {
    /// The word at `address`, or `None` if it is not wholly inside this stack.
    fn read(&self, address: u64) -> Option<u64>;

    /// So many words right below `end`, if they can be had at once. `None` says nothing: ask for
    /// each by [`read`](Self::read).
    #[inline]
    fn words_below(&self, end: u64, count: u8) -> Option<WordsBelow> {
        let _ = (end, count);
        None
    }

    /// A way up this stack from `sp`, if it lies in this address space.
    #[inline]
    fn climb(&self, sp: u64) -> Option<Climb> {
        let _ = sp;
        None
    }
}

/// Words of a stack that can be read.
#[derive(Clone, Copy, Debug)]
pub struct WordsBelow {
    low: u64,
    /// How many words from there on can be read, up to the end.
    count: u64,
}

impl WordsBelow {
    pub(crate) const NONE: Self = Self { low: 0, count: 0 };

    /// The word that begins so many words below the end.
    ///
    /// # Panics
    ///
    /// `number` is 0, or greater than what was asked for.
    #[inline]
    pub fn get(&self, number: u8) -> u64 {
        self.find(number).expect("one of the words")
    }

    /// As [`get`](Self::get); `None` if the number is 0, or greater than what was asked for.
    #[inline(always)]
    pub fn find(&self, number: u8) -> Option<u64> {
        // Too large also if the number is.
        let place = self.count.wrapping_sub(number.into());
        if place >= self.count {
            return None;
        }
        let low = core::ptr::with_exposed_provenance::<u64>(self.low as usize);
        let word = low.wrapping_add(place as usize);
        // SAFETY: as in `StackBounds::read`, which has made sure of all these words.
        Some(unsafe { word.read_volatile() })
    }
}

/// The way from a place on a stack to its high end, over words that can be read.
///
/// ```text
///  low ─────────────────────────────► high
///           │ at        left words │
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Climb {
    /// Aligned.
    at: u64,
    /// The words from there on can be read.
    left: u64,
}

impl Climb {
    /// Where it is.
    #[inline(always)]
    pub const fn at(&self) -> u64 {
        self.at
    }

    /// Goes up to `end`, which has to be aligned and not beyond the high end: gives the words in
    /// between, if they are more than `further`.
    ///
    /// One comparison says all about `end`: as a distance that is rotated, what is further down,
    /// beyond the end or misaligned is too far away.
    #[inline(always)]
    pub fn to(&mut self, end: u64, further: u8) -> Option<WordsBelow> {
        let between = end.wrapping_sub(self.at).rotate_right(3);
        if between > self.left || between <= u64::from(further) {
            return None;
        }
        let words = WordsBelow { low: self.at, count: between };
        self.at = end;
        self.left -= between;
        prefetch(core::ptr::without_provenance::<u64>(end as usize).wrapping_add(AHEAD));
        Some(words)
    }
}

impl<S: ReadStack + ?Sized> ReadStack for &S {
    fn read(&self, address: u64) -> Option<u64> {
        (**self).read(address)
    }

    fn words_below(&self, end: u64, count: u8) -> Option<WordsBelow> {
        (**self).words_below(end, count)
    }

    #[inline]
    fn climb(&self, sp: u64) -> Option<Climb> {
        (**self).climb(sp)
    }
}

/// A stack on which nothing can be read.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoStack;

impl ReadStack for NoStack {
    fn read(&self, _address: u64) -> Option<u64> {
        None
    }
}

/// A stack in this address space, from its lowest address to one past its highest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackBounds {
    low: u64,
    high: u64,
}

impl StackBounds {
    /// No stack: nothing can be read.
    pub const EMPTY: Self = Self { low: 0, high: 0 };

    /// The stack in `low..high` (bytes).
    ///
    /// # Safety
    ///
    /// As long as the value (or a copy) is used, every byte of `low..high` must be mapped and
    /// readable, and nobody else may write the frames that are walked.
    pub const unsafe fn new(low: u64, high: u64) -> Self {
        Self { low, high }
    }

    /// The addresses of this stack.
    pub const fn range(&self) -> Range<u64> {
        self.low..self.high
    }

    /// The way up all of it.
    #[inline(always)]
    pub(crate) const fn climb_all(&self) -> Option<Climb> {
        let Self { low, high } = *self;
        if !low.is_multiple_of(8) || low > high {
            return None;
        }
        Some(Climb { at: low, left: (high - low) / 8 })
    }

    /// The part of this stack from `low` on, where the frames of the caller and older ones are.
    #[must_use]
    pub fn above(self, low: u64) -> Self {
        Self { low: low.clamp(self.low, self.high), high: self.high }
    }

    /// The part of this stack below `high`.
    #[must_use]
    pub fn below(self, high: u64) -> Self {
        Self { low: self.low, high: high.clamp(self.low, self.high) }
    }
}

impl ReadStack for StackBounds {
    #[inline]
    fn read(&self, address: u64) -> Option<u64> {
        let inside = address >= self.low && address < self.high && self.high - address >= 8;
        if !inside || !address.is_multiple_of(8) {
            return None;
        }
        let word = core::ptr::with_exposed_provenance::<u64>(address as usize);
        // SAFETY:
        // 1. The word lies wholly inside `low..high`, checked above, which whoever made the
        //    value promised to be readable.
        // 2. It is aligned, checked above.
        // 3. Volatile: the compiler knows nothing of the frames that wrote it.
        Some(unsafe { word.read_volatile() })
    }

    #[inline]
    fn words_below(&self, end: u64, count: u8) -> Option<WordsBelow> {
        let (size, count) = (8 * u64::from(count), u64::from(count));
        let inside = self.low <= end && end <= self.high && end - self.low >= size;
        (inside && end.is_multiple_of(8)).then(|| WordsBelow { low: end - size, count })
    }

    #[inline]
    fn climb(&self, sp: u64) -> Option<Climb> {
        let inside = self.low <= sp && sp <= self.high && sp.is_multiple_of(8);
        inside.then(|| Climb { at: sp, left: (self.high - sp) / 8 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_aligned_words_wholly_inside_are_read() {
        let memory = [1u64, 2, 3];
        let low = memory.as_ptr().expose_provenance() as u64;
        // SAFETY: `memory` lives until the end of the test and nobody writes it.
        let stack = unsafe { StackBounds::new(low, low + 20) };
        assert_eq!(stack.read(low), Some(1));
        assert_eq!(stack.read(low + 8), Some(2));
        assert_eq!(stack.read(low + 16), None, "only four bytes are left");
        assert_eq!(stack.read(low + 4), None, "misaligned");
        assert_eq!(stack.read(low - 8), None);
        assert_eq!(stack.read(u64::MAX - 7), None);
        assert_eq!(StackBounds::EMPTY.read(0), None);
    }

    #[test]
    fn words_are_had_at_once_if_all_are_inside() {
        let memory = [1u64, 2, 3];
        let low = memory.as_ptr().expose_provenance() as u64;
        // SAFETY: `memory` lives until the end of the test and nobody writes it.
        let stack = unsafe { StackBounds::new(low, low + 24) };
        let words = stack.words_below(low + 24, 3).unwrap();
        assert_eq!([1, 2, 3].map(|number| words.get(number)), [3, 2, 1]);
        assert!(std::panic::catch_unwind(|| words.get(0)).is_err());
        assert!(std::panic::catch_unwind(|| words.get(4)).is_err());
        assert!(stack.words_below(low + 16, 2).is_some());
        for (end, count) in
            [(low + 24, 4), (low + 16, 3), (low + 20, 1), (low + 32, 1), (low - 8, 1), (0, 255)]
        {
            assert!(stack.words_below(end, count).is_none(), "{count} below {end:#x}");
        }
    }

    #[test]
    fn a_stack_can_be_narrowed_but_never_widened() {
        // SAFETY: nothing is read through it.
        let stack = unsafe { StackBounds::new(100, 200) };
        assert_eq!(stack.above(150).below(180).range(), 150..180);
        assert_eq!(stack.above(50).below(300).range(), 100..200);
        assert_eq!(stack.above(500).range(), 200..200);
    }
}
