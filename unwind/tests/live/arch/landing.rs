//! In what state a landing pad finds the CPU.
//!
//! ```text
//!   test ─► catches (naked) ─► throws        personality: sets DF, MXCSR and x87, then installs
//!              ▲ landing pad: flags ─────────────┘
//! ```

use std::arch::{asm, naked_asm};

use unspool_unwind::abi::_Unwind_RaiseException;
use unspool_unwind::{Exception, set_environment};

use crate::process::{PLAIN, modules};

/// Calls `throws`, which does not return, and gives the flags at its landing pad: the return
/// address of that call.
#[unsafe(naked)]
extern "C" fn catches(throws: extern "C-unwind" fn()) -> u64 {
    naked_asm!(
        ".cfi_startproc",
        ".cfi_personality 0x1b, {personality}",
        "sub rsp, 8",
        ".cfi_adjust_cfa_offset 8",
        "call rdi",
        "pushfq",
        "pop rax",
        "add rsp, 8",
        ".cfi_adjust_cfa_offset -8",
        "ret",
        ".cfi_endproc",
        personality = sym personality,
    )
}

/// Catches whatever comes, and leaves the CPU as no C function may.
#[unsafe(naked)]
extern "C" fn personality() {
    naked_asm!(
        // _UA_SEARCH_PHASE: _URC_HANDLER_FOUND.
        "mov eax, 6",
        "test esi, 1",
        "jnz 2f",
        // Flush to zero; single precision.
        "push 0x9f80",
        "ldmxcsr [rsp]",
        "mov dword ptr [rsp], 0x007f",
        "fldcw [rsp]",
        "pop rax",
        // _URC_INSTALL_CONTEXT.
        "mov eax, 7",
        "std",
        "2:",
        "ret",
    )
}

extern "C-unwind" fn throws() {
    let exception = Box::leak(Box::new(Exception::new(1, None)));
    // SAFETY: it lives for ever, and this thread's stack is that of the environment.
    let reason = unsafe { _Unwind_RaiseException(exception) };
    panic!("nobody catches: {reason:?}");
}

fn control_words() -> (u32, u16) {
    let (mut mxcsr, mut x87) = (0u32, 0u16);
    // SAFETY: writes four bytes, and two, to where they belong.
    unsafe { asm!("stmxcsr [{}]", "fnstcw [{}]", in(reg) &raw mut mxcsr, in(reg) &raw mut x87) };
    (mxcsr, x87)
}

#[test]
fn a_landing_pad_finds_the_direction_flag_clear_and_the_control_words_as_they_were() {
    const DIRECTION: u64 = 1 << 10;
    modules();
    set_environment(&PLAIN);
    let before = control_words();
    let flags = catches(throws);
    let after = control_words();
    assert_eq!(flags & DIRECTION, 0);
    assert_eq!(after, before);
}
