//! Interrupts between any two instructions: raised out of, and walked from.
//!
//! ```text
//!   catch ─► outer ─► catch ─► body        a trap before each instruction of the inner catch:
//!     ▲                 ⚡ handler ─ raise ─► it is at no call, so the outer one catches
//!     └─────────────────────────────────────┘
//!   steps ─► catches ─► throws ─► raise ─► land ─► the landing pad of catches
//!               a trap before each instruction ⚡ handler ─ walk ─► … ─► steps
//! ```

use std::arch::naked_asm;
use std::cell::Cell;
use std::ffi::c_int;
use std::ptr::null_mut;

use unspool_unwind::abi::_Unwind_RaiseException;
use unspool_unwind::{
    Actions, CfaRule, Context, Cursor, Exception, FindModule as _, Pc, Reason, Register, Registers,
    StackBounds, Step, catch, global, set_environment,
};

use crate::process::{PLAIN, modules, stack};

/// More than the code of a frame that catches has.
const CATCH: u64 = 24;

thread_local! {
    /// Instructions of the frame that are let pass; how many have been.
    static PASS: Cell<u32> = const { Cell::new(0) };
    static PASSED: Cell<u32> = const { Cell::new(0) };
    /// Where the stack ends, if traps are walked from; how many have been, and from how many of them the
    /// walk did not come to `steps`.
    static WALKS: Cell<u64> = const { Cell::new(0) };
    static WALKED: Cell<u32> = const { Cell::new(0) };
    static LOST: Cell<u32> = const { Cell::new(0) };
}

fn class() -> u64 {
    u64::from_ne_bytes(*b"STEPTEST")
}

/// Has nothing to clean up, and so no personality: that would be std's, which asks libgcc about a
/// context of ours.
extern "C-unwind" fn trapped(_: c_int, _: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    // SAFETY: the kernel passes a valid context.
    let context = unsafe { &*context };
    if WALKS.get() != 0 {
        walk(context);
    } else if counts(context.uc_mcontext.gregs[libc::REG_RIP as usize] as u64) {
        let exception = Box::into_raw(Box::new(Exception::new(class(), None)));
        // SAFETY: it lives until the test frees it, and this thread's stack is that of the environment.
        unsafe { _Unwind_RaiseException(exception) };
        std::process::abort();
    }
}

/// Walks from where the context is up to `steps`, if that is in the unwinder's landing: in this program
/// nothing else has expressions for CFAs.
#[inline(never)]
extern "C" fn walk(context: &libc::ucontext_t) {
    const REGISTERS: [(Register, i32); 8] = [
        (Register::RBX, libc::REG_RBX),
        (Register::RBP, libc::REG_RBP),
        (Register::RSP, libc::REG_RSP),
        (Register::R12, libc::REG_R12),
        (Register::R13, libc::REG_R13),
        (Register::R14, libc::REG_R14),
        (Register::R15, libc::REG_R15),
        (Register::RA, libc::REG_RIP),
    ];
    let mut registers = Registers::new();
    // `land` has a pointer to what it loads there.
    let rdi = context.uc_mcontext.gregs[libc::REG_RDI as usize] as u64;
    registers.set(Register::RDI, rdi);
    registers.set(Register::R11, context.uc_mcontext.gregs[libc::REG_R11 as usize] as u64);
    for (register, place) in REGISTERS {
        registers.set(register, context.uc_mcontext.gregs[place as usize] as u64);
    }
    let steps = steps as *const () as u64;
    let row = global()
        .find(steps)
        .unwrap()
        .function(registers.ip())
        .and_then(|each| each.row(registers.ip()));
    if !row.is_ok_and(|row| matches!(row.cfa, CfaRule::Expression(_))) {
        return;
    }
    // SAFETY: this thread's stack, to its end.
    let stack = unsafe { StackBounds::new(registers.sp(), WALKS.get()) };
    let mut cursor = Cursor::new(registers, Pc::Exact(registers.ip()), stack, global());
    WALKED.set(WALKED.get() + 1);
    while !(steps..steps + STEPS).contains(&cursor.pc().address()) {
        if !matches!(cursor.step(), Ok(Step::Caller { .. })) {
            LOST.set(LOST.get() + 1);
            return;
        }
    }
}

/// Whether the instruction is one of the frame's, and the one to raise at.
#[inline(never)]
extern "C" fn counts(ip: u64) -> bool {
    let inside = ip.wrapping_sub(catch as *const () as u64) < CATCH;
    let number = PASSED.get() + u32::from(inside);
    PASSED.set(number);
    inside && number > PASS.get()
}

/// From here on, traps.
#[unsafe(naked)]
extern "C" fn body(_: *mut u8) -> *mut Exception {
    naked_asm!(".cfi_startproc", "xor eax, eax", "ret", ".cfi_endproc")
}

/// As much code as `steps` has.
const STEPS: u64 = 48;

/// Calls `catches(throws)` with a trap after each instruction.
#[unsafe(naked)]
extern "C-unwind" fn steps() {
    naked_asm!(
        ".cfi_startproc",
        "2:",
        "lea rdi, [rip + {throws}]",
        "pushfq",
        ".cfi_adjust_cfa_offset 8",
        "or qword ptr [rsp], 0x100",
        "popfq",
        ".cfi_adjust_cfa_offset -8",
        "sub rsp, 8",
        ".cfi_adjust_cfa_offset 8",
        "call {catches}",
        "add rsp, 8",
        ".cfi_adjust_cfa_offset -8",
        "pushfq",
        ".cfi_adjust_cfa_offset 8",
        "and qword ptr [rsp], ~0x100",
        "popfq",
        ".cfi_adjust_cfa_offset -8",
        "ret",
        ".org 2b + {size}, 0xcc",
        ".cfi_endproc",
        throws = sym throws,
        catches = sym catches,
        size = const STEPS,
    )
}

/// Calls `throws`. In front of the landing pad is the end of the function, whose frame is another.
#[unsafe(naked)]
extern "C-unwind" fn catches(throws: extern "C-unwind" fn()) {
    naked_asm!(
        ".cfi_startproc",
        ".cfi_personality 0x1b, {personality}",
        "sub rsp, 24",
        ".cfi_adjust_cfa_offset 24",
        "call rdi",
        "2:",
        ".cfi_remember_state",
        "add rsp, 24",
        ".cfi_adjust_cfa_offset -24",
        "ret",
        ".org 2b + {returned}, 0x90",
        ".cfi_restore_state",
        "add rsp, 24",
        ".cfi_adjust_cfa_offset -24",
        "ret",
        ".cfi_endproc",
        personality = sym personality,
        returned = const RETURNED,
    )
}

/// Bytes from the return address in `catches` to its landing pad.
const RETURNED: u64 = 5;

/// That of `catches`, which catches everything.
extern "C" fn personality(
    _version: i32,
    actions: Actions,
    _class: u64,
    exception: *mut Exception,
    context: &mut Context,
) -> Reason {
    if actions.contains(Actions::SEARCH_PHASE) {
        return Reason::HANDLER_FOUND;
    }
    context.set_ip(context.pc().address() + RETURNED);
    // SAFETY: `throws` made it.
    drop(unsafe { Box::from_raw(exception) });
    Reason::INSTALL_CONTEXT
}

extern "C-unwind" fn throws() {
    let exception = Box::into_raw(Box::new(Exception::new(class(), None)));
    // SAFETY: it lives until it is caught, and this thread's stack is that of the environment.
    unsafe { _Unwind_RaiseException(exception) };
    std::process::abort();
}

/// Calls `catch(body, null)` with a trap after each instruction, and gives null.
#[unsafe(naked)]
extern "C-unwind" fn outer(_: *mut u8) -> *mut Exception {
    naked_asm!(
        ".cfi_startproc",
        "sub rsp, 8",
        ".cfi_adjust_cfa_offset 8",
        "lea rdi, [rip + {body}]",
        "xor esi, esi",
        "pushfq",
        ".cfi_adjust_cfa_offset 8",
        "or qword ptr [rsp], 0x100",
        "popfq",
        ".cfi_adjust_cfa_offset -8",
        "call {catch}",
        "pushfq",
        ".cfi_adjust_cfa_offset 8",
        "and qword ptr [rsp], ~0x100",
        "popfq",
        ".cfi_adjust_cfa_offset -8",
        "xor eax, eax",
        "add rsp, 8",
        ".cfi_adjust_cfa_offset -8",
        "ret",
        ".cfi_endproc",
        body = sym body,
        catch = sym catch,
    )
}

/// Has `trapped` called for traps.
fn begin() {
    modules();
    set_environment(&PLAIN);
    // SAFETY: zero is a value of all its fields.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = trapped as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
    // SAFETY: the handler takes these arguments, and only these tests trap.
    assert_eq!(unsafe { libc::sigaction(libc::SIGTRAP, &raw const action, null_mut()) }, 0);
}

#[test]
fn a_walk_from_anywhere_in_a_landing_comes_to_where_it_leads() {
    begin();
    WALKS.set(stack(Registers::here().sp()).range().end);
    steps();
    WALKS.set(0);
    // At least one for each register that is loaded.
    assert!(WALKED.get() >= 6, "{}", WALKED.get());
    assert_eq!(LOST.get(), 0, "of {}", WALKED.get());
}

#[test]
fn a_frame_that_catches_does_so_only_at_its_call() {
    begin();
    let mut raised = 0;
    for pass in 0.. {
        PASS.set(pass);
        PASSED.set(0);
        // SAFETY: `outer` takes any argument.
        let exception = unsafe { catch(outer, null_mut()) };
        if exception.is_null() {
            break;
        }
        // SAFETY: the handler made it.
        assert_eq!(unsafe { Box::from_raw(exception) }.class, class());
        raised += 1;
    }
    // push, xchg, call; and behind it at least mov, xor, pop, ret.
    assert!(raised >= 7, "{raised}");
}
