//! What is known of a task's panics.
#![forbid(unsafe_code)]

use core::ptr::null_mut;
use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU64, AtomicUsize, Ordering, compiler_fence,
};

use unspool_unwind::Exception;

use crate::hook::Hooked;
use crate::platform::platform;
use crate::spare::{OutOfMemory, Spares};

/// How many parts the count of all panics has.
const PARTS: usize = 32;

/// The panics in flight of some tasks. Alone in its cache line: CPUs on which tasks panic at the same time
/// rarely count in the same one.
#[repr(align(64))]
struct Part(AtomicUsize);

/// The panics of all tasks that are in flight.
static IN_FLIGHT: [Part; PARTS] = [const { Part(AtomicUsize::new(0)) }; PARTS];

/// A task's panics: how many are in flight, whether one is being reported, what they need without a
/// heap, and who is told of them; and whether somebody wants the task dead, and may have it so.
///
/// A kernel keeps one per task, [prepares](Self::prepare) it, and answers
/// [`Platform::state`](crate::Platform::state) with it. It stays where it is, and as long as there is
/// code of the task to run: exceptions in flight lie in it. Alone in its cache lines, so that tasks that
/// panic on different CPUs do not disturb each other.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct TaskState {
    panics: AtomicUsize,
    /// `QUIET`, `REPORTING` or `LAST_WORDS`.
    speech: AtomicU8,
    spares: Spares,
    hook: Hooked,
    /// The exception that was raised last and has not been caught.
    in_flight: AtomicPtr<Exception>,
    /// Somebody wants the task dead.
    killed: AtomicBool,
    /// How many reasons there are not to unwind it for that.
    no_unwind: AtomicUsize,
    /// Where the stack of the region begins in which the task may die at any instruction, or 0.
    region: AtomicU64,
}

const QUIET: u8 = 0;
/// A report is being written, or the hook runs.
const REPORTING: u8 = 1;
/// The words before the end. A panic in these is the end.
const LAST_WORDS: u8 = 2;

impl TaskState {
    /// No panic.
    pub const fn new() -> Self {
        Self {
            panics: AtomicUsize::new(0),
            speech: AtomicU8::new(QUIET),
            spares: Spares::new(),
            hook: Hooked::new(),
            in_flight: AtomicPtr::new(null_mut()),
            killed: AtomicBool::new(false),
            no_unwind: AtomicUsize::new(0),
            region: AtomicU64::new(0),
        }
    }

    /// Puts by what a panic of the task needs if it finds no memory: room for its message, as
    /// `&'static str` or as `String`. Places for exceptions are there in any case.
    ///
    /// A task that has used it up puts by again when it catches a panic and there is memory. Without
    /// this, a panic that finds no memory unwinds, too, with [`MessageLost`](crate::MessageLost) for a
    /// payload.
    ///
    /// # Errors
    ///
    /// No memory for that.
    pub fn prepare(&self) -> Result<(), OutOfMemory> {
        self.spares.fill()
    }

    pub(crate) fn spares(&self) -> &Spares {
        &self.spares
    }

    /// The task's own hook.
    pub(crate) fn hook(&self) -> &Hooked {
        &self.hook
    }

    /// Panics that are unwinding or being reported.
    pub fn panics(&self) -> usize {
        self.panics.load(Ordering::Relaxed)
    }

    /// Asks the task to die; see [`safe_point`](crate::safe_point). From any task, on any CPU, and
    /// from handlers of interrupts; one that waits must be woken by its kernel, to come by a safe
    /// point.
    ///
    /// Harmless for a task that dies already, or has ended.
    pub fn kill(&self) {
        self.killed.store(true, Ordering::SeqCst);
    }

    /// Whether somebody wants the task dead and it may be unwound now: no panic or kill of it is on
    /// its way, so that it is in no cleanup, and there is no [`NoUnwind`](crate::NoUnwind).
    ///
    /// For the task itself, and for a kernel that keeps it from running meanwhile. Never in a program
    /// whose panics abort: its functions have no cleanups.
    pub fn must_die(&self) -> bool {
        cfg!(panic = "unwind")
            && self.killed.load(Ordering::SeqCst)
            && self.no_unwind.load(Ordering::Relaxed) == 0
            && self.panics() == 0
    }

    /// Whether the task is in a region in which it may die at [any instruction](crate::interruptible).
    /// Another CPU should then be interrupted for a kill.
    pub fn is_interruptible(&self) -> bool {
        self.region.load(Ordering::SeqCst) != 0
    }

    /// Whether the task, which was interrupted, [must die](Self::must_die) at that very instruction:
    /// [`die_at`](crate::die_at). For the handler of the interrupt and what it leads to.
    pub fn must_die_here(&self) -> bool {
        self.is_interruptible() && self.must_die()
    }

    /// The region: see [`Cause::Interrupt`](crate::payload::Cause); 0 for none.
    pub(crate) fn region(&self) -> u64 {
        self.region.load(Ordering::Relaxed)
    }

    /// Changes the region; what comes before in the program has happened before, for an interrupt.
    pub(crate) fn set_region(&self, region: u64) {
        compiler_fence(Ordering::SeqCst);
        self.region.store(region, Ordering::SeqCst);
        compiler_fence(Ordering::SeqCst);
    }

    /// Notes that the kill is about to be raised: before anything is taken for it.
    pub(crate) fn begin_kill(&self) {
        self.killed.store(false, Ordering::Relaxed);
        self.begin();
    }

    /// Takes [`begin_kill`](Self::begin_kill) back: the task lives on.
    pub(crate) fn cancel_kill(&self) {
        self.caught(null_mut());
        self.kill();
    }

    pub(crate) fn hold(&self) {
        self.no_unwind.fetch_add(1, Ordering::Relaxed);
        // What is held off may be an interrupt.
        compiler_fence(Ordering::SeqCst);
    }

    pub(crate) fn let_go(&self) {
        compiler_fence(Ordering::SeqCst);
        self.no_unwind.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn begin(&self) {
        self.count(1);
        // From here on, no interrupt ends the task.
        compiler_fence(Ordering::SeqCst);
        self.part().fetch_add(1, Ordering::Relaxed);
    }

    /// Where this task counts among all. It stays where it is, so that is always the same.
    fn part(&self) -> &'static AtomicUsize {
        // Twice, because states often lie at the same distance from each other, and after one
        // multiplication they still do.
        let once = (core::ptr::from_ref(self).addr() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let hash = (once ^ once >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
        &IN_FLIGHT[(hash >> 32) as usize % PARTS].0
    }

    /// Counts panics. Only the task itself does, and a handler that interrupts it leaves the number as
    /// it was: this need not be one access, which takes ten times as long.
    fn count(&self, more: isize) {
        let panics = self.panics();
        self.panics.store(panics.wrapping_add_signed(more), Ordering::Relaxed);
    }

    /// Notes that `exception` is about to be raised; returns the one that is in flight.
    pub(crate) fn raise(&self, exception: *mut Exception) -> *mut Exception {
        let previous = self.in_flight.load(Ordering::Relaxed);
        self.in_flight.store(exception, Ordering::Relaxed);
        previous
    }

    /// Notes that the last one was caught, which was raised while `previous` was in flight.
    pub(crate) fn caught(&self, previous: *mut Exception) {
        self.in_flight.store(previous, Ordering::Relaxed);
        self.part().fetch_sub(1, Ordering::Relaxed);
        self.spares.refill();
        // From here on, an interrupt may end the task.
        compiler_fence(Ordering::SeqCst);
        self.count(-1);
    }

    /// Runs `report` of the panic that was counted last, unless the task is already reporting one; what
    /// it returned, if it ran.
    ///
    /// It may be left by an exception that nobody reports, as a hook may resume one. That goes on instead
    /// of the panic, which is over.
    pub(crate) fn report<R>(&self, report: impl FnOnce() -> R) -> Option<R> {
        let quiet =
            self.speech.compare_exchange(QUIET, REPORTING, Ordering::Relaxed, Ordering::Relaxed);
        if quiet.is_err() {
            return None;
        }
        let replaced = Replaced(self);
        let result = report();
        core::mem::forget(replaced);
        self.speech.store(QUIET, Ordering::Relaxed);
        Some(result)
    }

    /// Whether the task may speak its last words: it has not tried to yet.
    pub(crate) fn may_speak_last(&self) -> bool {
        self.speech.swap(LAST_WORDS, Ordering::Relaxed) != LAST_WORDS
    }
}

/// Ends a panic whose report is unwound.
struct Replaced<'a>(&'a TaskState);

impl Drop for Replaced<'_> {
    fn drop(&mut self) {
        self.0.speech.store(QUIET, Ordering::Relaxed);
        self.0.part().fetch_sub(1, Ordering::Relaxed);
        self.0.count(-1);
    }
}

/// Whether the current task is unwinding, because of a panic, a fault or a kill.
pub fn panicking() -> bool {
    platform().state().panics() != 0
}

/// The panics, faults and kills of all tasks that have begun and have not been caught.
pub fn panics_in_flight() -> usize {
    IN_FLIGHT.iter().map(|part| part.0.load(Ordering::Relaxed)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_within_a_report_does_not_run() {
        let state = TaskState::new();
        let mut inner = None;
        assert!(state.report(|| inner = Some(state.report(|| ()))).is_some());
        assert_eq!(inner, Some(None));
        assert_eq!(state.report(|| 7), Some(7), "the next one does");
    }

    #[test]
    fn last_words_are_spoken_once() {
        let state = TaskState::new();
        let report = state.report(|| assert!(state.may_speak_last()));
        assert!(report.is_some(), "a report may end with them");
        assert!(state.may_speak_last());
        assert!(state.report(|| ()).is_none());
        assert!(!state.may_speak_last());
    }

    #[test]
    fn a_killed_task_must_die_unless_it_is_held_or_panics() {
        let state = TaskState::new();
        state.hold();
        state.hold();
        state.kill();
        state.let_go();
        assert!(!state.must_die(), "guards nest");
        state.let_go();
        assert!(state.must_die());
        state.begin();
        assert!(!state.must_die(), "a panic is on its way");
        state.caught(null_mut());
        assert!(state.must_die());
        state.begin_kill();
        state.kill();
        assert!(!state.must_die(), "it dies already");
        state.caught(null_mut());
        assert!(state.must_die(), "it was killed again");
    }

    #[test]
    fn a_kill_that_cannot_be_raised_stays() {
        let state = TaskState::new();
        state.kill();
        state.begin_kill();
        state.cancel_kill();
        assert!(state.must_die());
        assert_eq!(state.panics(), 0);
    }

    #[test]
    fn a_killed_task_must_die_at_any_instruction_only_in_a_region() {
        let state = TaskState::new();
        state.kill();
        assert!(!state.must_die_here());
        state.set_region(0x1000);
        assert!(state.must_die_here());
        state.hold();
        assert!(!state.must_die_here(), "it is held");
        state.let_go();
        state.begin();
        assert!(!state.must_die_here(), "a panic is on its way");
        state.caught(null_mut());
        assert!(state.must_die_here());
        state.set_region(0);
        assert!(!state.must_die_here() && state.must_die());
    }

    #[test]
    fn a_panic_whose_report_is_unwound_is_over() {
        let state = TaskState::new();
        state.begin();
        let report = || _ = state.report(|| std::panic::resume_unwind(alloc::boxed::Box::new(())));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(report)).is_err());
        assert_eq!(state.panics(), 0);
        assert!(state.report(|| ()).is_some());
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
