//! The stacks that exist before memory does: one for each kind of interrupt, on each CPU.
//!
//! ```text
//!  │ guard │ double fault │ guard │ non-maskable │ guard │ … │      48 KiB each, in .bss
//! ```
//!
//! An interrupt never runs on the stack it interrupted: compiled code keeps values below its stack
//! pointer (the red zone, psABI x86-64 §3.2.2), and that stack may be the problem. In a Linux
//! process the stack for faults is the alternate signal stack.

use core::cell::UnsafeCell;
use core::ops::Range;

use crate::cpu::MAX_CPUS;
use crate::machine::{PAGE, Pages};

/// Bytes of each. Enough to print in a build without optimizations, for interrupts of handlers on the
/// same stack four deep, and for the largest signal frame (AVX-512 and AMX state: 12 KiB).
const SIZE: usize = 48 * 1024;

/// Which stack an interrupt runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InterruptStack {
    DoubleFault,
    NonMaskable,
    MachineCheck,
    /// Single steps and breakpoints.
    Debug,
    /// All other exceptions.
    Fault,
    /// Vectors from 32 on.
    External,
}

impl InterruptStack {
    pub(crate) const ALL: [Self; 6] = [
        Self::DoubleFault,
        Self::NonMaskable,
        Self::MachineCheck,
        Self::Debug,
        Self::Fault,
        Self::External,
    ];

    /// The place in the table of interrupt stacks of the TSS.
    pub(crate) const fn index(self) -> u16 {
        self as u16
    }

    /// Its addresses on a CPU.
    pub(crate) fn range(self, cpu: usize) -> Range<u64> {
        let start = STACKS[cpu][self as usize].stack.get().expose_provenance() as u64;
        start..start + SIZE as u64
    }

    /// The pages below the stacks of all CPUs, which are taken away at boot.
    pub(crate) fn guards() -> impl Iterator<Item = Pages> {
        let guard = |range: Range<u64>| Pages::new(range.start - PAGE as u64, PAGE);
        (0..MAX_CPUS).flat_map(move |cpu| {
            Self::ALL.map(|stack| guard(stack.range(cpu))).into_iter().flatten()
        })
    }

    /// The one that contains `address`, and its addresses.
    pub(crate) fn containing(address: u64) -> Option<(Self, Range<u64>)> {
        let first = (&raw const STACKS).expose_provenance() as u64;
        if !(first..first + size_of_val(&STACKS) as u64).contains(&address) {
            return None;
        }
        (0..MAX_CPUS)
            .flat_map(|cpu| Self::ALL.map(|stack| (stack, stack.range(cpu))))
            .find(|(_, range)| range.contains(&address))
    }
}

#[repr(C, align(4096))]
struct GuardedStack {
    _guard: [u8; PAGE],
    stack: UnsafeCell<[u8; SIZE]>,
}

// SAFETY: nothing makes a reference to the bytes; the CPU alone uses them.
unsafe impl Sync for GuardedStack {}

static STACKS: [[GuardedStack; InterruptStack::ALL.len()]; MAX_CPUS] = [const {
    [const { GuardedStack { _guard: [0; PAGE], stack: UnsafeCell::new([0; SIZE]) } };
        InterruptStack::ALL.len()]
}; MAX_CPUS];
