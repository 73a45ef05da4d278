//! Goes through frames that are remembered, and asks nobody.
//!
//! ```text
//!   look ─► what is known ─► Answer ─► leave ─► the caller's frame, look …
//!     └─► nothing: a Context finds out
//! ```
//!
//! Most frames that an exception goes through, or lands in, are of this kind: they have no personality,
//! or the one whose answers are known. Registers stay where they were captured, and follow only as far
//! as something lands.
#![forbid(unsafe_code)]

use crate::address::Pc;
use crate::cache::{Hint, Memory, Trail};
use crate::environment::Everywhere;
use crate::known::Known;
use crate::modules::FindModule as _;
use crate::registers::{Register, Registers};
use crate::rule::Rule;
use crate::stack::{Climb, ReadStack, WordsBelow};

/// A position in a walk of frames that are remembered. The trail of the walk is kept by whoever
/// glides, where it costs least.
pub(crate) struct Glide {
    /// To look up.
    address: u64,
    climb: Climb,
    memory: Memory<'static>,
}

/// The trail of a walk that begins at `address`.
#[inline(always)]
pub(crate) fn trail_to(address: u64) -> Trail {
    let mut trail = Trail::START;
    if let Some(memory) = Everywhere.memory(address, &mut trail) {
        memory.lead(address, &mut trail);
    }
    trail
}

impl Glide {
    /// In the frame with these registers, to which this trail has come.
    #[inline(always)]
    pub(crate) fn new(
        registers: &Registers,
        pc: Pc,
        stack: &impl ReadStack,
        trail: &mut Trail,
    ) -> Option<Self> {
        let address = pc.lookup();
        let climb = stack.climb(registers.sp())?;
        let memory = Everywhere.memory(address, trail)?;
        Some(Self { address, climb, memory })
    }

    /// As [`new`](Self::new), in a frame at a call, with which the walk begins.
    #[inline(always)]
    pub(crate) fn first(
        registers: &Registers,
        stack: &impl ReadStack,
        trail: &mut Trail,
    ) -> Option<Self> {
        let address = Pc::Return(registers.ip()).lookup();
        let memory = Everywhere.memory(address, trail)?;
        memory.lead(address, trail);
        let climb = stack.climb(registers.sp())?;
        Some(Self { address, climb, memory })
    }

    /// As [`new`](Self::new), in a frame at a call, with which the walk begins, and the climb from it; the
    /// cache may have it where the hint says.
    #[inline(always)]
    pub(crate) fn begin(
        registers: &Registers,
        climb: Option<Climb>,
        hint: Hint,
        trail: &mut Trail,
    ) -> Option<Self> {
        let address = Pc::Return(registers.ip()).lookup();
        let memory = Everywhere.memory(address, trail)?;
        memory.lead_by(hint, address, trail);
        Some(Self { address, climb: climb?, memory })
    }

    /// What is remembered of the frame.
    #[inline(always)]
    pub(crate) fn look(&mut self, trail: &mut Trail) -> Option<Known> {
        if !self.enter(trail) {
            return None;
        }
        self.recall(trail)
    }

    /// Has the trail enter the code of the frame, if it has not come from there; whether anything can be
    /// remembered of it.
    #[inline(always)]
    pub(crate) fn enter(&mut self, trail: &mut Trail) -> bool {
        if !trail.covers(self.address) {
            let Some(memory) = Everywhere.memory(self.address, trail) else { return false };
            self.memory = memory;
        }
        true
    }

    /// What is remembered of the frame, whose code has been entered.
    #[inline(always)]
    pub(crate) fn recall(&self, trail: &mut Trail) -> Option<Known> {
        let mut known = Known::NOTHING;
        self.memory.recall(self.address, trail, &mut known).then_some(known)
    }

    /// The CFA of the frame, whose `rbp` this is.
    #[inline(always)]
    pub(crate) const fn cfa(&self, rbp: u64, rule: Rule) -> u64 {
        rule.cfa_of(self.climb.at(), rbp)
    }

    /// Moves to the caller's frame, unless that takes more than reading words of the stack; what the
    /// frame saved is among these, and the return address.
    #[inline(always)]
    fn words(&mut self, cfa: u64, rule: Rule) -> Option<(WordsBelow, u64)> {
        if rule.is_unusual() {
            return None;
        }
        let mut higher = self.climb;
        let words = higher.to(cfa, rule.further())?;
        let ip = Some(words.get(1)).filter(|ip| *ip != 0)?;
        self.climb = higher;
        self.address = Pc::Return(ip).lookup();
        Some((words, ip))
    }

    /// Moves to the caller's frame, of whose registers nobody wants more than `rbp`; whether it has.
    #[inline(always)]
    pub(crate) fn leave(&mut self, rbp: &mut u64, rule: Rule) -> bool {
        let Some((words, _)) = self.words(self.cfa(*rbp, rule), rule) else { return false };
        *rbp = words.find(rule.rbp_slots()).unwrap_or(*rbp);
        true
    }

    /// Moves from a frame with this CFA to the caller's, and has the registers follow; whether it has.
    #[inline(always)]
    pub(crate) fn leave_to(&mut self, cfa: u64, rule: Rule, registers: &mut Registers) -> bool {
        let Some((words, ip)) = self.words(cfa, rule) else { return false };
        registers.set(Register::RA, ip);
        registers.set(Register::RSP, self.climb.at());
        // Many frames save nothing.
        if !rule.saves().is_empty() {
            rule.saves().read(&words, registers);
        }
        true
    }

    /// Whether the word below `cfa`, which is further up, can be read.
    #[inline(always)]
    pub(crate) fn is_on_stack(&self, cfa: u64) -> bool {
        { self.climb }.to(cfa, 0).is_some()
    }
}
