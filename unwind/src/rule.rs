//! A row in sixteen bytes: enough for all but two in a thousand.
//!
//! ```text
//!   0         4          8      9                             15        16
//!   │ cfa: +n │ args     │ bits │ rbx rbp r12 r13 r14 r15     │ further │
//!                          │      └ saved at CFA − 8·k; 0: not saved    └ the largest k, less one
//!                          └ base rbp, else rsp · end of stack · signal frame
//! ```
//!
//! The return address is at CFA − 8 and the caller's stack pointer is the CFA, as every compiled
//! function has them. Applying a rule is a handful of loads; no DWARF is looked at.
#![forbid(unsafe_code)]

use core::fmt;

use crate::cfi::{CfaRule, RegisterRule, Row};
use crate::cursor::Step;
use crate::error::UnwindError;
use crate::registers::{Register, Registers};
use crate::stack::{ReadStack, WordsBelow};

/// Bytes of a stack slot.
const WORD: i32 = 8;

/// The callee-saved registers of the System V ABI besides `rsp` (psABI x86-64 §3.2.1).
const SAVED: [Register; 6] =
    [Register::RBX, Register::RBP, Register::R12, Register::R13, Register::R14, Register::R15];

/// Where `rbp` is among them.
const RBP: usize = 1;

/// The CFA is relative to `rbp`; otherwise to `rsp`.
pub(crate) const BASE_RBP: u8 = 1;
/// The return address is undefined: the frame is the outermost.
const END: u8 = 2;
/// The caller is to be looked up at its exact address.
const SIGNAL_FRAME: u8 = 4;
/// The bits of [`Rule::places`] that no rule of a [table](crate::table) has.
const OTHER: u64 = !(BASE_RBP | END) as u64;
/// Where the byte of [`Rule::places`] stands that tells how far they reach.
const FURTHER: u32 = 56;
/// The bytes of [`Rule::places`] with registers.
const REGISTERS: u64 = 0x00ff_ffff_ffff_ff00;

/// The common shape of a [`Row`]: CFA = rsp or rbp + n, the return address at CFA − 8,
/// callee-saved registers below it.
///
/// Two words, so that a rule is loaded, compared and cached as such.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Rule {
    /// The CFA's offset from its base in the lower half, the size of arguments in the upper one.
    offsets: u64,
    /// The bits in the lowest byte, then a byte for each register of [`SAVED`].
    places: u64,
}

static_assertions::const_assert_eq!(size_of::<Rule>(), 16);

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base = if self.has(BASE_RBP) { "rbp" } else { "rsp" };
        write!(f, "cfa={base}{:+}", self.cfa_offset())?;
        for (place, register) in SAVED.into_iter().enumerate() {
            match self.slots(place) {
                0 => {}
                slots => write!(f, " {register:?}=[cfa-{}]", u64::from(slots) * WORD as u64)?,
            }
        }
        if self.has(END) { f.write_str(" end") } else { Ok(()) }
    }
}

/// The largest of the slots, less one: the return address is in the first.
const fn further(saved: &[u8; SAVED.len()]) -> u64 {
    let (mut depth, mut place) = (1, 0);
    while place < saved.len() {
        depth = if saved[place] > depth { saved[place] } else { depth };
        place += 1;
    }
    depth as u64 - 1
}

impl Rule {
    /// The registers that it has places for, in their order.
    pub(crate) const SAVED: [Register; 6] = SAVED;

    /// The frame is the outermost.
    pub(crate) const END_OF_STACK: Self = Self::new(END, 0, 0, [0; SAVED.len()]);

    /// No way to the caller, but what a landing pad must pop.
    pub(crate) const fn with_args_size(args_size: u32) -> Self {
        Self::new(END, 0, args_size, [0; SAVED.len()])
    }

    pub(crate) const fn new(
        bits: u8,
        cfa_offset: i32,
        args_size: u32,
        saved: [u8; SAVED.len()],
    ) -> Self {
        let [a, b, c, d, e, f] = saved;
        let places = u64::from_le_bytes([bits, a, b, c, d, e, f, 0]);
        Self {
            offsets: cfa_offset as u32 as u64 | (args_size as u64) << 32,
            places: places | further(&saved) << FURTHER,
        }
    }

    /// The rule of a signal frame.
    pub(crate) const fn of_signal_frame(self) -> Self {
        Self { places: self.places | SIGNAL_FRAME as u64, ..self }
    }

    /// Whether the caller is to be looked up at its exact address.
    #[inline]
    pub(crate) const fn is_of_signal_frame(self) -> bool {
        self.has(SIGNAL_FRAME)
    }

    /// The rule as two words.
    pub(crate) const fn to_words(self) -> [u64; 2] {
        [self.offsets, self.places]
    }

    /// The rule that [`to_words`](Self::to_words) gave.
    pub(crate) const fn from_words([offsets, places]: [u64; 2]) -> Self {
        Self { offsets, places }
    }

    /// The rule of words that may be anything: `None` if no rule is like that.
    ///
    /// What says how far the places reach is taken as it is. What is too little finds nothing in a place
    /// ([`WordsBelow::find`]).
    #[inline(always)]
    pub(crate) const fn from_table([offsets, places]: [u64; 2]) -> Option<Self> {
        let rule = Self { offsets, places };
        let is_rule = places & OTHER == 0 && rule.further() != u8::MAX;
        if is_rule { Some(rule) } else { None }
    }

    const fn has(self, bit: u8) -> bool {
        self.places & bit as u64 != 0
    }

    const fn cfa_offset(self) -> i32 {
        self.offsets as u32 as i32
    }

    /// How many slots below the CFA the register at this place of [`SAVED`] is; 0: not saved.
    const fn slots(self, place: usize) -> u8 {
        self.saves().slots(place)
    }

    /// The rule that says the same as `row`, or `None` if the row needs DWARF.
    pub fn from_row(row: &Row) -> Option<Self> {
        let (base, cfa_offset) = match row.cfa {
            CfaRule::Offset(Register::RSP, offset) => (0, offset),
            CfaRule::Offset(Register::RBP, offset) => (BASE_RBP, offset),
            _ => return None,
        };
        let end = match row.rule(Register::RA) {
            RegisterRule::Offset(offset) if offset == -WORD => 0,
            RegisterRule::Undefined => END,
            _ => return None,
        };
        let mut saved_at = [0; SAVED.len()];
        for register in Register::all() {
            match row.rule(register) {
                RegisterRule::Unspecified | RegisterRule::SameValue => {}
                _ if register == Register::RA => {}
                RegisterRule::Offset(offset) => {
                    let place = SAVED.iter().position(|&saved| saved == register)?;
                    saved_at[place] = slot(offset)?;
                }
                _ => return None,
            }
        }
        Some(Self::new(base | end, cfa_offset, row.args_size, saved_at))
    }

    /// Bytes of arguments that a landing pad must pop (`DW_CFA_GNU_args_size`).
    pub const fn args_size(&self) -> u32 {
        (self.offsets >> 32) as u32
    }

    /// Whether there is no caller, or it is to be looked up at its exact address.
    #[inline(always)]
    pub(crate) const fn is_unusual(self) -> bool {
        self.places & (END | SIGNAL_FRAME) as u64 != 0
    }

    /// The CFA, given the two registers that it may be relative to.
    #[inline(always)]
    pub(crate) const fn cfa_of(self, sp: u64, rbp: u64) -> u64 {
        let base = if self.has(BASE_RBP) { rbp } else { sp };
        base.wrapping_add_signed(self.cfa_offset() as i64)
    }

    /// How many slots below the return address's the lowest one is that is read.
    #[inline(always)]
    pub(crate) const fn further(self) -> u8 {
        (self.places >> FURTHER) as u8
    }

    /// How many slots below the CFA `rbp` is saved; 0: not saved.
    #[inline(always)]
    pub(crate) const fn rbp_slots(self) -> u8 {
        self.slots(RBP)
    }

    /// The saved registers, as where each is.
    #[inline(always)]
    pub(crate) const fn saves(self) -> Saves {
        Saves(self.places)
    }

    /// The canonical frame address, given the registers of the frame.
    #[inline]
    pub const fn cfa(&self, registers: &Registers) -> u64 {
        // Not the choice of a place in memory: registers may live in registers.
        self.cfa_of(registers.sp(), registers.get(Register::RBP))
    }

    /// As [`apply`](Self::apply), and gives the CFA, if there is nothing unusual about the frame
    /// and its stack; otherwise nothing is changed.
    #[inline(always)]
    pub(crate) fn apply_usual(
        &self,
        registers: &mut Registers,
        stack: &impl ReadStack,
    ) -> Option<u64> {
        let cfa = self.cfa(registers);
        if self.is_unusual() || cfa <= registers.sp() {
            return None;
        }
        let words = stack.words_below(cfa, self.saves().depth())?;
        let ip @ 1.. = words.get(1) else { return None };
        registers.set(Register::RA, ip);
        registers.set(Register::RSP, cfa);
        // Many frames save nothing.
        if !self.saves().is_empty() {
            self.saves().read(&words, registers);
        }
        Some(cfa)
    }

    /// Replaces the registers of a frame by those of its caller.
    ///
    /// # Errors
    ///
    /// [`UnwindError::CfaNotAbove`] or [`UnwindError::StackRead`]; the registers are then those of
    /// no frame. `pc` is only for these.
    pub fn apply(
        &self,
        pc: u64,
        registers: &mut Registers,
        stack: &impl ReadStack,
    ) -> Result<Step, UnwindError> {
        if self.has(END) {
            return Ok(Step::End);
        }
        let cfa = self.cfa(registers);
        if cfa <= registers.sp() {
            return Err(UnwindError::CfaNotAbove { pc, cfa, sp: registers.sp() });
        }
        self.read_all(pc, cfa, registers, stack)
    }

    fn read_all(
        self,
        pc: u64,
        cfa: u64,
        registers: &mut Registers,
        stack: &impl ReadStack,
    ) -> Result<Step, UnwindError> {
        let read = |slots: u8| {
            let address = cfa.wrapping_sub(u64::from(slots) * WORD as u64);
            stack.read(address).ok_or(UnwindError::StackRead { pc, address })
        };
        registers.set(Register::RA, read(1)?);
        registers.set(Register::RSP, cfa);
        for (place, register) in SAVED.into_iter().enumerate() {
            match self.slots(place) {
                0 => {}
                slots => registers.set(register, read(slots)?),
            }
        }
        Ok(Step::Caller { cfa })
    }
}

/// Which registers a frame saved, and where: a [`Rule`]'s.
#[derive(Clone, Copy)]
pub(crate) struct Saves(u64);

impl Saves {
    pub(crate) const NOTHING: Self = Self(0);

    /// These, too: which they are, and not where.
    #[inline(always)]
    pub(crate) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// All of a register that is saved by one of those that were put together.
    pub(crate) const fn whole(self) -> Self {
        const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
        let high = (self.0 & LOW).wrapping_add(LOW) | self.0;
        Self((((high & !LOW) >> 7) * 0xff) & REGISTERS)
    }

    /// These without those of the others.
    pub(crate) const fn without(self, others: Self) -> Self {
        Self(self.0 & !others.whole().0)
    }

    /// These as far as they are among the others, which are [`whole`](Self::whole).
    pub(crate) const fn of(self, others: Self) -> Self {
        Self(self.0 & (others.0 | !REGISTERS))
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.0 & REGISTERS == 0
    }

    /// How many slots below the CFA the register at this place of [`SAVED`] is; 0: not saved.
    const fn slots(self, place: usize) -> u8 {
        (self.0 >> (8 * (place + 1))) as u8
    }

    /// How many slots below the CFA the lowest one is that is read.
    const fn depth(self) -> u8 {
        (self.0 >> 56) as u8 + 1
    }

    /// Reads the registers of the frame with this CFA.
    pub(crate) fn restore(self, cfa: u64, registers: &mut Registers, stack: &impl ReadStack) {
        if let Some(words) = stack.words_below(cfa, self.depth()) {
            self.read(&words, registers);
        }
    }

    #[inline(always)]
    pub(crate) fn read(self, words: &WordsBelow, registers: &mut Registers) {
        // Most are not saved, which testing a half of the word says soonest.
        let halves = [self.0 as u32, (self.0 >> 32) as u32];
        for (place, register) in SAVED.into_iter().enumerate() {
            let byte = place + 1;
            let is_saved = halves[byte / 4] & 0xff << (8 * (byte % 4)) != 0;
            if is_saved && let Some(value) = words.find(self.slots(place)) {
                registers.set(register, value);
            }
        }
    }
}

/// A CFA-relative offset in bytes as slots below the CFA.
fn slot(offset: i32) -> Option<u8> {
    if offset >= 0 || offset % WORD != 0 {
        return None;
    }
    u8::try_from(-(offset / WORD)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_slots_below_the_cfa_fit() {
        assert_eq!(slot(-8), Some(1));
        assert_eq!(slot(-8 * 255), Some(255));
        assert_eq!(slot(-8 * 256), None);
        assert_eq!(slot(-12), None);
        assert_eq!(slot(0), None);
        assert_eq!(slot(8), None);
    }

    struct Words<'a>(u64, &'a [u64]);

    impl ReadStack for Words<'_> {
        fn read(&self, address: u64) -> Option<u64> {
            self.1.get(usize::try_from(address.checked_sub(self.0)? / 8).ok()?).copied()
        }
    }

    const RULE: Rule = Rule::new(0, 24, 0, [2, 0, 0, 0, 0, 3]);

    #[test]
    fn a_rule_keeps_what_it_was_made_of() {
        let rule = Rule::new(BASE_RBP, -24, 0xffff_fff0, [1, 2, 3, 4, 5, 255]);
        assert_eq!(Rule::from_words(rule.to_words()), rule);
        assert_eq!((rule.cfa_offset(), rule.args_size()), (-24, 0xffff_fff0));
        assert_eq!(core::array::from_fn(|place| rule.slots(place)), [1, 2, 3, 4, 5, 255]);
        assert!(rule.has(BASE_RBP) && !rule.has(END));
    }

    #[test]
    fn a_rule_reads_the_saved_registers_and_keeps_the_others() {
        let mut registers = Registers::new().with(Register::RSP, 0x1000).with(Register::R12, 0x12);
        let stack = Words(0x1000, &[15, 3, 0xabc]);
        assert_eq!(RULE.apply(1, &mut registers, &stack), Ok(Step::Caller { cfa: 0x1018 }));
        assert_eq!(registers.ip(), 0xabc);
        assert_eq!(registers.sp(), 0x1018);
        assert_eq!(registers.get(Register::RBX), 3);
        assert_eq!(registers.get(Register::R12), 0x12);
        assert_eq!(registers.get(Register::R15), 15);
    }

    #[test]
    fn a_missing_word_is_an_error_with_its_address() {
        let mut registers = Registers::new().with(Register::RSP, 0x1000);
        let stack = Words(0x1008, &[3, 0xabc]);
        assert_eq!(
            RULE.apply(1, &mut registers, &stack),
            Err(UnwindError::StackRead { pc: 1, address: 0x1000 })
        );
    }

    #[test]
    fn a_cfa_that_does_not_grow_is_an_error() {
        let rule = Rule::new(BASE_RBP, 24, 0, [2, 0, 0, 0, 0, 3]);
        let mut registers = Registers::new().with(Register::RSP, 0x1000).with(Register::RBP, 0xfe8);
        assert_eq!(
            rule.apply(1, &mut registers, &Words(0, &[])),
            Err(UnwindError::CfaNotAbove { pc: 1, cfa: 0x1000, sp: 0x1000 })
        );
    }
}
