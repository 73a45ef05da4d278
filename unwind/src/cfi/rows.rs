//! All rows of a function, in one pass.
//!
//! ```text
//!   program ─► row until the next advance ─► row … ─► end of the function
//!               └ remembered states stand on the heap
//! ```
//!
//! For tables that are built beforehand: a walk wants one row, and has no heap.
#![forbid(unsafe_code)]

use alloc::vec::Vec;
use core::ops::Range;

use gimli::{CallFrameInstruction as Instruction, Error};

use super::{INSTRUCTIONS, Program, Row};
use crate::error::UnwindError;
use crate::fde::Function;
use crate::rule::Rule;

impl Function<'_> {
    /// Calls `each` with the addresses of every row, which are not none, and its rule if it fits
    /// one.
    ///
    /// # Errors
    ///
    /// Those of [`row`](Function::row); the rows before have been had.
    pub(crate) fn for_each_rule(
        &self,
        mut each: impl FnMut(Range<u64>, Option<Rule>),
    ) -> Result<(), UnwindError> {
        let (mut row, mut at) = (Row::START, self.start());
        let mut program =
            Program { function: self, target: at, row: &mut row, budget: INSTRUCTIONS };
        program.begin()?;
        let (decoder, mut reader) = program.open(self.program)?;
        let mut remembered: Vec<Row> = Vec::new();
        while let Some(next) = decoder.next(&mut reader).map_err(|e| program.bad_table(e))? {
            let location = match next {
                Instruction::AdvanceLoc { delta } => {
                    let bytes = u64::from(delta).wrapping_mul(self.cie.code_factor);
                    at.checked_add(bytes).ok_or(program.bad_table(Error::AddressOverflow))?
                }
                Instruction::SetLoc { address } if address < at => {
                    return Err(program.bad_table(Error::InvalidCfiSetLoc(address)));
                }
                Instruction::SetLoc { address } => address,
                Instruction::RememberState => {
                    remembered.push(*program.row);
                    continue;
                }
                Instruction::RestoreState => {
                    let state = remembered.pop();
                    *program.row = state.ok_or(program.bad_table(Error::PopWithEmptyStack))?;
                    continue;
                }
                Instruction::Restore { register } => {
                    let rule = program.initial_rule(register)?;
                    program.set(register, rule);
                    continue;
                }
                other => {
                    program.step(other)?;
                    continue;
                }
            };
            let end = location.min(self.end());
            if at < end {
                each(at..end, Rule::from_row(program.row));
            }
            (at, program.target) = (location, location);
        }
        if at < self.end() {
            each(at..self.end(), Rule::from_row(&row));
        }
        Ok(())
    }
}
