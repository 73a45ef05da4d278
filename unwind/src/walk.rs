//! Walks over many frames at once.
//!
//! ```text
//!   cursor ─► ip, sp, rbp in registers of the CPU ─ rule ─► caller ─ rule ─► caller … ─► cursor
//!                └─► saved: CFA and places of each frame left; other registers when asked for
//! ```
//!
//! Few who walk ask for the registers of every frame. Where the frames saved them is noted, and
//! the newest note of each register is what its value is: that is looked up when somebody asks.
#![forbid(unsafe_code)]

use core::ops::ControlFlow;

use crate::address::Pc;
use crate::cursor::{Cursor, Step};
use crate::error::UnwindError;
use crate::guess::FrameKind;
use crate::modules::FindModule;
use crate::registers::{Register, Registers};
use crate::rule::{Rule, Saves};
use crate::rules::Rules;
use crate::stack::{ReadStack, WordsBelow};

/// Frames that are noted before what they saved is read.
const NOTES: usize = 32;

/// What frames saved, the latest last.
type Notes = [(u64, Saves); NOTES];

/// Where a run over many frames stops.
enum Halt {
    /// Where nothing was asked for.
    Anywhere,
    /// Where nothing is remembered, and no rule to be found.
    Unknown,
    /// In a frame whose rule takes more, or on a stack that is not all there.
    Unusual(Rule),
}

/// A frame that a walk has come to.
pub struct Frame<'a, S> {
    pc: Pc,
    sp: u64,
    rbp: u64,
    kind: FrameKind,
    notes: &'a Notes,
    /// How many notes there are.
    noted: usize,
    /// What the last note is about.
    words: WordsBelow,
    registers: &'a mut Registers,
    stack: &'a S,
}

/// Reads what the frames saved: each register where the latest of them did.
#[inline(never)]
fn restore(notes: &[(u64, Saves)], registers: &mut Registers, stack: &impl ReadStack) {
    let all = notes.iter().fold(Saves::NOTHING, |all, (_, saves)| all.or(*saves));
    let mut wanted = all.whole();
    for (cfa, saves) in notes.iter().rev() {
        let here = saves.of(wanted);
        if !here.is_empty() {
            here.restore(*cfa, registers, stack);
            wanted = wanted.without(here);
            if wanted.is_empty() {
                break;
            }
        }
    }
}

/// Reads what one frame saved. Out of line, and by value: a frame that is only looked at stays in
/// registers of the CPU.
#[inline(never)]
fn read(saves: Saves, words: WordsBelow, registers: &mut Registers) {
    saves.read(&words, registers);
}

impl<S: ReadStack> Frame<'_, S> {
    /// Where the frame is executing.
    #[inline]
    pub const fn pc(&self) -> Pc {
        self.pc
    }

    /// The stack pointer of the frame: the canonical frame address of the one that was left for
    /// it.
    #[inline]
    pub const fn sp(&self) -> u64 {
        self.sp
    }

    /// How the frame was found.
    #[inline]
    pub const fn kind(&self) -> FrameKind {
        self.kind
    }

    /// The registers of the frame, as far as its callees saved them.
    #[inline]
    pub fn registers(&mut self) -> &Registers {
        match self.notes[..self.noted] {
            // Whoever asks in one frame often asks in the next.
            [(_, saves)] => read(saves, self.words, self.registers),
            _ => restore(&self.notes[..self.noted], self.registers, self.stack),
        }
        self.noted = 0;
        self.registers.set(Register::RA, self.pc.address());
        self.registers.set(Register::RSP, self.sp);
        self.registers.set(Register::RBP, self.rbp);
        self.registers
    }
}

impl<S: ReadStack, M: FindModule> Cursor<'_, S, M> {
    /// Moves to one caller after the other and shows each to `visit`, until it breaks. `None`: the
    /// outermost frame was reached ([`Step::End`]).
    ///
    /// As [`step`](Self::step) in a loop, in two thirds of the time where the frames' addresses have
    /// been asked for before.
    ///
    /// # Errors
    ///
    /// As [`step`](Self::step).
    #[inline]
    pub fn walk<B>(
        &mut self,
        mut visit: impl FnMut(&mut Frame<'_, S>) -> ControlFlow<B>,
    ) -> Result<Option<B>, UnwindError> {
        let mut notes = [(0, Saves::NOTHING); NOTES];
        loop {
            // What has just been asked for is not asked for again.
            let end = match self.run::<B, false>(&mut notes, &mut visit) {
                ControlFlow::Continue(Halt::Unknown) => self.run_by_tables(&mut notes, &mut visit),
                end => end,
            };
            let step = match end {
                ControlFlow::Break(result) => return Ok(Some(result)),
                ControlFlow::Continue(Halt::Anywhere) => self.step(),
                ControlFlow::Continue(Halt::Unknown) => self.step_by_dwarf(),
                ControlFlow::Continue(Halt::Unusual(rule)) => self.leave_by(&rule),
            };
            if step? == Step::End {
                return Ok(None);
            }
            let registers = &mut self.registers;
            let mut frame = Frame {
                pc: self.pc,
                sp: registers.sp(),
                rbp: registers.get(Register::RBP),
                kind: self.kind,
                notes: &notes,
                noted: 0,
                words: WordsBelow::NONE,
                registers,
                stack: &self.stack,
            };
            if let ControlFlow::Break(result) = visit(&mut frame) {
                return Ok(Some(result));
            }
        }
    }

    /// As [`run`](Self::run), in a loop of its own: what reads tables would slow the other one down.
    #[inline(never)]
    fn run_by_tables<B>(
        &mut self,
        notes: &mut Notes,
        visit: &mut impl FnMut(&mut Frame<'_, S>) -> ControlFlow<B>,
    ) -> ControlFlow<B, Halt> {
        self.run::<B, true>(notes, visit)
    }

    /// As far as all is known, or to be found in `TABLES`, and as usual.
    #[inline(always)]
    fn run<B, const TABLES: bool>(
        &mut self,
        notes: &mut Notes,
        visit: &mut impl FnMut(&mut Frame<'_, S>) -> ControlFlow<B>,
    ) -> ControlFlow<B, Halt> {
        let memory = self.modules.memory(self.pc.lookup(), &mut self.trail);
        let (Some(memory), Some(mut climb)) = (memory, self.stack.climb(self.registers.sp()))
        else {
            return ControlFlow::Continue(Halt::Anywhere);
        };
        let (mut address, mut ip) = (self.pc.lookup(), 0);
        let (mut rbp, mut trail) = (self.registers.get(Register::RBP), self.trail);
        let mut noted = 0;
        let mut rules = Rules::new();
        let result = loop {
            let mut ahead = trail;
            let rule = match memory.recall_rule(address, &mut ahead) {
                Some(rule) => rule,
                None if !trail.covers(address) => break ControlFlow::Continue(Halt::Anywhere),
                None if !TABLES => break ControlFlow::Continue(Halt::Unknown),
                None => match rules.find(self.modules, address, &mut ahead) {
                    Some(rule) => rule,
                    None => break ControlFlow::Continue(Halt::Unknown),
                },
            };
            if rule.is_unusual() {
                break ControlFlow::Continue(Halt::Unusual(rule));
            }
            let mut higher = climb;
            let cfa = rule.cfa_of(climb.at(), rbp);
            let Some(words) = higher.to(cfa, rule.further()) else {
                break ControlFlow::Continue(Halt::Unusual(rule));
            };
            let Some(caller @ 1..) = words.find(1) else {
                break ControlFlow::Continue(Halt::Unusual(rule));
            };
            (ip, climb, trail) = (caller, higher, ahead);
            address = Pc::Return(ip).lookup();
            rbp = words.find(rule.rbp_slots()).unwrap_or(rbp);
            if noted == NOTES {
                restore(notes, &mut self.registers, &self.stack);
                noted = 0;
            }
            notes[noted] = (cfa, rule.saves());
            noted += 1;
            let mut frame = Frame {
                pc: Pc::Return(ip),
                sp: cfa,
                rbp,
                kind: FrameKind::Known,
                notes,
                noted,
                words,
                registers: &mut self.registers,
                stack: &self.stack,
            };
            let result = visit(&mut frame);
            noted = frame.noted;
            if let ControlFlow::Break(result) = result {
                break ControlFlow::Break(result);
            }
        };
        if ip != 0 {
            restore(&notes[..noted], &mut self.registers, &self.stack);
            self.registers.set(Register::RSP, climb.at());
            self.registers.set(Register::RBP, rbp);
            self.registers.set(Register::RA, ip);
            (self.pc, self.kind, self.trail) = (Pc::Return(ip), FrameKind::Known, trail);
        }
        result
    }
}

#[cfg(test)]
mod tests;
