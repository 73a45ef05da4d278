//! Goes through frames that are remembered, and asks nobody.
//!
//! ```text
//!   registers, where they were captured ─ look ─► what is known ─ leave ─► the caller's, there
//!                                           └─► nothing: a Context goes on from there
//! ```
//!
//! Most frames that an exception goes through, or lands in, are of this kind: they have no personality,
//! or the one whose answers are known. Registers stay in place, and nothing is kept that a landing
//! would not need.
#![forbid(unsafe_code)]

use crate::address::Pc;
use crate::cache::Trail;
use crate::environment::Everywhere;
use crate::known::Known;
use crate::modules::FindModule as _;
use crate::registers::Registers;
use crate::rule::Rule;
use crate::stack::{ReadStack as _, StackBounds};

/// A position in a walk of frames that are remembered.
pub(crate) struct Glide<'r> {
    pub(crate) registers: &'r mut Registers,
    pub(crate) pc: Pc,
    stack: StackBounds,
    trail: Trail,
}

/// Where a [`Glide`] could not go on, and what it knows of the frame.
pub(crate) struct Stop<'r> {
    pub(crate) registers: &'r Registers,
    pub(crate) pc: Pc,
    pub(crate) stack: StackBounds,
    pub(crate) trail: Trail,
    pub(crate) known: Option<Known>,
}

impl<'r> Glide<'r> {
    #[inline(always)]
    pub(crate) const fn new(registers: &'r mut Registers, pc: Pc, stack: StackBounds) -> Self {
        Self { registers, pc, stack, trail: Trail::START }
    }

    /// What is remembered of the frame.
    #[inline(always)]
    pub(crate) fn look(&mut self) -> Option<Known> {
        let mut known = Known::NOTHING;
        Everywhere.recall(self.pc.lookup(), &mut self.trail, &mut known).then_some(known)
    }

    /// Moves to the caller's frame, unless that takes more than reading words of the stack: then it
    /// stays.
    #[inline(always)]
    pub(crate) fn leave(&mut self, rule: &Rule) -> bool {
        if !rule.apply_at_once(self.registers, &self.stack) {
            return false;
        }
        let ip = self.registers.ip();
        self.pc = if rule.is_of_signal_frame() { Pc::Exact(ip) } else { Pc::Return(ip) };
        true
    }

    /// What there is for somebody else to go on with. In a place of its own, so that until then
    /// everything lives in registers.
    #[inline(always)]
    pub(crate) fn stop(self, known: Option<Known>) -> Stop<'r> {
        let Self { registers, pc, stack, trail } = self;
        Stop { registers, pc, stack, trail, known }
    }

    /// Whether the word below `cfa` can be read.
    #[inline(always)]
    pub(crate) fn is_on_stack(&self, cfa: u64) -> bool {
        self.stack.words_below(cfa, 1).is_some()
    }
}
