//! Raises out of a signal's handler that has interrupted a frame that catches.
//!
//! ```text
//!   catch ─► outer ─► catch ─► body        a trap before each instruction of the inner catch:
//!     ▲                 ⚡ handler ─ raise ─► it is at no call, so the outer one catches
//!     └─────────────────────────────────────┘
//! ```

use std::arch::naked_asm;
use std::cell::Cell;
use std::ffi::c_int;
use std::ptr::null_mut;

use unspool_unwind::abi::_Unwind_RaiseException;
use unspool_unwind::{Exception, catch, set_environment};

use crate::process::{PLAIN, modules};

/// More than the code of a frame that catches has.
const CATCH: u64 = 24;

thread_local! {
    /// Instructions of the frame that are let pass; how many have been.
    static PASS: Cell<u32> = const { Cell::new(0) };
    static PASSED: Cell<u32> = const { Cell::new(0) };
}

fn class() -> u64 {
    u64::from_ne_bytes(*b"STEPTEST")
}

/// Has nothing to clean up, and so no personality: that would be std's, which asks libgcc about a
/// context of ours.
extern "C-unwind" fn trapped(_: c_int, _: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    // SAFETY: the kernel passes a valid context.
    let ip = unsafe { &*context }.uc_mcontext.gregs[libc::REG_RIP as usize] as u64;
    if counts(ip) {
        let exception = Box::into_raw(Box::new(Exception::new(class(), None)));
        // SAFETY: it lives until the test frees it, and this thread's stack is that of the environment.
        unsafe { _Unwind_RaiseException(exception) };
        std::process::abort();
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

#[test]
fn a_frame_that_catches_does_so_only_at_its_call() {
    modules();
    set_environment(&PLAIN);
    // SAFETY: zero is a value of all its fields.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = trapped as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_NODEFER;
    // SAFETY: the handler takes these arguments, and only this test traps.
    assert_eq!(unsafe { libc::sigaction(libc::SIGTRAP, &raw const action, null_mut()) }, 0);
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
