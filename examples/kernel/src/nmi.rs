//! The interrupt that nothing holds off: between any two instructions, whatever locks are held.
//!
//! ```text
//!   send(cpu) ─► NMI on its own stack (in a process: a signal) ─► handler(&Interrupted)
//!                                                                 └► trace, registers, CPU
//! ```
//!
//! Promise: entry, handler and way back take no lock and no memory; the interrupted code does not
//! notice.

use core::fmt::Write;
use core::mem::transmute;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use unspool::unwind::Registers;

use crate::arch::CpuState;
use crate::console::Console;
use crate::cpu::{self, MAX_CPUS};
use crate::machine::machine;
use crate::walk::{InterruptedTrace, trace_from};

/// What an interrupt interrupted.
#[derive(Debug)]
pub struct Interrupted<'s> {
    state: &'s CpuState,
}

impl Interrupted<'_> {
    /// The registers, of the instruction that would have been next.
    pub fn registers(&self) -> Registers {
        self.state.registers()
    }

    /// The flags (`rflags`).
    pub const fn flags(&self) -> u64 {
        self.state.rflags
    }

    /// The CPU.
    pub fn cpu(&self) -> usize {
        cpu::current()
    }

    /// The frames from that instruction outwards, through all stacks that were interrupted.
    pub fn trace(&self) -> InterruptedTrace {
        trace_from(self.state.registers())
    }
}

/// What is called for an NMI: it must not allocate, lock, wait or panic, nor [send] one.
pub type Handler = fn(&Interrupted<'_>);

/// A [`Handler`], or null.
static HANDLER: AtomicPtr<()> = AtomicPtr::new(null_mut());

/// Has `handler` called for every NMI on every CPU; without one they are noted on the console.
/// Returns the handler before.
pub fn set_handler(handler: Option<Handler>) -> Option<Handler> {
    let new = handler.map_or(null_mut(), |handler| handler as *mut ());
    from_pointer(HANDLER.swap(new, Ordering::AcqRel))
}

fn from_pointer(pointer: *mut ()) -> Option<Handler> {
    // SAFETY: null, which is `None`, or a handler: nothing else is stored.
    unsafe { transmute::<*mut (), Option<Handler>>(pointer) }
}

/// Sends an NMI to a CPU that takes part; it may be the caller's. While one is dealt with, one more is
/// kept and others are lost.
///
/// # Panics
///
/// If there is no such CPU.
pub fn send(cpu: usize) {
    assert!(cpu::online() & 1 << cpu != 0, "CPU {cpu} takes part");
    machine().interrupt_always(cpu);
}

/// The CPUs that deal with one.
static HANDLING: [AtomicBool; MAX_CPUS] = [const { AtomicBool::new(false) }; MAX_CPUS];

/// Whether the caller runs in a handler.
pub(crate) fn is_handled_here() -> bool {
    HANDLING[cpu::current()].load(Ordering::Relaxed)
}

/// An NMI, in its handler.
pub(crate) fn handle(state: &CpuState) {
    let handling = &HANDLING[cpu::current()];
    handling.store(true, Ordering::Relaxed);
    dispatch(state);
    handling.store(false, Ordering::Relaxed);
}

fn dispatch(state: &CpuState) {
    match from_pointer(HANDLER.load(Ordering::Acquire)) {
        Some(handler) => handler(&Interrupted { state }),
        // The console never fails.
        None => drop(writeln!(Console, "non-maskable interrupt at {:#x}", state.rip)),
    }
}
