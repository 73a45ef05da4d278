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
    /// is zero. The cursor did not move.
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
        let address = self.pc.lookup();
        self.modules.find(address).ok_or(UnwindError::NoModule(address))?.function(address)
    }

    /// Moves to the caller.
    ///
    /// # Errors
    ///
    /// Says why the caller cannot be found; the cursor stays where it is.
    pub fn step(&mut self) -> Result<Step, UnwindError> {
        self.step_out_of(&self.function()?)
    }

    /// Moves to the caller of the frame, whose function is `function`.
    pub(crate) fn step_out_of(&mut self, function: &Function<'_>) -> Result<Step, UnwindError> {
        let address = self.pc.lookup();
        let row = function.row(address)?;
        let mut caller = self.registers;
        let step = match Rule::from_row(&row) {
            Some(rule) => rule.apply(address, &mut caller, &self.stack)?,
            None => {
                let (registers, stack) = (&self.registers, &self.stack);
                let frame = Frame { function, pc: self.pc, registers, stack };
                let (step, registers) = frame.caller(&row)?;
                caller = registers;
                step
            }
        };
        if step == Step::End || caller.ip() == 0 {
            return Ok(Step::End);
        }
        self.registers = caller;
        self.pc = if function.is_signal_frame() {
            Pc::Exact(caller.ip())
        } else {
            Pc::Return(caller.ip())
        };
        Ok(step)
    }
}
