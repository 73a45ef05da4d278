//! Unwinds a task that the CPU stopped.
//!
//! ```text
//!   faulting instruction ◄─ exact ip ─ trace, phase 1, phase 2 start here
//!        callers' frames ──► their drops run ──► the task's catch frame gets the payload
//! ```
//!
//! The faulting frame itself has no landing pad at an instruction that is not a call, so what
//! *it* owns is not dropped. The same holds for a caller whose call the compiler knows never to
//! unwind (a leaf function that only loads and stores, say): it made no landing pad there. All
//! other callers' values are dropped.

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
/// # Safety
///
/// `registers` are those of the interrupted instruction. The caller runs on the same stack,
/// below their stack pointer and its red zone (128 bytes, psABI x86-64 §3.2.2), and nothing of
/// the interrupted code will run again except its landing pads.
pub unsafe fn unwind_fault(
    registers: &Registers,
    reason: fmt::Arguments<'_>,
    payload: Box<dyn Any + Send>,
) -> ! {
    let state = platform().state();
    state.begin();
    let pc = Pc::Exact(registers.ip());
    let reported = state.report(|| {
        let mut report = Report::begin();
        // The console cannot fail.
        let _ = writeln!(report, "\nthread {} faulted at {pc:#x}:\n{reason}", platform().task());
        report.trace(trace_from(registers, pc));
    });
    if !reported {
        fatal(format_args!("CPU fault at {pc:#x} while processing panic: {reason}"));
    }
    // SAFETY: the contract of this function covers the registers and the stack; the exception was
    // just made; the modules registered globally vouch for the code.
    let error = unsafe {
        unspool_unwind::raise_from(exception(payload, Cause::Fault), registers, platform().stack())
    };
    not_raised("failed to unwind a fault", error)
}
