//! Says which case it was, however it ends.
//!
//! ```text
//!   panic ──► drop of the case ──► numbers, and the input in the target's folder
//!   fault ──► signal handler ────► numbers
//!   a case that does not end ──► watchman ──► numbers
//! ```

use std::cell::Cell;
use std::ffi::c_int;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::case;

thread_local! {
    static RUN: Cell<u64> = const { Cell::new(0) };
    static CASE: Cell<u64> = const { Cell::new(0) };
}

/// The case that runs now.
pub struct Running<'i> {
    pub target: &'static str,
    pub run: u64,
    pub case: u64,
    pub inputs: &'i [Vec<u8>],
}

impl Running<'_> {
    pub fn note(&self) {
        RUN.set(self.run);
        CASE.set(self.case);
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            case::keep(self.target, self.run, self.case, self.inputs.iter());
        }
    }
}

/// Ends the process when the number of a case stands still: something does not end.
pub fn watch(target: &'static str) -> Arc<AtomicU64> {
    const PATIENCE: Duration = Duration::from_secs(60);
    let progress = Arc::new(AtomicU64::new(0));
    let watched = Arc::downgrade(&progress);
    std::thread::spawn(move || {
        let mut before = u64::MAX;
        while let Some(now) = watched.upgrade().map(|n| n.load(Ordering::Relaxed)) {
            if now == before {
                eprintln!("{target}: case {now} does not end");
                std::process::abort();
            }
            before = now;
            std::thread::sleep(PATIENCE);
        }
    });
    progress
}

/// Nanoseconds that this thread has run.
pub fn cpu_time() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the time to its place.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Has faults say which case it was before they end the process.
pub fn on_faults() {
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGTRAP] {
        let handler = say as extern "C" fn(c_int);
        // SAFETY: the handler does what handlers may.
        unsafe { libc::signal(signal, handler as *const () as libc::sighandler_t) };
    }
}

extern "C" fn say(signal: c_int) {
    case::end(signal, RUN.get(), CASE.get())
}
