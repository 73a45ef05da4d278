//! Guesses what memory a block of a module needs, without the registry's lock.
//!
//! ```text
//!  number modulo 64 ─► │ size, alignment │        of one of the modules with such a number
//! ```
//!
//! A right guess saves a task's first access one of two rounds under the lock. A wrong one costs an
//! allocation that is given back.
#![forbid(unsafe_code)]

use core::alloc::Layout;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::modules::ModuleId;

const PLACES: usize = 64;
/// Bits of a word for the logarithm of the alignment. The rest is the size.
const ALIGN_BITS: u32 = 6;

/// The guesses. Zero: nothing known.
#[derive(Debug)]
pub(crate) struct Shapes([AtomicUsize; PLACES]);

impl Shapes {
    /// Nothing known.
    pub(crate) const fn new() -> Self {
        Self([const { AtomicUsize::new(0) }; PLACES])
    }

    /// Blocks of this module need this memory.
    pub(crate) fn learn(&self, module: ModuleId, memory: Layout) {
        let word = memory.size().checked_shl(ALIGN_BITS).unwrap_or_default();
        let word = word | memory.align().ilog2() as usize;
        self.0[module.get() % PLACES].store(word, Ordering::Relaxed);
    }

    /// What blocks of this module need, perhaps.
    pub(crate) fn guess(&self, module: ModuleId) -> Option<Layout> {
        let word = self.0[module.get() % PLACES].load(Ordering::Relaxed);
        let align = 1 << (word % (1 << ALIGN_BITS));
        let size = word >> ALIGN_BITS;
        Layout::from_size_align(size, align).ok().filter(|_| size > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learnt_last_is_guessed() {
        let shapes = Shapes::new();
        let module = |number| ModuleId::new(number).unwrap();
        assert_eq!(shapes.guess(module(3)), None);
        for (size, align) in [(24, 8), (100, 4096), (1 << 40, 1 << 21)] {
            let memory = Layout::from_size_align(size, align).unwrap();
            shapes.learn(module(3), memory);
            assert_eq!(shapes.guess(module(3)), Some(memory));
            assert_eq!(shapes.guess(module(3 + PLACES)), Some(memory));
        }
        assert_eq!(shapes.guess(module(4)), None);
    }
}
