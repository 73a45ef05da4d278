//! Walks from a frame to its callers.
//!
//! ```text
//!   Cursor { registers, pc } ─ step ─► the caller's { registers, pc } ─ step ─► … ─► End
//! ```
//!
//! A cursor is two hundred bytes that can be copied; it holds no lock and no memory.
#![forbid(unsafe_code)]

use core::fmt;

use crate::address::Pc;
use crate::cache::Trail;
use crate::cfi::Row;
use crate::dwarf::Frame;
use crate::error::UnwindError;
use crate::fde::Function;
use crate::guess::{FrameKind, caller};
use crate::in_flight::ModuleTag;
use crate::known::{Known, Lsda};
use crate::modules::FindModule;
use crate::registers::Registers;
use crate::rule::Rule;
use crate::stack::ReadStack;

/// What a step found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The cursor stands in the caller.
    Caller {
        /// The canonical frame address of the frame that was left: the stack pointer before the
        /// `call` that made it pushed the return address.
        cfa: u64,
    },
    /// The frame is the outermost: its tables say that it has no caller, or the return address
    /// is zero. The cursor is done.
    End,
}

/// A position in a walk: one frame's registers, which are the first that it has in memory.
#[repr(C)]
pub struct Cursor<'m, S, M> {
    pub(crate) registers: Registers,
    pub(crate) pc: Pc,
    pub(crate) stack: S,
    pub(crate) modules: &'m M,
    /// Frames so far whose caller was not higher up.
    pub(crate) descents: u8,
    /// Frames without tables are left by their frame pointer.
    pub(crate) guesses: bool,
    pub(crate) kind: FrameKind,
    pub(crate) trail: Trail,
}

/// How often a walk may go to a stack that is not higher. Where the interrupted
/// frame is, only what the kernel saved says: an alternate stack (`sigaltstack`) may lie above the stack
/// that was interrupted, a task's in a frame of another's, so that a signal frame's CFA may be anywhere; it is
/// on a stack that can be read, or the walk ends there. Handlers nest on their stack, so once is what
/// programs do; and a walk must end, whatever a smashed signal frame says.
const DESCENTS: u8 = 4;

impl<S: Clone, M> Clone for Cursor<'_, S, M> {
    fn clone(&self) -> Self {
        Self { stack: self.stack.clone(), ..*self }
    }
}

impl<S: Copy, M> Copy for Cursor<'_, S, M> {}

impl<S, M> fmt::Debug for Cursor<'_, S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cursor").field("pc", &self.pc).field("registers", &self.registers).finish()
    }
}

impl<'m, S: ReadStack, M: FindModule> Cursor<'m, S, M> {
    /// Starts in the frame with these registers; `pc` tells how its `ip` came about.
    pub const fn new(registers: Registers, pc: Pc, stack: S, modules: &'m M) -> Self {
        Self::on(Trail::START, registers, pc, stack, modules)
    }

    /// As [`new`](Self::new), on this trail. One that is set later costs a copy of the cursor, and the
    /// stack for it.
    #[inline(always)]
    pub(crate) const fn on(
        trail: Trail,
        registers: Registers,
        pc: Pc,
        stack: S,
        modules: &'m M,
    ) -> Self {
        let (descents, guesses, kind) = (0, false, FrameKind::Known);
        Self { registers, pc, stack, modules, descents, guesses, kind, trail }
    }

    /// From now on, leaves a frame without tables by its frame pointer, if that may be one, and
    /// goes on by tables where there are any. [`kind`](Self::kind) tells.
    ///
    /// The return address must be in a module; beyond code that is in none itself, it may be
    /// anywhere.
    #[must_use]
    pub fn with_guesses(mut self) -> Self {
        self.allow_guesses();
        self
    }

    pub(crate) const fn allow_guesses(&mut self) {
        self.guesses = true;
    }

    /// How the frame was found.
    pub const fn kind(&self) -> FrameKind {
        self.kind
    }

    /// Where the frame is executing.
    pub const fn pc(&self) -> Pc {
        self.pc
    }

    /// The registers of the frame, as far as its callees saved them.
    pub const fn registers(&self) -> &Registers {
        &self.registers
    }

    /// The function that the frame executes.
    ///
    /// # Errors
    ///
    /// [`UnwindError::NoModule`], [`UnwindError::NoFde`] or [`UnwindError::BadTable`].
    pub fn function(&self) -> Result<Function<'m>, UnwindError> {
        let mut function = Function::UNKNOWN;
        find_function(self.modules, self.pc.lookup(), &mut function)?;
        Ok(function)
    }

    /// Moves to the caller.
    ///
    /// # Errors
    ///
    /// Says why the caller cannot be found; the cursor is of no more use then, but for its
    /// [`pc`](Self::pc).
    #[inline]
    pub fn step(&mut self) -> Result<Step, UnwindError> {
        match self.modules.recall_rule(self.pc.lookup(), &mut self.trail) {
            Some(rule) => self.leave_by(&rule),
            None => self.step_by_tables(),
        }
    }

    /// Recalls what was remembered of the frame's address, if anything was.
    #[inline]
    pub(crate) fn recall(&mut self, known: &mut Known) -> bool {
        self.modules.recall(self.pc.lookup(), &mut self.trail, known)
    }

    /// As [`step`](Self::step), when nothing is remembered of the frame's address.
    #[cold]
    #[inline(never)]
    pub(crate) fn step_by_tables(&mut self) -> Result<Step, UnwindError> {
        match self.rule_by_table() {
            Some(rule) => self.leave_by(&rule),
            None => self.step_by_dwarf(),
        }
    }

    /// The rule of the frame's address that was worked out beforehand, which is remembered.
    fn rule_by_table(&mut self) -> Option<Rule> {
        let address = self.pc.lookup();
        let generation = self.modules.generation();
        let rule = self.modules.rule(address)?;
        self.modules.memorize_rule(address, generation, rule, &mut self.trail);
        Some(rule)
    }

    /// As [`step`](Self::step), when no table of frames has anything of the frame's address either.
    #[cold]
    #[inline(never)]
    pub(crate) fn step_by_dwarf(&mut self) -> Result<Step, UnwindError> {
        let mut known = Known::NOTHING;
        match self.find_out(&mut known) {
            Ok(Exit::Rule) => self.leave_by(&known.rule),
            Ok(Exit::Dwarf) => self.leave_by_dwarf(),
            Err(error @ (UnwindError::NoModule(_) | UnwindError::NoFde(_))) => {
                let caller = self.guess(error)?;
                Ok(self.leave_by_guess(caller))
            }
            Err(error) => Err(error),
        }
    }

    /// The caller's registers and the CFA by the frame pointer; the error says that there are no
    /// tables.
    #[cold]
    #[inline(never)]
    pub(crate) fn guess(&self, error: UnwindError) -> Result<(Registers, u64), UnwindError> {
        let elsewhere = matches!(error, UnwindError::NoModule(_));
        let is_code = |address| elsewhere || self.modules.find(address).is_some();
        let caller = self.guesses.then(|| caller(&self.registers, &self.stack, is_code));
        caller.flatten().ok_or(error)
    }

    /// Moves to the caller that was guessed.
    fn leave_by_guess(&mut self, (caller, cfa): (Registers, u64)) -> Step {
        self.registers = caller;
        let step = self.arrive(Step::Caller { cfa }, false);
        self.kind = FrameKind::Guess;
        step
    }

    /// Finds out by DWARF what there is to know of the frame's address, and remembers it if that
    /// includes a rule.
    pub(crate) fn find_out(&mut self, known: &mut Known) -> Result<Exit, UnwindError> {
        find_out(self.modules, self.pc.lookup(), known, &mut self.trail)
    }

    /// Moves to the caller by the frame's rule.
    #[inline]
    pub(crate) fn leave_by(&mut self, rule: &Rule) -> Result<Step, UnwindError> {
        let Some(cfa) = rule.apply_usual(&mut self.registers, &self.stack) else {
            return self.leave_carefully(rule);
        };
        (self.pc, self.kind) = (Pc::Return(self.registers.ip()), FrameKind::Known);
        Ok(Step::Caller { cfa })
    }

    /// As [`leave_by`](Self::leave_by), of a stack that is not all there, or not known to be.
    #[cold]
    #[inline(never)]
    fn leave_carefully(&mut self, rule: &Rule) -> Result<Step, UnwindError> {
        let step = rule.apply(self.pc.lookup(), &mut self.registers, &self.stack)?;
        Ok(self.arrive(step, rule.is_of_signal_frame()))
    }

    /// Moves to the caller of a frame without a rule.
    #[cold]
    #[inline(never)]
    pub(crate) fn leave_by_dwarf(&mut self) -> Result<Step, UnwindError> {
        let mut row = Row::START;
        let (eh_frame, signal_frame) = self.find_row(&mut row)?;
        let frame = Frame { row: &row, eh_frame, pc: self.pc, stack: &self.stack };
        let sp = self.registers.sp();
        let may_descend = signal_frame && self.descents < DESCENTS;
        let step = frame.leave(&mut self.registers, may_descend)?;
        // Also without a signal: a row may say where the caller's stack pointer is.
        let after = self.registers.sp();
        if step != Step::End && after <= sp {
            if self.descents == DESCENTS {
                return Err(UnwindError::CfaNotAbove { pc: self.pc.lookup(), cfa: after, sp });
            }
            self.descents += 1;
        }
        Ok(self.arrive(step, signal_frame))
    }

    /// The CFA of a frame without a rule.
    #[cold]
    #[inline(never)]
    pub(crate) fn cfa_by_dwarf(&self) -> Result<u64, UnwindError> {
        let mut row = Row::START;
        let (eh_frame, _) = self.find_row(&mut row)?;
        Frame { row: &row, eh_frame, pc: self.pc, stack: &self.stack }.cfa(&self.registers)
    }

    /// Reads the frame's row, and gives the section that it is from, and whether the frame is a signal
    /// frame. Gives back the stack that finding the function took.
    #[cold]
    #[inline(never)]
    fn find_row(&self, row: &mut Row) -> Result<(&'m [u8], bool), UnwindError> {
        let mut function = Function::UNKNOWN;
        find_function(self.modules, self.pc.lookup(), &mut function)?;
        function.run_to(self.pc.lookup(), row)?;
        Ok((function.module.eh_frame.data, function.is_signal_frame()))
    }

    #[inline]
    fn arrive(&mut self, step: Step, signal_frame: bool) -> Step {
        self.kind = FrameKind::Known;
        let ip = self.registers.ip();
        if step == Step::End || ip == 0 {
            return Step::End;
        }
        self.pc = if signal_frame { Pc::Exact(ip) } else { Pc::Return(ip) };
        step
    }

    pub(crate) const fn registers_mut(&mut self) -> &mut Registers {
        &mut self.registers
    }

    /// The stack that is walked.
    pub const fn stack(&self) -> &S {
        &self.stack
    }
}

/// How a frame is left.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// By its rule.
    Rule,
    /// By its row, which is read again where it is used: it is too large to keep.
    Dwarf,
}

/// Finds out by DWARF what there is to know of an address, and remembers it if that includes a rule.
#[inline(never)]
pub(crate) fn find_out(
    modules: &impl FindModule,
    address: u64,
    known: &mut Known,
    trail: &mut Trail,
) -> Result<Exit, UnwindError> {
    let generation = modules.generation();
    let mut function = Function::UNKNOWN;
    find_function(modules, address, &mut function)?;
    *known = Known::NOTHING;
    known.set_module(ModuleTag::of(function.module.text.0));
    known.start = function.start();
    known.set_personality(function.personality());
    // Of an area outside the module's only the address is known; personalities of other
    // languages need no more.
    known.set_lsda(function.lsda().map(|pointer| {
        let length = function.lsda_data().map_or(0, <[u8]>::len);
        Lsda { pointer, length: u32::try_from(length).unwrap_or(u32::MAX) }
    }));
    known.set_site(function.site(address));
    match function.rule(address)? {
        Ok(rule) => {
            known.rule = if function.is_signal_frame() { rule.of_signal_frame() } else { rule };
            modules.memorize(address, generation, known, trail);
            Ok(Exit::Rule)
        }
        Err(only_args_size) => {
            known.rule = only_args_size;
            Ok(Exit::Dwarf)
        }
    }
}

#[inline]
fn find_function<'m>(
    modules: &'m impl FindModule,
    address: u64,
    function: &mut Function<'m>,
) -> Result<(), UnwindError> {
    function.enter(modules, address).ok_or(UnwindError::NoModule(address))?;
    function.locate(address)?;
    Ok(())
}
