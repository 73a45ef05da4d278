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
use crate::rule::Saves;
use crate::stack::ReadStack;

/// Frames that are noted before what they saved is read.
const NOTES: usize = 32;

/// What frames saved, the latest last.
type Notes = [(u64, Saves); NOTES];

/// A frame that a walk has come to.
pub struct Frame<'a, S> {
    pc: Pc,
    sp: u64,
    rbp: u64,
    kind: FrameKind,
    notes: &'a Notes,
    count: usize,
    registers: &'a mut Registers,
    stack: &'a S,
}

impl<S: ReadStack> Frame<'_, S> {
    /// Where the frame is executing.
    #[inline]
    pub const fn pc(&self) -> Pc {
        self.pc
    }

    /// The canonical frame address of the frame that was left for this one, whose stack pointer
    /// this is.
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
    pub fn registers(&mut self) -> &Registers {
        restore(&self.notes[..self.count], self.registers, self.stack);
        self.count = 0;
        self.registers.set(Register::RA, self.pc.address());
        self.registers.set(Register::RSP, self.sp);
        self.registers.set(Register::RBP, self.rbp);
        self.registers
    }
}

/// Reads what the frames saved: each register where the latest of them did.
#[inline(never)]
fn restore(notes: &[(u64, Saves)], registers: &mut Registers, stack: &impl ReadStack) {
    let mut wanted = Saves::ALL;
    for (cfa, saves) in notes.iter().rev() {
        wanted = saves.restore(wanted, *cfa, registers, stack);
        if wanted.is_empty() {
            break;
        }
    }
}

impl<S: ReadStack, M: FindModule> Cursor<'_, S, M> {
    /// Moves to one caller after the other and shows each to `visit`, until it breaks. `None`: the
    /// outermost frame was reached ([`Step::End`]).
    ///
    /// As [`step`](Self::step) in a loop, and three times as fast where the frames' addresses have
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
            if let ControlFlow::Break(result) = self.run(&mut notes, &mut visit) {
                return Ok(Some(result));
            }
            if self.step()? == Step::End {
                return Ok(None);
            }
            let registers = &mut self.registers;
            let mut frame = Frame {
                pc: self.pc,
                sp: registers.sp(),
                rbp: registers.get(Register::RBP),
                kind: self.kind,
                notes: &notes,
                count: 0,
                registers,
                stack: &self.stack,
            };
            if let ControlFlow::Break(result) = visit(&mut frame) {
                return Ok(Some(result));
            }
        }
    }

    /// As far as all is known, and as usual.
    #[inline]
    fn run<B>(
        &mut self,
        notes: &mut Notes,
        visit: &mut impl FnMut(&mut Frame<'_, S>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let (mut sp, mut rbp) = (self.registers.sp(), self.registers.get(Register::RBP));
        let memory = self.modules.memory();
        let (Some(memory), Some(mut climb)) = (memory, self.stack.climb(sp)) else {
            return ControlFlow::Continue(());
        };
        let (mut pc, mut kind, mut trail) = (self.pc, self.kind, self.trail);
        let mut count = 0;
        let result = loop {
            let mut ahead = trail;
            let Some(rule) = memory.recall_rule(pc.lookup(), &mut ahead) else {
                break ControlFlow::Continue(());
            };
            let cfa = rule.cfa_of(sp, rbp);
            if rule.is_unusual() {
                break ControlFlow::Continue(());
            }
            let Some(words) = climb.to(cfa, rule.depth()) else {
                break ControlFlow::Continue(());
            };
            let ip = words.get(1);
            if ip == 0 {
                break ControlFlow::Continue(());
            }
            if count == NOTES {
                restore(notes, &mut self.registers, &self.stack);
                count = 0;
            }
            notes[count] = (cfa, rule.saves());
            count += 1;
            rbp = match rule.rbp_slots() {
                0 => rbp,
                slots => words.get(slots),
            };
            (sp, pc, kind, trail) = (cfa, Pc::Return(ip), FrameKind::Known, ahead);
            let (registers, stack) = (&mut self.registers, &self.stack);
            let mut frame = Frame { pc, sp, rbp, kind, notes, count, registers, stack };
            let result = visit(&mut frame);
            count = frame.count;
            if result.is_break() {
                break result;
            }
        };
        restore(&notes[..count], &mut self.registers, &self.stack);
        self.registers.set(Register::RSP, sp);
        self.registers.set(Register::RBP, rbp);
        self.registers.set(Register::RA, pc.address());
        (self.pc, self.kind, self.trail) = (pc, kind, trail);
        result
    }
}
