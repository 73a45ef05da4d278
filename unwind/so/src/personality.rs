//! The personality of C functions with `__attribute__((cleanup))` (`gcc -fexceptions`).
//!
//! ```text
//!   phase 1: never catches        phase 2: lands in the cleanup, if the call has one
//! ```
#![forbid(unsafe_code)]

use unspool_unwind::lsda::Action;
use unspool_unwind::{Actions, Context, Exception, Reason, Register};

/// `__gcc_personality_v0`: runs cleanups, catches nothing (Itanium EH §1.6).
pub(crate) extern "C" fn gcc_personality_v0(
    version: i32,
    actions: Actions,
    _class: u64,
    exception: *mut Exception,
    context: &mut Context,
) -> Reason {
    if version != 1 {
        return Reason::FATAL_PHASE1_ERROR;
    }
    if !actions.contains(Actions::CLEANUP_PHASE) {
        return Reason::CONTINUE_UNWIND;
    }
    match context.action() {
        Ok(Action::Cleanup(pad) | Action::Catch(pad) | Action::Filter(pad)) => {
            context.set_register(Register::RAX, exception.expose_provenance() as u64);
            context.set_register(Register::RDX, 0);
            context.set_ip(pad);
            Reason::INSTALL_CONTEXT
        }
        // Not listed: C has no functions that must not unwind.
        Ok(Action::None | Action::Terminate) => Reason::CONTINUE_UNWIND,
        Err(_) => Reason::FATAL_PHASE2_ERROR,
    }
}
