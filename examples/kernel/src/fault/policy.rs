//! What is to become of a fault: the kernel's user decides.
//!
//! ```text
//!   CPU ─► handler ─► policy(&mut Fault) ─┬─► Resume   the interrupted code goes on
//!                     on the handler's    ├─► Unwind   the task is unwound from the instruction
//!                     own stack           ├─► Call     a function is called there; then unwound
//!                                         └─► Stop     reason, registers, trace, exit
//! ```
//!
//! Promise: a policy that faults itself is not asked again; that is the end, with a reason.

use core::mem::transmute;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

use unspool::unwind::{Register, Registers};

use super::FaultKind;
use crate::arch::CpuState;
use crate::cpu;
use crate::walk::{InterruptedTrace, trace_from};

/// Looks at a fault as if the instruction had called it, for the runtime of code whose faults mean
/// something else. If the fault is one of those, it continues the task elsewhere and does not return;
/// if it returns, the task is unwound. It may wait, allocate and panic.
pub type Claim = fn(FaultKind, &Registers);

/// What becomes of code that faulted.
#[derive(Clone, Copy, Debug)]
pub enum Decision {
    /// It goes on: at the instruction itself, once more; after it, if the exception is a trap
    /// (`int3`, `int 4`, a single step); or where [`Fault::set_registers`] said.
    ///
    /// After an abort (a double fault, a machine check) the saved registers mean nothing: without new
    /// ones the machine stops.
    Resume,
    /// The task is unwound from the instruction, with a [`FaultInfo`](super::FaultInfo); if that is
    /// impossible, the machine stops.
    ///
    /// The drops of all callers run, with the interrupt flag as it was. What cannot run: whatever the
    /// faulting frame itself owns, since it has a landing pad at calls only; and what a caller owns
    /// whose call the compiler knows never to unwind. Floating-point control is as at the start of a
    /// program: exceptions masked.
    Unwind,
    /// As [`Unwind`](Self::Unwind), but this is called before: on the task's stack, below what it used.
    Call(Claim),
    /// The machine stops: the reason, the registers and a trace are written.
    Stop,
}

/// A fault that is being decided about.
#[derive(Debug)]
pub struct Fault<'s> {
    kind: FaultKind,
    /// At the instruction, also for a trap.
    state: &'s mut CpuState,
    moved: bool,
}

impl<'s> Fault<'s> {
    pub(super) const fn new(kind: FaultKind, state: &'s mut CpuState) -> Self {
        Self { kind, state, moved: false }
    }

    /// What happened.
    pub const fn kind(&self) -> FaultKind {
        self.kind
    }

    /// The registers of the instruction.
    pub fn registers(&self) -> Registers {
        self.state.registers()
    }

    /// The flags of the interrupted code (`rflags`).
    pub const fn flags(&self) -> u64 {
        self.state.rflags
    }

    /// The frames from the instruction outwards, through all stacks that were interrupted: no lock, no
    /// memory.
    pub fn trace(&self) -> InterruptedTrace {
        trace_from(self.state.registers())
    }

    /// Changes the registers with which the code goes on, if it is [resumed](Decision::Resume).
    ///
    /// # Safety
    ///
    /// The interrupted code can go on with them, at their instruction pointer: nothing that it relies
    /// on is lost.
    pub unsafe fn set_registers(&mut self, registers: &Registers) {
        for (register, value) in Register::all().zip(&mut self.state.gpr) {
            *value = registers.get(register);
        }
        self.state.rip = registers.ip();
        self.moved = true;
    }

    /// Whether the registers were set.
    pub(super) const fn is_moved(&self) -> bool {
        self.moved
    }
}

/// Decides about a fault. Runs on the stack of its handler, with interrupts off, at a point that may
/// hold any lock: it must not allocate, lock, wait or panic.
pub type Policy = fn(&mut Fault<'_>) -> Decision;

/// What is done if no policy is set: breakpoints are passed over, everything else is unwound.
pub const fn default_policy(fault: &mut Fault<'_>) -> Decision {
    match fault.kind {
        FaultKind::Breakpoint => Decision::Resume,
        kind if kind.is_abort() => Decision::Stop,
        _ => Decision::Unwind,
    }
}

/// A [`Policy`], or null for the default.
static POLICY: AtomicPtr<()> = AtomicPtr::new(null_mut());

/// Makes `policy` decide about all faults of all tasks on all CPUs from now on; `None`: the
/// [default](default_policy). Returns the policy before.
pub fn set_policy(policy: Option<Policy>) -> Option<Policy> {
    let new = policy.map_or(null_mut(), |policy| policy as *mut ());
    from_pointer(POLICY.swap(new, Ordering::AcqRel))
}

fn from_pointer(pointer: *mut ()) -> Option<Policy> {
    // SAFETY: null, which is `None`, or a policy: nothing else is stored.
    unsafe { transmute::<*mut (), Option<Policy>>(pointer) }
}

/// What the policy says. One that faults itself is not asked about that.
pub(super) fn decide(fault: &mut Fault<'_>) -> Decision {
    let cpu = cpu::this();
    if cpu.deciding.swap(1, Ordering::Relaxed) != 0 {
        return Decision::Unwind;
    }
    let policy = from_pointer(POLICY.load(Ordering::Acquire)).unwrap_or(default_policy);
    let decision = policy(fault);
    cpu.deciding.store(0, Ordering::Relaxed);
    decision
}
