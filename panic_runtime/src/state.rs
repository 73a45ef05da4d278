//! What is known of a task's panics.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::platform::platform;

/// A task's panics: how many are in flight, and whether one is being reported.
///
/// A kernel keeps one per task and answers [`Platform::state`](crate::Platform::state) with it.
#[derive(Debug, Default)]
pub struct TaskState {
    panics: AtomicUsize,
    reporting: AtomicBool,
}

impl TaskState {
    /// No panic.
    pub const fn new() -> Self {
        Self { panics: AtomicUsize::new(0), reporting: AtomicBool::new(false) }
    }

    /// Panics that are unwinding or being reported.
    pub fn panics(&self) -> usize {
        self.panics.load(Ordering::Relaxed)
    }

    pub(crate) fn begin(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn end(&self) {
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
        state.end();
        assert_eq!(state.panics(), 1);
    }
}
