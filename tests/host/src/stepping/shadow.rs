//! What every `call` pushed and found, by the address of the word that it pushed.
//!
//! ```text
//!   stack A                              stack B
//!   │ call ▪ │ … │ call ▪ │ … │ rsp      │ call ▪ │ …         (a task that waits)
//!     └ return address, rsp and rbx … r15 before the call
//! ```
//!
//! An entry is live as long as the stack pointer is not above its word: returning, longjmp and
//! landing all end it alike. What is in one mapping is one stack.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::Range;

use unspool_unwind::{Register, Registers};

/// The registers that a call preserves (psABI x86-64 §3.2.1), `rsp` aside.
pub const SAVED: [Register; 6] =
    [Register::RBX, Register::RBP, Register::R12, Register::R13, Register::R14, Register::R15];

/// How a frame came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// By a `call`.
    Call,
    /// By the system, for a signal's handler.
    Handler,
    /// It is what a handler returns to, or what it sent the interrupted code to.
    Interrupted,
}

/// The caller of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// How the frame came to be.
    pub origin: Origin,
    /// Where the caller goes on.
    pub ip: u64,
    /// The stack pointer it has then.
    pub sp: u64,
    /// Its [`SAVED`] registers.
    pub saved: [u64; SAVED.len()],
}

impl Caller {
    /// What these registers are to a frame above, to which it returns at `ip`.
    pub fn new(origin: Origin, ip: u64, registers: &Registers) -> Self {
        let saved = SAVED.map(|register| registers.get(register));
        Self { origin, ip, sp: registers.sp(), saved }
    }
}

/// The stacks of calls of one process.
#[derive(Default)]
pub struct Shadow(BTreeMap<u64, Caller>);

impl Shadow {
    /// The stack pointer is `sp` now, on the stack in `stack`: what lies below it is dead.
    pub fn settle(&mut self, stack: &Range<u64>, sp: u64) {
        while let Some((&slot, _)) = self.0.range(stack.start..sp.max(stack.start)).next() {
            self.0.remove(&slot);
        }
    }

    /// A word was pushed at `slot` with which the frame returns to `caller`.
    pub fn push(&mut self, slot: u64, caller: Caller) {
        self.0.insert(slot, caller);
    }

    /// The caller of the frame whose stack pointer is `sp`, if it was called under our eyes.
    pub fn caller(&self, stack: &Range<u64>, sp: u64) -> Option<&Caller> {
        self.0.range(sp..stack.end.max(sp)).next().map(|(_, caller)| caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STACK: Range<u64> = 0x1000..0x2000;

    fn call(shadow: &mut Shadow, sp: u64, ip: u64) {
        let registers = Registers::new().with(Register::RSP, sp);
        shadow.settle(&STACK, sp - 8);
        shadow.push(sp - 8, Caller::new(Origin::Call, ip, &registers));
    }

    #[test]
    fn returning_uncovers_the_caller_and_a_landing_more_than_one() {
        let mut shadow = Shadow::default();
        for n in 1..=3 {
            call(&mut shadow, 0x2000 - 0x100 * n, n);
        }
        let innermost = |shadow: &Shadow, sp| shadow.caller(&STACK, sp).map(|caller| caller.ip);
        assert_eq!(innermost(&shadow, 0x1c00), Some(3));
        shadow.settle(&STACK, 0x1d00);
        assert_eq!(innermost(&shadow, 0x1c00), Some(2), "the third is gone, even from below");
        shadow.settle(&STACK, 0x1f00);
        assert_eq!(innermost(&shadow, 0x1c00), None);
    }

    #[test]
    fn another_stack_keeps_its_calls() {
        let mut shadow = Shadow::default();
        call(&mut shadow, 0x1800, 1);
        shadow.settle(&(0x3000..0x4000), 0x3f00);
        assert_eq!(shadow.caller(&(0x3000..0x4000), 0x3f00).map(|caller| caller.ip), None);
        assert_eq!(
            shadow.caller(&STACK, 0x1700).map(|caller| (caller.ip, caller.sp)),
            Some((1, 0x1800))
        );
    }
}
