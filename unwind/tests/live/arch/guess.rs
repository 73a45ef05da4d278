//! Walks this program's stack through code without tables.
//!
//! ```text
//!   test ─► bare (no CFI, push rbp) ─► inner ─► Cursor, _Unwind_Backtrace
//! ```

use std::arch::global_asm;
use std::ffi::c_void;
use std::hint::black_box;

use unspool_unwind::abi::_Unwind_Backtrace;
use unspool_unwind::{
    Context, Cursor, Environment, FrameKind, Pc, Reason, Registers, Step, UnwindError, global,
    set_environment,
};

use crate::process::{PLAIN, modules, stack};

// A function as compilers make it with frame pointers and without tables.
global_asm!(
    ".pushsection .text.unspool_bare, \"ax\", @progbits",
    ".globl unspool_bare",
    "unspool_bare:",
    "push rbp",
    "mov rbp, rsp",
    "mov rax, rdi",
    "mov rdi, rsi",
    "call rax",
    "pop rbp",
    "ret",
    "unspool_bare_end:",
    ".globl unspool_bare_end",
    ".popsection",
);

unsafe extern "C" {
    fn unspool_bare(call: *const c_void, argument: *mut c_void);
    safe static unspool_bare_end: u8;
}

/// Addresses of a walk, and which frames were guessed.
type Frames = Vec<(u64, FrameKind)>;

/// Calls `inner` through the bare function.
fn through_bare(inner: extern "C" fn(&mut Frames)) -> Frames {
    let mut frames = Frames::new();
    // SAFETY: it calls the function with its argument.
    unsafe { unspool_bare(inner as *const c_void, (&raw mut frames).cast()) };
    frames
}

fn is_bare(ip: u64) -> bool {
    let end = (&raw const unspool_bare_end).addr() as u64;
    (unspool_bare as *const () as u64..=end).contains(&ip)
}

/// The walk from here.
#[inline(never)]
fn walk(guessing: bool) -> (Frames, Result<Step, UnwindError>) {
    let registers = Registers::here();
    let modules = global();
    let pc = Pc::Return(registers.ip());
    let cursor = Cursor::new(registers, pc, stack(registers.sp()), modules);
    let mut cursor = if guessing { cursor.with_guesses() } else { cursor };
    let mut frames = Frames::new();
    loop {
        frames.push((cursor.pc().address(), cursor.kind()));
        match cursor.step() {
            Ok(Step::Caller { .. }) => {}
            ended => return (frames, ended),
        }
    }
}

#[test]
fn a_walk_goes_through_code_without_tables_if_it_may_guess() {
    extern "C" fn inner(frames: &mut Frames) {
        let (known, ended) = walk(false);
        let last = known.last().unwrap().0;
        assert!(is_bare(last), "tables lead to the bare function");
        assert_eq!(ended, Err(UnwindError::NoFde(last - 1)));
        let ended;
        (*frames, ended) = walk(true);
        assert_eq!(ended, Ok(Step::End));
        black_box(frames);
    }
    modules();
    let (above, _) = walk(false);
    let frames = through_bare(inner);
    let bare = frames.iter().position(|&(ip, _)| is_bare(ip)).unwrap();
    assert!(frames[..=bare].iter().all(|&(_, kind)| kind == FrameKind::Known));
    let [(_, guessed), rest @ ..] = &frames[bare + 1..] else { panic!("nothing beyond") };
    assert_eq!(*guessed, FrameKind::Guess);
    assert!(rest.iter().all(|&(_, kind)| kind == FrameKind::Known));
    // This function calls from two places; what called it is the same.
    assert!(rest.len() > 3 && above.ends_with(rest), "{rest:x?}, {above:x?}");
}

static GUESSING: Environment = PLAIN.with_guesses();

#[test]
fn a_backtrace_guesses_only_if_the_environment_asks() {
    unsafe extern "C" fn note(context: &mut Context, frames: *mut c_void) -> Reason {
        // SAFETY: `inner` passes its vector.
        let frames = unsafe { &mut *frames.cast::<Frames>() };
        frames.push((context.pc().address(), context.kind()));
        Reason::NO_REASON
    }
    extern "C" fn inner(frames: &mut Frames) {
        // SAFETY: `note` takes the vector.
        let reason = unsafe { _Unwind_Backtrace(note, std::ptr::from_mut(frames).cast()) };
        assert_eq!(reason, Reason::END_OF_STACK);
    }
    modules();
    let [plain, guessing] = [&PLAIN, &GUESSING].map(|environment| {
        set_environment(environment);
        through_bare(inner)
    });
    assert!(is_bare(plain.last().unwrap().0), "without asking, it ends there");
    assert_eq!(plain[..], guessing[..plain.len()]);
    assert_eq!(guessing[plain.len()].1, FrameKind::Guess);
    let rest = &guessing[plain.len() + 1..];
    assert!(rest.len() > 3 && rest.iter().all(|&(_, kind)| kind == FrameKind::Known));
}
