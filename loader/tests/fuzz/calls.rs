//! Calls into loaded objects, none of which arrives.
//!
//! ```text
//!   loader ── call ──► a constructor, a resolver: its page is not executable ──► fault
//!      ▲                                                                           │
//!      └───────────── as if it had returned at once ◄── counted ◄── signal handler ┘
//! ```
//!
//! What mutated code does is nobody's promise; that it is called, and when, is the loader's. The
//! program that objects refer to has no functions either, but a page of traps.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::program;
use crate::report;

static EXPECTED: AtomicBool = AtomicBool::new(false);
static COUNT: AtomicU64 = AtomicU64::new(0);
static TRAP: AtomicU64 = AtomicU64::new(0);

/// Page faults at the fetch of an instruction (Intel SDM volume 3, §4.7: bit 4 of the error code).
const FETCH: i64 = 1 << 4;
/// `#BP`, `#GP`, `#PF` (Intel SDM volume 3, §6.3.1).
const BREAKPOINT: i64 = 3;
const PROTECTION: i64 = 13;
const PAGE_FAULT: i64 = 14;

/// How many calls there were.
pub fn count() -> u64 {
    COUNT.load(Ordering::Relaxed)
}

/// What `run` returns, which may call what is not there.
pub fn expected<R>(run: impl FnOnce() -> R) -> R {
    EXPECTED.store(true, Ordering::Relaxed);
    let result = run();
    EXPECTED.store(false, Ordering::Relaxed);
    result
}

/// Has calls to nowhere return, and all other faults say which case it was.
pub fn catch() {
    TRAP.store(program::trap(), Ordering::Relaxed);
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGTRAP] {
        // SAFETY: zeroes are an empty mask and no flags.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = caught as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        // SAFETY: the handler does what handlers may.
        assert_eq!(unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) }, 0);
    }
}

extern "C" fn caught(signal: c_int, _: *mut libc::siginfo_t, context: *mut libc::ucontext_t) {
    // SAFETY: the kernel's, for this handler alone.
    let registers = unsafe { &mut (*context).uc_mcontext.gregs };
    if EXPECTED.load(Ordering::Relaxed) && returns(registers) {
        COUNT.fetch_add(1, Ordering::Relaxed);
    } else {
        report::say(signal);
    }
}

/// Returns from a call that has just been made to nowhere, if that is what the fault was.
fn returns(registers: &mut [i64; 23]) -> bool {
    const RIP: usize = libc::REG_RIP as usize;
    const RSP: usize = libc::REG_RSP as usize;
    let (at, trap) = (registers[RIP] as u64, TRAP.load(Ordering::Relaxed));
    let canonical = at as i64 == (at as i64) << 16 >> 16;
    let arrived = match registers[libc::REG_TRAPNO as usize] {
        BREAKPOINT => (trap..=trap + unspool_loader::PAGE as u64).contains(&at),
        PAGE_FAULT => registers[libc::REG_ERR as usize] & FETCH != 0,
        // AMD's processors have gone there; Intel's stay at the call.
        PROTECTION if !canonical => true,
        PROTECTION => {
            // SAFETY: the instruction that faulted; nowhere else is executable.
            let Some(length) = indirect_call(unsafe { &*(at as *const [u8; 9]) }) else {
                return false;
            };
            registers[RIP] += length;
            return true;
        }
        _ => false,
    };
    if arrived {
        // SAFETY: the call has pushed where it goes on.
        registers[RIP] = unsafe { *(registers[RSP] as *const i64) };
        registers[RSP] += 8;
    }
    arrived
}

/// The length of `call` through a register or memory (Intel SDM volume 2, §2.1: FF /2), if it is one.
fn indirect_call(code: &[u8; 9]) -> Option<i64> {
    let prefix = usize::from(code[0] & 0xf0 == 0x40);
    let [opcode, modes, scaled] = [0, 1, 2].map(|at| code[prefix + at]);
    if opcode != 0xff || modes >> 3 & 7 != 2 {
        return None;
    }
    let (mode, base) = (modes >> 6, modes & 7);
    let sib = mode != 3 && base == 4;
    let displacement = match mode {
        0 if base == 5 || sib && scaled & 7 == 5 => 4,
        1 => 1,
        2 => 4,
        _ => 0,
    };
    Some((prefix + 2 + usize::from(sib) + displacement) as i64)
}

/// `__cxa_atexit`, the loader's own.
pub type AtExit =
    extern "C" fn(unsafe extern "C" fn(*mut c_void), *mut c_void, *mut c_void) -> c_int;
