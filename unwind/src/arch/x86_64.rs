//! x86-64: the only assembly of the unwinder.
//!
//! ```text
//!   capture   registers ─► Registers         as they are when it returns
//!   with_registers! { f }                    the caller's registers are f's last argument
//!   land      Registers ─► registers         and jumps to their ip
//!   catch     a frame whose landing pad is right after its only call
//! ```

mod control;

use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use core::arch::{asm, global_asm, naked_asm};
use core::mem::{MaybeUninit, offset_of};

use crate::cache::Trail;
use crate::context::Context;
use crate::cursor::Cursor;
use crate::environment::{Everywhere, LiveStack};
use crate::exception::{Actions, Exception, Reason};
use crate::forced::ends_at;
use crate::registers::{Register, Registers};

pub(crate) use control::ControlWords;

/// The offset of a register in [`Registers`], in bytes.
const fn offset(register: Register) -> usize {
    register.number() * size_of::<u64>()
}

impl Registers {
    /// The registers of the caller, as of the instruction after this call. Only `rsp`, `ip` and
    /// the callee-saved ones mean anything.
    #[inline(always)]
    pub fn here() -> Self {
        let mut registers = Self::new();
        registers.capture();
        registers
    }

    /// As [`here`](Self::here), into a place that is there already.
    #[inline(always)]
    pub fn capture(&mut self) {
        // SAFETY: `capture` writes words of a valid `Registers` and nothing else.
        unsafe { capture(self) };
    }
}

/// A copy of what was stored word by word a moment ago: read word by word, it need not wait until the
/// stores have reached the cache, which a vector's load would.
#[inline(always)]
pub(crate) fn copied<T: Words>(from: &T) -> T {
    let words = (&raw const *from).cast::<u64>();
    let mut copy = MaybeUninit::<T>::uninit();
    let to = copy.as_mut_ptr().cast::<u64>();
    for word in 0..size_of::<T>() / 8 {
        // SAFETY: it is so many words (`Words`).
        let from = unsafe { words.add(word) };
        // SAFETY: it is behind a reference.
        let value = unsafe { from.read_volatile() };
        // SAFETY: as above.
        let to = unsafe { to.add(word) };
        // SAFETY: there is the copy.
        unsafe { to.write(value) };
    }
    // SAFETY: all of its words were written, as they were.
    unsafe { copy.assume_init() }
}

/// What consists of aligned words, all of them initialized.
///
/// # Safety
///
/// The type is as said: its alignment is that of `u64`, and there is nothing between its fields.
pub(crate) unsafe trait Words: Copy {}

// SAFETY: seventeen words.
unsafe impl Words for Registers {}
// SAFETY: two halves of a word, and two words.
unsafe impl Words for Trail {}

static_assertions::const_assert_eq!(size_of::<Trail>(), 24);

/// Stores the registers that the caller has when this returns.
///
/// # Safety
///
/// `to` is valid for a write.
#[unsafe(naked)]
unsafe extern "C" fn capture(to: *mut Registers) {
    naked_asm!(
        ".cfi_startproc",
        "mov [rdi + {rbx}], rbx",
        "mov [rdi + {rbp}], rbp",
        "mov [rdi + {r12}], r12",
        "mov [rdi + {r13}], r13",
        "mov [rdi + {r14}], r14",
        "mov [rdi + {r15}], r15",
        "lea rax, [rsp + 8]",
        "mov [rdi + {rsp}], rax",
        "mov rax, [rsp]",
        "mov [rdi + {ra}], rax",
        "ret",
        ".cfi_endproc",
        rbx = const offset(Register::RBX),
        rbp = const offset(Register::RBP),
        r12 = const offset(Register::R12),
        r13 = const offset(Register::R13),
        r14 = const offset(Register::R14),
        r15 = const offset(Register::R15),
        rsp = const offset(Register::RSP),
        ra = const offset(Register::RA),
    )
}

/// The body of a naked function that is `$callee`: registers and stack stay as the caller left them.
#[doc(hidden)]
#[macro_export]
macro_rules! hand_on {
    ($callee:path) => {
        ::core::arch::naked_asm!(
            ".cfi_startproc",
            "jmp {callee}",
            ".cfi_endproc",
            callee = sym $callee,
        )
    };
}

/// The body of a naked function that calls `$callee` with its own arguments and, in `$last`, a
/// pointer to the [`Registers`] of its caller as they are when it returns. Of these, only `rsp`,
/// `ip` and the callee-saved ones mean anything; the others are zero.
///
/// The walk then begins in the caller: this frame need not be unwound.
///
/// With a type, the place has the size of one: it begins with the registers, and the rest is not
/// initialized.
macro_rules! with_registers {
    ($last:literal, $callee:path) => {
        $crate::arch::with_registers!($last, $callee, $crate::registers::Registers)
    };
    ($last:literal, $callee:path, $place:ty) => {
        core::arch::naked_asm!(
            ".cfi_startproc",
            "sub rsp, {size}",
            ".cfi_adjust_cfa_offset {size}",
            "xor eax, eax",
            "mov [rsp], rax",
            "mov [rsp + 8], rax",
            "mov [rsp + 16], rax",
            "mov [rsp + 24], rbx",
            "mov [rsp + 32], rax",
            "mov [rsp + 40], rax",
            "mov [rsp + 48], rbp",
            "mov [rsp + 64], rax",
            "mov [rsp + 72], rax",
            "mov [rsp + 80], rax",
            "mov [rsp + 88], rax",
            "mov [rsp + 96], r12",
            "mov [rsp + 104], r13",
            "mov [rsp + 112], r14",
            "mov [rsp + 120], r15",
            "lea rax, [rsp + {size} + 8]",
            "mov [rsp + 56], rax",
            "mov rax, [rsp + {size}]",
            "mov [rsp + 128], rax",
            concat!("mov ", $last, ", rsp"),
            "call {callee}",
            "add rsp, {size}",
            ".cfi_adjust_cfa_offset -{size}",
            "ret",
            ".cfi_endproc",
            size = const $crate::arch::room(size_of::<$place>()),
            callee = sym $callee,
        )
    };
}
pub(crate) use with_registers;

/// So many bytes, and as many more as a call needs, which wants the stack aligned to 16: the return
/// address makes it so (psABI x86-64 §3.2.2).
pub(crate) const fn room(size: usize) -> usize {
    (size + 8).next_multiple_of(16) - 8
}

static_assertions::const_assert_eq!(room(size_of::<Registers>()), size_of::<Registers>());
static_assertions::const_assert_eq!(offset_of!(Context, cursor), 0);
static_assertions::const_assert_eq!(
    offset_of!(Cursor<'static, LiveStack, Everywhere>, registers),
    0
);
static_assertions::const_assert_eq!(offset(Register::RBX), 24);
static_assertions::const_assert_eq!(offset(Register::RBP), 48);
static_assertions::const_assert_eq!(offset(Register::RSP), 56);
static_assertions::const_assert_eq!(offset(Register::R12), 96);
static_assertions::const_assert_eq!(offset(Register::RA), 128);

/// Continues at `registers`' ip with all of `registers`, except `r11`, which no landing pad reads
/// (psABI x86-64 §3.2.1: a scratch register).
///
/// # Safety
///
/// The registers must be those of a live frame of this stack, at a place in its function that
/// expects them; all frames below it are given up.
///
/// An interrupt may walk the stack meanwhile. The frame that control goes to is the caller, from the first
/// instruction on: first its registers are in the struct, then in place. It is at its landing pad, not
/// behind a call: a signal frame has such a caller.
#[unsafe(naked)]
pub(crate) unsafe extern "C" fn land(registers: &Registers) -> ! {
    naked_asm!(
        ".cfi_startproc",
        ".cfi_signal_frame",
        // DW_CFA_def_cfa_expression, 4 bytes: DW_OP_breg5 (rdi) rsp's offset, DW_OP_deref.
        ".cfi_escape 0x0f, 4, 0x75, {rsp} & 127 | 128, {rsp} >> 7, 0x06",
        // DW_CFA_expression for a column, 3 bytes: DW_OP_breg5 its offset.
        ".cfi_escape 0x10, 3, 3, 0x75, {rbx} & 127 | 128, {rbx} >> 7",
        ".cfi_escape 0x10, 6, 3, 0x75, {rbp} & 127 | 128, {rbp} >> 7",
        ".cfi_escape 0x10, 12, 3, 0x75, {r12} & 127 | 128, {r12} >> 7",
        ".cfi_escape 0x10, 13, 3, 0x75, {r13} & 127 | 128, {r13} >> 7",
        ".cfi_escape 0x10, 14, 3, 0x75, {r14} & 127 | 128, {r14} >> 7",
        ".cfi_escape 0x10, 15, 3, 0x75, {r15} & 127 | 128, {r15} >> 7",
        ".cfi_escape 0x10, 16, 3, 0x75, {ra} & 127 | 128, {ra} >> 7",
        "cld",
        "mov rax, [rdi + {rax}]",
        "mov rdx, [rdi + {rdx}]",
        "mov rcx, [rdi + {rcx}]",
        "mov rbx, [rdi + {rbx}]",
        "mov rsi, [rdi + {rsi}]",
        "mov rbp, [rdi + {rbp}]",
        "mov r8, [rdi + {r8}]",
        "mov r9, [rdi + {r9}]",
        "mov r10, [rdi + {r10}]",
        "mov r11, [rdi + {ra}]",
        "mov r12, [rdi + {r12}]",
        "mov r13, [rdi + {r13}]",
        "mov r14, [rdi + {r14}]",
        "mov r15, [rdi + {r15}]",
        // The struct lies on the stack that is given up, where interrupts may write as soon as
        // the stack pointer has moved: by then everything is read.
        "push qword ptr [rdi + {rsp}]",
        "mov rdi, [rdi + {rdi}]",
        // 3 bytes: DW_OP_breg7 (rsp) 0, DW_OP_deref.
        ".cfi_escape 0x0f, 3, 0x77, 0, 0x06",
        ".cfi_same_value rbx",
        ".cfi_same_value rbp",
        ".cfi_same_value r12",
        ".cfi_same_value r13",
        ".cfi_same_value r14",
        ".cfi_same_value r15",
        ".cfi_register rip, r11",
        "pop rsp",
        ".cfi_def_cfa rsp, 0",
        "jmp r11",
        ".cfi_endproc",
        rax = const offset(Register::RAX),
        rdx = const offset(Register::RDX),
        rcx = const offset(Register::RCX),
        rbx = const offset(Register::RBX),
        rsi = const offset(Register::RSI),
        rdi = const offset(Register::RDI),
        rbp = const offset(Register::RBP),
        rsp = const offset(Register::RSP),
        r8 = const offset(Register::R8),
        r9 = const offset(Register::R9),
        r10 = const offset(Register::R10),
        r12 = const offset(Register::R12),
        r13 = const offset(Register::R13),
        r14 = const offset(Register::R14),
        r15 = const offset(Register::R15),
        ra = const offset(Register::RA),
    )
}

/// Bytes from the return address in a frame that catches to its landing pad.
const RETURNED: u64 = 5;

/// The code of a frame that catches, with this personality, around a call: [`Left`].
macro_rules! catch_frame {
    ($personality:path, $call:literal $(, $operand:ident = sym $callee:path)?) => {
        naked_asm!(
            ".cfi_startproc",
            // DW_EH_PE_pcrel | DW_EH_PE_sdata4: correct wherever the program is loaded.
            ".cfi_personality 0x1b, {personality}",
            // Whatever is in it: a call needs the stack aligned.
            "push rax",
            ".cfi_adjust_cfa_offset 8",
            $call,
            "3:",
            "mov rdx, rax",
            "xor eax, eax",
            // The landing pad: it is nowhere else, or this does not assemble.
            ".org 3b + {returned}, 0x90",
            "pop rcx",
            ".cfi_adjust_cfa_offset -8",
            "ret",
            ".cfi_endproc",
            personality = sym $personality,
            returned = const RETURNED,
            $($operand = sym $callee,)?
        )
    };
}

/// What a register carries, if it carries anything.
pub type Word = MaybeUninit<*mut u8>;

/// How a body was left, in two registers (psABI x86-64 §3.2.3).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Left {
    /// The exception that left it; null if it returned.
    pub exception: *mut Exception,
    /// What it returned.
    pub result: Word,
}

/// What a frame that catches is made around.
pub trait Body {
    /// Does it. What the words mean, is between it and the frame's caller.
    ///
    /// # Safety
    ///
    /// The words are what the type says that they are.
    unsafe extern "C-unwind" fn call(first: Word, second: Word) -> Word;
}

/// As [`catch`], with a body that is known when this is compiled: a call less, and one that the CPU
/// need not predict. The words go to the body, in the registers that they are in, and its own comes back.
///
/// # Safety
///
/// `B::call` must be sound to call with the words.
#[unsafe(naked)]
pub unsafe extern "C-unwind" fn catch_body<B: Body>(first: Word, second: Word) -> Left {
    catch_frame!(catch_personality, "call {body}", body = sym B::call)
}

/// As [`catch_forced`], with a body that is known when this is compiled.
///
/// # Safety
///
/// As [`catch_body`].
#[unsafe(naked)]
pub unsafe extern "C-unwind" fn catch_forced_body<B: Body>(first: Word, second: Word) -> Left {
    catch_frame!(catch_forced_personality, "call {body}", body = sym B::call)
}

/// Calls `body(data)`. Null if it returned, whatever it did, or the exception that left it.
/// A forced unwinding goes past it: so the ABI is `"C-unwind"`.
///
/// The frame is our own rather than the compiler's `catch_unwind` intrinsic, whose signature
/// changes between nightlies. Its landing pad is right behind what follows the call itself: landing
/// only puts the exception where the null would be. No register needs restoring beyond
/// what unwinding restores.
///
/// # Safety
///
/// `body(data)` must be sound to call.
#[unsafe(naked)]
pub unsafe extern "C-unwind" fn catch(
    body: unsafe extern "C-unwind" fn(*mut u8) -> *mut Exception,
    data: *mut u8,
) -> *mut Exception {
    catch_frame!(catch_personality, "xchg rdi, rsi\ncall rsi")
}

/// As [`catch`], and [`raise_forced`](crate::raise_forced) ends here, too.
///
/// # Safety
///
/// As [`catch`].
#[unsafe(naked)]
pub unsafe extern "C-unwind" fn catch_forced(
    body: unsafe extern "C-unwind" fn(*mut u8) -> *mut Exception,
    data: *mut u8,
) -> *mut Exception {
    catch_frame!(catch_forced_personality, "xchg rdi, rsi\ncall rsi")
}

/// The personality of [`catch`]: catches whatever comes, unless nobody may, or an interrupt has come
/// where the frame is not at its call.
///
/// Frames are known by its address: so it must not be compiled again in a crate that makes such a frame,
/// as small functions are that may be inlined.
#[inline(never)]
unsafe extern "C" fn catch_personality(
    _version: i32,
    actions: Actions,
    _class: u64,
    exception: *mut Exception,
    context: &mut Context,
) -> Reason {
    if actions.contains(Actions::FORCE_UNWIND) || !context.pc().is_return() {
        Reason::CONTINUE_UNWIND
    } else if actions.contains(Actions::SEARCH_PHASE) {
        Reason::HANDLER_FOUND
    } else if actions.contains(Actions::HANDLER_FRAME) {
        enter_handler(exception, context)
    } else {
        Reason::CONTINUE_UNWIND
    }
}

/// The personality of [`catch_forced`]: as that of [`catch`], and where a forced unwinding ends that
/// was raised to end here. Compiled once, as that one.
#[inline(never)]
pub(crate) unsafe extern "C" fn catch_forced_personality(
    version: i32,
    actions: Actions,
    class: u64,
    exception: *mut Exception,
    context: &mut Context,
) -> Reason {
    if !actions.contains(Actions::FORCE_UNWIND) {
        // SAFETY: the arguments are those of a personality (contract).
        return unsafe { catch_personality(version, actions, class, exception, context) };
    }
    // SAFETY: the unwinder passes the exception that it raises.
    if ends_at(unsafe { &*exception }, context.cfa()) {
        enter_handler(exception, context)
    } else {
        Reason::CONTINUE_UNWIND
    }
}

/// Where a frame that catches lands, whose call returns to this address.
#[inline(always)]
pub(crate) const fn catch_pad(after_call: u64) -> u64 {
    after_call.wrapping_add(RETURNED)
}

/// Whether the personality at `address` is that of a frame that catches everything that is raised, at
/// its [`catch_pad`].
#[inline(always)]
pub(crate) fn is_catch(address: u64) -> bool {
    address == catch_personality as *const () as u64
        || address == catch_forced_personality as *const () as u64
}

/// Goes on after the call in a frame that catches, which returns the exception then.
fn enter_handler(exception: *mut Exception, context: &mut Context) -> Reason {
    context.set_register(Register::RAX, exception.expose_provenance() as u64);
    context.set_ip(catch_pad(context.pc().address()));
    Reason::INSTALL_CONTEXT
}

/// Has the cache line at an address fetched, if it is not there and may be read; nobody waits for
/// it.
#[inline(always)]
pub(crate) fn prefetch<T>(place: *const T) {
    if cfg!(miri) {
        // It knows no caches.
        return;
    }
    // SAFETY: every x86-64 CPU has the instruction, and it changes nothing.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(place.cast()) };
}

/// Stops for good, by an instruction that is invalid on purpose.
pub(crate) fn stop() -> ! {
    // SAFETY: `ud2` traps; nothing after it runs.
    unsafe { asm!("ud2", options(noreturn, nomem, nostack)) }
}

/// The addresses of the linker script's symbols; zero where one is not defined.
#[repr(C)]
pub(crate) struct LinkerSymbols {
    pub(crate) text_start: usize,
    pub(crate) text_end: usize,
    pub(crate) eh_frame_start: usize,
    pub(crate) eh_frame_end: usize,
    pub(crate) eh_frame_hdr_start: usize,
    pub(crate) eh_frame_hdr_end: usize,
    pub(crate) except_table_start: usize,
    pub(crate) except_table_end: usize,
}

// Weak references become zero where nobody defines the symbol; Rust has none on stable. The
// order is that of `LinkerSymbols`.
global_asm!(
    ".weak __text_start, __text_end",
    ".weak __eh_frame_start, __eh_frame_end",
    ".weak __eh_frame_hdr_start, __eh_frame_hdr_end",
    ".weak __gcc_except_table_start, __gcc_except_table_end",
    ".pushsection .data.rel.ro.unspool_unwind, \"aw\", @progbits",
    ".balign 8",
    ".hidden unspool_unwind_linker_symbols",
    ".globl unspool_unwind_linker_symbols",
    "unspool_unwind_linker_symbols:",
    ".quad __text_start, __text_end",
    ".quad __eh_frame_start, __eh_frame_end",
    ".quad __eh_frame_hdr_start, __eh_frame_hdr_end",
    ".quad __gcc_except_table_start, __gcc_except_table_end",
    ".popsection",
);

unsafe extern "C" {
    safe static unspool_unwind_linker_symbols: LinkerSymbols;
}

static_assertions::const_assert_eq!(size_of::<LinkerSymbols>(), 64);
static_assertions::const_assert_eq!(offset_of!(LinkerSymbols, except_table_end), 56);

pub(crate) fn linker_symbols() -> &'static LinkerSymbols {
    &unspool_unwind_linker_symbols
}
