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
use crate::dwarf::Frame;
use crate::error::UnwindError;
use crate::fde::Function;
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

/// A position in a walk: one frame's registers.
pub struct Cursor<'m, S, M> {
    registers: Registers,
    pc: Pc,
    stack: S,
    modules: &'m M,
}

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
        Self { registers, pc, stack, modules }
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
        self.find_function(&mut function)?;
        Ok(function)
    }

    #[inline(never)]
    pub(crate) fn find_function(&self, function: &mut Function<'m>) -> Result<(), UnwindError> {
        let address = self.pc.lookup();
        let module = self.modules.find(address).ok_or(UnwindError::NoModule(address))?;
        module.find_function(address, function)
    }

    /// Moves to the caller.
    ///
    /// # Errors
    ///
    /// Says why the caller cannot be found; the cursor stays where it is.
    pub fn step(&mut self) -> Result<Step, UnwindError> {
        let mut function = Function::UNKNOWN;
        self.find_function(&mut function)?;
        let exit = self.exit(&function)?;
        self.leave(&function, exit)
    }

    /// How the frame is left, whose function is `function`.
    pub(crate) fn exit(&self, function: &Function<'_>) -> Result<Exit, UnwindError> {
        Ok(function.rule(self.pc.lookup())?.map_or(Exit::Dwarf, Exit::Rule))
    }

    /// The CFA of the frame.
    pub(crate) fn cfa(&self, function: &Function<'_>, exit: Exit) -> Result<u64, UnwindError> {
        match exit {
            Exit::Rule(rule) => Ok(rule.cfa(&self.registers)),
            Exit::Dwarf => Frame { function, pc: self.pc, stack: &self.stack }.cfa(&self.registers),
        }
    }

    /// Moves to the caller by what [`exit`](Self::exit) answered.
    pub(crate) fn leave(
        &mut self,
        function: &Function<'_>,
        exit: Exit,
    ) -> Result<Step, UnwindError> {
        let step = match exit {
            Exit::Rule(rule) => rule.apply(self.pc.lookup(), &mut self.registers, &self.stack)?,
            Exit::Dwarf => {
                Frame { function, pc: self.pc, stack: &self.stack }.leave(&mut self.registers)?
            }
        };
        let ip = self.registers.ip();
        if step == Step::End || ip == 0 {
            return Ok(Step::End);
        }
        self.pc = if function.is_signal_frame() { Pc::Exact(ip) } else { Pc::Return(ip) };
        Ok(step)
    }

    pub(crate) const fn registers_mut(&mut self) -> &mut Registers {
        &mut self.registers
    }

    pub(crate) const fn stack(&self) -> &S {
        &self.stack
    }
}

/// How a frame is left.
#[derive(Clone, Copy)]
pub(crate) enum Exit {
    /// By a rule.
    Rule(Rule),
    /// By its row, which is read again where it is used: it is too large to keep.
    Dwarf,
}
