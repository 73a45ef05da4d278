//! Threads of the process, each of them a CPU to the scheduler.
//!
//! ```text
//!   clone ─► thread: GS base ─► its block; signal stack; timer ─► idle loop ─► tasks
//!                                                        signal every 2 ms ─► preempt
//! ```
//!
//! FS belongs to the tasks. The system may run several of these threads on one real CPU; nothing
//! relies on that they all run at once.

use core::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use super::signal::{self, ALWAYS, CALL};
use super::syscall::{self, Errno};
use crate::cpu::{self, Cpu, MAX_CPUS};
use crate::memory::Stack;
use crate::{eprintln, scheduler};

/// Bytes of the stack of an idle loop: it also frees tasks.
const IDLE_STACK: usize = 32 * 1024;

/// Ticks a second.
pub(super) const TICK_HERTZ: u32 = 500;

/// The system's number of each thread.
static IDS: [AtomicUsize; MAX_CPUS] = [const { AtomicUsize::new(0) }; MAX_CPUS];

/// The system's number of each thread's timer.
static TIMERS: [AtomicI32; MAX_CPUS] = [const { AtomicI32::new(0) }; MAX_CPUS];

/// Makes `cpu` the block of this thread.
pub(super) fn set_block(cpu: &'static Cpu) {
    let address = core::ptr::from_ref(cpu).expose_provenance() as u64;
    // SAFETY: each thread has a block of its own.
    if let Err(Errno(errno)) = unsafe { syscall::set_gs(address) } {
        panic!("the block of a CPU cannot be set, errno {errno}");
    }
}

/// Starts this thread's ticks and the other threads: `count` in all, or as many as the process may
/// use CPUs.
pub(super) fn start(count: Option<usize>) {
    IDS[0].store(syscall::thread_id(), Ordering::Release);
    start_ticks();
    for index in 1..count.unwrap_or_else(syscall::usable_cpus).min(MAX_CPUS) {
        let stack = match Stack::new(IDLE_STACK) {
            Ok(stack) => stack,
            Err(error) => return eprintln!("unspool-kernel: no stack for CPU {index}: {error}"),
        };
        let cpu = Cpu::prepare(index);
        cpu.set_idle_stack(&stack.range());
        // SAFETY: the stack is new, and kept forever.
        if let Err(Errno(errno)) = unsafe { syscall::start_thread(stack.range().end, index, enter) }
        {
            return eprintln!("unspool-kernel: CPU {index} does not start: clone, errno {errno}");
        }
        core::mem::forget(stack);
        while !cpu.is_online() {
            core::hint::spin_loop();
        }
    }
}

/// The first code of another thread: on the stack of its idle loop.
extern "C" fn enter(index: usize) -> ! {
    let cpu = cpu::get(index);
    set_block(cpu);
    if let Err(Errno(errno)) = signal::use_stack(index) {
        panic!("thread {index} has no signal stack, errno {errno}");
    }
    IDS[index].store(syscall::thread_id(), Ordering::Release);
    cpu.enter();
    start_ticks();
    scheduler::idle()
}

fn start_ticks() {
    let cpu = cpu::current();
    let started = syscall::new_timer(CALL).and_then(|timer| {
        TIMERS[cpu].store(timer, Ordering::Relaxed);
        syscall::set_timer(timer, period(TICK_HERTZ))
    });
    if let Err(Errno(errno)) = started {
        eprintln!("unspool-kernel: no ticks on CPU {cpu}: timer, errno {errno}");
    }
}

/// Makes this thread's ticks come so often a second; the first one is a whole period away.
pub(super) fn set_ticks(hertz: u32) {
    // Without a timer there are no ticks anyway.
    let _ = syscall::set_timer(TIMERS[cpu::current()].load(Ordering::Relaxed), period(hertz));
}

/// Nanoseconds between two ticks.
const fn period(hertz: u32) -> u64 {
    const SECOND: u64 = 1_000_000_000;
    // A whole second is more than its field in `timespec` takes.
    if hertz <= 1 { SECOND - 1 } else { SECOND / hertz as u64 }
}

/// Interrupts a thread.
pub(super) fn interrupt(cpu: usize) {
    syscall::send(IDS[cpu].load(Ordering::Acquire), CALL);
}

/// Interrupts a thread, unless it deals with such an interrupt.
pub(super) fn interrupt_always(cpu: usize) {
    syscall::send(IDS[cpu].load(Ordering::Acquire), ALWAYS);
}
