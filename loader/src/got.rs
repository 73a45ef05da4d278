//! Which symbols get words in the GOT or a PLT stub, in the object's own memory.
//!
//! ```text
//!   call foo@PLT ──► PLT stub: jmp *slot ──┐
//!                                          ▼
//!   mov foo@GOTPCREL(%rip) ──────────► address of foo
//!   add x@gottpoff(%rip) ────────────► TPOFF(x)
//!   lea x@tlsgd(%rip) ───────────────► module of x │ DTPOFF(x)     for __tls_get_addr
//!                                          ▲
//!   lea x@tlsdesc(%rip) ─────────────► resolver │ argument
//! ```
//!
//! Slots are counted before the object is placed and before addresses are known. So every callee
//! that is not the object's own gets a stub, which is used only if the callee is out of reach, and
//! every access by a dynamic TLS model gets its pair, which is used only if the variable does not
//! lie at a fixed distance from TP. The GOT lies in read-only memory once the object is sealed.
#![forbid(unsafe_code)]

use alloc::collections::TryReserveError;
use alloc::vec::Vec;

use crate::fallible::filled;

/// What a slot of the GOT holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Slot {
    /// One word: the symbol's address.
    Address,
    /// One word: the symbol's offset from TP.
    TpOffset,
    /// Two words: the symbol's module and its offset in there (ELF TLS §3.4.6, `tls_index`).
    Pair,
    /// Two words: a TLS descriptor. Its argument is the symbol's pair.
    Descriptor,
}

impl Slot {
    const COUNT: usize = 4;

    const fn words(self) -> u64 {
        match self {
            Self::Address | Self::TpOffset => 1,
            Self::Pair | Self::Descriptor => 2,
        }
    }
}

/// The slots of one object.
pub(crate) struct Slots {
    symbols: usize,
    /// By kind of slot and symbol: the first word. Empty where no symbol has such a slot.
    got: [Vec<Option<u32>>; Slot::COUNT],
    /// The pair for the start of the object's own block.
    own_block: Option<u32>,
    got_words: u64,
    plt: Vec<Option<u32>>,
    plt_count: u64,
}

impl Slots {
    /// None yet, for an object with this many symbols.
    pub fn new(symbols: usize) -> Result<Self, TryReserveError> {
        Ok(Self {
            symbols,
            got: [const { Vec::new() }; Slot::COUNT],
            own_block: None,
            got_words: 0,
            plt: filled(None, symbols)?,
            plt_count: 0,
        })
    }

    /// Gives `symbol` a slot of this kind, if it has none.
    pub fn add_got(&mut self, slot: Slot, symbol: usize) -> Result<(), TryReserveError> {
        let table = &mut self.got[slot as usize];
        if table.is_empty() {
            *table = filled(None, self.symbols)?;
        }
        if take(&mut table[symbol], &mut self.got_words, slot.words()) && slot == Slot::Descriptor {
            self.add_got(Slot::Pair, symbol)?;
        }
        Ok(())
    }

    /// Makes a pair for the object's own block, if there is none.
    pub fn add_own_block(&mut self) {
        take(&mut self.own_block, &mut self.got_words, Slot::Pair.words());
    }

    /// Gives `symbol` a PLT stub and the GOT slot that the stub reads.
    pub fn add_plt(&mut self, symbol: usize) -> Result<(), TryReserveError> {
        take(&mut self.plt[symbol], &mut self.plt_count, 1);
        self.add_got(Slot::Address, symbol)
    }

    /// The first word of a slot of `symbol`, counted from the start of the GOT.
    pub fn got(&self, slot: Slot, symbol: usize) -> Option<usize> {
        self.got[slot as usize].get(symbol)?.map(|word| word as usize)
    }

    /// The first word of the pair for the object's own block.
    pub fn own_block(&self) -> Option<usize> {
        self.own_block.map(|word| word as usize)
    }

    /// The PLT stub of `symbol`, counted from 0.
    pub fn plt(&self, symbol: usize) -> Option<usize> {
        self.plt[symbol].map(|stub| stub as usize)
    }

    pub fn got_words(&self) -> u64 {
        self.got_words
    }

    pub fn plt_count(&self) -> u64 {
        self.plt_count
    }
}

/// Gives out the next number, and `size - 1` after it, to who has none; whether it did. Objects
/// with so many that the numbers do not fit are too large to be placed.
fn take(slot: &mut Option<u32>, next: &mut u64, size: u64) -> bool {
    let new = slot.is_none();
    if new {
        *slot = Some(*next as u32);
        *next += size;
    }
    new
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbol_gets_one_slot_however_often_it_asks() {
        let mut slots = Slots::new(3).unwrap();
        slots.add_got(Slot::Address, 2).unwrap();
        slots.add_got(Slot::Address, 2).unwrap();
        slots.add_got(Slot::Address, 0).unwrap();
        let address = |symbol| slots.got(Slot::Address, symbol);
        assert_eq!((address(0), address(1), address(2)), (Some(1), None, Some(0)));
        assert_eq!(slots.got_words(), 2);
    }

    #[test]
    fn a_stub_brings_the_slot_it_reads() {
        let mut slots = Slots::new(2).unwrap();
        slots.add_plt(1).unwrap();
        assert_eq!((slots.plt(1), slots.got(Slot::Address, 1)), (Some(0), Some(0)));
        slots.add_got(Slot::Address, 1).unwrap();
        assert_eq!((slots.plt_count(), slots.got_words()), (1, 1));
    }

    #[test]
    fn slots_of_two_words_do_not_overlap_and_descriptors_bring_their_pairs() {
        let mut slots = Slots::new(2).unwrap();
        slots.add_got(Slot::Pair, 0).unwrap();
        slots.add_own_block();
        slots.add_got(Slot::Descriptor, 1).unwrap();
        slots.add_got(Slot::Descriptor, 0).unwrap();
        slots.add_got(Slot::TpOffset, 1).unwrap();
        slots.add_own_block();
        let got = |slot, symbol| slots.got(slot, symbol).unwrap();
        assert_eq!((got(Slot::Pair, 0), slots.own_block().unwrap()), (0, 2));
        assert_eq!((got(Slot::Descriptor, 1), got(Slot::Pair, 1)), (4, 6));
        assert_eq!((got(Slot::Descriptor, 0), got(Slot::TpOffset, 1)), (8, 10));
        assert_eq!(slots.got_words(), 11);
    }
}
