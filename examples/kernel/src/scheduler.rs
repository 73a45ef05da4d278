//! Which task runs.
//!
//! ```text
//!             ┌──────── yield ─────────┐
//!   add ─► ready ─► running ─► end ─► dead ─► freed by the next
//!             ▲        │ wait_for, park
//!             └─────── waiting ◄─ until the target ends, or unpark
//! ```
//!
//! First come, first served. The lock is never held across a switch, and never needed to learn
//! which task runs: handlers and panics read one pointer.

use core::ptr::null_mut;
use core::sync::atomic::{AtomicPtr, Ordering};

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use spin::Mutex;

use crate::arch;
use crate::machine::{ExitCode, machine};
use crate::println;
use crate::task::Task;

struct Scheduler {
    running: Option<Arc<Task>>,
    ready: VecDeque<Arc<Task>>,
    waiting: Vec<Waiting>,
    /// Ended, but its stack was still in use when it was put here.
    dead: Option<Arc<Task>>,
}

struct Waiting {
    task: Arc<Task>,
    cause: Cause,
}

/// What a task waits for.
enum Cause {
    End(Arc<Task>),
    Unpark,
}

/// What becomes of the task that stops running.
enum Then {
    Ready,
    Waits(Cause),
    Dies,
}

static SCHEDULER: Mutex<Scheduler> = Mutex::new(Scheduler {
    running: None,
    ready: VecDeque::new(),
    waiting: Vec::new(),
    dead: None,
});

/// The task in [`Scheduler::running`].
static CURRENT: AtomicPtr<Task> = AtomicPtr::new(null_mut());

/// The running task; `None` before there is one. For handlers and panics: takes no lock.
///
/// # Safety
///
/// The reference must not be kept until the running task ends.
pub(crate) unsafe fn running<'a>() -> Option<&'a Task> {
    // SAFETY: the scheduler owns the running task, so it is there at least until it ends.
    unsafe { CURRENT.load(Ordering::Acquire).as_ref() }
}

/// The running task.
pub(crate) fn current() -> Arc<Task> {
    let running = SCHEDULER.lock().running.clone();
    running.expect("a task runs once the kernel is up")
}

/// Whether somebody is in the middle of a change.
pub(crate) fn is_locked() -> bool {
    SCHEDULER.is_locked()
}

/// Adds a task that is ready.
pub(crate) fn add(task: Arc<Task>) {
    SCHEDULER.lock().ready.push_back(task);
}

/// Lets the others run first.
pub(crate) fn yield_now() {
    switch(Then::Ready);
}

/// Waits until `target` ends.
pub(crate) fn wait_for(target: &Arc<Task>) {
    switch(Then::Waits(Cause::End(Arc::clone(target))));
}

/// Waits until somebody unparks the running task.
pub(crate) fn park() {
    switch(Then::Waits(Cause::Unpark));
}

/// Makes `task` ready if it is parked; says whether it was.
pub(crate) fn unpark(task: &Task) -> bool {
    let parked = |waiting: &Waiting| {
        matches!(waiting.cause, Cause::Unpark) && core::ptr::eq(&raw const *waiting.task, task)
    };
    let mut scheduler = SCHEDULER.lock();
    let Some(place) = scheduler.waiting.iter().position(parked) else { return false };
    let woken = scheduler.waiting.remove(place);
    scheduler.ready.push_back(woken.task);
    true
}

/// Ends the running task and wakes those who wait for it.
pub(crate) fn end() -> ! {
    {
        let mut scheduler = SCHEDULER.lock();
        let running = scheduler.running.clone().expect("the task that ends is running");
        running.finish();
        let Scheduler { waiting, ready, .. } = &mut *scheduler;
        let woken = waiting.extract_if(
            ..,
            |waiting| matches!(&waiting.cause, Cause::End(target) if Arc::ptr_eq(target, &running)),
        );
        ready.extend(woken.map(|waiting| waiting.task));
    }
    switch(Then::Dies);
    unreachable!("nobody switches to a task that has ended")
}

/// Leaves the boot stack for good and runs the first ready task.
pub(crate) fn start() -> ! {
    let first = {
        let mut scheduler = SCHEDULER.lock();
        let first = scheduler.ready.pop_front().expect("the main task was added");
        scheduler.running = Some(Arc::clone(&first));
        first
    };
    CURRENT.store(Arc::as_ptr(&first).cast_mut(), Ordering::Release);
    let (pointer, load) = (first.thread_pointer(), first.sp().load(Ordering::Relaxed));
    // The boot stack is never returned to, so nothing on it is ever dropped.
    drop(first);
    let mut boot = 0;
    // SAFETY: the area belongs to the task, which runs from now on.
    unsafe { machine().set_thread_pointer(pointer) };
    // SAFETY: the first task was prepared and has not run; the scheduler keeps it.
    unsafe { arch::switch(&mut boot, load) };
    unreachable!("nobody switches to the boot stack")
}

/// Frees the task that ended right before the running one got its turn.
pub(crate) fn after_switch() {
    let dead = SCHEDULER.lock().dead.take();
    if let Some(dead) = dead {
        // SAFETY: it ended, and the caller is another task.
        unsafe { dead.free() };
    }
}

fn switch(then: Then) {
    let Some((previous, next)) = choose(then) else { return };
    // SAFETY: the area belongs to the task, which runs from now on.
    unsafe { machine().set_thread_pointer(next.thread_pointer) };
    // SAFETY:
    // 1. The scheduler keeps the previous task, wherever it was put, and so the place for its
    //    stack pointer.
    // 2. The next task was ready: prepared, or switched away from.
    unsafe { arch::switch(previous, next.sp) };
    after_switch();
}

struct Next {
    thread_pointer: u64,
    sp: u64,
}

/// Makes the next ready task the running one. Returns where to save the previous one's stack
/// pointer; `None` if it may simply go on.
fn choose(then: Then) -> Option<(*mut u64, Next)> {
    let mut scheduler = SCHEDULER.lock();
    let Some(next) = scheduler.ready.pop_front() else {
        return match then {
            Then::Ready => None,
            Then::Waits(cause) => deadlock(&scheduler, Some(&cause)),
            Then::Dies => deadlock(&scheduler, None),
        };
    };
    let chosen =
        Next { thread_pointer: next.thread_pointer(), sp: next.sp().load(Ordering::Relaxed) };
    CURRENT.store(Arc::as_ptr(&next).cast_mut(), Ordering::Release);
    let previous = scheduler.running.replace(next).expect("a task runs once the kernel is up");
    let place = previous.sp().as_ptr();
    match then {
        Then::Ready => scheduler.ready.push_back(previous),
        Then::Waits(cause) => scheduler.waiting.push(Waiting { task: previous, cause }),
        Then::Dies => scheduler.dead = Some(previous),
    }
    Some((place, chosen))
}

/// Nobody can run any more: says who waits for what, and ends the program.
fn deadlock(scheduler: &Scheduler, last: Option<&Cause>) -> ! {
    println!("\nfatal: deadlock, no task can run:");
    let last = scheduler.running.iter().zip(last);
    let waiting = scheduler.waiting.iter().map(|waiting| (&waiting.task, &waiting.cause));
    for (task, cause) in waiting.chain(last) {
        let (name, id) = (task.name(), task.id());
        match cause {
            Cause::End(target) => {
                println!("  '{name}' ({id}) waits for '{}' ({})", target.name(), target.id());
            }
            Cause::Unpark => println!("  '{name}' ({id}) is parked"),
        }
    }
    machine().exit(ExitCode::PANIC)
}
