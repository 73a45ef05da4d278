//! Which symbols get a GOT slot or a PLT stub, in the object's own memory.
//!
//! ```text
//!   call foo@PLT ──► PLT stub: jmp *slot ──┐
//!                                          ▼
//!   mov foo@GOTPCREL(%rip) ──────────► GOT slot: address of foo
//! ```
//!
//! Slots are counted before the object is placed and before addresses are known, so every callee
//! that is not the object's own gets a stub; a call uses it only if it cannot reach the callee.
//! The GOT lies in read-only memory once the object is sealed.
#![forbid(unsafe_code)]

use alloc::vec;
use alloc::vec::Vec;

/// The slots of one object.
pub(crate) struct Slots {
    got: Vec<Option<u32>>,
    got_count: u32,
    plt: Vec<Option<u32>>,
    plt_count: u32,
}

impl Slots {
    /// None yet, for an object with this many symbols.
    pub fn new(symbols: usize) -> Self {
        Self { got: vec![None; symbols], got_count: 0, plt: vec![None; symbols], plt_count: 0 }
    }

    /// Gives `symbol` a GOT slot, if it has none.
    pub fn add_got(&mut self, symbol: usize) {
        add(&mut self.got[symbol], &mut self.got_count);
    }

    /// Gives `symbol` a PLT stub and the GOT slot that the stub reads.
    pub fn add_plt(&mut self, symbol: usize) {
        add(&mut self.plt[symbol], &mut self.plt_count);
        self.add_got(symbol);
    }

    /// The GOT slot of `symbol`, counted from 0.
    pub fn got(&self, symbol: usize) -> Option<usize> {
        self.got[symbol].map(|slot| slot as usize)
    }

    /// The PLT stub of `symbol`, counted from 0.
    pub fn plt(&self, symbol: usize) -> Option<usize> {
        self.plt[symbol].map(|stub| stub as usize)
    }

    pub fn got_count(&self) -> usize {
        self.got_count as usize
    }

    pub fn plt_count(&self) -> usize {
        self.plt_count as usize
    }
}

/// Gives out the next number. There are at most as many as symbols, whose numbers are `u32`.
fn add(slot: &mut Option<u32>, count: &mut u32) {
    if slot.is_none() {
        *slot = Some(*count);
        *count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbol_gets_one_slot_however_often_it_asks() {
        let mut slots = Slots::new(3);
        slots.add_got(2);
        slots.add_got(2);
        slots.add_got(0);
        assert_eq!((slots.got(0), slots.got(1), slots.got(2)), (Some(1), None, Some(0)));
        assert_eq!(slots.got_count(), 2);
    }

    #[test]
    fn a_stub_brings_the_slot_it_reads() {
        let mut slots = Slots::new(2);
        slots.add_plt(1);
        assert_eq!((slots.plt(1), slots.got(1)), (Some(0), Some(0)));
        slots.add_got(1);
        assert_eq!((slots.plt_count(), slots.got_count()), (1, 1));
    }
}
