//! What belongs to one CPU, and switching preemption off on it.
//!
//! ```text
//!   GS base ─► Cpu { address of itself, running task, preemption off: n, a switch is due, … }
//! ```
//!
//! A task is taken off its CPU only while the count is zero. The count is changed by one
//! instruction each, so it does not matter that a task may move to another CPU between two of
//! them: once the count is not zero, it stays. Interrupts stay on meanwhile: what is asked of a CPU
//! by others is answered at any time, also while it waits for a lock.

use core::marker::PhantomData;
use core::ops::Range;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, compiler_fence};

use crate::arch::per_cpu;
use crate::lock::Lock;
use crate::machine::machine;
use crate::scheduler;
use crate::task::Task;

/// The most CPUs that are used; what the machine has beyond that stays parked.
pub const MAX_CPUS: usize = 4;

/// What belongs to one CPU, alone in its cache lines. The assembly in `arch` knows the first fields.
#[repr(C, align(64))]
pub(crate) struct Cpu {
    /// Its own address.
    pub this: AtomicPtr<Cpu>,
    /// The running task, or null; the scheduler owns it.
    pub running: AtomicPtr<Task>,
    /// How many reasons there are not to preempt.
    pub off: AtomicU32,
    /// A tick came while preemption was off.
    pub due: AtomicU32,
    index: AtomicU32,
    /// Not 0: there is something to do for an idle CPU.
    pub wake: AtomicU32,
    /// Not 0: a lock that this CPU slept for has been freed.
    pub kicked: AtomicU32,
    /// What other CPUs want of this one; see [`Request`].
    requests: AtomicU32,
    /// 1 while the idle loop sleeps: nobody needs to ask it anything.
    asleep: AtomicU32,
    /// 1 if the idle loop must forget the page tables before it goes on.
    stale: AtomicU32,
    /// 1 while the policy for faults is asked here.
    pub deciding: AtomicU32,
    /// Where the registers of its idle loop are while a task runs.
    pub idle_sp: AtomicU64,
    /// The stack of its idle loop.
    idle_stack: [AtomicU64; 2],
    /// The task that another one is about to take the place of, and its stack.
    left: AtomicU64,
    left_stack: [AtomicU64; 2],
}

static CPUS: [Cpu; MAX_CPUS] = [const {
    Cpu {
        this: AtomicPtr::new(null_mut()),
        running: AtomicPtr::new(null_mut()),
        off: AtomicU32::new(0),
        due: AtomicU32::new(0),
        index: AtomicU32::new(0),
        wake: AtomicU32::new(0),
        kicked: AtomicU32::new(0),
        requests: AtomicU32::new(0),
        asleep: AtomicU32::new(0),
        stale: AtomicU32::new(0),
        deciding: AtomicU32::new(0),
        idle_sp: AtomicU64::new(0),
        idle_stack: [const { AtomicU64::new(0) }; 2],
        left: AtomicU64::new(0),
        left_stack: [const { AtomicU64::new(0) }; 2],
    }
}; MAX_CPUS];

/// The CPUs that take part, as bits.
static ONLINE: AtomicU32 = AtomicU32::new(0);

/// How many CPUs take part.
pub fn count() -> usize {
    ONLINE.load(Ordering::Acquire).count_ones() as usize
}

/// The CPUs that take part, as bits.
pub(crate) fn online() -> u32 {
    ONLINE.load(Ordering::Acquire)
}

/// The CPU that the caller runs on right now. A task may have moved before it reads the answer,
/// unless preemption is off.
pub fn current() -> usize {
    this().index()
}

/// As [`current`].
pub(crate) fn this() -> &'static Cpu {
    // SAFETY: the GS base is the address of a `Cpu` from the entry point on.
    unsafe { &*per_cpu::this() }
}

/// The CPU with this number.
pub(crate) fn get(index: usize) -> &'static Cpu {
    &CPUS[index]
}

/// The stacks of all idle loops.
pub(crate) fn idle_stacks() -> impl Iterator<Item = Range<u64>> {
    CPUS.iter().map(Cpu::idle_stack)
}

impl Cpu {
    /// The number of this CPU: 0 for the one that booted.
    pub(crate) fn index(&self) -> usize {
        self.index.load(Ordering::Relaxed) as usize
    }

    /// The block of the CPU with this number, ready to become the GS base.
    pub(crate) fn prepare(index: usize) -> &'static Self {
        let cpu = &CPUS[index];
        cpu.this.store((&raw const *cpu).cast_mut(), Ordering::Relaxed);
        cpu.index.store(index as u32, Ordering::Relaxed);
        cpu
    }

    /// Notes where the idle loop runs.
    pub(crate) fn set_idle_stack(&self, stack: &Range<u64>) {
        self.idle_stack[0].store(stack.start, Ordering::Relaxed);
        self.idle_stack[1].store(stack.end, Ordering::Release);
    }

    fn idle_stack(&self) -> Range<u64> {
        let end = self.idle_stack[1].load(Ordering::Acquire);
        self.idle_stack[0].load(Ordering::Relaxed)..end
    }

    /// Notes that this task, which is running, is no longer that, but still runs; until the switch is
    /// [done](Self::has_left). For handlers on this CPU.
    pub(crate) fn leave(&self, task: &Task) {
        let stack = task.stack();
        self.left.store(task.id(), Ordering::Relaxed);
        self.left_stack[0].store(stack.start, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        self.left_stack[1].store(stack.end, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
    }

    /// Notes that nothing runs on the stack any more that this CPU was about to leave.
    pub(crate) fn has_left(&self) {
        // One store: a handler finds the stack as it was, or none.
        self.left_stack[1].store(0, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
    }

    /// The number of the task that was interrupted on this CPU with such a stack pointer; 0 for the idle
    /// loop. In the middle of a switch, it is the one whose stack is still in use. For handlers.
    pub(crate) fn interrupted(&self, sp: u64) -> u64 {
        if self.left_stack().contains(&sp) {
            self.left.load(Ordering::Relaxed)
        } else if self.idle_stack().contains(&sp) {
            0
        } else {
            // SAFETY: what was interrupted does not end meanwhile.
            unsafe { scheduler::running() }.map_or(0, Task::id)
        }
    }

    /// The stack that this CPU is about to leave, if it is.
    pub(crate) fn left_stack(&self) -> Range<u64> {
        self.left_stack[0].load(Ordering::Relaxed)..self.left_stack[1].load(Ordering::Relaxed)
    }

    /// Says that this CPU takes part from now on.
    pub(crate) fn enter(&self) {
        ONLINE.fetch_or(1 << self.index(), Ordering::AcqRel);
    }

    /// Whether this CPU takes part.
    pub(crate) fn is_online(&self) -> bool {
        online() & 1 << self.index() != 0
    }

    /// Sleeps until somebody [rouses](Self::rouse) this CPU, which is in its idle loop.
    pub(crate) fn sleep(&self) {
        self.asleep.store(1, Ordering::SeqCst);
        machine().wait(&self.wake);
        self.asleep.store(0, Ordering::SeqCst);
        if self.stale.swap(0, Ordering::SeqCst) != 0 {
            machine().forget_pages();
        }
    }

    /// Whether it need not be asked: it runs nothing, and will do what it missed.
    fn can_be_left_alone(&self, request: Request) -> bool {
        if request == Request::Flush {
            self.stale.store(1, Ordering::SeqCst);
        }
        self.asleep.load(Ordering::SeqCst) != 0
    }

    /// Makes an idle CPU look for something to do.
    pub(crate) fn rouse(&self) {
        self.wake.store(1, Ordering::SeqCst);
        machine().wake(self.index(), &self.wake);
    }
}

/// While this value exists, the task that made it keeps its CPU.
#[derive(Debug)]
#[must_use]
pub struct NoPreemption(PhantomData<*mut ()>);

impl NoPreemption {
    /// Switches preemption off; calls may be nested.
    pub fn new() -> Self {
        per_cpu::off();
        Self(PhantomData)
    }
}

impl Default for NoPreemption {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for NoPreemption {
    fn drop(&mut self) {
        on();
    }
}

/// Takes one reason not to preempt away, and lets others run if that is due.
pub(crate) fn on() {
    if per_cpu::on() && per_cpu::is_due() {
        scheduler::yield_now();
    }
}

/// What one CPU can want of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// Forget what was cached of the page tables.
    Flush = 1,
    /// Look at the stack of the running task; see `walk`.
    Walk = 2,
}

/// One question at a time, until all have answered.
static ASKING: Lock<()> = Lock::new(());
static ANSWERS_MISSING: AtomicU32 = AtomicU32::new(0);
/// Not 0 once none is missing.
static ALL_ANSWERED: AtomicU32 = AtomicU32::new(0);
/// The CPU that asks.
static ASKER: AtomicU32 = AtomicU32::new(0);

/// Looks that somebody who waits takes before others get the processor that it runs on.
const LOOKS: u32 = 100;

/// Has all other CPUs that are awake do `request` and waits until they have; those that sleep do it
/// when they wake. Interrupts must be on, unless this is the only CPU.
pub(crate) fn ask_others(request: Request) {
    let _asking = ASKING.lock();
    // From here on the caller stays on its CPU.
    ASKER.store(current() as u32, Ordering::Relaxed);
    ALL_ANSWERED.store(0, Ordering::Relaxed);
    // One answer too many, so that there are not enough before all have been asked.
    ANSWERS_MISSING.store(1, Ordering::SeqCst);
    let others = online() & !(1 << current());
    for index in (0..MAX_CPUS).filter(|index| others & 1 << index != 0) {
        let cpu = &CPUS[index];
        if !cpu.can_be_left_alone(request) {
            ANSWERS_MISSING.fetch_add(1, Ordering::SeqCst);
            cpu.requests.fetch_or(request as u32, Ordering::SeqCst);
            machine().interrupt(index);
        }
    }
    answered();
    let all_answered = || ALL_ANSWERED.load(Ordering::SeqCst) != 0;
    let looked = (0..LOOKS).any(|_| {
        core::hint::spin_loop();
        all_answered()
    });
    while !looked && !all_answered() {
        // Whoever is to answer may need the processor that this CPU runs on.
        machine().wait(&ALL_ANSWERED);
    }
    // The time was not the caller's: a tick that came meanwhile is no reason to take its CPU away.
    this().due.store(0, Ordering::Relaxed);
}

/// Does what others want of this CPU; in the handler of what interrupted it.
pub(crate) fn answer(mut answer: impl FnMut(Request)) {
    let requests = this().requests.swap(0, Ordering::SeqCst);
    for request in [Request::Flush, Request::Walk] {
        if requests & request as u32 != 0 {
            answer(request);
            answered();
        }
    }
}

/// Notes an answer; the last one goes on with the asker.
fn answered() {
    let asker = ASKER.load(Ordering::Relaxed) as usize;
    if ANSWERS_MISSING.fetch_sub(1, Ordering::SeqCst) == 1 {
        ALL_ANSWERED.store(1, Ordering::SeqCst);
        if asker != current() {
            machine().wake(asker, &ALL_ANSWERED);
        }
    }
}
