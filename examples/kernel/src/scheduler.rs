//! Which task runs where.
//!
//! ```text
//!             ┌── yield, tick ──┐
//!   add ─► ready ─► running on a CPU ─► end: joiners wake ─► ended ─► freed by another, later
//!             ▲        │ wait
//!             └─────── waiting for a word ◄─ wake, kill
//! ```
//!
//! First come, first served, one queue for all CPUs; a CPU without a task sleeps in its idle loop.
//! The lock is held across a switch and released by whoever goes on there, so that no CPU can take a
//! task whose registers are not saved yet. It is never needed to learn which task runs.

use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use unspool::panic::{self, NoUnwind};
use unspool::unwind::Registers;

use crate::arch::{self, per_cpu};
use crate::boot;
use crate::cpu::{self, Cpu, MAX_CPUS, NoPreemption};
use crate::eprintln;
use crate::error::Error;
use crate::lock::Lock;
use crate::machine::{ExitCode, machine};
use crate::task::Task;

/// All tasks that have not ended.
pub(crate) struct Scheduler {
    running: [Option<Arc<Task>>; MAX_CPUS],
    ready: VecDeque<Arc<Task>>,
    waiting: Vec<Waiting>,
    /// Ended, but its stack was still in use when it was put here, by the CPU of this number.
    dead: [Option<Arc<Task>>; MAX_CPUS],
    /// Ended, and on no CPU: to be freed.
    ended: Vec<Arc<Task>>,
    /// The CPUs that sleep, as bits.
    idle: u32,
    /// How many tasks there are: the lists have room for all of them, so that no switch allocates.
    tasks: usize,
}

/// Tasks for which there is room from the start.
const ROOM: usize = 64;

struct Waiting {
    task: Arc<Task>,
    /// The address of the word.
    word: usize,
    cause: Cause,
}

/// What a task waits for; for the report of a deadlock.
pub(crate) enum Cause {
    End(Arc<Task>),
    Unpark,
    Mutex,
}

/// What becomes of the task that stops running.
enum Then<'w> {
    Ready,
    /// Unless the word is no longer this.
    Waits(&'w AtomicU32, u32, Cause),
    Dies,
}

/// How many of those who wait are to go on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    One,
    All,
}

static SCHEDULER: Lock<Scheduler> = Lock::new(Scheduler {
    running: [const { None }; MAX_CPUS],
    ready: VecDeque::new(),
    waiting: Vec::new(),
    dead: [const { None }; MAX_CPUS],
    ended: Vec::new(),
    idle: 0,
    tasks: 0,
});

/// How many tasks are ready.
static READY: AtomicUsize = AtomicUsize::new(0);

/// How many tasks have ended and are not yet freed.
static UNFREED: AtomicUsize = AtomicUsize::new(0);

/// How many tasks there are, those included that are not yet freed.
pub(crate) fn count() -> usize {
    SCHEDULER.lock().tasks
}

/// How many tasks have ended and still have their memory.
pub(crate) fn unfreed() -> usize {
    UNFREED.load(Ordering::Acquire)
}

/// Whether a task waits for a CPU.
pub(crate) fn somebody_is_ready() -> bool {
    READY.load(Ordering::Relaxed) != 0
}

/// The running task; `None` before there is one, and in an idle loop. For handlers and panics:
/// takes no lock.
///
/// # Safety
///
/// The reference must not be kept until the running task ends.
pub(crate) unsafe fn running<'a>() -> Option<&'a Task> {
    // SAFETY: the scheduler owns the running task, so it is there at least until it ends.
    unsafe { per_cpu::running().as_ref() }
}

/// The running task.
pub(crate) fn current() -> Arc<Task> {
    let running = per_cpu::running().cast_const();
    assert!(!running.is_null(), "a task runs once the kernel is up");
    // SAFETY: the scheduler holds a reference to the running task, made by `Arc`, and the caller
    // is that task.
    unsafe { Arc::increment_strong_count(running) };
    // SAFETY: the reference that was just added.
    unsafe { Arc::from_raw(running) }
}

/// Whether this CPU was in the middle of a change.
pub(crate) fn is_held_here() -> bool {
    SCHEDULER.is_held_here()
}

/// Runs `look` while no task is added, switched to or ended.
pub(crate) fn with_all<R>(look: impl FnOnce(&Scheduler) -> R) -> R {
    look(&SCHEDULER.lock())
}

/// Adds a task that is ready.
///
/// # Errors
///
/// No memory for the lists to have room for it; it has not been added then.
pub(crate) fn add(task: Arc<Task>) -> Result<(), Error> {
    let mut scheduler = SCHEDULER.lock();
    scheduler.make_room()?;
    scheduler.tasks += 1;
    scheduler.make_ready(task);
    Ok(())
}

/// Lets the others run first; does nothing while preemption is off, nor in an idle loop.
pub(crate) fn yield_now() {
    per_cpu::off();
    if per_cpu::reasons() == 1 {
        cpu::this().due.store(0, Ordering::Relaxed);
        if !per_cpu::running().is_null() {
            switch(Then::Ready);
        }
    }
    // A tick since then can wait for the next one.
    per_cpu::on();
}

/// As [`yield_now`], for a task that was interrupted with these registers and has one reason not to be
/// preempted, which it still has afterwards. If it was killed, and may die right there, it does.
///
/// # Safety
///
/// As [`panic::die_at`].
pub(crate) unsafe fn preempted(registers: &Registers) {
    let die_if_killed = || {
        let killed = must_die_here();
        if killed {
            // SAFETY: the caller's promise. What dies is preemptive.
            unsafe { panic::die_at(registers, cpu::on) };
        }
        killed
    };
    // Who cannot die gives way as any other.
    let tried = die_if_killed();
    switch(Then::Ready);
    if !tried {
        die_if_killed();
    }
}

/// Whether the running task was killed, and may die at the instruction where it was interrupted.
pub(crate) fn must_die_here() -> bool {
    // SAFETY: used at once.
    unsafe { running() }.is_some_and(|task| task.panics().must_die_here())
}

/// Waits until somebody wakes `word`, unless it is not `expected`. May return early. A task that is
/// killed dies here.
///
/// # Panics
///
/// If preemption is off.
pub(crate) fn wait(word: &AtomicU32, expected: u32, cause: Cause) {
    assert!(per_cpu::reasons() == 0, "a task waits while preemption is off");
    panic::uninterruptible(|| {
        let held = die_or_hold();
        let preemption = NoPreemption::new();
        switch(Then::Waits(word, expected, cause));
        drop(preemption);
        free_ended();
        drop(held);
        panic::safe_point();
    });
}

/// Lets the running task die if it must; if it cannot, keeps others from waking it for that.
fn die_or_hold() -> Option<NoUnwind> {
    // SAFETY: used before the task can end.
    let must_die = || unsafe { running() }.is_some_and(|task| task.panics().must_die());
    must_die().then(|| {
        panic::die();
        panic::no_unwind()
    })
}

/// Where the running task gives way of its own accord, and dies if somebody killed it. While
/// preemption is off, it does neither.
pub(crate) fn give_way() {
    panic::uninterruptible(|| {
        yield_now();
        free_ended();
        safe_point();
    });
}

/// Where the running task dies if somebody killed it; not while preemption is off.
pub(crate) fn safe_point() {
    if per_cpu::reasons() == 0 {
        panic::safe_point();
    }
}

/// Kills a task: it dies at its next safe point, which is now if it waits.
pub(crate) fn kill(task: &Task) {
    task.panics().kill();
    // Whoever goes to sleep from here on sees that, and whoever becomes interruptible is at its next
    // tick.
    SCHEDULER.lock().rouse_to_die(task);
}

/// Lets those go on that wait for `word`.
pub(crate) fn wake(word: &AtomicU32, wake: Wake) {
    SCHEDULER.lock().wake(core::ptr::from_ref(word).addr(), wake);
}

/// Ends the running task: lets those go on that wait for its end, and then others run.
pub(crate) fn end() -> ! {
    UNFREED.fetch_add(1, Ordering::Relaxed);
    let _forever = NoPreemption::new();
    {
        // SAFETY: the task has not ended yet.
        let task = unsafe { running() }.expect("only tasks end");
        let mut scheduler = SCHEDULER.lock();
        task.finish();
        scheduler.wake(task.finished().as_ptr().addr(), Wake::All);
    }
    switch(Then::Dies);
    unreachable!("nobody switches to a task that has ended")
}

impl Scheduler {
    /// Sees to it that one more task finds a place in any list.
    fn make_room(&mut self) -> Result<(), Error> {
        let room = (self.tasks + 1).max(ROOM);
        let exhausted = |size| move |_| Error::OutOfMemory { size: room * size };
        let (ready, waiting) = (room - self.ready.len(), room - self.waiting.len());
        self.ready.try_reserve(ready).map_err(exhausted(size_of::<Arc<Task>>()))?;
        let ended = room - self.ended.len();
        self.ended.try_reserve(ended).map_err(exhausted(size_of::<Arc<Task>>()))?;
        self.waiting.try_reserve(waiting).map_err(exhausted(size_of::<Waiting>()))
    }

    fn make_ready(&mut self, task: Arc<Task>) {
        self.ready.push_back(task);
        READY.store(self.ready.len(), Ordering::Relaxed);
        if self.idle != 0 {
            let index = self.idle.trailing_zeros() as usize;
            // It is as good as running: the next task wakes another.
            self.idle &= !(1 << index);
            cpu::get(index).rouse();
        }
    }

    fn wake(&mut self, word: usize, wake: Wake) {
        let mut index = 0;
        while index < self.waiting.len() {
            if self.waiting[index].word != word {
                index += 1;
                continue;
            }
            let woken = self.waiting.remove(index);
            self.make_ready(woken.task);
            if wake == Wake::One {
                return;
            }
        }
    }

    /// Makes a task go on that waits and must die, and one look up that runs and may die anywhere.
    fn rouse_to_die(&mut self, task: &Task) {
        let runs = |running: &Option<Arc<Task>>| {
            running.as_ref().is_some_and(|running| core::ptr::eq(&**running, task))
        };
        if let Some(index) = self.running.iter().position(runs) {
            if task.panics().must_die_here() && index != cpu::current() {
                machine().interrupt(index);
            }
            return;
        }
        let waits = |waiting: &Waiting| core::ptr::eq(&*waiting.task, task);
        let Some(index) = self.waiting.iter().position(waits) else { return };
        if task.panics().must_die() {
            let woken = self.waiting.remove(index);
            self.make_ready(woken.task);
        }
    }

    /// Makes the next ready task the one that runs on `cpu`.
    fn next(&mut self, cpu: &Cpu) -> Option<(Next, Option<Arc<Task>>)> {
        let task = self.ready.pop_front()?;
        READY.store(self.ready.len(), Ordering::Relaxed);
        let sp = task.sp().load(Ordering::Relaxed);
        let next = Next { thread_pointer: Some(task.thread_pointer()), sp };
        self.leave(cpu);
        cpu.running.store(Arc::as_ptr(&task).cast_mut(), Ordering::Relaxed);
        Some((next, self.running[cpu.index()].replace(task)))
    }

    /// Has handlers find whose stack is in use until the switch is done.
    fn leave(&self, cpu: &Cpu) {
        if let Some(task) = &self.running[cpu.index()] {
            cpu.leave(task);
        }
    }

    /// Gives `cpu` back to its idle loop.
    fn idle(&mut self, cpu: &Cpu) -> (Next, Option<Arc<Task>>) {
        self.leave(cpu);
        cpu.running.store(core::ptr::null_mut(), Ordering::Relaxed);
        let next = Next { thread_pointer: None, sp: cpu.idle_sp.load(Ordering::Relaxed) };
        (next, self.running[cpu.index()].take())
    }

    /// Decides what runs next on `cpu`. Returns where to save the previous one's stack pointer;
    /// `None` if it may simply go on.
    fn choose(&mut self, cpu: &Cpu, then: Then<'_>) -> Option<(*mut u64, Next)> {
        if let Then::Waits(word, expected, _) = &then {
            let running = self.running[cpu.index()].as_ref();
            let must_die = running.is_some_and(|task| task.panics().must_die());
            if must_die || word.load(Ordering::SeqCst) != *expected {
                return None;
            }
        }
        let (next, previous) = match self.next(cpu) {
            Some(found) => found,
            None if matches!(then, Then::Ready) => return None,
            None => self.idle(cpu),
        };
        let previous = previous.expect("only tasks call this");
        let place = previous.sp().as_ptr();
        match then {
            Then::Ready => self.make_ready(previous),
            Then::Waits(word, _, cause) => {
                let word = core::ptr::from_ref(word).addr();
                self.waiting.push(Waiting { task: previous, word, cause });
            }
            Then::Dies => self.dead[cpu.index()] = Some(previous),
        }
        Some((place, next))
    }

    /// Those that do not run, whether ready or waiting.
    pub(crate) fn suspended(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.ready.iter().chain(self.waiting.iter().map(|waiting| &waiting.task))
    }
}

struct Next {
    /// The idle loop has none.
    thread_pointer: Option<u64>,
    sp: u64,
}

/// Switches to another task; the caller has one reason not to be preempted, and has it again when
/// this returns, perhaps on another CPU.
fn switch(then: Then<'_>) {
    let mut scheduler = SCHEDULER.lock();
    let Some((place, next)) = scheduler.choose(cpu::this(), then) else { return };
    scheduler.keep();
    // SAFETY: the scheduler keeps the previous task, wherever it was put, and so the place; the
    // next one was suspended, and nobody else can choose it: it is no longer ready.
    unsafe { go(place, &next) };
}

/// Saves the registers, continues `next`, and returns when somebody continues the caller.
///
/// # Safety
///
/// `place` lives as long as the caller is suspended. `next` was suspended by this function, or
/// prepared. The lock is kept.
unsafe fn go(place: *mut u64, next: &Next) {
    if let Some(pointer) = next.thread_pointer {
        // SAFETY: the area belongs to the task, which runs from now on.
        unsafe { machine().set_thread_pointer(pointer) };
    }
    // SAFETY: the caller's promise.
    unsafe { arch::switch(place, next.sp) };
    after_switch();
}

/// What whoever is switched to does first: the caller of [`go`], or a new task. Notes that the task
/// that ended right before on this CPU can be freed. Preemption is off once, and stays so.
pub(crate) fn after_switch() {
    // Before the lock is free: then the stack may go.
    cpu::this().has_left();
    // SAFETY: whoever switched kept the lock; its references are on another stack, and gone.
    unsafe { SCHEDULER.release() };
    let mut scheduler = SCHEDULER.lock();
    if let Some(dead) = scheduler.dead[cpu::current()].take() {
        scheduler.ended.push(dead);
    }
}

/// Frees what is left of a few tasks that have ended: a caller that went on as long as others end
/// tasks would do nothing else. Not while preemption is off: the registry of thread-local storage has
/// a lock, and who holds it may wait for this CPU.
pub(crate) fn free_ended() {
    const FEW: usize = 2;
    for _ in 0..FEW {
        if unfreed() == 0 || per_cpu::reasons() != 0 {
            return;
        }
        let Some(ended) = SCHEDULER.lock().ended.pop() else { return };
        // SAFETY: it ended, and the caller runs on another stack.
        unsafe { ended.free() };
        drop(ended);
        SCHEDULER.lock().tasks -= 1;
        UNFREED.fetch_sub(1, Ordering::Release);
    }
}

/// Starts the other CPUs, and then takes part in running `main` and other tasks; on the boot stack.
pub(crate) fn start(main: Arc<Task>) -> ! {
    cpu::this().set_idle_stack(&arch::boot_stack());
    cpu::this().enter();
    machine().start_cpus();
    match add(main) {
        Ok(()) => idle(),
        Err(error) => boot::fail(&error),
    }
}

/// Runs tasks on this CPU, which takes part, forever.
pub(crate) fn idle() -> ! {
    let cpu = cpu::this();
    let bit = 1 << cpu.index();
    loop {
        // From here on nobody's call is missed.
        cpu.wake.store(0, Ordering::SeqCst);
        let preemption = NoPreemption::new();
        let mut scheduler = SCHEDULER.lock();
        scheduler.idle &= !bit;
        if let Some((next, _)) = scheduler.next(cpu) {
            scheduler.keep();
            // SAFETY: the place is static; else as in `switch`.
            unsafe { go(cpu.idle_sp.as_ptr(), &next) };
            drop(preemption);
            free_ended();
            continue;
        }
        scheduler.idle |= bit;
        if scheduler.idle == cpu::online() {
            deadlock(&scheduler);
        }
        drop(scheduler);
        drop(preemption);
        cpu.sleep();
    }
}

/// Nobody can run any more: says who waits for what, and ends the program.
fn deadlock(scheduler: &Scheduler) -> ! {
    eprintln!("\nfatal: deadlock, no task can run:");
    for Waiting { task, cause, .. } in &scheduler.waiting {
        let (name, id) = (task.name(), task.id());
        match cause {
            Cause::End(target) => {
                eprintln!("  '{name}' ({id}) waits for '{}' ({})", target.name(), target.id());
            }
            Cause::Unpark => eprintln!("  '{name}' ({id}) is parked"),
            Cause::Mutex => eprintln!("  '{name}' ({id}) waits for a mutex"),
        }
    }
    machine().exit(ExitCode::PANIC)
}
