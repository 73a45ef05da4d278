//! What a raise asks each frame, which frame it lands in, and what it returns if it cannot.
//!
//! ```text
//!   own thread ─► asks ─► nest(2) ─► asks ─► nest(1) ─► asks ─► nest(0) ─► raises
//!                  └────────────────────┴──── one ip ────┘ the personality answers by a script
//! ```
//!
//! Itanium EH §1.3 and §1.6.1.

use std::arch::naked_asm;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::mem::transmute;
use std::ptr::null_mut;

use unspool_unwind::abi::{
    _Unwind_Backtrace, _Unwind_DeleteException, _Unwind_ForcedUnwind, _Unwind_RaiseException,
    _Unwind_Resume,
};
use unspool_unwind::{
    Actions, Context, Exception, Pc, RaiseError, Reason, Register, Registers, UnwindError,
    raise_from, set_environment,
};

use crate::process::{PLAIN, modules, stack};

/// What a landing pad returns, from this on with the number of its activation.
const LANDED: u64 = 0x1000;

/// Calls `body`, and returns what it returns; the landing pad is that call's return address, and
/// returns what the personality puts into `rax`.
#[unsafe(naked)]
extern "C-unwind" fn asks(argument: u64, body: extern "C-unwind" fn(u64) -> u64) -> u64 {
    naked_asm!(
        ".cfi_startproc",
        ".cfi_personality 0x1b, {personality}",
        "sub rsp, 8",
        ".cfi_adjust_cfa_offset 8",
        "call rsi",
        "add rsp, 8",
        ".cfi_adjust_cfa_offset -8",
        "ret",
        ".cfi_endproc",
        personality = sym personality,
    )
}

/// An invalid instruction, with a landing pad right behind it.
#[unsafe(naked)]
extern "C-unwind" fn faults(_: u64) -> u64 {
    naked_asm!(
        ".cfi_startproc",
        ".cfi_personality 0x1b, {personality}",
        "sub rsp, 8",
        ".cfi_adjust_cfa_offset 8",
        "ud2",
        "add rsp, 8",
        ".cfi_adjust_cfa_offset -8",
        "ret",
        ".cfi_endproc",
        personality = sym personality,
    )
}

/// How a personality answers for the frame of this number, counted from the innermost in each phase.
type Script = fn(Actions, usize) -> Reason;

/// What a personality was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Question {
    actions: Actions,
    class: u64,
    ip: Pc,
    cfa: u64,
}

thread_local! {
    static SCRIPT: Cell<Script> = const { Cell::new(|_, _| Reason::CONTINUE_UNWIND) };
    /// The exception of the last landing pad.
    static ENTERED_WITH: Cell<*mut Exception> = const { Cell::new(null_mut()) };
    static ASKED: RefCell<Vec<Question>> = const { RefCell::new(Vec::new()) };
}

extern "C" fn personality(
    version: i32,
    actions: Actions,
    class: u64,
    exception: *mut Exception,
    context: &mut Context,
) -> Reason {
    assert_eq!(version, 1);
    let question = Question { actions, class, ip: context.pc(), cfa: context.cfa() };
    let phase = |other: &Question| other.actions.contains(Actions::SEARCH_PHASE);
    let number = ASKED.with_borrow_mut(|asked| {
        let number = asked
            .iter()
            .filter(|other| other.class == class && phase(other) == phase(&question))
            .count();
        asked.push(question);
        number
    });
    let answer = SCRIPT.get()(actions, number);
    if answer == Reason::INSTALL_CONTEXT {
        context.set_register(Register::RAX, LANDED + number as u64);
        ENTERED_WITH.set(exception);
    }
    answer
}

/// So many more activations of `asks`, and then the raise. A landing in one of them comes back with
/// the number of `nest` that called it, in units of 0x10.
extern "C-unwind" fn nest(more: u64) -> u64 {
    if more == 0 {
        return raise(u64::from_ne_bytes(*b"PLAINTST"));
    }
    let result = asks(more - 1, nest);
    if (LANDED..LANDED + 0x10).contains(&result) { result + 0x10 * more } else { result }
}

/// Raises, and returns the code.
extern "C-unwind" fn raise(class: u64) -> u64 {
    let exception = Box::leak(Box::new(Exception::new(class, None)));
    // SAFETY: it lives for ever, and this thread's stack is that of the environment.
    unsafe { _Unwind_RaiseException(exception) }.0 as u64
}

/// Runs `body` on a thread of which nothing but the C library is below: its result, and what
/// personalities were asked.
fn alone(
    script: Script,
    argument: u64,
    body: extern "C-unwind" fn(u64) -> u64,
) -> (u64, Vec<Question>) {
    struct Job {
        script: Script,
        argument: u64,
        body: extern "C-unwind" fn(u64) -> u64,
        result: u64,
        asked: Vec<Question>,
    }
    /// Has nothing to clean up, and so no personality: that would be std's, which asks libgcc about a
    /// context of ours.
    extern "C-unwind" fn run(job: *mut c_void) -> *mut c_void {
        let job = job.cast::<Job>();
        begin(job);
        // SAFETY: `alone` waits for this thread, which alone uses the job meanwhile.
        let Job { argument, body, .. } = *unsafe { &*job };
        let result = body(argument);
        // SAFETY: as above.
        unsafe { (*job).result = result };
        end(job);
        null_mut()
    }
    #[inline(never)]
    extern "C" fn begin(job: *mut Job) {
        // SAFETY: as in `run`.
        SCRIPT.set(unsafe { &*job }.script);
    }
    #[inline(never)]
    extern "C" fn end(job: *mut Job) {
        // SAFETY: as in `run`.
        unsafe { (*job).asked = ASKED.take() };
    }
    type Plain = extern "C" fn(*mut c_void) -> *mut c_void;
    modules();
    set_environment(&PLAIN);
    let mut job = Job { script, argument, body, result: 0, asked: Vec::new() };
    let mut thread = 0;
    // SAFETY: the ABIs differ only in whether unwinding may leave it, and nothing is beyond it.
    let run = unsafe { transmute::<extern "C-unwind" fn(*mut c_void) -> *mut c_void, Plain>(run) };
    let pointer = (&raw mut job).cast();
    // SAFETY: plain calls of the C library; the job outlives the thread.
    assert_eq!(unsafe { libc::pthread_create(&raw mut thread, null_mut(), run, pointer) }, 0);
    // SAFETY: as above.
    assert_eq!(unsafe { libc::pthread_join(thread, null_mut()) }, 0);
    (job.result, job.asked)
}

fn code(result: u64) -> Reason {
    Reason(result as i32)
}

#[test]
fn nobody_catches_is_the_end_of_the_stack() {
    let (result, asked) = alone(|_, _| Reason::CONTINUE_UNWIND, 3, nest);
    assert_eq!(code(result), Reason::END_OF_STACK);
    // Phase 1 only, each frame once.
    assert_eq!(asked.len(), 3);
    assert!(asked.iter().all(|question| question.actions == Actions::SEARCH_PHASE));
}

#[test]
fn what_the_search_does_not_allow_is_a_phase_1_error() {
    const ANSWERS: [Script; 5] = [
        |_, _| Reason::FATAL_PHASE1_ERROR,
        |_, _| Reason::FATAL_PHASE2_ERROR,
        |_, _| Reason::NO_REASON,
        |_, _| Reason::INSTALL_CONTEXT,
        |_, _| Reason::END_OF_STACK,
    ];
    for script in ANSWERS {
        let (result, asked) = alone(script, 2, nest);
        assert_eq!(code(result), Reason::FATAL_PHASE1_ERROR);
        assert_eq!(asked.len(), 1);
    }
}

#[test]
fn what_cleaning_up_does_not_allow_is_a_phase_2_error() {
    fn found(actions: Actions, number: usize, then: Reason) -> Reason {
        match (actions, number) {
            (Actions::SEARCH_PHASE, 1) => Reason::HANDLER_FOUND,
            (Actions::SEARCH_PHASE, _) => Reason::CONTINUE_UNWIND,
            _ => then,
        }
    }
    const ANSWERS: [Script; 5] = [
        |actions, number| found(actions, number, Reason::FATAL_PHASE2_ERROR),
        |actions, number| found(actions, number, Reason::FATAL_PHASE1_ERROR),
        |actions, number| found(actions, number, Reason::HANDLER_FOUND),
        |actions, number| found(actions, number, Reason::NO_REASON),
        // Who said that it catches must not go on (Itanium EH §1.6.1).
        |actions, number| found(actions, number, Reason::CONTINUE_UNWIND),
    ];
    for script in ANSWERS {
        let (result, asked) = alone(script, 3, nest);
        assert_eq!(code(result), Reason::FATAL_PHASE2_ERROR);
        let last = asked.last().unwrap();
        assert!(last.actions.contains(Actions::CLEANUP_PHASE), "{asked:x?}");
    }
}

#[test]
fn of_activations_with_one_ip_the_one_catches_that_said_so() {
    const CATCHES: [Script; 3] = [at::<0>, at::<1>, at::<2>];
    fn at<const N: usize>(actions: Actions, number: usize) -> Reason {
        let handler = actions.contains(Actions::HANDLER_FRAME);
        match (actions.contains(Actions::SEARCH_PHASE), number == N) {
            (true, true) => Reason::HANDLER_FOUND,
            (false, here) => {
                assert_eq!(handler, here, "the handler's frame is told that it is");
                if here { Reason::INSTALL_CONTEXT } else { Reason::CONTINUE_UNWIND }
            }
            (true, false) => Reason::CONTINUE_UNWIND,
        }
    }
    for (n, script) in CATCHES.into_iter().enumerate() {
        let (result, asked) = alone(script, 3, nest);
        // `nest(1)` calls the innermost.
        assert_eq!(result, LANDED + n as u64 + 0x10 * (n as u64 + 1));
        let (search, cleanup) = asked.split_at(n + 1);
        for (one, other) in search.iter().zip(cleanup) {
            assert_eq!((one.ip, one.cfa), (other.ip, other.cfa));
            assert_eq!(one.ip, search[0].ip, "the same call");
        }
        assert!(search.is_sorted_by(|inner, outer| inner.cfa < outer.cfa));
    }
}

#[test]
fn an_exception_raised_and_caught_in_a_cleanup_leaves_the_first_one_on_its_way() {
    const FIRST: u64 = 1;
    const SECOND: u64 = 2;
    /// Raised here, goes through the cleanup of `cleans`, and ends in the outer `asks`.
    extern "C-unwind" fn first(_: u64) -> u64 {
        asks(FIRST, raise)
    }
    /// The cleanup of the innermost frame.
    extern "C-unwind" fn cleans(_: u64) -> u64 {
        let landed = first(0);
        let exception = ENTERED_WITH.get();
        assert_eq!(landed, LANDED, "the cleanup of the first frame");
        // Its own number: both have been asked before.
        let second = asks(SECOND, raise);
        assert_eq!(second, LANDED);
        // SAFETY: this is the landing pad of `asks`, continued.
        unsafe { _Unwind_Resume(exception) }
    }
    extern "C-unwind" fn outer(_: u64) -> u64 {
        asks(0, cleans)
    }
    // The classes are counted apart. The first: searched in two frames, cleans the first, lands in
    // the second. The second: caught in the only frame before those.
    fn script(actions: Actions, number: usize) -> Reason {
        let class = ASKED.with_borrow(|asked| asked.last().unwrap().class);
        match (class, actions.contains(Actions::SEARCH_PHASE), number) {
            (FIRST, true, 0) => Reason::CONTINUE_UNWIND,
            (FIRST, true, 1) | (SECOND, true, 0) => Reason::HANDLER_FOUND,
            (_, false, _) => Reason::INSTALL_CONTEXT,
            _ => unreachable!(),
        }
    }
    let (result, asked) = alone(script, 0, outer);
    assert_eq!(result, LANDED + 1);
    let classes: Vec<_> = asked.iter().map(|question| question.class).collect();
    assert_eq!(classes, [FIRST, FIRST, FIRST, SECOND, SECOND, FIRST]);
    let last = asked.last().unwrap();
    assert_eq!((last.cfa, last.ip), (asked[1].cfa, asked[1].ip), "the handler is the chosen one");
    assert!(last.actions.contains(Actions::HANDLER_FRAME));
}

#[test]
fn a_foreign_exception_that_was_caught_is_freed_by_who_made_it() {
    thread_local! {
        static FREED: Cell<Option<Reason>> = const { Cell::new(None) };
    }
    unsafe extern "C" fn free(reason: Reason, exception: *mut Exception) {
        // SAFETY: made by `Box` below.
        drop(unsafe { Box::from_raw(exception) });
        FREED.set(Some(reason));
    }
    let exception = Box::into_raw(Box::new(Exception::new(7, Some(free))));
    // SAFETY: nobody uses it afterwards.
    unsafe { _Unwind_DeleteException(exception) };
    assert_eq!(FREED.get(), Some(Reason::FOREIGN_EXCEPTION_CAUGHT));
}

#[test]
fn a_forced_unwinding_ends_at_the_end_of_the_stack_or_where_it_is_refused() {
    unsafe extern "C" fn on(
        _: i32,
        actions: Actions,
        _: u64,
        _: *mut Exception,
        context: &mut Context,
        ended: *mut c_void,
    ) -> Reason {
        assert!(actions.contains(Actions::FORCE_UNWIND.with(Actions::CLEANUP_PHASE)));
        let at_the_end = actions.contains(Actions::END_OF_STACK);
        assert_eq!(at_the_end, context.register(Register::RA) == 0);
        // SAFETY: `forces` passes its counter.
        unsafe { *ended.cast::<u64>() += u64::from(at_the_end) };
        Reason::NO_REASON
    }
    extern "C-unwind" fn forces(_: u64) -> u64 {
        let exception = Box::leak(Box::new(Exception::new(1, None)));
        let mut ended = 0u64;
        // SAFETY: it lives for ever, and no frame above has anything to clean up.
        let reason = unsafe { _Unwind_ForcedUnwind(exception, on, (&raw mut ended).cast()) };
        reason.0 as u64 + 0x100 * ended
    }
    extern "C-unwind" fn outer(_: u64) -> u64 {
        asks(0, forces)
    }
    let (result, asked) = alone(|_, _| Reason::CONTINUE_UNWIND, 0, outer);
    assert_eq!(result, 0x105, "_URC_END_OF_STACK, and the stop function was told once");
    assert_eq!(asked[0].actions, Actions::FORCE_UNWIND.with(Actions::CLEANUP_PHASE));
    let (result, _) = alone(|_, _| Reason::HANDLER_FOUND, 0, outer);
    assert_eq!(code(result), Reason::FATAL_PHASE2_ERROR);
}

#[test]
fn a_backtrace_says_whether_it_came_to_the_end() {
    unsafe extern "C" fn count(_: &mut Context, frames: *mut c_void) -> Reason {
        // SAFETY: `walks` passes its counter.
        let frames = unsafe { &mut *frames.cast::<u64>() };
        let stop = *frames == 1;
        *frames = frames.wrapping_sub(1);
        if stop { Reason::NORMAL_STOP } else { Reason::NO_REASON }
    }
    extern "C-unwind" fn walks(mut frames: u64) -> u64 {
        // SAFETY: `count` takes the counter.
        unsafe { _Unwind_Backtrace(count, (&raw mut frames).cast()) }.0 as u64
    }
    let script: Script = |_, _| unreachable!("a backtrace asks nobody");
    assert_eq!(code(alone(script, 0, walks).0), Reason::END_OF_STACK);
    // As in libgcc: a callback that stops it makes a phase 1 error.
    assert_eq!(code(alone(script, 2, walks).0), Reason::FATAL_PHASE1_ERROR);
}

thread_local! {
    /// Whether the invalid instruction is to be taken for a call.
    static IS_CALL: Cell<bool> = const { Cell::new(false) };
}

/// Bytes of `ud2`.
const INVALID: u64 = 2;

/// Raises with the registers that the CPU had at the invalid instruction.
unsafe extern "C-unwind" fn trapped(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    const OF: [(Register, libc::c_int); 9] = [
        (Register::RA, libc::REG_RIP),
        (Register::RSP, libc::REG_RSP),
        (Register::RBP, libc::REG_RBP),
        (Register::RBX, libc::REG_RBX),
        (Register::R12, libc::REG_R12),
        (Register::R13, libc::REG_R13),
        (Register::R14, libc::REG_R14),
        (Register::R15, libc::REG_R15),
        (Register::RAX, libc::REG_RAX),
    ];
    // A landing at the instruction itself would come back for ever.
    assert!(ASKED.with_borrow(Vec::len) < 8, "landed where it was interrupted");
    // SAFETY: Linux passes it.
    let context = unsafe { &*context.cast::<libc::ucontext_t>() };
    let mut registers = Registers::new();
    for (register, number) in OF {
        registers.set(register, context.uc_mcontext.gregs[number as usize] as u64);
    }
    let pc = if IS_CALL.get() {
        registers.set(Register::RA, registers.ip() + INVALID);
        Pc::Return(registers.ip())
    } else {
        Pc::Exact(registers.ip())
    };
    let exception = Box::leak(Box::new(Exception::new(3, None)));
    // SAFETY: it lives for ever; this handler runs on the stack that was interrupted, below it, and
    // does not go on if somebody catches.
    let error = unsafe { raise_from(exception, &registers, pc, stack(registers.sp())) };
    panic!("nobody catches: {error}");
}

#[test]
fn a_raise_from_a_trap_asks_the_trapped_frame_only_at_a_call() {
    // SAFETY: a signal action of the right type. Nobody else in this program has invalid
    // instructions; the signal is not blocked while it is handled, because nobody returns from it.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = trapped as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
        assert_eq!(libc::sigaction(libc::SIGILL, &raw const action, null_mut()), 0);
    }
    fn first(actions: Actions, _: usize) -> Reason {
        let search = actions.contains(Actions::SEARCH_PHASE);
        if search { Reason::HANDLER_FOUND } else { Reason::INSTALL_CONTEXT }
    }
    fn second(actions: Actions, number: usize) -> Reason {
        if number == 0 { Reason::CONTINUE_UNWIND } else { first(actions, number) }
    }
    extern "C-unwind" fn outer(is_call: u64) -> u64 {
        IS_CALL.set(is_call != 0);
        asks(0, faults)
    }
    // SAFETY: the naked function has as many bytes.
    let offset = (faults as *const () as u64..)
        .take(16)
        .position(|at| unsafe { std::slice::from_raw_parts(at as *const u8, 2) == [0x0f, 0x0b] });
    let behind = Pc::Return(faults as *const () as u64 + offset.unwrap() as u64 + INVALID);
    let (result, callers) = alone(first, 0, outer);
    assert_eq!((result, callers.len()), (LANDED, 2));
    assert!(callers.iter().all(|question| matches!(question.ip, Pc::Return(_))), "{callers:x?}");
    assert_ne!(callers[0].ip, behind);
    let (result, asked) = alone(first, 1, outer);
    assert_eq!(result, LANDED);
    assert!(asked.iter().all(|question| question.ip == behind), "{asked:x?}");
    let (result, asked) = alone(second, 1, outer);
    assert_eq!(result, LANDED + 1);
    assert_eq!([asked[0].ip, asked[1].ip], [behind, callers[0].ip]);
}

#[test]
fn every_reason_has_its_code() {
    let (pc, reason) = (1, Reason::NO_REASON);
    let unwind = UnwindError::NoFde(pc);
    for (error, code) in [
        (RaiseError::EndOfStack, 5),
        (RaiseError::Unwind(unwind), 3),
        (RaiseError::Personality { pc, reason }, 3),
        (RaiseError::CleanupUnwind(unwind), 2),
        (RaiseError::CleanupPersonality { pc, reason }, 2),
        (RaiseError::Forced { pc, reason }, 2),
        (RaiseError::HandlerLost { cfa: pc }, 2),
    ] {
        assert_eq!(error.code(), Reason(code), "{error}");
    }
}
