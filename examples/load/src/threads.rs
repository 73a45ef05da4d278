//! What the C++ runtime wants of threads: a mutex for its reserve of exceptions, and a way to wait for
//! a static variable that another task initializes.
//!
//! Both are rarely contended; who waits lets others run, and looks again.

use core::ffi::{c_char, c_int, c_long};
use core::sync::atomic::{AtomicU32, Ordering};

use unspool_kernel::task;

/// glibc's: there are always several threads.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals)]
static __libc_single_threaded: c_char = 0;

/// POSIX: `pthread_mutex_lock`, of a mutex that was initialized with zeroes.
#[unsafe(no_mangle)]
extern "C" fn pthread_mutex_lock(mutex: &AtomicU32) -> c_int {
    while mutex.swap(1, Ordering::Acquire) != 0 {
        task::yield_now();
    }
    0
}

/// POSIX: `pthread_mutex_unlock`.
#[unsafe(no_mangle)]
extern "C" fn pthread_mutex_unlock(mutex: &AtomicU32) -> c_int {
    mutex.store(0, Ordering::Release);
    0
}

/// `syscall`, as far as `__cxa_guard_acquire` (Itanium C++ ABI §3.3.3) needs it: `futex`, whose waits
/// may end early. Everything else fails.
#[unsafe(no_mangle)]
extern "C" fn syscall(number: c_long, _: *const AtomicU32, operation: c_int) -> c_long {
    const FUTEX: c_long = 202;
    const PRIVATE: c_int = 128;
    const WAIT: c_int = 0;
    const WAKE: c_int = 1;
    match (number, operation & !PRIVATE) {
        (FUTEX, WAIT) => task::yield_now(),
        (FUTEX, WAKE) => {}
        _ => return -1,
    }
    0
}
