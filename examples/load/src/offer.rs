//! What this program offers to code in C: the functions of `include/unspool.h`.
//!
//! ```text
//!   unspool_print ─► standard output        unspool_run_tasks ─► n tasks ─► sum
//!   unspool_panic ─► a panic, through C frames that have unwind tables
//!   unspool_cancel, unspool_yield ─► a kill, through frames that let it
//! ```

use alloc::vec::Vec;
use core::ffi::{CStr, c_char, c_int};

use unspool_kernel::Error;
use unspool_kernel::machine::{Stream, machine};
use unspool_kernel::task::{self, Builder, JoinHandle, Outcome};

use crate::terminate::on_exception;

/// Bytes of the stack of a task that [`unspool_run_tasks`] makes. A thousand of them fit.
const STACK: usize = 128 * 1024;

/// Bytes that are written at once: what several tasks print in one call each does not mix.
const PIECE: usize = 4096;

/// Writes `length` bytes to standard output as they are.
///
/// # Safety
///
/// `text` points to so many bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn unspool_print(text: *const c_char, length: usize) {
    if length == 0 {
        return;
    }
    // SAFETY: the caller's promise.
    let text = unsafe { core::slice::from_raw_parts(text.cast::<u8>(), length) };
    for piece in text.chunks(PIECE) {
        machine().write(Stream::Output, piece);
    }
}

/// Panics with this message.
///
/// # Safety
///
/// `message` is a string that ends with a NUL.
#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn unspool_panic(message: *const c_char) -> ! {
    // SAFETY: the caller's promise.
    let message = unsafe { CStr::from_ptr(message) };
    panic!("{}", message.to_string_lossy());
}

/// Kills the calling task, which dies at its next safe point.
#[unsafe(no_mangle)]
extern "C" fn unspool_cancel() {
    task::current().kill();
}

/// Lets others run; a safe point.
#[unsafe(no_mangle)]
extern "C-unwind" fn unspool_yield() {
    task::yield_now();
}

/// Runs `function(0)` … `function(n - 1)` on as many tasks at the same time, and returns the sum of
/// what they return (modulo 2³²); 0 if `n` is not positive.
///
/// # Panics
///
/// After all of them have ended: with the panic of the first one that panicked; or if there is no
/// memory for all of them.
#[unsafe(no_mangle)]
extern "C-unwind" fn unspool_run_tasks(
    n: c_int,
    function: extern "C-unwind" fn(c_int) -> c_int,
) -> c_int {
    let (mut sum, mut failure) = (0 as c_int, None::<Outcome<c_int>>);
    let (tasks, shortage) = spawn(n.max(0), function);
    for task in tasks {
        match task.join() {
            Outcome::Completed(value) => sum = sum.wrapping_add(value),
            other => failure = failure.or(Some(other)),
        }
    }
    if let Some(failure) = failure {
        failure.or_resume();
    }
    if let Some((index, error)) = shortage {
        panic!("unspool_run_tasks: no task {index} of {n}: {error}");
    }
    sum
}

/// The tasks that could be made, and why the next one could not.
fn spawn(
    n: c_int,
    function: extern "C-unwind" fn(c_int) -> c_int,
) -> (Vec<JoinHandle<c_int>>, Option<(c_int, Error)>) {
    let mut tasks = Vec::new();
    if tasks.try_reserve_exact(n as usize).is_err() {
        let size = (n as usize) * size_of::<JoinHandle<c_int>>();
        return (tasks, Some((0, Error::OutOfMemory { size })));
    }
    for index in 0..n {
        match Builder::new("C task")
            .stack_size(STACK)
            .spawn(move || on_exception(|| function(index)))
        {
            Ok(task) => tasks.push(task),
            Err(error) => return (tasks, Some((index, error))),
        }
    }
    (tasks, None)
}
