//! What is known of a task's panics.
#![forbid(unsafe_code)]

use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

use unspool_unwind::Exception;

use crate::platform::platform;

/// A task's panics: how many are in flight, and whether one is being reported.
///
/// A kernel keeps one per task and answers [`Platform::state`](crate::Platform::state) with it.
#[derive(Debug, Default)]
pub struct TaskState {
    panics: AtomicUsize,
    reporting: AtomicBool,
    /// The exception that was raised last and has not been caught.
    in_flight: AtomicPtr<Exception>,
}

impl TaskState {
    /// No panic.
    pub const fn new() -> Self {
        Self {
            panics: AtomicUsize::new(0),
            reporting: AtomicBool::new(false),
            in_flight: AtomicPtr::new(null_mut()),
        }
    }

    /// Panics that are unwinding or being reported.
    pub fn panics(&self) -> usize {
        self.panics.load(Ordering::Relaxed)
    }

    pub(crate) fn begin(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that `exception` is about to be raised; returns the one that is in flight.
    pub(crate) fn raise(&self, exception: *mut Exception) -> *mut Exception {
        self.in_flight.swap(exception, Ordering::Relaxed)
    }

    /// Notes that the last one was caught, which was raised while `previous` was in flight.
    pub(crate) fn caught(&self, previous: *mut Exception) {
        self.in_flight.store(previous, Ordering::Relaxed);
        self.panics.fetch_sub(1, Ordering::Relaxed);
    }

    /// Runs `report` unless the task is already reporting a panic; says whether it ran.
    pub(crate) fn report(&self, report: impl FnOnce()) -> bool {
        if self.reporting.swap(true, Ordering::Relaxed) {
            return false;
        }
        report();
        self.reporting.store(false, Ordering::Relaxed);
        true
    }
}

/// Whether the current task is unwinding because of a panic.
pub fn panicking() -> bool {
    platform().state().panics() != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_within_a_report_does_not_run() {
        let state = TaskState::new();
        let mut inner = None;
        assert!(state.report(|| inner = Some(state.report(|| ()))));
        assert_eq!(inner, Some(false));
        assert!(state.report(|| ()), "the next one does");
    }

    #[test]
    fn panics_are_counted() {
        let state = TaskState::new();
        state.begin();
        state.begin();
        assert_eq!(state.panics(), 2);
        state.caught(null_mut());
        assert_eq!(state.panics(), 1);
    }
}
