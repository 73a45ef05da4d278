//! Tasks: spawned, joined, each with its stack, its thread-local storage and its panics.
//!
//! ```text
//!   spawn ─► ready ─► body ── returns ──────────────────► end of the task, see below
//!                      ├───── panics, faults ─► unwound ──┤
//!                      └───── is killed, see there ───────┘
//! ```
//!
//! A task runs until it waits, yields or ends, or until a tick says that others have waited long
//! enough: tasks are preemptive, unless [`NoPreemption`](cpu::NoPreemption) says otherwise,
//! and each may go on on another CPU than before.
//!
//! # The end of a task
//!
//! The same for all four ways to end ([`Outcome`]), in this order:
//!
//! 1. The body has returned, or has been unwound: all its values are dropped.
//! 2. The result is put where `join` finds it; if nobody wants it any more, it is dropped here.
//! 3. The destructors of thread-local values run, as in any code of the task: they may be preempted,
//!    wait, spawn and join, they find their task as the [`current`] one, and may panic and catch
//!    that. A panic that leaves one ends the program, as in std. Nobody can kill the task from here on.
//! 4. The task [is finished](Task::is_finished), and who joins it wakes. So `join` implies that the
//!    destructors ran, and sees what they wrote.
//! 5. The task switches to another, for the last time. Until then its stack, and the TLS area that
//!    the FS base points to, are in use.
//! 6. Area and stack are freed on another stack: by whichever task gives way, waits or spawns next, or
//!    by an idle CPU.
//!
//! # Safe points
//!
//! [`Task::kill`] asks a task to die, which it does at the next of these: before its body begins,
//! [`yield_now`], [`park`], [`JoinHandle::join`], waiting for a [`Mutex`](crate::sync::Mutex), and
//! [`safe_point`]. Dropping a value is none. A tick, or the call of another CPU, is one in code that
//! says so: [`interruptible`](unspool::panic::interruptible); not while preemption is off there.

use core::fmt;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;

use spin::Mutex;
use unspool::backtrace::begin_short;
use unspool::panic::{self, AssertUnwindSafe, TaskState, catch_all};
use unspool::thread;
use unspool::tls::Area;

use crate::arch;
use crate::cpu;
use crate::error::Error;
use crate::fallible::{boxed, shared};
use crate::machine::{ExitCode, machine};
use crate::memory::Stack;
use crate::platform::tls_registry;
use crate::scheduler::{self, Cause, Wake};

pub use crate::outcome::Outcome;

/// Bytes of a task's stack, unless its builder says otherwise.
pub const DEFAULT_STACK: usize = 64 * 1024;

/// Bytes of the smallest stack: a tick takes some twelve KiB of it to take the task off its CPU, and has
/// no effect where they are not left.
pub const SMALLEST_STACK: usize = 16 * 1024;

type Body = Box<dyn FnOnce() + Send>;

/// A task, running or not.
pub struct Task {
    id: u64,
    name: String,
    panics: TaskState,
    stack: Range<u64>,
    thread_pointer: u64,
    /// Where its registers are while it does not run.
    sp: AtomicU64,
    /// A fault is being delivered.
    faulting: AtomicBool,
    /// 1 from its end on.
    finished: AtomicU32,
    /// 1 after `unpark` and before the `park` that it ends.
    unparked: AtomicU32,
    /// The code that runs first; 0 once it does.
    start: AtomicU64,
    body: Mutex<Option<Body>>,
    /// Taken when the task has ended and another runs.
    memory: Mutex<Option<(Area<'static>, Stack)>>,
}

impl Task {
    /// A task that nobody runs yet. Without memory for any part of it, the others are given back.
    fn new(name: &str, stack_size: usize, body: Body, start: u64) -> Result<Arc<Self>, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        scheduler::free_ended();
        let name = copy(name)?;
        let stack = Stack::new(stack_size)?;
        // A zero byte first: a string function that runs over does not get past it.
        let canary = machine().random() & !0xff;
        let area = tls_registry().new_area(canary)?;
        let range = stack.range();
        // SAFETY: the stack is new, and its end a multiple of a page.
        let sp = unsafe { arch::prepare(range.end) };
        let task = Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            name,
            panics: TaskState::new(),
            stack: range,
            thread_pointer: area.thread_pointer().address(),
            sp: AtomicU64::new(sp),
            faulting: AtomicBool::new(false),
            finished: AtomicU32::new(0),
            unparked: AtomicU32::new(0),
            start: AtomicU64::new(start),
            body: Mutex::new(Some(body)),
            memory: Mutex::new(Some((area, stack))),
        };
        task.panics.prepare()?;
        shared(task)
    }

    /// Its number: 1 for the first, then counting up.
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The usable addresses of its stack.
    pub fn stack(&self) -> Range<u64> {
        self.stack.clone()
    }

    /// Whether it has ended: its destructors have run, its result is there.
    pub fn is_finished(&self) -> bool {
        self.finished.load(Ordering::Acquire) != 0
    }

    /// Makes the task go on if it is [parked](park), else its next `park` return at once.
    pub fn unpark(&self) {
        self.unparked.store(1, Ordering::SeqCst);
        scheduler::wake(&self.unparked, Wake::One);
    }

    /// Kills the task: at its next [safe point](self#safe-points) it is unwound, whatever it waits
    /// for, and [`join`](JoinHandle::join) then says [`Outcome::Killed`].
    ///
    /// Does not wait for that, and need not come to pass: the task may end, or panic, before. It does
    /// not die while it panics, in a destructor of a thread-local value, while it has a
    /// [`NoUnwind`](unspool::panic::NoUnwind), or while a frame is on its stack that nothing may
    /// unwind, but at the first safe point after that. [`catch_unwind`](unspool::panic::catch_unwind)
    /// does not keep it alive; [`catch_all`] does. For one that has ended, it does nothing.
    ///
    /// A task may kill itself. Not for handlers of interrupts.
    pub fn kill(&self) {
        scheduler::kill(self);
    }

    pub(crate) const fn panics(&self) -> &TaskState {
        &self.panics
    }

    pub(crate) const fn thread_pointer(&self) -> u64 {
        self.thread_pointer
    }

    pub(crate) const fn sp(&self) -> &AtomicU64 {
        &self.sp
    }

    pub(crate) fn finish(&self) {
        self.finished.store(1, Ordering::SeqCst);
    }

    pub(crate) const fn finished(&self) -> &AtomicU32 {
        &self.finished
    }

    /// The code that it will run first, if it has not run yet.
    pub(crate) fn start(&self) -> Option<u64> {
        Some(self.start.load(Ordering::Acquire)).filter(|&start| start != 0)
    }

    /// Marks that a fault is being delivered; says whether one was already.
    pub(crate) fn begin_fault(&self) -> bool {
        self.faulting.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn end_fault(&self) {
        self.faulting.store(false, Ordering::Relaxed);
    }

    /// Frees the thread-local storage and the stack.
    ///
    /// # Safety
    ///
    /// The task has ended, and the caller runs on another.
    pub(crate) unsafe fn free(&self) {
        let memory = self.memory.lock().take();
        drop(memory);
    }
}

impl fmt::Debug for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task")
            .field("id", &self.id)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Waits for a task. Dropping it detaches the task.
pub struct JoinHandle<T> {
    task: Arc<Task>,
    packet: Arc<Packet<T>>,
}

/// How a task ended, for who joins it.
struct Packet<T>(Mutex<Option<Outcome<T>>>);

impl<T> Drop for Packet<T> {
    fn drop(&mut self) {
        // As std: of a result that nobody wants, nobody wants a panic either.
        let Some(outcome) = self.0.get_mut().take() else { return };
        panic::abort_on_unwind("thread result panicked on drop", || drop(outcome));
    }
}

impl<T> JoinHandle<T> {
    /// Waits until the task has ended, and says how. A task that is killed while it waits has
    /// detached the other.
    ///
    /// # Panics
    ///
    /// If a task joins itself.
    pub fn join(self) -> Outcome<T> {
        assert!(!Arc::ptr_eq(&self.task, &current()), "task '{}' joins itself", self.task.name);
        panic::uninterruptible(|| {
            // At least once: the scheduler may still be about to let go of the task.
            loop {
                scheduler::wait(&self.task.finished, 0, Cause::End(Arc::clone(&self.task)));
                if self.task.is_finished() {
                    break;
                }
            }
        });
        let outcome = self.packet.0.lock().take();
        outcome.expect("a finished task has left its result, and only `join` takes it")
    }

    /// The task.
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// Whether [`join`](Self::join) would return at once.
    pub fn is_finished(&self) -> bool {
        self.task.is_finished()
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("JoinHandle").field(&self.task).finish()
    }
}

/// A string of its own.
fn copy(name: &str) -> Result<String, Error> {
    let mut copy = String::new();
    let exhausted = Error::OutOfMemory { size: name.len() };
    copy.try_reserve_exact(name.len()).map_err(|_| exhausted)?;
    copy.push_str(name);
    Ok(copy)
}

/// Says what a new task is like.
#[derive(Clone, Copy, Debug)]
pub struct Builder<'n> {
    name: &'n str,
    stack_size: usize,
}

impl<'n> Builder<'n> {
    /// A task with this name and a stack of [`DEFAULT_STACK`] bytes.
    pub const fn new(name: &'n str) -> Self {
        Self { name, stack_size: DEFAULT_STACK }
    }

    /// At least so many bytes of stack, and no fewer than [`SMALLEST_STACK`]; a guard page comes on top.
    #[must_use]
    pub fn stack_size(self, bytes: usize) -> Self {
        Self { stack_size: bytes.max(SMALLEST_STACK), ..self }
    }

    /// Makes the task. It runs after all that are ready, or at once on a CPU that has nothing to do.
    ///
    /// # Errors
    ///
    /// No memory for its stack, its thread-local storage, or anything else of it. Nothing of the task
    /// is left then; `body` has been dropped.
    pub fn spawn<F, T>(self, body: F) -> Result<JoinHandle<T>, Error>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        let packet = shared(Packet(Mutex::new(None)))?;
        let theirs = Arc::clone(&packet);
        let start = begin_short::<F, T> as *const () as u64;
        let body = move || {
            *theirs.0.lock() = Some(root(body));
            // If nobody wants the result, it is dropped here, while thread-locals still work.
            drop(theirs);
        };
        let task = Task::new(self.name, self.stack_size, boxed(body)?, start)?;
        scheduler::add(Arc::clone(&task))?;
        Ok(JoinHandle { task, packet })
    }
}

/// Makes a task; see [`Builder`] for more.
///
/// # Panics
///
/// No memory for it.
pub fn spawn<F, T>(name: &str, body: F) -> JoinHandle<T>
where
    F: FnOnce() -> T + Send + 'static,
    T: Send + 'static,
{
    match Builder::new(name).spawn(body) {
        Ok(handle) => handle,
        Err(error) => panic!("cannot spawn task '{name}': {error}"),
    }
}

/// Runs what a task is for; what leaves it ends here.
fn root<T>(body: impl FnOnce() -> T) -> Outcome<T> {
    Outcome::new(catch_all(AssertUnwindSafe(|| {
        panic::safe_point();
        begin_short(body)
    })))
}

/// Makes the task that runs the program. When it ends, the program does.
pub(crate) fn main(stack_size: usize, main: fn() -> ExitCode) -> Result<Arc<Task>, Error> {
    let body = move || {
        let outcome = root(main);
        // SAFETY: as in `run_current`, which this body does not return to.
        unsafe { thread::run_destructors() };
        let code = panic::abort_on_unwind("drop of the panic payload panicked", || outcome.ok());
        machine().exit(code.unwrap_or(ExitCode::PANIC))
    };
    Task::new("main", stack_size, boxed(body)?, 0)
}

/// Lets every other ready task run first. A task that was killed dies here.
pub fn yield_now() {
    scheduler::give_way();
}

/// Where a task that was killed dies; for long computations that neither yield nor wait. Cheap, and
/// does nothing while preemption is off.
pub fn safe_point() {
    scheduler::safe_point();
}

/// How many tasks there are, those included that are still to be freed.
pub fn count() -> usize {
    scheduler::count()
}

/// How many tasks have ended and are still to be [freed](self#the-end-of-a-task): for who wants to
/// see that nothing is left of them.
pub fn unfreed() -> usize {
    scheduler::unfreed()
}

/// Waits until somebody calls [`Task::unpark`] for this task; returns at once if that happened
/// since the last time. A task that is killed dies here.
pub fn park() {
    panic::uninterruptible(|| {
        let task = current();
        while task.unparked.swap(0, Ordering::SeqCst) == 0 {
            scheduler::wait(&task.unparked, 0, Cause::Unpark);
        }
    });
}

/// The running task.
///
/// # Panics
///
/// Before there are tasks, which no code of a program can see.
pub fn current() -> Arc<Task> {
    scheduler::current()
}

/// What every task starts with, on its own stack. A panic cannot leave it: that would be an abort,
/// as the ABI says.
pub(crate) extern "C" fn run_current() -> ! {
    scheduler::after_switch();
    cpu::on();
    let task = scheduler::current();
    let body = task.body.lock().take();
    task.start.store(0, Ordering::Release);
    // Nothing that must be dropped may be left on this stack at the end.
    drop(task);
    if let Some(body) = body {
        body();
    }
    // SAFETY: this task has an area, this is no handler, and the body, with all its references to
    // thread-local values, is gone.
    unsafe { thread::run_destructors() };
    // Whoever frees the task has nothing to do with what the hook's drop does.
    panic::abort_on_unwind("task hook panicked on drop", || drop(panic::take_task_hook()));
    scheduler::end()
}
