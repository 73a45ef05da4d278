//! Runs a function with a task's area as its thread-local storage.
//!
//! The test's own thread keeps its FS base. A child that shares the address space gets the area's
//! TP from `clone` itself, runs the one function, and is gone before this returns.

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::sync::{Mutex, PoisonError};

use unspool_tls::Area;

struct Call {
    function: extern "C" fn() -> u64,
    result: Option<u64>,
}

/// The stack of the one task that runs.
struct Stack(UnsafeCell<[u128; Self::WORDS]>);

// SAFETY: `run` gives it to one task at a time.
unsafe impl Sync for Stack {}

impl Stack {
    const WORDS: usize = 8192;

    fn top(&self) -> *mut u128 {
        self.0.get().cast::<u128>().wrapping_add(Self::WORDS)
    }
}

static STACK: Stack = Stack(UnsafeCell::new([0; Stack::WORDS]));

/// Whether the caller is a task.
pub fn is_running_here() -> bool {
    let here = 0u8;
    let below_top = STACK.top().addr().wrapping_sub((&raw const here).addr());
    below_top < size_of::<Stack>()
}

/// What `function` returns on a task whose thread-local storage is `area`.
pub fn run(area: &Area<'_>, function: extern "C" fn() -> u64) -> u64 {
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut call = Call { function, result: None };
    // The parent waits in the kernel until the child has ended (CLONE_VFORK).
    let flags = libc::CLONE_VM | libc::CLONE_SETTLS | libc::CLONE_VFORK | libc::SIGCHLD;
    let tp =
        std::ptr::with_exposed_provenance_mut::<c_void>(area.thread_pointer().address() as usize);
    let argument = (&raw mut call).cast::<c_void>();
    let none = std::ptr::null_mut::<c_void>();
    // SAFETY:
    // 1. The stack is the child's alone while this waits, and so is `call`.
    // 2. `child` uses no thread-local storage but what the object under test has in the area,
    //    and no heap but the arena's.
    let child = unsafe { libc::clone(child, STACK.top().cast(), flags, argument, none, tp, none) };
    assert!(child > 0, "{}", std::io::Error::last_os_error());
    let mut status = 0;
    // SAFETY: our child, and a place for its status.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, libc::__WALL) }, child);
    assert!(libc::WIFEXITED(status), "the task died: {status:#x}");
    call.result.expect("the task came to its end")
}

extern "C" fn child(call: *mut c_void) -> c_int {
    // SAFETY: `run` passes its `Call` and waits.
    let call = unsafe { &mut *call.cast::<Call>() };
    call.result = Some((call.function)());
    0
}
