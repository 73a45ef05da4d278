//! What becomes of an instruction that cannot be executed.
//!
//! ```text
//!   task's stack          interrupt or signal stack
//!   │ caller      │
//!   │ faulting    │──────► handle: may it unwind? ── no ──► reason, halt
//!   │ red zone    │           │ yes
//!   │ CpuState    │ ◄─────────┘ continue in the trampoline, which unwinds from the registers
//! ```
//!
//! Promise: a fault ends in the faulting task's unwinding or in a precise reason and a halt, never
//! in a loop.
use core::fmt::{self, Write};
use core::ops::Range;

use alloc::boxed::Box;

use spin::Once;
use unspool::backtrace::{Trace, print};
use unspool::unwind::{
    Cursor, FindModule, Pc, ReadStack, Register, Registers, StackBounds, global,
};

use crate::arch::{self, CpuState, InterruptStack};
use crate::console::Console;
use crate::heap;
use crate::machine::{ExitCode, PAGE, machine};
use crate::memory;
use crate::platform::{Names, backtrace_style, stack_around};
use crate::reserve;
use crate::scheduler;
use crate::task::Task;

/// Bytes below a stack pointer that compiled code may use (psABI x86-64 §3.2.2).
pub(crate) const RED_ZONE: u64 = 128;

/// Bytes of stack that reporting and unwinding need. Printing a trace takes the most: about six KiB
/// in a build without optimizations.
pub(crate) const ROOM: u64 = 8 * 1024;

/// What was tried with the page of a [`FaultKind::PageFault`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageAccess {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

impl PageAccess {
    /// From the error code of a page fault (Intel SDM volume 3, §4.7).
    pub(crate) const fn from_error_code(code: u64) -> Self {
        match (code & 1 << 4 != 0, code & 1 << 1 != 0) {
            (true, _) => Self::Execute,
            (false, true) => Self::Write,
            (false, false) => Self::Read,
        }
    }
}

/// Why the CPU stopped at an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultKind {
    /// Division by zero, or a quotient that does not fit.
    DivideError,
    /// A single step or a debug register.
    Debug,
    /// `int3`. The registers point to that instruction, not past it.
    Breakpoint,
    /// `ud2`, or an instruction that this CPU does not have.
    InvalidOpcode,
    /// An x87 or SSE instruction while they are off.
    DeviceNotAvailable,
    /// An exception while another was being delivered.
    DoubleFault,
    /// A segment register or descriptor is wrong.
    Segment {
        /// The CPU's error code.
        error: u64,
    },
    /// The stack pointer is not canonical.
    StackSegment {
        /// The CPU's error code.
        error: u64,
    },
    /// A non-canonical address, a privileged instruction, or another protection rule.
    GeneralProtection {
        /// The CPU's error code.
        error: u64,
    },
    /// An access that the page tables forbid.
    PageFault {
        /// The address that was accessed.
        address: u64,
        /// How.
        access: PageAccess,
        /// Whether there is a page; if so, the access is not allowed.
        present: bool,
    },
    /// An unmasked x87 exception.
    X87,
    /// A misaligned access while they are checked.
    AlignmentCheck,
    /// The hardware is broken.
    MachineCheck,
    /// An unmasked SSE exception.
    Simd,
    /// Not an exception at all: a signal that somebody sent to this process.
    Signal {
        /// Its number.
        number: i32,
    },
    /// Any other exception.
    Other {
        /// Its vector.
        vector: u64,
        /// The CPU's error code.
        error: u64,
    },
}

impl FaultKind {
    /// The exception with this vector and error code; page faults know more (Intel SDM volume 3,
    /// table 6-1).
    pub(crate) const fn from_vector(vector: u64, error: u64) -> Self {
        match vector {
            0 => Self::DivideError,
            1 => Self::Debug,
            3 => Self::Breakpoint,
            6 => Self::InvalidOpcode,
            7 => Self::DeviceNotAvailable,
            8 => Self::DoubleFault,
            10 | 11 => Self::Segment { error },
            12 => Self::StackSegment { error },
            13 => Self::GeneralProtection { error },
            16 => Self::X87,
            17 => Self::AlignmentCheck,
            18 => Self::MachineCheck,
            19 => Self::Simd,
            _ => Self::Other { vector, error },
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::DivideError => f.write_str("divide error"),
            Self::Debug => f.write_str("debug exception"),
            Self::Breakpoint => f.write_str("breakpoint"),
            Self::InvalidOpcode => f.write_str("invalid opcode"),
            Self::DeviceNotAvailable => f.write_str("device not available"),
            Self::DoubleFault => f.write_str("double fault"),
            Self::Segment { error } => write!(f, "segment fault, error code {error:#x}"),
            Self::StackSegment { error } => write!(f, "stack fault, error code {error:#x}"),
            Self::GeneralProtection { error } => {
                write!(f, "general protection fault, error code {error:#x}")
            }
            Self::PageFault { address, access, present } => {
                let access = match access {
                    PageAccess::Read => "read of",
                    PageAccess::Write => "write to",
                    PageAccess::Execute => "execution of",
                };
                let why = if present { "not allowed" } else { "not mapped" };
                write!(f, "page fault: {access} {address:#x}, which is {why}")
            }
            Self::X87 => f.write_str("x87 exception"),
            Self::AlignmentCheck => f.write_str("alignment check"),
            Self::MachineCheck => f.write_str("machine check"),
            Self::Simd => f.write_str("SSE exception"),
            Self::Signal { number } => write!(f, "signal {number}, sent to the process"),
            Self::Other { vector, error } => {
                write!(f, "exception {vector}, error code {error:#x}")
            }
        }
    }
}

/// A fault: the payload that `catch_unwind` and `join` get from a task that was unwound for one.
#[derive(Clone, Debug)]
pub struct FaultInfo {
    /// What happened.
    pub kind: FaultKind,
    /// The registers of the instruction it happened at; if that was not code, of the call that led
    /// there.
    pub registers: Registers,
}

impl fmt::Display for FaultInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {:#x}", self.kind, self.registers.ip())
    }
}

/// Asked about every fault of a task before the task is unwound.
static CLAIM: Once<fn(&FaultInfo)> = Once::new();

/// Has `claim` look at every fault before the task is unwound, on the task's stack, below what it
/// used: for the runtime of code whose faults mean something else. If the fault is one of those,
/// `claim` continues the task elsewhere and does not return; else it returns. It may wait, allocate
/// and panic as a function that was called by the instruction.
///
/// Says whether it does: the first call counts.
pub fn set_claim(claim: fn(&FaultInfo)) -> bool {
    *CLAIM.call_once(|| claim) as usize == claim as usize
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
    DoubleFault,
    MachineCheck,
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
            Self::DoubleFault => f.write_str("a double fault cannot be unwound"),
            Self::MachineCheck => f.write_str("a machine check cannot be unwound"),
        }
    }
}

/// Decides about a fault, on the stack of its handler. If this returns, the interrupted code is to
/// be continued as `state` says.
pub(crate) fn handle(kind: FaultKind, state: &mut CpuState) {
    if kind == FaultKind::Breakpoint {
        // The only trap among them: report the instruction itself, one byte long.
        state.rip = state.rip.wrapping_sub(1);
    }
    let task = running();
    match deliverable(task, kind, state) {
        // SAFETY: `deliverable` found the place: on the task's stack, aligned, with room, below
        // the red zone of the interrupted code.
        Ok(frame) => unsafe { arch::deliver(kind, state, frame) },
        Err(reason) => fatal(&reason, kind, state),
    }
}

/// Where on the task's stack the fault's frame goes, if the task can be unwound.
fn deliverable(
    task: Option<&Task>,
    kind: FaultKind,
    state: &CpuState,
) -> Result<u64, Undeliverable> {
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
pub(crate) unsafe fn unwind(kind: FaultKind, state: &CpuState) -> ! {
    // What the faulting instruction itself locked nobody would ever unlock.
    let locks = [
        ("the heap", heap::is_held_here()),
        ("the scheduler", scheduler::is_held_here()),
        ("the map of a window", memory::is_held_here() || reserve::is_held_here()),
    ];
    if let Some((what, _)) = locks.into_iter().find(|&(_, locked)| locked) {
        fatal(&Undeliverable::InUse(what), kind, state);
    }
    let registers = before_bad_call(kind, state).unwrap_or_else(|| state.registers());
    let info = FaultInfo { kind, registers };
    if let Some(task) = running() {
        // From here on the panic runtime counts: a fault while it reports this one is the end.
        task.end_fault();
    }
    if let Some(claim) = CLAIM.get() {
        claim(&info);
    }
    let payload = Box::new(info.clone());
    // SAFETY: the trampoline called this, on the stack of the task that was interrupted with
    // these registers.
    unsafe { arch::unwind(&info.registers, format_args!("{kind}"), payload) }
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
    let mut stack = stack_around(state.sp());
    if let Some(task) = running().filter(|_| stack == StackBounds::EMPTY) {
        // The stack pointer may be just below it.
        let range = task.stack();
        // SAFETY: the interrupted task's own stack: it does not run, and it stays.
        stack = unsafe { StackBounds::new(range.start, range.end) };
    }
    let registers = before_bad_call(kind, state).unwrap_or_else(|| state.registers());
    let pc = Pc::Exact(registers.ip());
    let trace = Trace::new(Cursor::new(registers, pc, stack, global()));
    // The console never fails.
    let _ = print(&mut Console, trace, backtrace_style(), &Names);
}

/// The running task, for as long as a fault of that task is being dealt with.
fn running<'a>() -> Option<&'a Task> {
    // SAFETY: a task does not end while its fault is being dealt with.
    unsafe { scheduler::running() }
}
