//! Raises an exception in two phases.
//!
//! ```text
//!   phase 1  walk up, ask each personality "do you catch?" ──────► its CFA is remembered
//!   phase 2  walk up again, let each personality install its landing pad:
//!            ─► cleanup runs ─► resume ─► next frame … ─► the frame with that CFA catches
//! ```
//!
//! Itanium EH §1.3. Both phases keep their state in two register files on the stack of the frame
//! that raises; nothing is allocated and nothing is locked. If phase 1 finds nobody, no frame
//! has been touched and the caller still has its whole stack to report.

use core::sync::atomic::{AtomicPtr, Ordering};

use gimli::Pointer;

use crate::address::Pc;
use crate::arch;
use crate::cursor::{Cursor, Step};
use crate::error::RaiseError;
use crate::exception::{Actions, Exception, Personality, Reason};
use crate::fde::Function;
use crate::modules::{Modules, global};
use crate::registers::{Register, Registers};
use crate::stack::StackBounds;

/// The version of the personality interface (Itanium EH §1.6.1).
const ABI_VERSION: i32 = 1;

type RaiseCursor = Cursor<'static, StackBounds, Modules>;

/// One frame as a personality function sees it (`struct _Unwind_Context`).
pub struct Context<'f> {
    registers: Registers,
    pc: Pc,
    cfa: u64,
    function: &'f Function<'static>,
}

impl Context<'_> {
    /// Where the frame is executing.
    pub const fn pc(&self) -> Pc {
        self.pc
    }

    /// The frame's CFA.
    pub const fn cfa(&self) -> u64 {
        self.cfa
    }

    /// The first address of the frame's function.
    pub fn region_start(&self) -> u64 {
        self.function.start()
    }

    /// The function's LSDA, to the end of the module's LSDAs.
    pub fn lsda(&self) -> Option<&'static [u8]> {
        self.function.lsda_data()
    }

    /// The function's LSDA's address.
    pub fn lsda_address(&self) -> Option<u64> {
        self.function.lsda()
    }

    /// A register of the frame.
    pub const fn register(&self, register: Register) -> u64 {
        self.registers.get(register)
    }

    /// Sets a register for the landing pad. `rax` and `rdx` carry the exception and the selector
    /// (psABI x86-64 §6.2.1).
    pub const fn set_register(&mut self, register: Register, value: u64) {
        self.registers.set(register, value);
    }

    /// Sets where to land.
    pub const fn set_ip(&mut self, address: u64) {
        self.registers.set(Register::RA, address);
    }
}

/// Raises an exception from here: unwinds this stack to the frame that catches it.
///
/// Returns only if the exception cannot be delivered; if the error is not
/// [`RaiseError::HandlerLost`], no frame has been unwound.
///
/// # Safety
///
/// 1. `exception` points to a header that stays valid until a handler frees it.
/// 2. The modules registered globally describe the code on this stack (their registration's
///    promise), and that code was compiled to be unwound.
/// 3. `stack` contains the frames of this stack.
#[inline(never)]
pub unsafe fn raise(exception: *mut Exception, stack: StackBounds) -> RaiseError {
    let registers = Registers::here();
    let start = Cursor::new(registers, Pc::Return(registers.ip()), stack, global());
    // SAFETY: handed on to this function's caller.
    unsafe { two_phases(exception, start) }
}

/// Raises an exception at an interrupted instruction: `registers` are those that the CPU had, its
/// `ip` the exact address.
///
/// # Safety
///
/// As [`raise`], and: the caller runs on the same stack, below `registers`' stack pointer and its
/// red zone, and gives up all frames below it.
#[inline(never)]
pub unsafe fn raise_from(
    exception: *mut Exception,
    registers: &Registers,
    stack: StackBounds,
) -> RaiseError {
    let start = Cursor::new(*registers, Pc::Exact(registers.ip()), stack, global());
    // SAFETY: handed on to this function's caller.
    unsafe { two_phases(exception, start) }
}

/// Goes on with phase 2 after a cleanup (`_Unwind_Resume`): the caller is the landing pad.
///
/// Cannot return: if the unwinding cannot go on, the function set by [`set_dead_end`] gets the
/// reason.
///
/// # Safety
///
/// `exception` is the one that the landing pad was entered with.
#[inline(never)]
pub unsafe fn resume(exception: *mut Exception) -> ! {
    let registers = Registers::here();
    // SAFETY: the exception is valid (contract).
    let handler = unsafe { (*exception).private_2 };
    // SAFETY: phase 1 walked the frames up to the handler's CFA on this very stack, so all
    // between here and there is mapped; nobody else runs on it.
    let stack = unsafe { StackBounds::new(registers.sp(), handler) };
    let start = Cursor::new(registers, Pc::Return(registers.ip()), stack, global());
    // SAFETY: the exception was raised, so `raise`'s contract holds for it.
    let error = unsafe { cleanup_phase(exception, start) };
    dead_end(error)
}

/// # Safety
///
/// As [`raise`].
unsafe fn two_phases(exception: *mut Exception, start: RaiseCursor) -> RaiseError {
    // SAFETY: handed on to the caller.
    let handler = match unsafe { search_phase(exception, start) } {
        Ok(cfa) => cfa,
        Err(error) => return error,
    };
    // SAFETY: the exception is valid (contract of `raise`).
    unsafe { (*exception).private_1 = 0 };
    // SAFETY: as above.
    unsafe { (*exception).private_2 = handler };
    // SAFETY: handed on to the caller.
    unsafe { cleanup_phase(exception, start) }
}

/// Phase 1: the CFA of the frame that catches.
///
/// # Safety
///
/// As [`raise`].
#[inline(never)]
unsafe fn search_phase(
    exception: *mut Exception,
    mut cursor: RaiseCursor,
) -> Result<u64, RaiseError> {
    loop {
        let function = cursor.function()?;
        let frame = cursor;
        let step = cursor.step_out_of(&function)?;
        let Step::Caller { cfa } = step else { return Err(RaiseError::EndOfStack) };
        if let Some(personality) = personality(&function) {
            let mut context = context(&frame, cfa, &function);
            // SAFETY: the personality belongs to the frame's module; the exception is valid.
            let reason =
                unsafe { ask(personality, Actions::SEARCH_PHASE, exception, &mut context) };
            match reason {
                Reason::CONTINUE_UNWIND => {}
                Reason::HANDLER_FOUND => return Ok(cfa),
                reason => {
                    return Err(RaiseError::Personality { pc: frame.pc().address(), reason });
                }
            }
        }
    }
}

/// Phase 2: lands in the next frame that has something to do; returns only on failure.
///
/// # Safety
///
/// As [`raise`], and phase 1 has set the exception's handler.
#[inline(never)]
unsafe fn cleanup_phase(exception: *mut Exception, mut cursor: RaiseCursor) -> RaiseError {
    // SAFETY: the exception is valid (contract).
    let handler = unsafe { (*exception).private_2 };
    // SAFETY: handed on to the caller.
    match unsafe { next_landing(exception, handler, &mut cursor) } {
        // SAFETY: a personality chose the landing pad for this frame, whose registers these are.
        Ok(registers) => unsafe { arch::land(&registers) },
        Err(error) => error,
    }
}

/// # Safety
///
/// As [`cleanup_phase`].
unsafe fn next_landing(
    exception: *mut Exception,
    handler: u64,
    cursor: &mut RaiseCursor,
) -> Result<Registers, RaiseError> {
    loop {
        let function = cursor.function()?;
        let frame = *cursor;
        let Step::Caller { cfa } = cursor.step_out_of(&function)? else {
            return Err(RaiseError::HandlerLost { cfa: handler });
        };
        if let Some(personality) = personality(&function) {
            let mut context = context(&frame, cfa, &function);
            let mut actions = Actions::CLEANUP_PHASE;
            if cfa == handler {
                actions = actions.with(Actions::HANDLER_FRAME);
            }
            // SAFETY: the personality belongs to the frame's module; the exception is valid.
            match unsafe { ask(personality, actions, exception, &mut context) } {
                Reason::CONTINUE_UNWIND => {}
                Reason::INSTALL_CONTEXT => {
                    // What the caller pushed for the call is gone when the landing pad runs.
                    let args = function.row(frame.pc().lookup())?.args_size;
                    let sp = context.registers.sp() + u64::from(args);
                    context.registers.set(Register::RSP, sp);
                    return Ok(context.registers);
                }
                reason => {
                    return Err(RaiseError::Personality { pc: frame.pc().address(), reason });
                }
            }
        }
        if cfa >= handler {
            return Err(RaiseError::HandlerLost { cfa: handler });
        }
    }
}

fn context<'f>(frame: &RaiseCursor, cfa: u64, function: &'f Function<'static>) -> Context<'f> {
    Context { registers: *frame.registers(), pc: frame.pc(), cfa, function }
}

/// # Safety
///
/// `personality` is a personality routine and `exception` a valid exception.
unsafe fn ask(
    personality: Personality,
    actions: Actions,
    exception: *mut Exception,
    context: &mut Context<'_>,
) -> Reason {
    // SAFETY: the exception is valid (contract).
    let class = unsafe { (*exception).class };
    // SAFETY: a personality routine takes these arguments (Itanium EH §1.6.1).
    unsafe { personality(ABI_VERSION, actions, class, exception, context) }
}

/// The personality routine of a function of a registered module.
fn personality(function: &Function<'static>) -> Option<Personality> {
    let address = match function.personality()? {
        Pointer::Direct(address) => address,
        Pointer::Indirect(slot) => {
            let slot = core::ptr::with_exposed_provenance::<u64>(slot as usize);
            // SAFETY: registering a module vouches for its tables, and so for the word in its
            // data through which they name the personality (`DW.ref.…`).
            unsafe { slot.read_unaligned() }
        }
    };
    let address = core::ptr::with_exposed_provenance::<()>(address as usize);
    // SAFETY: as above: where the tables name a personality, a personality routine is. Null
    // becomes `None`.
    unsafe { core::mem::transmute::<*const (), Option<Personality>>(address) }
}

static DEAD_END: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// Sets who is told when unwinding that has begun cannot go on: it should report and stop.
pub fn set_dead_end(report: fn(RaiseError) -> !) {
    DEAD_END.store(report as *mut (), Ordering::Release);
}

#[cold]
fn dead_end(error: RaiseError) -> ! {
    let report = DEAD_END.load(Ordering::Acquire);
    // SAFETY: only `set_dead_end` stores here, and only such functions; null is `None`.
    let report = unsafe { core::mem::transmute::<*mut (), Option<fn(RaiseError) -> !>>(report) };
    match report {
        Some(report) => report(error),
        None => arch::stop(),
    }
}
