//! Exceptions that only ring 0 can bring about: #NM by switching the FPU off, #TS and #DF by tables that are
//! too short.
//!
//! ```text
//!   ud2 ─► gate ─► IST ─► beyond the TSS's limit ─► #TS ─► gate without IST ─► this stack
//! ```
//!
//! Ring 3 may not even look at the registers in question: #GP.

use alloc::boxed::Box;
use core::arch::asm;
use core::sync::atomic::{AtomicU32, Ordering};

use unspool_kernel::fault::{Decision, Fault, FaultKind};
use unspool_kernel::{cpu, task};

use crate::vectors::{TablePointer, in_ring_0, seen, with_policy};

crate::tests![
    an_fpu_that_is_off_is_a_fault,
    an_fpu_that_is_off_is_on_again_when_the_instruction_is_resumed,
    a_task_that_switches_the_fpu_off_is_unwound,
    a_task_state_segment_that_is_too_short_is_told_apart,
    a_double_fault_is_reported_in_ring_0,
];

const DENIED: FaultKind = FaultKind::GeneralProtection { error: 0 };

fn an_fpu_that_is_off_is_a_fault() {
    if !in_ring_0() {
        assert_eq!(seen!("mov {word}, cr0" ; word = out(reg) _), Some(DENIED));
        return;
    }
    for _ in 0..3 {
        let kind = seen!(
            "cli", "mov {word}, cr0", "or {word}, 8", "mov cr0, {word}",
            "movaps xmm0, xmm0", "ud2", "22:", "sti" ;
            word = out(reg) _
        );
        assert_eq!(kind, Some(FaultKind::DeviceNotAvailable));
    }
    // CR0.EM: x87 instructions are to be emulated.
    let kind = seen!(
        "cli", "mov {word}, cr0", "or {word}, 4", "mov cr0, {word}", "fnop", "ud2", "22:", "sti" ;
        word = out(reg) _
    );
    assert_eq!(kind, Some(FaultKind::DeviceNotAvailable));
}

fn an_fpu_that_is_off_is_on_again_when_the_instruction_is_resumed() {
    static FAULTS: AtomicU32 = AtomicU32::new(0);
    fn again(fault: &mut Fault<'_>) -> Decision {
        assert_eq!(fault.kind(), FaultKind::DeviceNotAvailable);
        FAULTS.fetch_add(1, Ordering::Relaxed);
        Decision::Resume
    }
    if !in_ring_0() {
        return;
    }
    FAULTS.store(0, Ordering::Relaxed);
    let doubled = with_policy(again, || {
        let mut number = 21.0_f64;
        // SAFETY: the policy goes on with the addition, which the FPU then does.
        unsafe {
            asm!(
                "cli", "mov {word}, cr0", "or {word}, 8", "mov cr0, {word}",
                "addsd {number}, {number}", "sti",
                word = out(reg) _, number = inout(xmm_reg) number,
            );
        }
        number
    });
    assert_eq!((doubled, FAULTS.load(Ordering::Relaxed)), (42.0, 1));
}

fn a_task_that_switches_the_fpu_off_is_unwound() {
    /// Interrupts are off when the fault comes, and so in the drops.
    struct Interrupts;
    impl Drop for Interrupts {
        fn drop(&mut self) {
            // SAFETY: as the task began.
            unsafe { asm!("sti") };
        }
    }
    #[inline(never)]
    fn computes() {
        // SAFETY: faults.
        unsafe {
            asm!(
                "cli", "mov {word}, cr0", "or {word}, 8", "mov cr0, {word}", "movaps xmm0, xmm0",
                word = out(reg) _
            );
        }
    }
    if !in_ring_0() {
        return;
    }
    let task = task::spawn("computes", || {
        let _interrupts = Interrupts;
        core::hint::black_box(computes as fn())();
    });
    let kind = task.join().faulted().map(|info| info.kind);
    assert_eq!(kind, Some(FaultKind::DeviceNotAvailable));
}

/// Words of tables, from a place in memory on.
fn read_words(base: u64, words: &mut [u64]) {
    let place = core::ptr::with_exposed_provenance::<u64>(base as usize);
    for (index, word) in words.iter_mut().enumerate() {
        // SAFETY: the callers' tables, inside their limits.
        *word = unsafe { place.add(index).read_volatile() };
    }
}

fn a_task_state_segment_that_is_too_short_is_told_apart() {
    /// Bytes of a TSS up to the last of the three stacks of rings: without interrupt stacks.
    const SHORT: u64 = 0x24;
    const LIMIT: u64 = 0x000f_0000_0000_ffff;
    const BUSY: u64 = 1 << 41;
    /// Of a gate: the number of its interrupt stack.
    const STACK: u64 = 7 << 32;
    if !in_ring_0() {
        return;
    }
    let _here = cpu::NoPreemption::new();
    let (mut segments, mut gates) =
        (TablePointer { limit: 0, base: 0 }, TablePointer { limit: 0, base: 0 });
    // SAFETY: stores ten bytes.
    unsafe { asm!("sgdt [{}]", in(reg) &raw mut segments, options(nostack, preserves_flags)) };
    // SAFETY: as above.
    unsafe { asm!("sidt [{}]", in(reg) &raw mut gates, options(nostack, preserves_flags)) };
    let task: u64;
    // SAFETY: only reads a register.
    unsafe { asm!("str {}", out(reg) task, options(nomem, nostack, preserves_flags)) };
    // The same segments, and behind them a TSS that is too short.
    let mut table = [0_u64; 16];
    let used = (usize::from(segments.limit) + 1) / size_of::<u64>();
    read_words(segments.base, &mut table[..used]);
    let descriptor = task as usize / size_of::<u64>();
    table[used] = table[descriptor] & !LIMIT & !BUSY | (SHORT - 1);
    table[used + 1] = table[descriptor + 1];
    let short = (used * size_of::<u64>()) as u64;
    // The same gates, but the one of #TS is entered on the stack in use.
    let mut entries = Box::new([0_u64; 512]);
    read_words(gates.base, &mut entries[..]);
    entries[2 * 10] &= !STACK;
    let pointer = |words: &[u64]| TablePointer {
        limit: size_of_val(words) as u16 - 1,
        base: words.as_ptr().expose_provenance() as u64,
    };
    let (new_segments, new_gates) = (pointer(&table), pointer(&entries[..]));
    let busy = segments.base + task + 5;
    let kind = seen!(
        "cli", "lgdt [{new_segments}]", "ltr {short:x}", "lidt [{new_gates}]", "sub rsp, 128",
        "ud2", "22:",
        "add rsp, 128", "lidt [{gates}]", "lgdt [{segments}]", "and byte ptr [{busy}], 0xfd",
        "ltr {task:x}", "sti" ;
        new_segments = in(reg) &raw const new_segments, new_gates = in(reg) &raw const new_gates,
        segments = in(reg) &raw const segments, gates = in(reg) &raw const gates,
        short = in(reg) short, task = in(reg) task, busy = in(reg) busy,
    );
    let Some(FaultKind::InvalidTss { error }) = kind else { panic!("{kind:?}") };
    // The lowest bit says that it was not an `int n` whose delivery failed.
    assert_eq!(error & !1, short);
}

/// With a table of interrupts that ends with vector 8, an `int` beyond it is a #GP, which is beyond it
/// as well: contributory exceptions (Intel SDM volume 3, table 6-5).
fn a_double_fault_is_reported_in_ring_0() {
    if !in_ring_0() {
        assert_eq!(seen!("int 8" ;), Some(FaultKind::GeneralProtection { error: 8 << 3 | 2 }));
        return;
    }
    let _here = cpu::NoPreemption::new();
    let mut old = TablePointer { limit: 0, base: 0 };
    // SAFETY: stores ten bytes.
    unsafe { asm!("sidt [{}]", in(reg) &raw mut old, options(nostack, preserves_flags)) };
    let short = TablePointer { limit: 9 * 16 - 1, base: old.base };
    let kind = seen!(
        "cli", "lidt [{short}]", "int 100", "22:", "lidt [{old}]", "sti" ;
        short = in(reg) &raw const short, old = in(reg) &raw const old
    );
    assert_eq!(kind, Some(FaultKind::DoubleFault));
}
