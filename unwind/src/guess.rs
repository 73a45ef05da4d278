//! Goes on by frame pointers where there are no tables: a guess, for who asks for it.
//!
//! ```text
//!   rbp ─► │ caller's rbp │ return address │ ◄─ CFA = rbp + 16      what `push rbp; mov rbp, rsp`
//!          low ───────────────────────► high                        leaves (psABI x86-64 §3.2.2)
//! ```
//!
//! Code without tables may use `rbp` for anything. A guess is believed if the two words lie on
//! the stack, above its stack pointer, and the return address is code as far as that is known; a
//! walk still ends, because every frame is above the one before.
#![forbid(unsafe_code)]

use crate::registers::{Register, Registers};
use crate::stack::ReadStack;

/// How a frame was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// By tables, or it is where the walk began.
    Known,
    /// By the frame pointer of a callee that has no tables. The frame may be another one's, and
    /// its registers, but for `rsp`, `rbp` and `ip`, may be the callee's.
    Guess,
}

/// The registers of the caller and the frame's CFA, if `rbp` may be a frame pointer; `is_code`
/// tells of addresses in front of a return address.
pub(crate) fn caller(
    registers: &Registers,
    stack: &impl ReadStack,
    is_code: impl FnOnce(u64) -> bool,
) -> Option<(Registers, u64)> {
    let frame = registers.get(Register::RBP);
    if frame < registers.sp() || !frame.is_multiple_of(8) {
        return None;
    }
    let cfa = frame.checked_add(16)?;
    let (rbp, ip) = (stack.read(frame)?, stack.read(frame + 8)?);
    // Zero is where a chain of frame pointers ends.
    if ip != 0 && !is_code(ip - 1) {
        return None;
    }
    let caller = registers.with(Register::RBP, rbp).with(Register::RSP, cfa).with(Register::RA, ip);
    Some((caller, cfa))
}

#[cfg(test)]
mod tests;
