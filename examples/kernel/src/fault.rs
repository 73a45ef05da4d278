//! What becomes of an instruction that cannot be executed.
//!
//! ```text
//!   task's stack          interrupt or signal stack
//!   │ caller      │
//!   │ faulting    │──────► handle: policy ─┬─ Resume ─► the instruction again, or elsewhere
//!   │ red zone    │                        ├─ Stop ───► reason, halt   ◄─ no
//!   │             │           ┌─ Unwind ───┴─ is that possible? ─────────┘
//!   │ CpuState    │ ◄─────────┘ continue in the trampoline, which unwinds from the registers
//! ```
//!
//! Promise: a fault ends in the faulting task's unwinding or in a precise reason and a halt, never
//! in a loop; unless the kernel's user decides to go on ([`set_policy`]).

mod kind;
mod policy;

pub use kind::{FaultKind, PageAccess};
pub use policy::{Claim, Decision, Fault, Policy, default_policy, set_policy};

use core::fmt::{self, Write};
use core::ops::Range;

use alloc::boxed::Box;
use alloc::sync::Arc;
use unspool::backtrace::{Backtrace, print};
use unspool::unwind::{Cursor, FindModule, NoStack, Pc, ReadStack, Register, Registers, global};

use crate::arch::{self, CpuState, InterruptStack, per_cpu};
use crate::console::Console;
use crate::fallible;
use crate::heap;
use crate::machine::{ExitCode, PAGE, machine};
use crate::memory;
use crate::platform::{Names, stack_around, trace_style};
use crate::reserve;
use crate::scheduler;
use crate::task::Task;
use crate::walk::trace_from;

/// Bytes below a stack pointer that compiled code may use (psABI x86-64 §3.2.2).
pub(crate) const RED_ZONE: u64 = 128;

/// What is said of a function that has something to drop itself.
const SKIPPED: &str = "\nnote: what the faulting function itself owns is not dropped";

/// Bytes of stack that reporting and unwinding need. Printing a trace takes the most: about six KiB
/// in a build without optimizations.
pub(crate) const ROOM: u64 = 8 * 1024;

/// A fault: the payload that `catch_unwind` and `join` get from a task that was unwound for one.
#[derive(Clone, Debug)]
pub struct FaultInfo {
    /// What happened.
    pub kind: FaultKind,
    /// The registers of the instruction it happened at; if that was not code, of the call that led
    /// there.
    pub registers: Registers,
    /// The frames from that instruction outwards, as they were; `None` if there was no memory for it.
    pub backtrace: Option<Arc<Backtrace>>,
    /// Whether the function of that instruction has values to drop somewhere, which were not: it has
    /// landing pads at its calls only. Its callers' were.
    pub skips_cleanups: bool,
}

impl fmt::Display for FaultInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:#x}", self.kind, self.registers.ip())
    }
}

/// Why a fault cannot be turned into unwinding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Undeliverable {
    /// There is no task yet.
    NoTask,
    /// It happened in a handler.
    InHandler(InterruptStack),
    /// While an earlier fault of the same task was being delivered.
    Nested,
    /// The task's stack is used up.
    StackOverflow {
        /// Bytes of the stack.
        size: u64,
    },
    /// The stack pointer does not point into the task's stack.
    WrongStack {
        /// The stack pointer.
        sp: u64,
        /// Where the stack starts.
        low: u64,
        /// Where it ends.
        high: u64,
    },
    /// Too little of the task's stack is left for reporting and unwinding (bytes).
    NoRoom {
        /// What is left.
        left: u64,
        /// What is needed.
        needed: u64,
    },
    /// Something that unwinding needs is in the middle of a change.
    InUse(&'static str),
    /// The CPU's state cannot be trusted.
    Abort,
    /// The policy says so.
    Stopped,
}

impl fmt::Display for Undeliverable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoTask => f.write_str("there is no task to unwind"),
            Self::InHandler(stack) => write!(f, "it happened in a handler ({stack:?})"),
            Self::Nested => f.write_str("it happened while another fault was being delivered"),
            Self::StackOverflow { size } => {
                write!(f, "stack overflow: all {size} bytes of the task's stack are used")
            }
            Self::WrongStack { sp, low, high } => {
                write!(
                    f,
                    "the stack pointer {sp:#x} is outside the task's stack {low:#x}..{high:#x}"
                )
            }
            Self::NoRoom { left, needed } => {
                write!(f, "only {left} bytes of stack are left, unwinding needs {needed}")
            }
            Self::InUse(what) => write!(f, "{what} is in the middle of a change"),
            Self::Abort => f.write_str("its registers cannot be trusted"),
            Self::Stopped => f.write_str("the kernel's policy is to stop"),
        }
    }
}

/// Decides about a fault, on the stack of its handler. If this returns, the interrupted code is to
/// be continued as `state` says.
pub(crate) fn handle(kind: FaultKind, state: &mut CpuState) {
    // Of a trap, too, the instruction itself is reported.
    state.rip = state.rip.wrapping_sub(kind.trap_length());
    let mut fault = Fault::new(kind, state);
    let (decision, moved) = (policy::decide(&mut fault), fault.is_moved());
    match decision {
        Decision::Resume if moved => {}
        Decision::Resume if !kind.is_abort() => {
            state.rip = state.rip.wrapping_add(kind.trap_length());
        }
        Decision::Resume | Decision::Stop => fatal(&Undeliverable::Stopped, kind, state),
        Decision::Unwind => deliver(kind, None, state),
        Decision::Call(claim) => deliver(kind, Some(claim), state),
    }
}

/// Continues the task in the trampoline, or ends the program.
fn deliver(kind: FaultKind, claim: Option<Claim>, state: &mut CpuState) {
    match deliverable(running(), kind, state) {
        // SAFETY: `deliverable` found the place: on the task's stack, aligned, with room, below the
        // red zone of the interrupted code.
        Ok(frame) => unsafe { arch::deliver(kind, claim, state, frame) },
        Err(reason) => fatal(&reason, kind, state),
    }
}

/// Where on the task's stack the fault's frame goes, if the task can be unwound.
fn deliverable(
    task: Option<&Task>,
    kind: FaultKind,
    state: &CpuState,
) -> Result<u64, Undeliverable> {
    if kind.is_abort() {
        return Err(Undeliverable::Abort);
    }
    let sp = state.sp();
    if let Some((stack, _)) = InterruptStack::containing(sp) {
        return Err(Undeliverable::InHandler(stack));
    }
    let task = task.ok_or(Undeliverable::NoTask)?;
    let stack = task.stack();
    if overflows(&stack, kind, sp) {
        return Err(Undeliverable::StackOverflow { size: stack.end - stack.start });
    }
    if !(stack.start..=stack.end).contains(&sp) {
        return Err(Undeliverable::WrongStack { sp, low: stack.start, high: stack.end });
    }
    let needed = RED_ZONE + arch::FRAME + ROOM;
    let left = sp - stack.start;
    if left < needed {
        return Err(Undeliverable::NoRoom { left, needed });
    }
    // Last, because from now on the task is marked.
    if task.begin_fault() {
        return Err(Undeliverable::Nested);
    }
    Ok((sp - RED_ZONE - arch::FRAME) & !15)
}

/// Whether the guard page below the stack was hit: by a push or a call, or by a probe of a large
/// frame whose stack pointer has not moved yet.
fn overflows(stack: &Range<u64>, kind: FaultKind, sp: u64) -> bool {
    let guard = stack.start - PAGE as u64..stack.start;
    let hit = matches!(kind, FaultKind::PageFault { address, .. } if guard.contains(&address));
    hit && sp < stack.end
}

/// Unwinds the faulting task; on its own stack, below the fault's frame.
///
/// # Safety
///
/// Only the trampoline that [`handle`] set up may call this, with the state it was left.
pub(crate) unsafe fn unwind(kind: FaultKind, claim: Option<Claim>, state: &CpuState) -> ! {
    // What the faulting instruction itself locked nobody would ever unlock.
    if let Some(what) = locked() {
        fatal(&Undeliverable::InUse(what), kind, state);
    }
    let (registers, pc) = match before_bad_call(kind, state) {
        // The call lies right before where it would have returned to.
        Some(registers) => (registers, Pc::Return(registers.ip() + 1)),
        None => (state.registers(), Pc::Exact(state.rip)),
    };
    if let Some(task) = running() {
        // From here on the panic runtime counts: a fault while it reports this one is the end.
        task.end_fault();
    }
    // May leave for good, so nothing is owned here yet.
    if let Some(claim) = claim {
        claim(kind, &registers);
    }
    let backtrace = fallible::shared(Backtrace::from_trace(trace_from(registers))).ok();
    let skips_cleanups = matches!(pc, Pc::Exact(_)) && has_cleanups(registers);
    // The payload owns all of it: what this frame owns is never dropped.
    let payload = Box::new(FaultInfo { kind, registers, backtrace, skips_cleanups });
    let note = if skips_cleanups { SKIPPED } else { "" };
    // SAFETY: the trampoline called this, on the stack of the task that was interrupted with
    // these registers.
    unsafe { arch::unwind(&registers, pc, format_args!("{kind}{note}"), payload) }
}

/// A lock of the kernel that the running task holds.
fn locked() -> Option<&'static str> {
    // Whoever holds one keeps its CPU.
    if per_cpu::reasons() == 0 {
        return None;
    }
    let locks = [
        ("the heap", heap::is_held_here()),
        ("the scheduler", scheduler::is_held_here()),
        ("the map of a window", memory::is_held_here() || reserve::is_held_here()),
        ("the console", machine().writes_here()),
    ];
    locks.into_iter().find(|&(_, locked)| locked).map(|(what, _)| what)
}

/// Whether the function with these registers has landing pads.
#[inline(never)]
fn has_cleanups(registers: Registers) -> bool {
    let cursor = Cursor::new(registers, Pc::Exact(registers.ip()), NoStack, global());
    cursor.function().is_ok_and(|function| function.lsda().is_some())
}

/// After a call of what is no code: the registers at the call, which is what was wrong.
///
/// The call pushed a return address and nothing else; the address before that one lies in the
/// call itself, so that tables are looked up as they are for any call.
fn before_bad_call(kind: FaultKind, state: &CpuState) -> Option<Registers> {
    let FaultKind::PageFault { access: PageAccess::Execute, .. } = kind else { return None };
    let call = stack_around(state.sp()).read(state.sp())?.checked_sub(1)?;
    global().find(call)?;
    let registers = state.registers().with(Register::RSP, state.sp() + size_of::<u64>() as u64);
    Some(registers.with(Register::RA, call))
}

/// Writes why a fault is the end, and ends the program.
pub(crate) fn fatal(reason: &Undeliverable, kind: FaultKind, state: &CpuState) -> ! {
    // The console never fails.
    let _ = write!(Console, "\nfatal: {kind} at {:#x}", state.rip);
    let _ = match running() {
        Some(task) => writeln!(Console, " in task '{}' ({})", task.name(), task.id()),
        None => writeln!(Console, " before there are tasks"),
    };
    let _ = writeln!(Console, "cannot unwind: {reason}");
    let _ = writeln!(Console, "registers: {:?}", state.registers());
    trace(kind, state);
    machine().exit(ExitCode::PANIC)
}

/// Prints the interrupted code's trace, as far as its stack can be trusted.
fn trace(kind: FaultKind, state: &CpuState) {
    let registers = before_bad_call(kind, state).unwrap_or_else(|| state.registers());
    // The console never fails.
    let _ = print(&mut Console, trace_from(registers), trace_style(), &Names);
}

/// The running task, for as long as a fault of that task is being dealt with.
fn running<'a>() -> Option<&'a Task> {
    // SAFETY: a task does not end while its fault is being dealt with.
    unsafe { scheduler::running() }
}
