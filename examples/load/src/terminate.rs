//! What becomes of a C++ exception that nobody catches: what C++ says becomes of it.
//!
//! ```text
//!   entry ── throws ──► our catch frame ─┬─ C++'s own ──► __cxa_begin_catch ─► std::terminate
//!                                        ├─ C++'s, without a runtime ──► said so, the end
//!                                        └─ any other ──► raised again, for the task's root
//! ```
//!
//! Whether the stack is unwound before `std::terminate` is up to us ([except.terminate]): it is.

use core::ffi::{c_int, c_void};
use core::mem::transmute;
use core::ptr::{null_mut, with_exposed_provenance};

use spin::Once;
use unspool::loader::Object;
use unspool::panic::platform;
use unspool::unwind::{Exception, catch, raise};
use unspool_kernel::{ExitCode, eprintln, machine};

/// Classes of C++ exceptions but for the last byte, which tells copies of pointers (Itanium EH
/// §2.2.1: vendor and language): GNU's runtime, and LLVM's.
const CLASSES: [&[u8; 7]; 2] = [b"GNUCC++", b"CLNGC++"];

/// Itanium C++ ABI §2.5.3: `__cxa_begin_catch`.
type BeginCatch = unsafe extern "C" fn(*mut Exception) -> *mut c_void;
/// `std::terminate`.
type Terminate = unsafe extern "C" fn() -> !;

/// How the loaded C++ runtime takes an exception, and ends the program.
#[derive(Clone, Copy)]
struct Runtime {
    begin_catch: BeginCatch,
    terminate: Terminate,
}

static RUNTIME: Once<Runtime> = Once::new();

/// Remembers the C++ runtime that was loaded, if one was.
pub fn find_runtime(object: &Object) {
    let address = |name| object.symbol(name).map(|at| with_exposed_provenance::<()>(at as usize));
    let both = address("__cxa_begin_catch").zip(address("_ZSt9terminatev"));
    if let Some((begin_catch, terminate)) = both {
        RUNTIME.call_once(|| Runtime {
            // SAFETY: the C++ ABI says which function has this name.
            begin_catch: unsafe { transmute::<*const (), BeginCatch>(begin_catch) },
            // SAFETY: `std::terminate()`, mangled.
            terminate: unsafe { transmute::<*const (), Terminate>(terminate) },
        });
    }
}

/// Calls `body`. A C++ exception that leaves it ends the program.
pub fn on_exception<F: FnOnce() -> c_int>(body: F) -> c_int {
    /// # Safety
    ///
    /// `slot` is a `(Option<F>, c_int)`.
    unsafe extern "C-unwind" fn run<F: FnOnce() -> c_int>(slot: *mut u8) -> *mut Exception {
        // SAFETY: the caller's promise; it does not touch the slot meanwhile.
        let (body, result) = unsafe { &mut *slot.cast::<(Option<F>, c_int)>() };
        *result = body.take().map_or(0, |body| body());
        null_mut()
    }
    let mut slot = (Some(body), 0);
    // SAFETY: `run` gets the slot that it is made for, and returns null.
    let exception = unsafe { catch(run::<F>, (&raw mut slot).cast()) };
    if exception.is_null() {
        return slot.1;
    }
    // SAFETY: caught, so it is valid until it is freed.
    let class = unsafe { (*exception).class }.to_be_bytes();
    if CLASSES.iter().any(|cpp| class.starts_with(*cpp)) {
        terminate(exception);
    }
    // SAFETY: it is as it was raised; this stack is described as it was then.
    let error = unsafe { raise(exception, platform().stack()) };
    eprintln!("an exception cannot be passed on: {error}");
    machine().exit(ExitCode::PANIC)
}

/// Ends the program as C++ has it ([except.terminate]).
fn terminate(exception: *mut Exception) -> ! {
    if let Some(&Runtime { begin_catch, terminate }) = RUNTIME.get() {
        // So that the runtime can say of which type it is.
        // SAFETY: caught, and of this runtime's language; a runtime knows copies of others.
        unsafe { begin_catch(exception) };
        // SAFETY: takes nothing and does not return.
        unsafe { terminate() }
    }
    eprintln!(
        "terminated: nobody catches a C++ exception, and no C++ runtime is loaded to name it"
    );
    machine().exit(ExitCode::PANIC)
}
