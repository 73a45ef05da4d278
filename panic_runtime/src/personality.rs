//! The personality routine of Rust functions.
//!
//! ```text
//!   phase 1: does the frame catch?       Catch, Filter ─► yes     Cleanup, None ─► go on
//!   phase 2: land in it                  rax = exception, rdx = 0, ip = landing pad
//! ```
//!
//! Compiled Rust code names it `rust_eh_personality` in its unwind tables.

use unspool_unwind::lsda::Action;
use unspool_unwind::{Actions, Context, Exception, Reason, Register};

use crate::payload::{self, Cause};

/// Decides, for a frame of a Rust function, whether it catches and where it lands
/// (Itanium EH §1.6).
///
/// # Safety
///
/// Called by the unwinder, with the frame of a function whose tables name this routine.
#[cfg_attr(feature = "lang-items", lang = "eh_personality")]
pub unsafe extern "C" fn rust_eh_personality(
    version: i32,
    actions: Actions,
    _class: u64,
    exception: *mut Exception,
    context: &mut Context,
) -> Reason {
    if version != 1 {
        return Reason::FATAL_PHASE1_ERROR;
    }
    // SAFETY: the unwinder passes the exception that it raises.
    let cause = unsafe { payload::cause(exception) };
    let Ok(action) = action(context, cause) else {
        return fatal(actions);
    };
    if actions.contains(Actions::SEARCH_PHASE) {
        return match action {
            Action::None | Action::Cleanup(_) => Reason::CONTINUE_UNWIND,
            Action::Catch(_) | Action::Filter(_) => Reason::HANDLER_FOUND,
            Action::Terminate => Reason::FATAL_PHASE1_ERROR,
        };
    }
    match action {
        Action::None => Reason::CONTINUE_UNWIND,
        // A forced unwind may run cleanups but not be stopped by a specification.
        Action::Filter(_) if actions.contains(Actions::FORCE_UNWIND) => Reason::CONTINUE_UNWIND,
        Action::Cleanup(pad) | Action::Catch(pad) | Action::Filter(pad) => {
            context.set_register(Register::RAX, exception.expose_provenance() as u64);
            context.set_register(Register::RDX, 0);
            context.set_ip(pad);
            Reason::INSTALL_CONTEXT
        }
        Action::Terminate => Reason::FATAL_PHASE2_ERROR,
    }
}

const fn fatal(actions: Actions) -> Reason {
    if actions.contains(Actions::SEARCH_PHASE) {
        Reason::FATAL_PHASE1_ERROR
    } else {
        Reason::FATAL_PHASE2_ERROR
    }
}

fn action(context: &Context, cause: Cause) -> gimli::Result<Action> {
    Ok(match (context.action()?, cause) {
        // The compiler lists the calls that may unwind. An instruction that faulted is none of
        // them, nor need be the calls above it: nothing to clean up here.
        (Action::Terminate, Cause::Fault) => Action::None,
        // Nor are those between the interrupted instruction and the region's own call.
        (Action::Terminate, Cause::Interrupt(region)) if context.cfa() <= region => Action::None,
        (action, _) => action,
    })
}
