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

use core::convert::Infallible;
use core::sync::atomic::{AtomicPtr, Ordering};

use crate::address::Pc;
use crate::arch;
use crate::cache::{Known, Lsda};
use crate::cursor::{Cursor, Exit, Step};
use crate::encoding::Pointer;
use crate::error::{RaiseError, UnwindError};
use crate::exception::{Actions, Exception, Personality, Reason};
use crate::in_flight::{IN_FLIGHT, Path};
use crate::modules::{FindModule, Modules, global};
use crate::registers::{Register, Registers};
use crate::stack::StackBounds;

/// The version of the personality interface (Itanium EH §1.6.1).
const ABI_VERSION: i32 = 1;

type RaiseCursor = Cursor<'static, StackBounds, Modules>;

/// One frame as a personality function sees it (`struct _Unwind_Context`).
pub struct Context {
    cursor: RaiseCursor,
    known: Known,
    exit: Exit,
    cfa: u64,
}

impl Context {
    /// The frame where a cursor with these registers stands. [`look`](Self::look) before use.
    ///
    /// Made in place, and filled by functions that need their own stack only for a moment.
    #[inline(always)]
    fn new(registers: &Registers, pc: Pc, stack: StackBounds) -> Self {
        let cursor = Cursor::new(*registers, pc, stack, global());
        Self { cursor, known: Known::NOTHING, exit: Exit::Dwarf, cfa: 0 }
    }

    /// Finds out about the frame where the cursor stands.
    #[inline]
    fn look(&mut self) -> Result<(), UnwindError> {
        self.exit = match global().recall(self.pc().lookup()) {
            Some(known) => {
                self.known = known;
                Exit::Rule
            }
            None => self.cursor.find_out(&mut self.known)?,
        };
        self.cfa = match self.exit {
            Exit::Rule => self.known.rule.cfa(self.cursor.registers()),
            Exit::Dwarf => self.cursor.cfa_by_dwarf()?,
        };
        Ok(())
    }

    /// Moves to the caller's frame, if there is one.
    #[inline]
    fn leave(&mut self) -> Result<Step, UnwindError> {
        match self.exit {
            Exit::Rule => self.cursor.leave_by(&self.known.rule, self.known.signal_frame),
            Exit::Dwarf => self.cursor.leave_by_dwarf(),
        }
    }

    /// What the caller pushed for the call; gone when a landing pad runs.
    fn pushed(&self) -> Result<u64, UnwindError> {
        Ok(u64::from(match self.exit {
            Exit::Rule => self.known.rule.args_size(),
            Exit::Dwarf => self.cursor.args_size_by_dwarf()?,
        }))
    }

    /// Where the frame is executing.
    pub const fn pc(&self) -> Pc {
        self.cursor.pc()
    }

    /// The frame's CFA.
    pub const fn cfa(&self) -> u64 {
        self.cfa
    }

    /// The first address of the frame's function.
    pub const fn region_start(&self) -> u64 {
        self.known.start
    }

    /// The function's LSDA, to the end of the module's LSDAs.
    pub fn lsda(&self) -> Option<&'static [u8]> {
        let Lsda { address, length } = self.known.lsda?;
        let first = core::ptr::with_exposed_provenance(address as usize);
        // SAFETY: the address and what the module has from there on came from a registered
        // module, whose slices stay valid while frames of it are on a stack, as this one is.
        Some(unsafe { core::slice::from_raw_parts(first, length as usize) })
    }

    /// The function's LSDA's address.
    pub fn lsda_address(&self) -> Option<u64> {
        self.known.lsda.map(|lsda| lsda.address)
    }

    /// A register of the frame.
    pub const fn register(&self, register: Register) -> u64 {
        self.cursor.registers().get(register)
    }

    /// Sets a register for the landing pad. `rax` and `rdx` carry the exception and the selector
    /// (psABI x86-64 §6.2.1).
    pub const fn set_register(&mut self, register: Register, value: u64) {
        self.cursor.registers_mut().set(register, value);
    }

    /// Sets where to land.
    pub const fn set_ip(&mut self, address: u64) {
        self.cursor.registers_mut().set(Register::RA, address);
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
    let mut registers = Registers::new();
    registers.capture();
    // SAFETY: handed on to this function's caller.
    unsafe { two_phases(exception, &registers, Pc::Return(registers.ip()), stack) }
}

/// Raises an exception at an interrupted instruction: `registers` are those that the CPU had, its
/// `ip` the exact address.
///
/// # Safety
///
/// As [`raise`], and: the caller runs on the same stack, below `registers`' stack pointer and its
/// red zone, and gives up all frames below it.
pub unsafe fn raise_from(
    exception: *mut Exception,
    registers: &Registers,
    stack: StackBounds,
) -> RaiseError {
    // SAFETY: handed on to this function's caller.
    unsafe { two_phases(exception, registers, Pc::Exact(registers.ip()), stack) }
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
    let mut registers = Registers::new();
    registers.capture();
    // SAFETY: the exception is valid (contract).
    let handler = unsafe { (*exception).private_2 };
    // SAFETY: phase 1 found the handler's frame inside this very stack, so all between here and
    // its CFA is mapped; nobody else runs on it.
    let stack = unsafe { StackBounds::new(registers.sp(), handler) };
    let pc = Pc::Return(registers.ip());
    // SAFETY: the exception was raised, so `raise`'s contract holds for it.
    let Err(error) = unsafe { cleanup_phase(exception, &registers, pc, stack) };
    dead_end(error)
}

/// # Safety
///
/// As [`raise`].
#[inline(never)]
unsafe fn two_phases(
    exception: *mut Exception,
    registers: &Registers,
    pc: Pc,
    stack: StackBounds,
) -> RaiseError {
    // SAFETY: handed on to the caller.
    let (handler, path) = match unsafe { search_phase(exception, registers, pc, stack) } {
        Ok(found) => found,
        Err(error) => return error,
    };
    // SAFETY: the exception is valid (contract of `raise`).
    unsafe { (*exception).private_1 = 0 };
    // SAFETY: as above.
    unsafe { (*exception).private_2 = handler };
    // SAFETY: as above.
    let cleanup = unsafe { (*exception).cleanup };
    IN_FLIGHT.begin(exception, path, cleanup.map_or(0, |cleanup| cleanup as usize as u64));
    // SAFETY: handed on to the caller.
    let Err(error) = unsafe { cleanup_phase(exception, registers, pc, stack) };
    IN_FLIGHT.end(exception);
    error
}

/// Phase 1: the CFA of the frame that catches, and whose frames lead there.
///
/// # Safety
///
/// As [`raise`].
#[inline(never)]
unsafe fn search_phase(
    exception: *mut Exception,
    registers: &Registers,
    pc: Pc,
    stack: StackBounds,
) -> Result<(u64, Path), RaiseError> {
    let mut path = Path::default();
    let mut frame = Context::new(registers, pc, stack);
    loop {
        frame.look()?;
        path.add(frame.known.module);
        // SAFETY: handed on to the caller.
        match unsafe { ask(&mut frame, Actions::SEARCH_PHASE, exception) } {
            Reason::CONTINUE_UNWIND => {}
            // Phase 2 reads the stack up to there.
            Reason::HANDLER_FOUND
                if frame.cursor.stack().range().contains(&frame.cfa.wrapping_sub(1)) =>
            {
                return Ok((frame.cfa, path));
            }
            reason => {
                return Err(RaiseError::Personality { pc: frame.pc().address(), reason });
            }
        }
        if frame.leave()? == Step::End {
            return Err(RaiseError::EndOfStack);
        }
    }
}

/// Phase 2: lands in the next frame that has something to do; returns only on failure.
///
/// # Safety
///
/// As [`raise`], and phase 1 has set the exception's handler.
#[inline(never)]
unsafe fn cleanup_phase(
    exception: *mut Exception,
    registers: &Registers,
    pc: Pc,
    stack: StackBounds,
) -> Result<Infallible, RaiseError> {
    // SAFETY: the exception is valid (contract).
    let handler = unsafe { (*exception).private_2 };
    let mut frame = Context::new(registers, pc, stack);
    loop {
        frame.look()?;
        let is_handler = frame.cfa >= handler;
        let actions = if is_handler {
            Actions::CLEANUP_PHASE.with(Actions::HANDLER_FRAME)
        } else {
            Actions::CLEANUP_PHASE
        };
        // SAFETY: handed on to the caller.
        match unsafe { ask(&mut frame, actions, exception) } {
            Reason::CONTINUE_UNWIND => {}
            Reason::INSTALL_CONTEXT => {
                let sp = frame.cursor.registers().sp().wrapping_add(frame.pushed()?);
                frame.cursor.registers_mut().set(Register::RSP, sp);
                if is_handler {
                    IN_FLIGHT.end(exception);
                }
                // SAFETY: the personality chose the landing pad for this frame, whose registers
                // these are.
                unsafe { arch::land(frame.cursor.registers()) }
            }
            reason => {
                return Err(RaiseError::Personality { pc: frame.pc().address(), reason });
            }
        }
        if is_handler || frame.leave()? == Step::End {
            return Err(RaiseError::HandlerLost { cfa: handler });
        }
    }
}

/// Asks the personality of a frame; a frame without one goes on.
///
/// # Safety
///
/// `exception` is a valid exception.
unsafe fn ask(frame: &mut Context, actions: Actions, exception: *mut Exception) -> Reason {
    let Some(personality) = personality(&frame.known) else {
        return Reason::CONTINUE_UNWIND;
    };
    // SAFETY: the exception is valid (contract).
    let class = unsafe { (*exception).class };
    // SAFETY: a personality routine takes these arguments (Itanium EH §1.6.1).
    unsafe { personality(ABI_VERSION, actions, class, exception, frame) }
}

/// The personality routine of a function of a registered module.
fn personality(known: &Known) -> Option<Personality> {
    let address = match known.personality? {
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
