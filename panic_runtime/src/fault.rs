//! Unwinds a task that the CPU stopped.
//!
//! ```text
//!   faulting instruction ◄─ exact ip ─ trace, phase 1, phase 2 start here
//!        callers' frames ──► their drops run ──► the task's catch frame gets the payload
//! ```
//!
//! What the faulting frame itself owns is not dropped: its landing pads are for its calls. Where two
//! calls share one, the tables name it for the instructions between them, too; there it would drop
//! what is half moved. Nor does that frame catch, if it is one of C++.
//!
//! The same holds for a caller whose call the compiler knows never to unwind (a leaf function that
//! only loads and stores, say): it made no landing pad there. But between two calls that share one,
//! such a call has that, too, and tables do not tell them apart. All other callers' values are
//! dropped.

use core::fmt::{self, Write};

use alloc::boxed::Box;
use core::any::Any;
use unspool_unwind::{Pc, Registers};

use crate::catch::{exception, not_raised};
use crate::payload::Cause;
use crate::platform::{platform, trace_from};
use crate::report::{Report, fatal};

/// Reports a CPU fault with a trace from the faulting instruction, and unwinds the task with
/// `payload` to whoever catches.
///
/// `pc` is [`Pc::Exact`] of that instruction. After a call of what is no code it is [`Pc::Return`] of
/// where that would have returned to: the frame that called is at a call then, and drops its values.
///
/// # Safety
///
/// `registers` are those of the interrupted instruction. The caller runs on the same stack,
/// below their stack pointer and its red zone (128 bytes, psABI x86-64 §3.2.2), and nothing of
/// the interrupted code will run again except its landing pads.
pub unsafe fn unwind_fault(
    registers: &Registers,
    pc: Pc,
    reason: fmt::Arguments<'_>,
    payload: Box<dyn Any + Send>,
) -> ! {
    let state = platform().state();
    state.begin();
    let at = pc.lookup();
    let reported = state.report(|| {
        let mut report = Report::begin();
        // The console cannot fail.
        let _ = writeln!(report, "\nthread {} faulted at {at:#x}:\n{reason}", platform().task());
        report.trace(trace_from(registers, Pc::Exact(at)));
    });
    if reported.is_none() {
        fatal(format_args!("CPU fault at {at:#x} while processing panic: {reason}"));
    }
    // SAFETY: the contract of this function covers the registers and the stack; the exception was
    // just made; the modules registered globally vouch for the code.
    let error = unsafe {
        let exception = exception(payload, Cause::Fault);
        unspool_unwind::raise_from(exception, registers, pc, platform().stack())
    };
    not_raised("failed to unwind a fault", error)
}
