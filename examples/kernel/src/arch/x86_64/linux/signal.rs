//! From a signal to the common code for faults, ticks and calls, and back.
//!
//! ```text
//!   alternate signal stack, from its top down
//!   │ extended state │ siginfo │ ucontext: gregs… │ restorer │ ◄ rsp in the handler
//!                                 ▲ read, changed: rt_sigreturn continues there
//!
//!   signal        masks meanwhile   ends with
//!   of a fault    nothing           rt_sigreturn; the trampoline on the task's stack, if delivered
//!   CALL          CALL              rt_sigreturn
//!   ALWAYS        CALL, ALWAYS      rt_sigreturn
//! ```
//!
//! A fault that is delivered to its task needs no `rt_sigreturn`, which takes a system call and loads
//! the whole vector state of code that never runs again. What else that call does there is nothing to
//! do for: the mask is the one before, as signals of faults mask none; and the system takes the
//! alternate stack for free as soon as `rsp` is elsewhere (no `SS_AUTODISARM`). So ticks and calls
//! come in the handler of a fault, too: a tick waits for its end (`preempt::due_tick`).
//!
//! Layouts: linux/arch/x86/include/uapi/asm/{sigcontext,ucontext}.h.

use core::arch::{asm, naked_asm};
use core::mem::offset_of;

use static_assertions::const_assert_eq;

use super::syscall::{
    Errno, RT_SIGRETURN, SigAction, SigStack, sigaction, sigaltstack, unblock_signals,
};
use crate::arch::x86_64::cpu_state::{CpuState, GPRS};
use crate::arch::x86_64::stacks::InterruptStack;
use crate::arch::x86_64::{per_cpu, preempt, trap};
use crate::cpu::{self, Request};
use crate::fault::{self, FaultKind, PageAccess};
use crate::nmi;
use crate::profile;
use crate::walk;

const SIGILL: i32 = 4;
const SIGTRAP: i32 = 5;
const SIGBUS: i32 = 7;
const SIGFPE: i32 = 8;
const SIGSEGV: i32 = 11;

/// The first real-time signal that no library takes: ticks, and calls between threads.
pub(super) const CALL: i32 = 34;

/// The next one, in the place of the non-maskable interrupt: no handler masks it but its own.
pub(super) const ALWAYS: i32 = 35;

/// A timer sent it.
const SI_TIMER: i32 = -2;

/// Interrupted system calls start again (`SA_RESTART`).
const RESTART: u64 = 0x1000_0000;

/// As an NMI: not again while it runs.
const NO_DEFER: u64 = 0x4000_0000;

/// Alignment is checked (`rflags`).
const ALIGNMENT_CHECK: u64 = 1 << 18;

/// Three arguments (`SA_SIGINFO`), on the alternate stack (`SA_ONSTACK`), with our way back
/// (`SA_RESTORER`), and again while it runs (`SA_NODEFER`): a fault in the handler is reported
/// instead of killing the process without a word.
const FLAGS: u64 = 0x4 | 0x0800_0000 | 0x0400_0000 | NO_DEFER;

/// The saved registers are in the order of `gregset_t`; these are the places of the DWARF ones.
const BY_DWARF_NUMBER: [usize; GPRS] = [13, 12, 14, 11, 9, 8, 10, 15, 0, 1, 2, 3, 4, 5, 6, 7];
const RIP: usize = 16;
const FLAGS_REGISTER: usize = 17;
const ERROR: usize = 19;
const VECTOR: usize = 20;
const CR2: usize = 22;

/// The beginning of `struct ucontext`.
#[repr(C)]
struct UserContext {
    flags: u64,
    link: u64,
    stack: SigStack,
    gregs: [u64; 23],
}

/// The beginning of `siginfo_t`.
#[repr(C)]
struct SigInfo {
    number: i32,
    errno: i32,
    code: i32,
}

const_assert_eq!(offset_of!(UserContext, gregs), 40);
const_assert_eq!(offset_of!(SigInfo, code), 8);

/// Takes all signals that the CPU causes, [`CALL`] and [`ALWAYS`], on the stack for faults; also if the
/// process began with some of them blocked, as its parent had them (signal(7)).
pub(super) fn install() -> Result<(), (&'static str, Errno)> {
    const NO_CALLS: u64 = 1 << (CALL - 1);
    let action = |handler: *const (), flags, mask| SigAction {
        handler: handler as usize,
        flags,
        // See there.
        restorer: restorer as *const () as usize + 1,
        mask,
    };
    // None: it may end without the system's knowledge.
    let fault = action(fault as *const (), FLAGS, 0);
    for signal in [SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV] {
        // SAFETY: both functions are made for signals with these flags.
        unsafe { sigaction(signal, &fault) }.map_err(|errno| ("rt_sigaction", errno))?;
    }
    let call = action(call as *const (), FLAGS | RESTART, NO_CALLS);
    // SAFETY: as above.
    unsafe { sigaction(CALL, &call) }.map_err(|errno| ("rt_sigaction", errno))?;
    let always = action(always as *const (), FLAGS & !NO_DEFER | RESTART, NO_CALLS);
    // SAFETY: as above.
    unsafe { sigaction(ALWAYS, &always) }.map_err(|errno| ("rt_sigaction", errno))?;
    unblock_signals().map_err(|errno| ("rt_sigprocmask", errno))
}

/// Makes this thread, which is the CPU with this number, handle signals on that CPU's stack.
pub(super) fn use_stack(cpu: usize) -> Result<(), Errno> {
    let range = InterruptStack::Fault.range(cpu);
    let size = range.end - range.start;
    let stack = SigStack { start: range.start, flags: 0, size };
    // SAFETY: the stack for faults of that CPU is there for this alone.
    unsafe { sigaltstack(&stack) }
}

extern "C" fn fault(number: i32, info: &SigInfo, context: &mut UserContext) {
    let gregs = &mut context.gregs;
    let kind = kind(number, info, gregs);
    interrupted(gregs, |state| {
        fault::handle(kind, state);
        preempt::due_tick(state);
        if trap::is_delivered(state) {
            per_cpu::on();
            // SAFETY: this handler has delivered to that place; its signals mask none, and its stack is
            // in use as long as `rsp` says so.
            unsafe { trap::trampoline(state.sp()) };
        }
    });
}

/// The timer's tick, or what another CPU wants.
extern "C" fn call(_: i32, info: &SigInfo, context: &mut UserContext) {
    interrupted(&mut context.gregs, |state| {
        cpu::answer(|request| match request {
            // The system keeps the threads' views of memory the same.
            Request::Flush => {}
            Request::Walk => walk::answer(state),
        });
        if info.code != SI_TIMER {
            preempt::call(state);
        } else if profile::tick(state) {
            preempt::tick(state);
        }
    });
}

extern "C" fn always(_: i32, _: &SigInfo, context: &mut UserContext) {
    interrupted(&mut context.gregs, |state| nmi::handle(state));
}

fn interrupted(gregs: &mut [u64; 23], handle: impl FnOnce(&mut CpuState)) {
    // What a handler locks and unlocks must not end in a switch.
    per_cpu::off();
    if gregs[FLAGS_REGISTER] & ALIGNMENT_CHECK != 0 {
        check_no_alignment();
    }
    let mut state = CpuState {
        gpr: BY_DWARF_NUMBER.map(|place| gregs[place]),
        rip: gregs[RIP],
        rflags: gregs[FLAGS_REGISTER],
    };
    handle(&mut state);
    for (place, value) in BY_DWARF_NUMBER.into_iter().zip(state.gpr) {
        gregs[place] = value;
    }
    gregs[RIP] = state.rip;
    gregs[FLAGS_REGISTER] = state.rflags;
    per_cpu::on();
}

/// Clears a flag that the system leaves as it was in the interrupted code.
#[cold]
fn check_no_alignment() {
    // SAFETY: compiled code expects it to be clear; the stack is used, and that is said.
    unsafe { asm!("pushfq", "and dword ptr [rsp], ~{}", "popfq", const ALIGNMENT_CHECK) };
}

/// The exception behind a signal.
fn kind(number: i32, info: &SigInfo, gregs: &[u64; 23]) -> FaultKind {
    // `SI_USER` and below: somebody sent it, and the exception fields are those of an earlier one.
    if info.code <= 0 {
        return FaultKind::Signal { number };
    }
    let error = gregs[ERROR];
    match gregs[VECTOR] {
        14 => FaultKind::PageFault {
            address: gregs[CR2],
            access: PageAccess::from_error_code(error),
            present: error & 1 != 0,
        },
        vector => FaultKind::from_vector(vector, error),
    }
}

/// Where the handler returns to: `rt_sigreturn` takes everything from the context at `rsp`.
///
/// Unwinders look a return address up one byte before it, so the frame has a byte before it too:
/// the address to use is this one plus 1.
#[unsafe(naked)]
unsafe extern "C" fn restorer() -> ! {
    macro_rules! restorer {
        ($($name:literal $place:literal),*) => {
            naked_asm!(
                ".cfi_startproc simple",
                ".cfi_signal_frame",
                ".cfi_def_cfa rsp, {size}",
                ".cfi_offset rip, {gregs} + 8 * {rip} - {size}",
                $(concat!(".cfi_offset ", $name, ", {gregs} + 8 * ", $place, " - {size}"),)*
                "nop",
                "mov eax, {sigreturn}",
                "syscall",
                "ud2",
                ".cfi_endproc",
                size = const size_of::<UserContext>(),
                gregs = const offset_of!(UserContext, gregs),
                rip = const RIP,
                sigreturn = const RT_SIGRETURN,
            )
        };
    }
    restorer!(
        "rax" 13, "rdx" 12, "rcx" 14, "rbx" 11, "rsi" 9, "rdi" 8, "rbp" 10, "rsp" 15, "r8" 0,
        "r9" 1, "r10" 2, "r11" 3, "r12" 4, "r13" 5, "r14" 6, "r15" 7
    )
}
