//! The way from a storage to the task's list of destructors, and back when the task ends.
//!
//! ```text
//!  first access ─► register ─► unspool_tls's list ─► destroy ─► state := Destroyed, drop value
//! ```
//!
//! A value is visible only if its destructor is on the list, or on the way there: an allocator may
//! use the key for which the list needs memory.

use unspool_tls::{Destructor, OutOfMemory, register_destructor};

/// Where a storage registers its destructor: the task's list, or a list of a test.
pub(crate) type Register =
    unsafe fn(object: *mut u8, destructor: Destructor) -> Result<(), OutOfMemory>;

/// The running task's list.
pub(crate) const CURRENT_TASK: Register = register_destructor;

/// Something whose value a destructor can end.
pub(crate) trait Destroy {
    /// Marks the value as destroyed, then drops it.
    ///
    /// # Safety
    /// The value is alive and in use by nobody.
    unsafe fn destroy(&self);
}

/// Registers `storage` for destruction.
///
/// # Errors
/// There is no memory to record it. The storage then is to be as if the access had not been made,
/// and says [`no_memory`].
///
/// # Safety
/// 1. `register` may be called here.
/// 2. `storage` stays where it is, and can be destroyed, until its destructor has run.
pub(crate) unsafe fn register<S: Destroy>(
    register: Register,
    storage: &S,
) -> Result<(), OutOfMemory> {
    let object = core::ptr::from_ref(storage).cast_mut().cast();
    // SAFETY: The caller may call it (1), and `destroy::<S>` may be called with this storage (2).
    unsafe { register(object, destroy::<S>) }
}

/// Panics: a destructor cannot be recorded.
#[cold]
#[inline(never)]
pub(crate) fn no_memory() -> ! {
    panic!("cannot register a thread-local destructor: out of memory")
}

/// What the list calls. A panic of the value's `drop` leaves it; what that means for the task is
/// not for a storage to decide.
///
/// # Safety
/// `storage` points to an `S` that was registered, and this is the one call for it.
unsafe extern "C-unwind" fn destroy<S: Destroy>(storage: *mut u8) {
    // SAFETY: A registered `S` stays in place until this call ends (contract of `register`).
    let storage = unsafe { &*storage.cast::<S>() };
    // SAFETY: Registered means alive, and a task runs destructors when it uses nothing else.
    unsafe { storage.destroy() };
}

#[cfg(test)]
pub(crate) mod testing {
    //! A list of destructors for tests: the host's thread control block is not ours to use.

    use std::cell::RefCell;
    use std::vec::Vec;

    use unspool_tls::{Destructor, OutOfMemory};

    std::thread_local! {
        static LIST: RefCell<Vec<(*mut u8, Destructor)>> = const { RefCell::new(Vec::new()) };
        static LOG: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
    }

    /// Records a destructor on this thread's list.
    pub(crate) unsafe fn accept(object: *mut u8, destroy: Destructor) -> Result<(), OutOfMemory> {
        LIST.with_borrow_mut(|list| list.push((object, destroy)));
        Ok(())
    }

    /// Has no memory.
    pub(crate) unsafe fn refuse(_: *mut u8, _: Destructor) -> Result<(), OutOfMemory> {
        Err(OutOfMemory)
    }

    /// How many destructors are on the list.
    pub(crate) fn registered() -> usize {
        LIST.with_borrow(Vec::len)
    }

    /// Ends the task: the last registered first, until none is left.
    pub(crate) fn end_task() {
        while let Some((object, destroy)) = LIST.with_borrow_mut(Vec::pop) {
            // SAFETY: The tests keep what they register in place until the task has ended.
            unsafe { destroy(object) };
        }
    }

    /// Notes that something happened.
    pub(crate) fn note(event: &'static str) {
        LOG.with_borrow_mut(|log| log.push(event));
    }

    /// What happened since the last call.
    pub(crate) fn events() -> Vec<&'static str> {
        LOG.take()
    }

    /// The message of the panic that `f` ends with.
    pub(crate) fn panic_of(f: impl FnOnce()) -> std::string::String {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f));
        let payload = caught.expect_err("no panic");
        match payload.downcast_ref::<&str>() {
            Some(text) => (*text).into(),
            None => payload.downcast_ref::<std::string::String>().unwrap().clone(),
        }
    }

    /// Notes its name when it is dropped.
    pub(crate) struct Noisy(pub(crate) &'static str);

    impl Drop for Noisy {
        fn drop(&mut self) {
            note(self.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{accept, end_task, panic_of, registered};
    use super::*;

    struct Panics;

    impl Destroy for Panics {
        unsafe fn destroy(&self) {
            panic!("from the destructor");
        }
    }

    #[test]
    fn a_panic_leaves_the_destructor_and_the_other_destructors_stay_registered() {
        for _ in 0..2 {
            // SAFETY: The list is the test's, and a constant without bytes stays in place.
            unsafe { register(accept, &Panics) }.unwrap();
        }
        assert_eq!(panic_of(end_task), "from the destructor");
        assert_eq!(registered(), 1);
        assert_eq!(panic_of(end_task), "from the destructor");
        assert_eq!(registered(), 0);
    }
}
