//! A frame whose personality must be asked, among frames whose answers are known.
//!
//! ```text
//!   catch ─► test ─► catches (asked) ─► cleans (plain: a cleanup) raises
//!                       ▲ phase 2 ◄──────── its cleanup resumes
//! ```

use std::arch::naked_asm;
use std::cell::Cell;
use std::ptr::null_mut;

use unspool_unwind::abi::{_Unwind_RaiseException, _Unwind_Resume};
use unspool_unwind::lsda::Action;
use unspool_unwind::{
    Actions, Context, Environment, Exception, Reason, Register, catch, in_flight_in,
    set_environment,
};

use crate::process::{modules, stack};

static ENVIRONMENT: Environment =
    Environment::new(stack, |error| panic!("{error}")).with_plain_personality(plain);

thread_local! {
    static CATCHES: Cell<bool> = const { Cell::new(false) };
    static CAUGHT: Cell<u64> = const { Cell::new(0) };
    static CLEANED: Cell<u64> = const { Cell::new(0) };
}

/// Raises the exception; has a cleanup.
#[unsafe(naked)]
extern "C-unwind" fn cleans(exception: *mut Exception) {
    naked_asm!(
        ".cfi_startproc",
        ".cfi_personality 0x1b, {plain}",
        ".cfi_lsda 0x1b, .Lunspool_test_cleans",
        "2:",
        "sub rsp, 8",
        ".cfi_adjust_cfa_offset 8",
        "3:",
        "call {raise}",
        "4:",
        "ud2",
        "6:",
        "push rax",
        ".cfi_adjust_cfa_offset 8",
        "sub rsp, 8",
        ".cfi_adjust_cfa_offset 8",
        "call {clean}",
        "add rsp, 8",
        ".cfi_adjust_cfa_offset -8",
        "pop rdi",
        ".cfi_adjust_cfa_offset -8",
        "call {resume}",
        "9:",
        "ud2",
        ".cfi_endproc",
        ".pushsection .gcc_except_table, \"a\", @progbits",
        ".Lunspool_test_cleans:",
        // Pads relative to the function, no types, the calls in ULEB128.
        ".byte 0xff, 0xff, 0x01",
        ".uleb128 8f - 7f",
        "7:",
        ".uleb128 3b - 2b",
        ".uleb128 4b - 3b",
        ".uleb128 6b - 2b",
        ".uleb128 0",
        ".uleb128 6b - 2b",
        ".uleb128 9b - 6b",
        ".uleb128 0",
        ".uleb128 0",
        "8:",
        ".popsection",
        plain = sym plain,
        raise = sym _Unwind_RaiseException,
        clean = sym clean,
        resume = sym _Unwind_Resume,
    )
}

extern "C" fn clean() {
    CLEANED.set(CLEANED.get() + 1);
}

/// Calls [`cleans`]; 1 if it catches.
#[unsafe(naked)]
extern "C-unwind" fn catches(exception: *mut Exception) -> u64 {
    naked_asm!(
        ".cfi_startproc",
        ".cfi_personality 0x1b, {asked}",
        "sub rsp, 8",
        ".cfi_adjust_cfa_offset 8",
        "call {cleans}",
        "add rsp, 8",
        ".cfi_adjust_cfa_offset -8",
        "ret",
        ".cfi_endproc",
        asked = sym asked,
        cleans = sym cleans,
    )
}

/// Calls [`cleans`]; lands there first, and then where it goes on from there: 1.
#[unsafe(naked)]
extern "C-unwind" fn catches_at_second(exception: *mut Exception) -> u64 {
    naked_asm!(
        ".cfi_startproc",
        ".cfi_personality 0x1b, {asked}",
        "push rbx",
        ".cfi_adjust_cfa_offset 8",
        ".cfi_offset rbx, -16",
        "mov rbx, rdi",
        "call {cleans}",
        "mov rdi, rbx",
        "call {resume}",
        "pop rbx",
        ".cfi_adjust_cfa_offset -8",
        ".cfi_restore rbx",
        "ret",
        ".cfi_endproc",
        asked = sym asked,
        cleans = sym cleans,
        resume = sym _Unwind_Resume,
    )
}

/// What the environment's plain personality does.
unsafe extern "C" fn plain(
    _version: i32,
    actions: Actions,
    _class: u64,
    exception: *mut Exception,
    context: &mut Context,
) -> Reason {
    match context.action() {
        Ok(Action::Cleanup(pad)) if actions.contains(Actions::CLEANUP_PHASE) => {
            context.set_register(Register::RAX, exception.expose_provenance() as u64);
            context.set_register(Register::RDX, 0);
            context.set_ip(pad);
            Reason::INSTALL_CONTEXT
        }
        _ => Reason::CONTINUE_UNWIND,
    }
}

/// Catches whatever comes, if it is to.
unsafe extern "C" fn asked(
    _version: i32,
    actions: Actions,
    _class: u64,
    _exception: *mut Exception,
    context: &mut Context,
) -> Reason {
    if actions.contains(Actions::SEARCH_PHASE) && CATCHES.get() {
        return Reason::HANDLER_FOUND;
    }
    if !actions.contains(Actions::HANDLER_FRAME) {
        return Reason::CONTINUE_UNWIND;
    }
    context.set_register(Register::RAX, 1);
    Reason::INSTALL_CONTEXT
}

unsafe extern "C-unwind" fn body(exception: *mut u8) -> *mut Exception {
    CAUGHT.set(CAUGHT.get() + catches(exception.cast()));
    null_mut()
}

#[test]
fn the_frame_that_catches_may_go_on_to_where_it_catches() {
    modules();
    for _ in 0..3 {
        set_environment(&ENVIRONMENT);
        CATCHES.set(true);
        assert_eq!(catches_at_second(&mut Exception::new(1, None)), 1);
    }
    // It has arrived once: otherwise there would be one in flight everywhere, for ever. Those of other tests
    // lead through few modules.
    let modules = (0..1 << 20).map(|module| (module % 64) << 12);
    assert!(modules.into_iter().any(|start| !in_flight_in(start..start + 1)));
}

#[test]
fn a_frame_that_must_be_asked_is_not_passed_between_frames_that_need_not_be() {
    modules();
    // The first time something is found out about all frames.
    for (round, catches) in [false, true, true, false, true].into_iter().enumerate() {
        set_environment(&ENVIRONMENT);
        CATCHES.set(catches);
        let caught = CAUGHT.get();
        let mut exception = Exception::new(1, None);
        // SAFETY: `body` gets its exception, and this thread's stack is that of the environment.
        let beyond = unsafe { catch(body, (&raw mut exception).cast()) };
        assert_eq!(beyond.is_null(), catches, "round {round}");
        assert_eq!((CAUGHT.get() - caught, CLEANED.get()), (catches.into(), round as u64 + 1));
    }
}
