//! The stacks of all tasks on all CPUs: which code is in use there, and traces of them.
//!
//! ```text
//!   own stack ─► suspended tasks: from their saved registers ─► other CPUs: each looks at what
//!                                                               it was interrupted in
//! ```
//!
//! While a stack is looked at, no task is added, switched to or ended. For [`AllStacks`], a stack
//! that cannot be walked to its end counts as one that uses the code. Traces take no memory.

use core::fmt;
use core::ops::{ControlFlow, Range};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use alloc::sync::Arc;
use spin::Mutex;
use unspool::backtrace::{Captured, Trace};
use unspool::loader::Stacks;
use unspool::panic::platform;
use unspool::unwind::{
    Climb, Cursor, Modules, Pc, ReadStack, Register, Registers, StackBounds, WordsBelow, global,
};

use crate::arch::{self, CpuState};
use crate::cpu::{self, MAX_CPUS, Request};
use crate::lock::Lock;
use crate::platform::{stack_around, trace_style};
use crate::scheduler;
use crate::task::Task;

/// All stacks of this kernel, as the loader wants to know them.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllStacks;

// SAFETY: every stack that code can run on is looked at: the caller's, those of suspended tasks, and
// what runs on the other CPUs. Handlers run on stacks of their own and call no loaded code.
unsafe impl Stacks for AllStacks {
    fn anyone_in(&self, text: Range<u64>) -> bool {
        anyone_in(&text)
    }
}

/// Frames that are kept of a task.
const FRAMES: usize = 64;

/// The innermost frames of a task.
pub type TaskTrace = Captured<FRAMES>;

/// What a task is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It runs on this CPU.
    Runs(usize),
    /// It waits, for a CPU or for something else: its trace tells.
    Waits,
    /// It has not begun.
    Starts,
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Runs(cpu) => write!(f, "runs on CPU {cpu}"),
            Self::Waits => f.write_str("waits"),
            Self::Starts => f.write_str("has not begun"),
        }
    }
}

/// A trace of a task, wherever it is; `None` if it has ended.
///
/// Of the caller's own task it is the trace of the caller; of one that runs on another CPU, that of
/// what it was interrupted in. Not to be called while preemption is off.
pub fn trace_of(task: &Task) -> Option<(Doing, TaskTrace)> {
    find(|id| id == task.id()).map(|(_, doing, trace)| (doing, trace))
}

/// Writes what every task is doing, with its trace: each as it is when its turn comes, in the order
/// of their numbers.
///
/// # Errors
///
/// Only those of `out`.
pub fn dump(out: &mut dyn fmt::Write) -> fmt::Result {
    let mut last = None;
    while let Some((task, doing, trace)) = find(|id| last.is_none_or(|last| id > last)) {
        last = Some(task.id());
        writeln!(out, "task '{}' ({}) {doing}", task.name(), task.id())?;
        if doing != Doing::Starts {
            trace.print(out, trace_style(), platform().symbols())?;
        }
    }
    Ok(())
}

/// The task with the lowest number of those that are meant, and its trace.
fn find(is_meant: impl Fn(u64) -> bool) -> Option<(Arc<Task>, Doing, TaskTrace)> {
    let here = Registers::here();
    scheduler::with_all(|tasks| {
        let waits = tasks.suspended().filter(|task| is_meant(task.id()));
        let waits = waits.min_by_key(|task| task.id());
        let runs = (0..MAX_CPUS).filter_map(|cpu| Some((cpu, running_on(cpu)?)));
        let runs = runs.filter(|(_, task)| is_meant(task.id())).min_by_key(|(_, task)| task.id());
        match (runs, waits) {
            (Some((cpu, task)), waits) if waits.is_none_or(|other| task.id() < other.id()) => {
                let trace = if cpu == cpu::current() {
                    take(here, Pc::Return(here.ip()), stack_around(here.sp()))
                } else {
                    taken_by(cpu)
                };
                Some((task, Doing::Runs(cpu), trace))
            }
            (_, Some(task)) => {
                let trace = match task.start() {
                    Some(_) => return Some((Arc::clone(task), Doing::Starts, TaskTrace::none())),
                    None => saved(task),
                };
                Some((Arc::clone(task), Doing::Waits, trace))
            }
            (_, None) => None,
        }
    })
}

/// The task that runs on a CPU. The scheduler's lock is held, so it goes on doing that.
fn running_on(cpu: usize) -> Option<Arc<Task>> {
    let task = cpu::get(cpu).running.load(Ordering::Relaxed).cast_const();
    if task.is_null() {
        return None;
    }
    // SAFETY: the scheduler holds a reference to the running task, made by `Arc`, as long as its
    // lock is held.
    unsafe { Arc::increment_strong_count(task) };
    // SAFETY: the reference that was just added.
    Some(unsafe { Arc::from_raw(task) })
}

fn take<S: ReadStack>(registers: Registers, pc: Pc, stack: S) -> TaskTrace {
    Captured::take(Trace::new(Cursor::new(registers, pc, stack, global())))
}

/// The trace of a suspended task.
fn saved(task: &Task) -> TaskTrace {
    let (registers, stack) = saved_registers(task);
    take(registers, Pc::Return(registers.ip()), stack)
}

/// The traces that other CPUs take when they are asked. Whoever asks looks only when all have
/// answered: nobody meets a lock held, and a handler must not let others run, as [`Lock`] may.
static TAKEN: [Mutex<TaskTrace>; MAX_CPUS] = [const { Mutex::new(TaskTrace::none()) }; MAX_CPUS];

/// The trace of what runs on another CPU.
fn taken_by(cpu: usize) -> TaskTrace {
    let _asking = ASKING.lock();
    TAKING.store(true, Ordering::SeqCst);
    cpu::ask_others(Request::Walk);
    TAKING.store(false, Ordering::SeqCst);
    core::mem::replace(&mut *TAKEN[cpu].lock(), TaskTrace::none())
}

/// Whatever stack an address is in, of those that may be in use on this CPU: handlers have others than
/// tasks.
#[derive(Clone, Copy, Debug)]
pub struct AnyStack;

/// The frames of code that was interrupted. To be read before the handler returns.
pub type InterruptedTrace = Trace<'static, AnyStack, Modules>;

/// The frames from where this CPU was interrupted with these registers.
pub(crate) fn trace_from(registers: Registers) -> InterruptedTrace {
    Trace::new(Cursor::new(registers, Pc::Exact(registers.ip()), AnyStack, global()))
}

impl ReadStack for AnyStack {
    fn read(&self, address: u64) -> Option<u64> {
        stack_around(address).read(address)
    }

    fn words_below(&self, end: u64, count: u8) -> Option<WordsBelow> {
        stack_around(end.wrapping_sub(1)).words_below(end, count)
    }

    fn climb(&self, sp: u64) -> Option<Climb> {
        stack_around(sp).climb(sp)
    }
}

/// What the other CPUs are to look for, one question at a time.
static ASKING: Lock<()> = Lock::new(());
static TEXT: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
/// Whether they are to take traces instead.
static TAKING: AtomicBool = AtomicBool::new(false);
static FOUND: AtomicBool = AtomicBool::new(false);

fn anyone_in(text: &Range<u64>) -> bool {
    let here = Registers::here();
    let pc = Pc::Return(here.ip());
    scheduler::with_all(|tasks| {
        uses(here, pc, stack_around(here.sp()), text)
            || tasks.suspended().any(|task| suspended(task, text))
            || running_elsewhere(text)
    })
}

fn suspended(task: &Arc<Task>, text: &Range<u64>) -> bool {
    if let Some(start) = task.start() {
        return text.contains(&start);
    }
    let (registers, bounds) = saved_registers(task);
    uses(registers, Pc::Return(registers.ip()), bounds, text)
}

/// The registers of a suspended task that has begun, and its stack, while the scheduler's lock is
/// held.
fn saved_registers(task: &Task) -> (Registers, StackBounds) {
    let stack = task.stack();
    // SAFETY: the task is suspended and cannot end: the scheduler's lock is held.
    let registers = unsafe { arch::suspended(task.sp().load(Ordering::Relaxed)) };
    // SAFETY: as above, so the stack stays.
    (registers, unsafe { StackBounds::new(stack.start, stack.end) })
}

fn running_elsewhere(text: &Range<u64>) -> bool {
    let _asking = ASKING.lock();
    TEXT[0].store(text.start, Ordering::Relaxed);
    TEXT[1].store(text.end, Ordering::Relaxed);
    FOUND.store(false, Ordering::SeqCst);
    cpu::ask_others(Request::Walk);
    FOUND.load(Ordering::SeqCst)
}

/// Another CPU's question, in the handler of what interrupted this one at `state`.
pub(crate) fn answer(state: &CpuState) {
    let registers = state.registers();
    if TAKING.load(Ordering::SeqCst) {
        if let Some(mut taken) = TAKEN[cpu::current()].try_lock() {
            *taken = Captured::take(trace_from(registers));
        }
        return;
    }
    let text = TEXT[0].load(Ordering::Relaxed)..TEXT[1].load(Ordering::Relaxed);
    if uses(registers, Pc::Exact(registers.ip()), AnyStack, &text) {
        FOUND.store(true, Ordering::SeqCst);
    }
}

/// Whether a frame of `text` is on the stack, from the one with these registers to the outermost.
fn uses<S: ReadStack>(registers: Registers, pc: Pc, stack: S, text: &Range<u64>) -> bool {
    let mut cursor = Cursor::new(registers, pc, stack, global());
    if frame_uses(pc, || *cursor.registers(), text) {
        return true;
    }
    let found = cursor.walk(|frame| match frame_uses(frame.pc(), || *frame.registers(), text) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    });
    // What cannot be walked to its end may use it.
    !matches!(found, Ok(None))
}

fn frame_uses(pc: Pc, registers: impl FnOnce() -> Registers, text: &Range<u64>) -> bool {
    match pc {
        Pc::Return(address) => text.contains(&address) || text.contains(&(address - 1)),
        // What was interrupted may be about to call what it has in a register.
        Pc::Exact(_) => {
            let registers = registers();
            Register::all().any(|register| text.contains(&registers.get(register)))
        }
    }
}
