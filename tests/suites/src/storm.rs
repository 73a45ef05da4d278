//! Traces at any instruction: NMIs that hit tasks that raise, fault, load, unload and spawn, and single steps
//! through a whole raise.
//!
//! ```text
//!   sender ─► NMI ─► another CPU: raise · fault · load · spawn      trace ─► outermost frame, or wrong
//!   trap flag ─► #DB after each instruction of a raise              trace ─► the same
//! ```
//!
//! A trace is right if it ends at an outermost frame. Any other end is wrong, and is shown.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::arch::{asm, naked_asm};
use core::hint::black_box;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use spin::Mutex;
use unspool::backtrace::End;
use unspool::panic::{catch_unwind, resume_unwind};
use unspool_kernel::fault::{Decision, Fault, FaultKind, Policy, set_policy};
use unspool_kernel::walk::{AllStacks, InterruptedTrace};
use unspool_kernel::{cpu, loader, nmi, println, task};

use crate::leaving::{claimed, illegal_and_back};
use crate::support::{all_cpus_came_by, module};
use crate::vectors::in_ring_0;

crate::tests![
    many_nmis_at_random_points_trace_to_the_outermost_frame,
    a_trace_from_every_instruction_of_a_raise_reaches_the_outermost_frame,
];

const NMIS: u64 = 100_000;
/// Where CPUs that send interrupts to each other take turns on fewer processors, each waits for its turn.
const NMIS_OF_MANY: u64 = 10_000;

fn nmis() -> u64 {
    if in_ring_0() && cpu::count() > 1 { NMIS_OF_MANY } else { NMIS }
}

/// More frames than any stack here has.
const MOST_FRAMES: usize = 1000;
/// How many wrong traces are shown.
const SHOWN: usize = 8;

static TAKEN: AtomicU64 = AtomicU64::new(0);
static FRAMES: AtomicU64 = AtomicU64::new(0);
static WRONG: AtomicU64 = AtomicU64::new(0);
/// Where a wrong trace began, where it ended, and why.
type Sample = Option<(u64, u64, Option<End>)>;
static SAMPLES: Mutex<[Sample; SHOWN]> = Mutex::new([None; SHOWN]);

fn reset() {
    TAKEN.store(0, Ordering::Relaxed);
    FRAMES.store(0, Ordering::Relaxed);
    WRONG.store(0, Ordering::Relaxed);
    *SAMPLES.lock() = [None; SHOWN];
}

/// Takes a trace to its end, and notes what was wrong with it. For handlers.
fn judge(mut trace: InterruptedTrace) {
    let (mut frames, mut first, mut last) = (0, None, 0);
    for frame in trace.by_ref().take(MOST_FRAMES) {
        first = first.or(Some(frame.pc.address()));
        last = frame.pc.address();
        frames += 1;
    }
    if trace.end() != Some(End::Outermost) {
        let number = WRONG.fetch_add(1, Ordering::Relaxed) as usize;
        if let (Some(mut samples), true) = (SAMPLES.try_lock(), number < SHOWN) {
            samples[number] = Some((first.unwrap_or(0), last, trace.end()));
        }
    }
    FRAMES.fetch_add(frames, Ordering::Relaxed);
    TAKEN.fetch_add(1, Ordering::Release);
}

/// What was found; panics if anything was wrong.
fn conclude(what: &str) {
    let (taken, frames) = (TAKEN.load(Ordering::Relaxed), FRAMES.load(Ordering::Relaxed));
    let wrong = WRONG.load(Ordering::Relaxed);
    println!("{taken} {what}, {} frames each, {wrong} wrong", frames / taken.max(1));
    for (first, last, end) in SAMPLES.lock().iter().flatten() {
        println!("  from {first:#x} to {last:#x}: {end:?}");
    }
    assert_eq!(wrong, 0);
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state >> 16
}

/// Says whether to go on, and lets an only CPU interrupt itself.
fn go_on() -> bool {
    if cpu::count() == 1 {
        nmi::send(cpu::current());
    }
    !STOP.load(Ordering::Relaxed)
}

static STOP: AtomicBool = AtomicBool::new(false);

struct Interrupts;

impl Drop for Interrupts {
    fn drop(&mut self) {
        go_on();
    }
}

#[inline(never)]
fn throw(depth: u32) -> u64 {
    let _interrupts = Interrupts;
    if depth == 0 {
        resume_unwind(Box::new(7_u32));
    }
    black_box(throw(depth - 1)) + 1
}

fn raises() {
    let mut depth = 0;
    while go_on() {
        depth = (depth + 1) % 12;
        assert!(catch_unwind(|| throw(depth)).is_err());
    }
}

fn loads() {
    const NAME: &str = "calls.static.o";
    while go_on() {
        let object = loader().load(NAME, module(NAME)).unwrap();
        go_on();
        // What a walk meets on another CPU may keep it for a moment.
        while loader().unload(&object, &AllStacks).is_err() {
            task::yield_now();
        }
    }
}

/// Faults: what interrupts meanwhile may interrupt the handler.
fn faults() {
    while go_on() {
        illegal_and_back();
        go_on();
    }
}

fn spawns() {
    while go_on() {
        let sum = task::spawn("short", || {
            go_on();
            black_box(Vec::from([1, 2, 3])).into_iter().sum::<u32>()
        });
        assert_eq!(sum.join().unwrap(), 6);
    }
}

/// Interrupts random CPUs but its own until enough traces were taken; with one CPU, its tasks do that
/// themselves.
fn send() {
    let mut state = 0x9e37_79b9_7f4a_7c15;
    while TAKEN.load(Ordering::Acquire) < nmis() {
        if cpu::count() == 1 {
            go_on();
            task::yield_now();
            continue;
        }
        let target = random(&mut state) as usize % cpu::count();
        let here = cpu::NoPreemption::new();
        if target != cpu::current() {
            nmi::send(target);
        }
        drop(here);
        // Something must happen between two of them.
        for _ in 0..random(&mut state) % 4000 {
            core::hint::spin_loop();
        }
    }
}

fn many_nmis_at_random_points_trace_to_the_outermost_frame() {
    reset();
    STOP.store(false, Ordering::Relaxed);
    assert!(nmi::set_handler(Some(|interrupted| judge(interrupted.trace()))).is_none());
    assert!(set_policy(Some(claimed)).is_none());
    let tasks: Vec<_> =
        [("raises", raises as fn()), ("faults", faults), ("loads", loads), ("spawns", spawns)]
            .into_iter()
            .map(|(name, body)| task::spawn(name, body))
            .collect();
    send();
    STOP.store(true, Ordering::Relaxed);
    tasks.into_iter().for_each(|task| task.join().unwrap());
    set_policy(None);
    // One that was sent last may be on its way.
    all_cpus_came_by();
    nmi::set_handler(None);
    assert!(TAKEN.load(Ordering::Relaxed) >= nmis());
    conclude("NMIs");
}

/// Sets the flags. With tables for each of its instructions, as all code here that is stepped through.
#[unsafe(naked)]
unsafe extern "C" fn set_flags(flags: u64) {
    naked_asm!(
        ".cfi_startproc",
        "push rdi",
        ".cfi_adjust_cfa_offset 8",
        "popfq",
        ".cfi_adjust_cfa_offset -8",
        "ret",
        ".cfi_endproc",
    )
}

/// Traces after each instruction.
fn judge_step(fault: &mut Fault<'_>) -> Decision {
    if fault.kind() != FaultKind::Debug {
        return Decision::Unwind;
    }
    judge(fault.trace());
    Decision::Resume
}

/// Steps through `body`, with `step` after each instruction.
pub fn step_through<R>(step: Policy, body: impl FnOnce() -> R) -> R {
    const TRAP: u64 = 1 << 8;
    // Flags are not a task's own here: nobody else may get this one.
    let _here = cpu::NoPreemption::new();
    assert!(set_policy(Some(step)).is_none());
    let flags: u64;
    // SAFETY: reads the flags, and says that it uses the stack.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags) };
    // SAFETY: the policy goes on after each step.
    unsafe { set_flags(flags | TRAP) };
    let result = body();
    // SAFETY: the flags as they were.
    unsafe { set_flags(flags) };
    set_policy(None);
    result
}

fn a_trace_from_every_instruction_of_a_raise_reaches_the_outermost_frame() {
    reset();
    // Without drops that send.
    #[inline(never)]
    fn through(depth: u32, numbers: &mut Vec<u32>) -> u64 {
        struct Counts<'n>(&'n mut Vec<u32>);
        impl Drop for Counts<'_> {
            fn drop(&mut self) {
                self.0.push(1);
            }
        }
        let counts = Counts(numbers);
        if depth == 0 {
            resume_unwind(Box::new(7_u32));
        }
        black_box(through(depth - 1, counts.0)) + 1
    }
    let mut numbers = Vec::new();
    let caught = step_through(judge_step, || {
        let call = unspool::panic::AssertUnwindSafe(|| through(3, &mut numbers));
        catch_unwind(call).is_err()
    });
    assert!(caught);
    assert_eq!(numbers.len(), 4);
    assert!(TAKEN.load(Ordering::Relaxed) > 1000);
    conclude("steps");
}
