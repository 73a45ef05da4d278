//! Unwinds because somebody outside wants it, not because a frame catches.
//!
//! ```text
//!   each frame: stop(…) ─► goes on ─► personality: cleanups only ─► the caller's frame …
//!                  └─► leaves for good (longjmp)            end of stack: stop is told
//! ```
//!
//! Itanium EH §1.3.2: one phase. What ends a thread (`pthread_exit`, `pthread_cancel`) is made
//! of it. The stop function and its argument stay in the exception, so that
//! [`_Unwind_Resume`](crate::abi::_Unwind_Resume) can go on after a cleanup.
//!
//! [`raise_forced`] is made of it, too: it looks first whether every frame lets it through, and ends
//! in the nearest frame of [`catch_forced`](crate::catch_forced).

use core::ffi::c_void;

use crate::address::Pc;
use crate::arch::catch_forced_personality;
use crate::context::{ABI_VERSION, Context, leave_interrupted};
use crate::cursor::Step;
use crate::environment::{Everywhere, current_stack, dead_end};
use crate::error::RaiseError;
use crate::exception::{Actions, Exception, Reason, Stop};
use crate::in_flight::{IN_FLIGHT, ModuleTag, Path};
use crate::modules::{FindModule as _, global};
use crate::registers::Registers;
use crate::stack::StackBounds;

/// Unwinds from the frame with these registers until `stop` leaves or refuses
/// (`_Unwind_ForcedUnwind`). Returns only if it cannot go on:
/// [`RaiseError::EndOfStack`] if `stop` lets the unwinding go beyond the last frame.
///
/// While it is on its way, the modules of `stop` and of the exception's cleanup are needed, and
/// counted as such by [`in_flight_in`](crate::in_flight_in), unless they are the unwinder's own:
/// nobody unloads that. If `stop` leaves for good, nobody knows, and they stay needed for good.
///
/// # Safety
///
/// As [`raise_here`](crate::raise_here); and `stop` takes `argument`.
pub unsafe fn forced_unwind(
    exception: *mut Exception,
    stop: Stop,
    argument: *mut c_void,
    registers: &Registers,
) -> RaiseError {
    Everywhere.refresh();
    // SAFETY: the exception is valid (contract).
    unsafe { (*exception).private_1 = stop as usize as u64 };
    // SAFETY: as above.
    unsafe { (*exception).private_2 = argument.expose_provenance() as u64 };
    // SAFETY: as above.
    if let Some(path) = needed(unsafe { &*exception }) {
        IN_FLIGHT.begin(exception, path, 0);
    }
    // SAFETY: the caller's promise; the stop function is set.
    unsafe { resume_forced(exception, registers) }
}

/// Goes on with a forced unwinding, which has ended if this returns.
///
/// # Safety
///
/// As [`forced_unwind`], which has set the exception's stop function.
pub(crate) unsafe fn resume_forced(exception: *mut Exception, registers: &Registers) -> RaiseError {
    // SAFETY: the exception is valid (contract).
    let counted = needed(unsafe { &*exception }).is_some();
    // SAFETY: the caller's promise.
    let error = unsafe { go_on(exception, registers) };
    if counted {
        IN_FLIGHT.end(exception);
    }
    error
}

/// The registered modules whose code a forced unwinding calls, besides the unwinder's own; the same
/// until it has ended, because they stay.
#[inline(never)]
fn needed(exception: &Exception) -> Option<Path> {
    let cleanup = exception.cleanup.map_or(0, |cleanup| cleanup as usize as u64);
    let here = forced_unwind as *const () as u64;
    let mut path = None;
    for address in [exception.private_1, cleanup] {
        match global().find(address) {
            Some(module) if !module.contains(here) => {
                path.get_or_insert(Path::default()).add(ModuleTag::of(module.text.0));
            }
            _ => {}
        }
    }
    path
}

/// # Safety
///
/// As [`resume_forced`].
#[inline(never)]
unsafe fn go_on(exception: *mut Exception, registers: &Registers) -> RaiseError {
    // SAFETY: the exception is valid (contract).
    let Exception { class, private_1, private_2, .. } = *unsafe { &*exception };
    let stop = core::ptr::with_exposed_provenance::<()>(private_1 as usize);
    // SAFETY: `forced_unwind` put a stop function there.
    let stop = unsafe { core::mem::transmute::<*const (), Stop>(stop) };
    let argument = core::ptr::with_exposed_provenance_mut(private_2 as usize);
    let stack = current_stack(registers.sp());
    let mut frame = Context::new(registers, Pc::Return(registers.ip()), stack);
    // The stop function is asked before any personality.
    frame.keep_control();
    let actions = Actions::FORCE_UNWIND.with(Actions::CLEANUP_PHASE);
    loop {
        let ended = match frame.look_or_end() {
            Ok(ended) => ended,
            Err(error) => return error.into(),
        };
        let told = if ended { actions.with(Actions::END_OF_STACK) } else { actions };
        let failed =
            |frame: &Context, reason| RaiseError::Forced { pc: frame.pc().address(), reason };
        // SAFETY: a stop function takes these arguments, the last its own (contract).
        match unsafe { stop(ABI_VERSION, told, class, exception, &mut frame, argument) } {
            Reason::NO_REASON if ended => return RaiseError::EndOfStack,
            Reason::NO_REASON => {}
            reason => return failed(&frame, reason),
        }
        // SAFETY: the exception is valid (contract).
        match unsafe { frame.ask(actions, exception) } {
            Reason::CONTINUE_UNWIND => {}
            Reason::INSTALL_CONTEXT => {
                // SAFETY: the personality has just said so.
                unsafe { frame.install() }
            }
            reason => return failed(&frame, reason),
        }
        if let Err(error) = frame.leave_or_end() {
            return error.into();
        }
    }
}

/// Unwinds from here to the nearest frame of [`catch_forced`](crate::catch_forced), past all others
/// that catch.
///
/// Returns only if some frame on the way would not let it through; no frame has been touched then.
/// Such a frame has no unwind tables, or its personality would stop a forced unwinding: it catches
/// everything (`catch (...)`), allows nothing to leave it (`noexcept`, `extern "C"`), or is at a call
/// that the compiler takes for one that never unwinds. What a cleanup does at its end is in no table.
///
/// Not counted as in flight: the frames of modules are on the stack as long as their cleanups run,
/// and the exception is the caller's.
///
/// # Errors
///
/// [`RaiseError::EndOfStack`] without a frame of `catch_forced`, [`RaiseError::Unwind`] without
/// tables, else [`RaiseError::Personality`] with what the frame answered.
///
/// # Safety
///
/// As [`raise`](crate::raise), and the environment knows the stack, as for
/// [`raise_here`](crate::raise_here).
#[inline(never)]
pub unsafe fn raise_forced(exception: *mut Exception, stack: StackBounds) -> RaiseError {
    let mut registers = Registers::new();
    registers.capture();
    Everywhere.refresh();
    // SAFETY: handed on to this function's caller.
    unsafe { find_and_unwind(exception, &registers, stack, || ()) }
}

/// As [`raise_forced`], of code that was interrupted: `registers` are those that the CPU had, their
/// `ip` the exact address. Before the first frame is unwound, `begin` is called; nothing can stop it
/// from there on.
///
/// The interrupted frame has no say: what its tables have is about its calls. The first to be asked is
/// its caller.
///
/// # Errors
///
/// As [`raise_forced`]; and what the interrupted frame cannot be left for. `begin` has not been called
/// then.
///
/// # Safety
///
/// As [`raise_forced`], and: the caller runs on the same stack, below `registers`' stack pointer and
/// its red zone, and gives up all frames below it once `begin` is called.
#[inline(never)]
pub unsafe fn raise_forced_from(
    exception: *mut Exception,
    registers: &Registers,
    stack: StackBounds,
    begin: impl FnOnce(),
) -> RaiseError {
    Everywhere.refresh();
    let (mut registers, mut pc) = (*registers, Pc::Exact(registers.ip()));
    if let Err(error) = leave_interrupted(&mut registers, &mut pc, stack) {
        return error;
    }
    // SAFETY: handed on to this function's caller.
    unsafe { find_and_unwind(exception, &registers, stack, begin) }
}

/// Unwinds from the frame with these registers, which is at a call, if there is a way out.
///
/// # Safety
///
/// As [`raise_forced`].
unsafe fn find_and_unwind(
    exception: *mut Exception,
    registers: &Registers,
    stack: StackBounds,
    begin: impl FnOnce(),
) -> RaiseError {
    // SAFETY: handed on to this function's caller.
    let handler = match unsafe { way_out(exception, registers, stack) } {
        Ok(handler) => handler,
        Err(error) => return error,
    };
    begin();
    let argument = core::ptr::with_exposed_provenance_mut(handler as usize);
    // SAFETY: as above; `stop_at_handler` takes any argument.
    dead_end(unsafe { forced_unwind(exception, stop_at_handler, argument, registers) })
}

/// The CFA of the nearest frame of `catch_forced`, if all frames up to there let a forced unwinding
/// through.
///
/// # Safety
///
/// As [`raise_forced`].
#[inline(never)]
unsafe fn way_out(
    exception: *mut Exception,
    registers: &Registers,
    stack: StackBounds,
) -> Result<u64, RaiseError> {
    let actions = Actions::SEARCH_PHASE.with(Actions::FORCE_UNWIND);
    let mut frame = Context::new(registers, Pc::Return(registers.ip()), stack);
    loop {
        frame.look()?;
        // As for its personality: at no call, it catches nothing.
        let catches = frame.has_personality(catch_forced_personality) && frame.pc().is_return();
        if catches && frame.is_on_stack() {
            return Ok(frame.cfa());
        }
        // SAFETY: handed on to the caller.
        match unsafe { frame.ask(actions, exception) } {
            Reason::CONTINUE_UNWIND => {}
            reason => return Err(RaiseError::Personality { pc: frame.pc().address(), reason }),
        }
        if frame.leave()? == Step::End {
            return Err(RaiseError::EndOfStack);
        }
    }
}

/// Whether the exception's forced unwinding is to end in the frame with this CFA: it is one of
/// [`raise_forced`]. What others give their stop functions may be any address.
pub(crate) fn ends_at(exception: &Exception, cfa: u64) -> bool {
    exception.private_1 == stop_at_handler as *const () as u64 && exception.private_2 == cfa
}

/// The stop function of a forced unwinding that a frame ends. [Known](ends_at) by its address: so it must
/// not be compiled again in a crate that raises, as small functions are that may be inlined.
#[inline(never)]
unsafe extern "C" fn stop_at_handler(
    _version: i32,
    _actions: Actions,
    _class: u64,
    _exception: *mut Exception,
    _context: &mut Context,
    _handler: *mut c_void,
) -> Reason {
    Reason::NO_REASON
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::in_flight::in_flight_in;
    use crate::module::{Module, Section};
    use crate::modules::register;

    /// Says what it was told, and whether its own module was needed then.
    #[derive(Default, Debug, PartialEq)]
    struct Told {
        calls: u32,
        at_the_end: bool,
        needed: bool,
    }

    unsafe extern "C" fn stop(
        _version: i32,
        actions: Actions,
        _class: u64,
        _exception: *mut Exception,
        _context: &mut Context,
        argument: *mut c_void,
    ) -> Reason {
        // SAFETY: the tests pass one.
        let told = unsafe { &mut *argument.cast::<Told>() };
        told.calls += 1;
        told.at_the_end = actions.contains(Actions::END_OF_STACK);
        told.needed = in_flight_in(address()..address() + 1);
        Reason::NO_REASON
    }

    fn address() -> u64 {
        stop as *const () as u64
    }

    /// From a frame that is the last one.
    fn unwind() -> Told {
        let (mut exception, mut told) = (Exception::new(1, None), Told::default());
        let argument = (&raw mut told).cast();
        // SAFETY: there is no frame to unwind; `stop` gets its argument.
        let error = unsafe { forced_unwind(&mut exception, stop, argument, &Registers::new()) };
        assert_eq!(error, RaiseError::EndOfStack);
        told
    }

    #[test]
    fn a_stop_function_is_told_of_the_end_and_its_module_is_needed_until_then() {
        let alone = Told { calls: 1, at_the_end: true, needed: false };
        assert_eq!(unwind(), alone, "in no module");
        let text = address()..address() + 1;
        // SAFETY: nothing is unwound by it.
        let module = unsafe { register(Module::new(text.clone(), Section::EMPTY)) }.unwrap();
        assert_eq!(unwind(), Told { needed: true, ..alone });
        assert!(!in_flight_in(text), "it has ended");
        drop(module);
        let unwinder = forced_unwind as *const () as u64;
        let whole = address().min(unwinder)..address().max(unwinder) + 1;
        // SAFETY: as above.
        let _module = unsafe { register(Module::new(whole, Section::EMPTY)) }.unwrap();
        assert_eq!(unwind(), Told { calls: 1, at_the_end: true, needed: false }, "its own");
    }
}
