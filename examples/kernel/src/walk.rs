//! Whether code is in use: looks at the stacks of all tasks on all CPUs.
//!
//! ```text
//!   own stack ─► suspended tasks: from their saved registers ─► other CPUs: each looks at what
//!                                                               it was interrupted in
//! ```
//!
//! While that lasts, no task is added, switched to or ended. A stack that cannot be walked to its
//! end counts as one that uses the code.

use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use alloc::sync::Arc;
use unspool::loader::Stacks;
use unspool::unwind::{Cursor, Pc, Register, Registers, StackBounds, Step, global};

use crate::arch::{self, CpuState};
use crate::cpu::{self, Request};
use crate::lock::Lock;
use crate::platform::stack_around;
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

/// What the other CPUs are to look for, one question at a time.
static ASKING: Lock<()> = Lock::new(());
static TEXT: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
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
    let stack = task.stack();
    // SAFETY: the task is suspended and cannot end: the scheduler's lock is held.
    let registers = unsafe { arch::suspended(task.sp().load(Ordering::Relaxed)) };
    // SAFETY: as above, so the stack stays.
    let bounds = unsafe { StackBounds::new(stack.start, stack.end) };
    uses(registers, Pc::Return(registers.ip()), bounds, text)
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
    let text = TEXT[0].load(Ordering::Relaxed)..TEXT[1].load(Ordering::Relaxed);
    let registers = state.registers();
    if uses(registers, Pc::Exact(registers.ip()), stack_around(state.sp()), &text) {
        FOUND.store(true, Ordering::SeqCst);
    }
}

/// Whether a frame of `text` is on the stack, from the one with these registers to the outermost.
fn uses(registers: Registers, pc: Pc, stack: StackBounds, text: &Range<u64>) -> bool {
    let mut cursor = Cursor::new(registers, pc, stack, global());
    loop {
        if frame_uses(&cursor, text) {
            return true;
        }
        match cursor.step() {
            Ok(Step::Caller { .. }) => {}
            Ok(Step::End) => return false,
            Err(_) => return true,
        }
    }
}

fn frame_uses<S, M>(cursor: &Cursor<'_, S, M>, text: &Range<u64>) -> bool
where
    S: unspool::unwind::ReadStack,
    M: unspool::unwind::FindModule,
{
    match cursor.pc() {
        Pc::Return(address) => text.contains(&address) || text.contains(&(address - 1)),
        // What was interrupted may be about to call what it has in a register.
        Pc::Exact(_) => {
            let mut registers = Register::all().map(|register| cursor.registers().get(register));
            registers.any(|value| text.contains(&value))
        }
    }
}
