//! What happens when a panic begins: the default report, or what the program put in its place.
//!
//! ```text
//!   set_hook ──► HOOK ◄── take_hook, update_hook          the program's
//!   set_task_hook ──► TaskState ◄── take_task_hook        a task's, which goes first
//!                 │ a panic takes its own reference, and lets go of the lock
//!                 └──► hook(&PanicHookInfo { payload, location, can_unwind })
//! ```
//!
//! As `std::panic`. The hook is called without any lock held, so it may panic (which is noticed and
//! cut short), yield, or set another hook for the next panic.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use core::any::Any;
use core::fmt;
use core::panic::Location;
use core::sync::atomic::{AtomicBool, Ordering};

use spin::RwLock;

use crate::platform::platform;
use crate::report::{IN_CLEANUP, default_report};
use crate::state::panicking;

/// What a hook is told of a panic; as `std::panic::PanicHookInfo`.
#[derive(Debug)]
pub struct PanicHookInfo<'a> {
    payload: &'a (dyn Any + Send),
    location: &'a Location<'a>,
    can_unwind: bool,
}

impl<'a> PanicHookInfo<'a> {
    pub(crate) const fn new(
        payload: &'a (dyn Any + Send),
        location: &'a Location<'a>,
        can_unwind: bool,
    ) -> Self {
        Self { payload, location, can_unwind }
    }

    /// What the panic carries: `&'static str`, `String`, or what
    /// [`panic_any`](crate::panic_any) was given.
    pub const fn payload(&self) -> &(dyn Any + Send) {
        self.payload
    }

    /// The payload, if it is a string.
    pub fn payload_as_str(&self) -> Option<&str> {
        as_str(self.payload)
    }

    /// Where the panic was called for. Always `Some`, as in std.
    pub const fn location(&self) -> Option<&Location<'_>> {
        Some(self.location)
    }

    /// Whether the panic will unwind; otherwise the program ends when the hook returns.
    pub const fn can_unwind(&self) -> bool {
        self.can_unwind
    }
}

impl fmt::Display for PanicHookInfo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "panicked at {}", self.location)?;
        match self.payload_as_str() {
            Some(text) => write!(f, ":\n{text}"),
            None => Ok(()),
        }
    }
}

/// The payload, if it is a string.
pub(crate) fn as_str(payload: &(dyn Any + Send)) -> Option<&str> {
    payload
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
}

/// A function to be told of panics.
pub type PanicHook = Box<dyn Fn(&PanicHookInfo<'_>) + Sync + Send + 'static>;

type Hook = dyn Fn(&PanicHookInfo<'_>) + Sync + Send + 'static;

/// A hook, or `None` for what there is without one.
#[derive(Default)]
pub(crate) struct Hooked(RwLock<Option<Arc<Hook>>>);

impl Hooked {
    pub(crate) const fn new() -> Self {
        Self(RwLock::new(None))
    }

    /// While somebody changes it, or this panic has interrupted the change, there is none: a panic
    /// waits for nobody. Others that ask are in nobody's way.
    fn current(&self) -> Option<Arc<Hook>> {
        self.0.try_read()?.clone()
    }

    /// Returns the previous hook, to be dropped when the lock is released: its drop may do anything.
    fn replace(&self, hook: Option<Arc<Hook>>) -> Option<Arc<Hook>> {
        refuse_while_panicking();
        core::mem::replace(&mut *self.0.write(), hook)
    }
}

impl fmt::Debug for Hooked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.current().is_some() { "a hook" } else { "no hook" })
    }
}

/// The program's hook; without one, it is the default report.
static HOOK: Hooked = Hooked::new();

/// The hook to call for a panic that begins now.
pub(crate) fn current() -> Option<Arc<Hook>> {
    platform().state().hook().current().or_else(|| HOOK.current())
}

/// Has `hook` called at the start of every panic of the calling task, instead of the program's.
///
/// It goes with the task. std has nothing like it; a service that keeps a log of its own wants it.
///
/// # Panics
///
/// If the calling task is panicking.
pub fn set_task_hook(hook: PanicHook) {
    drop(platform().state().hook().replace(Some(Arc::from(hook))));
}

/// Takes the calling task's own hook off, if it has one; the program's is back.
///
/// # Panics
///
/// If the calling task is panicking.
pub fn take_task_hook() -> Option<PanicHook> {
    let hook = platform().state().hook().replace(None)?;
    Some(Box::new(move |info: &PanicHookInfo<'_>| hook(info)))
}

/// Has `hook` called at the start of every panic, instead of the default report.
///
/// As `std::panic::set_hook`.
///
/// # Panics
///
/// If the calling task is panicking.
pub fn set_hook(hook: Box<dyn Fn(&PanicHookInfo<'_>) + Sync + Send + 'static>) {
    drop(HOOK.replace(Some(Arc::from(hook))));
}

/// Takes the program's hook off; the default report is back. Returns what was set, or the default
/// report.
///
/// As `std::panic::take_hook`.
///
/// # Panics
///
/// If the calling task is panicking.
pub fn take_hook() -> Box<dyn Fn(&PanicHookInfo<'_>) + Sync + Send + 'static> {
    match HOOK.replace(None) {
        Some(hook) => Box::new(move |info| hook(info)),
        None => Box::new(default_hook),
    }
}

/// Sets a hook that is given the one before it.
///
/// As `std::panic::update_hook` (unstable there): nobody can set another one in between.
///
/// # Panics
///
/// If the calling task is panicking.
pub fn update_hook<F>(hook: F)
where
    F: Fn(&(dyn Fn(&PanicHookInfo<'_>) + Send + Sync + 'static), &PanicHookInfo<'_>)
        + Sync
        + Send
        + 'static,
{
    refuse_while_panicking();
    let mut current = HOOK.0.write();
    // Which stays the hook if there is no memory for another.
    let previous = current.clone();
    *current = Some(Arc::new(move |info: &PanicHookInfo<'_>| match &previous {
        Some(previous) => hook(&**previous, info),
        None => hook(&default_hook, info),
    }));
}

fn refuse_while_panicking() {
    assert!(!panicking(), "cannot modify the panic hook from a panicking thread");
}

fn default_hook(info: &PanicHookInfo<'_>) {
    let message = info.payload_as_str().unwrap_or("Box<dyn Any>");
    let brief = !info.can_unwind && message == IN_CLEANUP;
    default_report(Some(info.location), format_args!("{message}"), brief);
}

static ALWAYS_ABORT: AtomicBool = AtomicBool::new(false);

/// From now on, a panic writes its message and ends the program: no hook, no trace, no unwinding.
///
/// As `std::panic::always_abort`, for code that runs where unwinding would do harm.
pub fn always_abort() {
    ALWAYS_ABORT.store(true, Ordering::Relaxed);
}

pub(crate) fn must_abort() -> bool {
    ALWAYS_ABORT.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hooks_information_prints_as_in_std() {
        let location = Location::caller();
        let info = PanicHookInfo::new(&"words", location, true);
        assert_eq!(info.to_string(), format!("panicked at {location}:\nwords"));
        assert_eq!(info.payload_as_str(), Some("words"));
        let text = String::from("more words");
        assert_eq!(PanicHookInfo::new(&text, location, true).payload_as_str(), Some("more words"));
        let other = PanicHookInfo::new(&7u8, location, false);
        assert_eq!(other.to_string(), format!("panicked at {location}"));
        assert!(!other.can_unwind());
    }

    #[test]
    fn panics_that_ask_at_the_same_time_all_find_the_hook() {
        let hooked = Hooked::new();
        drop(hooked.replace(Some(Arc::new(|_: &PanicHookInfo<'_>| ()))));
        let asks = || (0..100_000).all(|_| hooked.current().is_some());
        std::thread::scope(|scope| {
            let threads = [(); 4].map(|()| scope.spawn(asks));
            assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
        });
    }
}
