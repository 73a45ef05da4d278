//! What a handler of faults leaves behind: the CPU as it was, however it is left, whatever comes while
//! it runs.
//!
//! ```text
//!   fault ─► handler ─┬─► the instruction again: all registers as they were
//!    tick, call, NMI ─┘─► the unwinding task: ticks and calls come as before, flags as for a call
//! ```

use alloc::vec::Vec;
use core::arch::asm;
use core::cell::Cell;
use core::hint::black_box;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use unspool::panic::catch_unwind;
use unspool::thread_local;
use unspool::unwind::{Register, Registers};
use unspool_kernel::fault::{Decision, Fault, FaultInfo, FaultKind, default_policy};
use unspool_kernel::machine::machine;
use unspool_kernel::task::{self, JoinHandle};
use unspool_kernel::{cpu, profile};

use crate::interruptible::region;
use crate::support::{PATIENCE, footprint};
use crate::vectors::{in_ring_0, with_policy};

crate::tests![
    a_task_that_faulted_is_preempted_like_any_other,
    a_tick_that_comes_in_a_handler_comes_to_pass_at_its_end,
    faults_of_many_tasks_under_fast_ticks_end_where_they_belong,
    resumed_code_has_all_its_registers_under_fast_ticks,
    tasks_that_do_nothing_but_fault_can_be_killed,
    alignment_is_not_checked_after_a_fault_of_code_that_had_it_checked,
];

/// Ticks and samples a second; an emulator has no time for so many.
fn fast() -> u32 {
    if in_ring_0() { 1000 } else { 5000 }
}

/// How often something is done that an emulator takes long for.
const fn rounds(in_ring_0: bool) -> usize {
    if in_ring_0 { 100 } else { 4000 }
}

/// Executes an instruction that does not exist, which is [claimed]: comes back as if it were none.
pub fn illegal_and_back() {
    // SAFETY: `go_back` goes on at the label, with the stack, `rbx` and `rbp` as they are; all other
    // registers are said to change.
    unsafe {
        asm!(
            "lea r12, [rip + 2f]", "ud2", "2:",
            out("r12") _, out("r13") _, out("r14") _, out("r15") _, clobber_abi("C")
        );
    }
}

/// Goes on where [`illegal_and_back`] says.
fn go_back(_: FaultKind, registers: &Registers) {
    let word = |register| registers.get(register);
    // SAFETY: see there: the frame of that function is left as it was, and those below are given up.
    unsafe {
        asm!(
            "mov rbx, rax", "mov rbp, rcx", "mov rsp, rdx", "jmp rsi",
            in("rax") word(Register::RBX), in("rcx") word(Register::RBP),
            in("rdx") registers.sp(), in("rsi") word(Register::R12),
            options(noreturn)
        )
    }
}

/// The policy for it.
pub fn claimed(fault: &mut Fault<'_>) -> Decision {
    match fault.kind() {
        FaultKind::InvalidOpcode => Decision::Call(go_back),
        _ => default_policy(fault),
    }
}

/// Runs `body` while the timer comes often.
fn under_fast_ticks<R>(body: impl FnOnce() -> R) -> R {
    struct Stop;
    impl Drop for Stop {
        fn drop(&mut self) {
            profile::stop();
        }
    }
    profile::start(fast()).unwrap();
    let _stop = Stop;
    body()
}

/// More tasks than CPUs.
fn many() -> usize {
    2 * cpu::count()
}

/// Runs `body` in [`many`] tasks at once, with their numbers.
fn in_many(body: fn(usize)) {
    let spawn = |mine| task::spawn("many", move || body(mine));
    let tasks: Vec<JoinHandle<()>> = (0..many()).map(spawn).collect();
    tasks.into_iter().for_each(|task| task.join().unwrap());
}

#[inline(never)]
fn illegal() {
    // SAFETY: not at all: the instruction faults, which is what is tested.
    unsafe { asm!("ud2") };
}

struct Counted<'c>(&'c AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Faults below some callers with values; says whether it was that.
fn faults(depth: usize, drops: &AtomicUsize) -> bool {
    #[inline(never)]
    fn call(depth: usize, drops: &AtomicUsize) -> usize {
        let _counted = Counted(drops);
        if depth == 0 {
            // Through a pointer: the compiler must take the call for one that may unwind.
            black_box(illegal as fn())();
            return 0;
        }
        black_box(call(depth - 1, drops)) + 1
    }
    let payload = catch_unwind(|| call(depth, drops)).unwrap_err();
    let fault = payload.downcast_ref::<FaultInfo>();
    fault.is_some_and(|fault| fault.kind == FaultKind::InvalidOpcode)
}

/// Notes one more, and spins, without a lock, until all are there. Says whether they came in time.
fn meet(there: &AtomicUsize, all: usize) -> bool {
    there.fetch_add(1, Ordering::Relaxed);
    let begin = machine().now();
    while there.load(Ordering::Relaxed) < all {
        if machine().now() - begin > PATIENCE {
            return false;
        }
    }
    true
}

fn a_task_that_faulted_is_preempted_like_any_other() {
    static THERE: AtomicUsize = AtomicUsize::new(0);
    THERE.store(0, Ordering::Relaxed);
    in_many(|_| {
        let drops = AtomicUsize::new(0);
        assert!(faults(1, &drops));
        // Whoever comes first on a CPU gives it up only to a tick.
        assert!(meet(&THERE, many()), "ticks come after a fault");
    });
}

fn a_tick_that_comes_in_a_handler_comes_to_pass_at_its_end() {
    static THERE: AtomicUsize = AtomicUsize::new(0);
    static MET: AtomicUsize = AtomicUsize::new(0);
    /// Handlers of a task in whose ends it must have been taken off its CPU. The first takes two ticks,
    /// each of the others twice as long as the one before: whoever brings the ticks may be away meanwhile.
    const HANDLERS: u32 = 14;
    thread_local! {
        static HANDLED: Cell<u32> = const { Cell::new(0) };
    }
    fn takes_long(fault: &mut Fault<'_>) -> Decision {
        let period = 1_000_000_000 / u64::from(machine().tick_hertz());
        let (long, begin) = (period << (HANDLED.get() + 1), machine().now());
        while machine().now() - begin < long {}
        default_policy(fault)
    }
    THERE.store(0, Ordering::Relaxed);
    MET.store(0, Ordering::Relaxed);
    with_policy(takes_long, || {
        in_many(|_| {
            THERE.fetch_add(1, Ordering::Relaxed);
            for number in 0..HANDLERS {
                if THERE.load(Ordering::Relaxed) == many() {
                    MET.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                HANDLED.set(number);
                // SAFETY: the policy goes on after the breakpoint.
                unsafe { asm!("int3") };
            }
        });
    });
    assert_eq!(MET.load(Ordering::Relaxed), many());
}

fn faults_of_many_tasks_under_fast_ticks_end_where_they_belong() {
    /// Each is reported, so there are not many.
    const UNWOUND: usize = 5;
    // The memory for samples is kept.
    under_fast_ticks(|| ());
    let before = footprint();
    under_fast_ticks(|| {
        in_many(|mine| {
            let (drops, depth) = (AtomicUsize::new(0), mine % 5);
            for round in 1..=UNWOUND {
                assert!(faults(depth, &drops));
                assert_eq!(drops.load(Ordering::Relaxed), round * (depth + 1));
            }
        });
    });
    with_policy(claimed, || {
        under_fast_ticks(|| {
            in_many(|_| (0..50 * rounds(in_ring_0())).for_each(|_| illegal_and_back()))
        });
    });
    assert_eq!(footprint(), before);
}

/// Executes `int3` so often, with a pattern in vector registers and below the stack pointer; says
/// whether all of it is there afterwards.
fn breaks(mine: usize, times: usize) -> bool {
    let mut words: [u64; 32] = core::array::from_fn(|n| (mine * 1000 + n) as u64);
    let before = words;
    let mut same: u64 = 1;
    // SAFETY: the default policy goes on after a breakpoint; uses nothing but the registers it names,
    // its buffer and the red zone.
    unsafe {
        asm!(
            "movups xmm0, [{words}]", "movups xmm3, [{words} + 48]",
            "movups xmm7, [{words} + 112]", "movups xmm8, [{words} + 128]",
            "movups xmm14, [{words} + 224]", "movups xmm15, [{words} + 240]",
            "mov [rsp - 8], {words}", "mov [rsp - 128], {words}",
            "2:",
            "int3",
            "cmp [rsp - 8], {words}", "jne 3f",
            "cmp [rsp - 128], {words}", "jne 3f",
            "dec {times}",
            "jnz 2b",
            "jmp 4f",
            "3:", "xor {same:e}, {same:e}",
            "4:",
            "movups [{words}], xmm0", "movups [{words} + 48], xmm3",
            "movups [{words} + 112], xmm7", "movups [{words} + 128], xmm8",
            "movups [{words} + 224], xmm14", "movups [{words} + 240], xmm15",
            words = in(reg) &raw mut words,
            times = inout(reg) times => _,
            same = inout(reg) same,
            out("xmm0") _, out("xmm3") _, out("xmm7") _, out("xmm8") _, out("xmm14") _,
            out("xmm15") _,
        );
    }
    same == 1 && words == before
}

fn resumed_code_has_all_its_registers_under_fast_ticks() {
    under_fast_ticks(|| {
        in_many(|mine| assert!(breaks(mine, 10 * rounds(in_ring_0()))));
    });
}

fn tasks_that_do_nothing_but_fault_can_be_killed() {
    /// Of each of two victims: one that has not begun has nothing to drop.
    static ROUNDS: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];
    static DROPS: AtomicUsize = AtomicUsize::new(0);
    const TASKS: usize = 40;
    fn go_on(mine: usize) {
        loop {
            illegal_and_back();
            ROUNDS[mine].fetch_add(1, Ordering::Relaxed);
        }
    }
    DROPS.store(0, Ordering::Relaxed);
    let before = footprint();
    with_policy(claimed, || {
        for _ in 0..TASKS / 2 {
            ROUNDS.iter().for_each(|rounds| rounds.store(0, Ordering::Relaxed));
            let victims = [0, 1].map(|mine| {
                task::spawn("victim", move || {
                    let _counted = Counted(&DROPS);
                    region(|| go_on(mine));
                })
            });
            while ROUNDS.iter().any(|rounds| rounds.load(Ordering::Relaxed) < 10) {
                task::yield_now();
            }
            for victim in victims {
                victim.task().kill();
                assert!(victim.join().is_killed());
            }
        }
    });
    assert_eq!(DROPS.load(Ordering::Relaxed), TASKS);
    assert_eq!(footprint(), before);
}

fn alignment_is_not_checked_after_a_fault_of_code_that_had_it_checked() {
    const ALIGNMENT_CHECK: u64 = 1 << 18;
    #[inline(never)]
    fn checked() {
        // SAFETY: not at all: the instruction faults, which is what is tested.
        unsafe { asm!("pushfq", "or dword ptr [rsp], 0x40000", "popfq", "ud2") };
    }
    let caught = catch_unwind(|| black_box(checked as fn())()).is_err();
    let flags: u64;
    // SAFETY: reads the flags, and says that it uses the stack.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags) };
    assert!(caught);
    assert_eq!(flags & ALIGNMENT_CHECK, 0);
}
