//! What all CPUs do, sampled by the interrupts of their timers.
//!
//! ```text
//!   timer ─► tick ─┬─ so often a second as asked ─► walk what was interrupted ─► Samples of this CPU
//!                  └─ as often as ever           ─► preempt                          │
//!   cargo xtask profile ◄── console ◄── report: a line for each ◄────────────────────┘ take
//! ```
//!
//! Promise: taking a sample allocates nothing, takes no lock and waits for nobody. One that finds no
//! room is counted. While none are taken, a tick costs one look at a number more than without all
//! this.
//!
//! A program need not know of it: with `profile=1000` on its command line, samples are taken from the
//! beginning of its `main` to the end, and then written.

use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use alloc::vec::Vec;
use spin::Once;
use unspool::backtrace::Trace;
use unspool::backtrace::samples::{Counts, Record, Samples};
use unspool::panic::platform;
use unspool::unwind::{Cursor, Pc, global};

use crate::arch::CpuState;
use crate::cpu::{self, MAX_CPUS};
use crate::error::Error;
use crate::machine::{ExitCode, machine};
use crate::platform::stack_around;
use crate::{eprintln, println};

/// The most samples a second.
pub const MAX_RATE: u32 = 10_000;

/// Bytes for the samples of each CPU, if nobody says otherwise: some 4,000 samples.
const DEFAULT_MEMORY: usize = 512 * 1024;
static MEMORY: AtomicUsize = AtomicUsize::new(DEFAULT_MEMORY);

/// Samples a second; 0 for none.
static RATE: AtomicU32 = AtomicU32::new(0);
/// The last rate that was not 0.
static LAST_RATE: AtomicU32 = AtomicU32::new(0);
/// When sampling began, if it is on, and for how many nanoseconds it was on before that.
static SINCE: AtomicU64 = AtomicU64::new(0);
static ELAPSED: AtomicU64 = AtomicU64::new(0);

/// One CPU's.
struct Buffer {
    samples: Samples<'static>,
    /// Nanoseconds that were spent on them.
    spent: AtomicU64,
}

static BUFFERS: Once<Vec<Buffer>> = Once::new();

/// One CPU's timer.
struct Timer {
    /// Interrupts a second; 0 for as many as there are when nobody asked for samples.
    hertz: AtomicU32,
    /// How far the next sample and the next tick are, from 0 to `hertz`.
    sample: AtomicU32,
    tick: AtomicU32,
}

static TIMERS: [Timer; MAX_CPUS] = [const {
    Timer { hertz: AtomicU32::new(0), sample: AtomicU32::new(0), tick: AtomicU32::new(0) }
}; MAX_CPUS];

/// Changes how many bytes there are for the samples of each CPU; until the first sampling begins.
pub(crate) fn set_memory(bytes: usize) {
    MEMORY.store(bytes, Ordering::Relaxed);
}

/// From now on, takes a sample of each CPU `hertz` times a second, or at another rate than before.
///
/// The memory for samples is taken the first time, and kept.
///
/// # Errors
///
/// `hertz` is 0 or more than [`MAX_RATE`], or the heap has no room.
pub fn start(hertz: u32) -> Result<(), Error> {
    if !(1..=MAX_RATE).contains(&hertz) {
        return Err(Error::SampleRate { hertz, limit: MAX_RATE });
    }
    BUFFERS.try_call_once(|| {
        let words = (MEMORY.load(Ordering::Relaxed) / size_of::<AtomicU64>()).max(1);
        // A power of two is what `Samples` wants.
        (0..MAX_CPUS).map(|_| Buffer::new(1 << words.ilog2())).collect()
    })?;
    stop();
    LAST_RATE.store(hertz, Ordering::Relaxed);
    SINCE.store(machine().now(), Ordering::Relaxed);
    RATE.store(hertz, Ordering::Release);
    Ok(())
}

/// Takes no more samples; those that were taken stay. A handler on another CPU may still be at its
/// last one.
pub fn stop() {
    if RATE.swap(0, Ordering::AcqRel) != 0 {
        let elapsed = machine().now().saturating_sub(SINCE.load(Ordering::Relaxed));
        ELAPSED.fetch_add(elapsed, Ordering::Relaxed);
    }
}

/// How many samples a second are taken of each CPU; 0 if none are.
pub fn rate() -> u32 {
    RATE.load(Ordering::Relaxed)
}

/// The samples of a CPU; `None` if none were ever taken. Their time is in nanoseconds, and task 0 is
/// the CPU's idle loop.
pub fn samples(cpu: usize) -> Option<&'static Samples<'static>> {
    Some(&BUFFERS.get()?.get(cpu)?.samples)
}

/// What was taken up to now, whether or not somebody took it out since.
pub fn counts() -> Counts {
    let buffers = || BUFFERS.get().into_iter().flatten();
    Counts {
        hertz: LAST_RATE.load(Ordering::Relaxed).into(),
        cpus: cpu::count() as u64,
        kept: buffers().map(|buffer| buffer.samples.kept()).sum(),
        dropped: buffers().map(|buffer| buffer.samples.dropped()).sum(),
        spent: buffers().map(|buffer| buffer.spent.load(Ordering::Relaxed)).sum(),
        elapsed: ELAPSED.load(Ordering::Relaxed),
    }
}

impl Buffer {
    fn new(words: usize) -> Result<Self, Error> {
        let mut room = Vec::new();
        let exhausted = |_| Error::OutOfMemory { size: words * size_of::<AtomicU64>() };
        room.try_reserve_exact(words).map_err(exhausted)?;
        room.resize_with(words, || AtomicU64::new(0));
        Ok(Self { samples: Samples::new(room.leak()), spent: AtomicU64::new(0) })
    }
}

/// In the handler of this CPU's timer: takes a sample if it is time for one. Says whether this is
/// one of the scheduler's ticks, too.
pub(crate) fn tick(state: &CpuState) -> bool {
    let rate = RATE.load(Ordering::Acquire);
    let timer = &TIMERS[cpu::current()];
    let hertz = timer.hertz.load(Ordering::Relaxed);
    if rate == 0 && hertz == 0 {
        return true;
    }
    let ticks = machine().tick_hertz();
    let wanted = rate.max(ticks);
    if rate == 0 || wanted != hertz {
        if wanted != hertz.max(ticks) {
            machine().set_timer(wanted);
        }
        // As at the beginning, if that is how it is again.
        timer.hertz.store(if rate == 0 { 0 } else { wanted }, Ordering::Relaxed);
    }
    // How far the next one is stays: sampling may be on for a few ticks at a time.
    if is_due(&timer.sample, rate, wanted) {
        take(state);
    }
    is_due(&timer.tick, ticks, wanted)
}

/// Whether it is time for something that happens `rate` times while the timer interrupts `hertz`
/// times, which is no less, and not 0. It never is for what happens 0 times.
fn is_due(sum: &AtomicU32, rate: u32, hertz: u32) -> bool {
    // The timer may have been faster before.
    let next = sum.load(Ordering::Relaxed).min(hertz - 1) + rate;
    let due = next >= hertz;
    sum.store(if due { next - hertz } else { next }, Ordering::Relaxed);
    due
}

fn take(state: &CpuState) {
    let Some(buffer) = BUFFERS.get().and_then(|buffers| buffers.get(cpu::current())) else {
        return;
    };
    let begin = machine().now();
    let task = cpu::this().interrupted(state.sp());
    let registers = state.registers();
    let pc = Pc::Exact(registers.ip());
    let trace = Trace::new(Cursor::new(registers, pc, stack_around(state.sp()), global()));
    buffer.samples.keep_trace(begin, task, trace);
    buffer.spent.fetch_add(machine().now().saturating_sub(begin), Ordering::Relaxed);
}

/// Takes out all samples and writes each as a line for `cargo xtask profile`, and at last how many
/// there should be. Addresses in modules that are loaded now are written as places in them.
pub fn report() {
    for (cpu, samples) in (0..MAX_CPUS).filter_map(|cpu| Some((cpu, samples(cpu)?))) {
        while let Some(sample) = samples.take() {
            let symbols = platform().symbols();
            println!("{}", Record::Sample { cpu, sample: &sample, symbols });
        }
    }
    println!("{}", Record::End(counts()));
}

/// Does `work`, which is always the same, again and again for so many nanoseconds. If samples are
/// taken, they are taken in every second turn only, and how long each turn took is written: from that
/// `cargo xtask profile` tells what sampling costs. It then goes on until half of the samples were taken
/// that should have been, up to thirty times as long: a machine may be away while time passes.
pub fn compare(nanoseconds: u64, mut work: impl FnMut()) {
    const LONGEST: u64 = 30;
    let (hertz, begin) = (rate(), machine().now());
    let taken = || {
        let Counts { kept, dropped, .. } = counts();
        kept + dropped
    };
    let due = u128::from(hertz) * cpu::count() as u128 * u128::from(nanoseconds) / 2_000_000_000;
    let (half, before) = ((due / 2) as u64, taken());
    let goes_on = || {
        let elapsed = machine().now() - begin;
        let few = taken() - before < half;
        elapsed < nanoseconds || few && elapsed < nanoseconds.saturating_mul(LONGEST)
    };
    // The first turn is the one in which everything grows that grows on first use.
    work();
    while goes_on() {
        for sampled in [false, true] {
            if sampled && hertz != 0 {
                // It was possible before.
                let _ = start(hertz);
            } else {
                stop();
            }
            let begin = machine().now();
            work();
            let elapsed = machine().now() - begin;
            if hertz != 0 {
                println!("{}", Record::Work { sampled, elapsed });
            }
        }
    }
}

/// Runs a program under sampling, from its beginning to its end.
pub(crate) fn whole(hertz: u32, program: impl FnOnce() -> ExitCode) -> ExitCode {
    if let Err(error) = start(hertz) {
        eprintln!("unspool-kernel: no samples: {error}");
        return ExitCode::FAILURE;
    }
    let code = program();
    stop();
    report();
    code
}
