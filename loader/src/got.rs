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
    /// One word: the address that the resolver of an indirect function returns.
    Indirect,
}

impl Slot {
    const COUNT: usize = 5;

    const fn words(self) -> u64 {
        match self {
            Self::Address | Self::TpOffset | Self::Indirect => 1,
            Self::Pair | Self::Descriptor => 2,
        }
    }
}

/// The slots of one symbol, by kind: the first word of each.
#[derive(Clone, Copy, Default)]
struct SlotSet {
    got: [Option<u32>; Slot::COUNT],
    plt: Option<u32>,
}

/// Which slots are a symbol's, if it has any.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SlotNumber(u32);

impl SlotNumber {
    /// None.
    pub const NONE: Self = Self(u32::MAX);
}

/// The slots of one object.
#[derive(Default)]
pub(crate) struct Slots {
    /// Of the symbols that have any.
    sets: Vec<SlotSet>,
    /// The pair for the start of the object's own block.
    own_block: Option<u32>,
    got_words: u64,
    plt_count: u64,
}

impl Slots {
    /// The slots of a symbol; `number` is theirs, or will be.
    fn of(&mut self, number: &mut SlotNumber) -> Result<&mut SlotSet, TryReserveError> {
        if *number == SlotNumber::NONE {
            self.sets.try_reserve(1)?;
            *number = SlotNumber(self.sets.len() as u32);
            self.sets.push(SlotSet::default());
        }
        Ok(&mut self.sets[number.0 as usize])
    }

    /// Gives a symbol a slot of this kind, if it has none.
    pub fn add_got(&mut self, slot: Slot, number: &mut SlotNumber) -> Result<(), TryReserveError> {
        let mut next = self.got_words;
        let set = self.of(number)?;
        take(&mut set.got[slot as usize], &mut next, slot.words());
        if slot == Slot::Descriptor {
            take(&mut set.got[Slot::Pair as usize], &mut next, Slot::Pair.words());
        }
        self.got_words = next;
        Ok(())
    }

    /// Makes a pair for the object's own block, if there is none.
    pub fn add_own_block(&mut self) {
        take(&mut self.own_block, &mut self.got_words, Slot::Pair.words());
    }

    /// Gives a symbol a PLT stub and the GOT slot that the stub reads.
    pub fn add_plt(&mut self, number: &mut SlotNumber) -> Result<(), TryReserveError> {
        self.add_stub(number, Slot::Address)
    }

    /// Gives an indirect function a PLT stub and the GOT slot that the stub reads.
    pub fn add_indirect(&mut self, number: &mut SlotNumber) -> Result<(), TryReserveError> {
        self.add_stub(number, Slot::Indirect)
    }

    fn add_stub(&mut self, number: &mut SlotNumber, slot: Slot) -> Result<(), TryReserveError> {
        let mut next = self.plt_count;
        take(&mut self.of(number)?.plt, &mut next, 1);
        self.plt_count = next;
        self.add_got(slot, number)
    }

    /// The first word of a slot of a symbol, counted from the start of the GOT.
    pub fn got(&self, slot: Slot, number: SlotNumber) -> Option<usize> {
        self.sets.get(number.0 as usize)?.got[slot as usize].map(|word| word as usize)
    }

    /// The first word of the pair for the object's own block.
    pub fn own_block(&self) -> Option<usize> {
        self.own_block.map(|word| word as usize)
    }

    /// The PLT stub of a symbol, counted from 0.
    pub fn plt(&self, number: SlotNumber) -> Option<usize> {
        self.sets.get(number.0 as usize)?.plt.map(|stub| stub as usize)
    }

    pub fn got_words(&self) -> u64 {
        self.got_words
    }

    pub fn plt_count(&self) -> u64 {
        self.plt_count
    }
}

/// Gives out the next number, and `size - 1` after it, to who has none. Objects with so many that
/// the numbers do not fit are too large to be placed.
fn take(slot: &mut Option<u32>, next: &mut u64, size: u64) {
    if slot.is_none() {
        *slot = Some(*next as u32);
        *next += size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbol_gets_one_slot_however_often_it_asks() {
        let (mut slots, [mut zero, mut two]) = (Slots::default(), [SlotNumber::NONE; 2]);
        slots.add_got(Slot::Address, &mut two).unwrap();
        slots.add_got(Slot::Address, &mut two).unwrap();
        slots.add_got(Slot::Address, &mut zero).unwrap();
        let address = |number| slots.got(Slot::Address, number);
        assert_eq!(
            (address(zero), address(SlotNumber::NONE), address(two)),
            (Some(1), None, Some(0))
        );
        assert_eq!(slots.got_words(), 2);
    }

    #[test]
    fn a_stub_brings_the_slot_it_reads() {
        let (mut slots, mut one) = (Slots::default(), SlotNumber::NONE);
        slots.add_plt(&mut one).unwrap();
        assert_eq!((slots.plt(one), slots.got(Slot::Address, one)), (Some(0), Some(0)));
        slots.add_got(Slot::Address, &mut one).unwrap();
        slots.add_plt(&mut one).unwrap();
        assert_eq!((slots.plt_count(), slots.got_words()), (1, 1));
    }

    #[test]
    fn the_stub_of_an_indirect_function_does_not_read_its_address() {
        let (mut slots, mut one) = (Slots::default(), SlotNumber::NONE);
        slots.add_indirect(&mut one).unwrap();
        slots.add_got(Slot::Address, &mut one).unwrap();
        let got = |slot| slots.got(slot, one);
        assert_eq!(
            (slots.plt(one), got(Slot::Indirect), got(Slot::Address)),
            (Some(0), Some(0), Some(1))
        );
    }

    #[test]
    fn slots_of_two_words_do_not_overlap_and_descriptors_bring_their_pairs() {
        let (mut slots, mut numbers) = (Slots::default(), [SlotNumber::NONE; 2]);
        slots.add_got(Slot::Pair, &mut numbers[0]).unwrap();
        slots.add_own_block();
        slots.add_got(Slot::Descriptor, &mut numbers[1]).unwrap();
        slots.add_got(Slot::Descriptor, &mut numbers[0]).unwrap();
        slots.add_got(Slot::TpOffset, &mut numbers[1]).unwrap();
        slots.add_own_block();
        let got = |slot, symbol: usize| slots.got(slot, numbers[symbol]).unwrap();
        assert_eq!((got(Slot::Pair, 0), slots.own_block().unwrap()), (0, 2));
        assert_eq!((got(Slot::Descriptor, 1), got(Slot::Pair, 1)), (4, 6));
        assert_eq!((got(Slot::Descriptor, 0), got(Slot::TpOffset, 1)), (8, 10));
        assert_eq!(slots.got_words(), 11);
    }
}
