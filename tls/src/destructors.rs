//! What a task has to destroy before it ends.
//!
//! ```text
//!  register ─► │ first │ … │ last │ ─► run: pop, call, pop, call, … until none is left
//!                              ▲             │
//!                              └─ register ──┘ a destructor may register more
//! ```
//!
//! Last registered, first destroyed, and no destructor runs while the list is in use: one that
//! touches a variable for the first time simply puts another entry on top.

use alloc::vec::Vec;

use crate::area::current;
use crate::error::OutOfMemory;

/// Destroys the object it is given. A panic may leave it, and then leaves [`run_destructors`].
pub type Destructor = unsafe extern "C-unwind" fn(object: *mut u8);

#[derive(Debug)]
struct Entry {
    object: *mut u8,
    destructor: Destructor,
}

/// One task's pending destructors. Dropping it forgets them.
#[derive(Debug)]
pub(crate) struct DestructorList {
    entries: Vec<Entry>,
}

impl DestructorList {
    /// Nothing to destroy.
    pub(crate) const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// Puts an entry on top.
    fn register(&mut self, object: *mut u8, destructor: Destructor) -> Result<(), OutOfMemory> {
        self.entries.try_reserve(1).map_err(|_| OutOfMemory)?;
        self.entries.push(Entry { object, destructor });
        Ok(())
    }

    /// Runs and removes entries from the top until none is left, then gives the memory back.
    ///
    /// # Safety
    /// 1. `list` is valid, and nobody but the destructors uses it meanwhile.
    /// 2. Every entry may be called now, once.
    unsafe fn run(list: *mut Self) {
        // SAFETY: Valid and ours (1); the borrow ends before a destructor is called.
        while let Some(entry) = unsafe { (*list).entries.pop() } {
            // SAFETY: The entry is off the list, so this is its one call (2).
            unsafe { (entry.destructor)(entry.object) };
        }
        // SAFETY: As for `pop`.
        unsafe { (*list).entries = Vec::new() };
    }
}

/// Has `destructor` called with `object` when the running task ends.
///
/// # Errors
/// No memory to record it; nothing has changed then.
///
/// # Safety
/// 1. The FS base holds the thread pointer of an [`Area`](crate::Area), and this is not an
///    interrupt handler.
/// 2. `destructor` may be called with `object` once, on this task, at any time until
///    [`run_destructors`] returns.
pub unsafe fn register_destructor(
    object: *mut u8,
    destructor: Destructor,
) -> Result<(), OutOfMemory> {
    let tcb = current().tcb().as_ptr();
    // SAFETY: The TCB is that of a live area (1), whose list only its own task uses; the borrow
    // ends with this call, which calls nothing but the allocator.
    unsafe { (*tcb).destructors.register(object, destructor) }
}

/// Runs the running task's destructors: the last registered first, until none is left, those
/// registered meanwhile included.
///
/// To be called once at the end of a task, on the task, before anyone can learn that it ended.
/// If a panic leaves a destructor, it leaves this function, and the destructors that are left
/// stay on the list; std ends the program then (`unspool::thread::run_destructors` does, too).
///
/// # Safety
/// 1. The FS base holds the thread pointer of an [`Area`](crate::Area), and this is not an
///    interrupt handler or a destructor.
/// 2. No reference to a registered object is in use any more.
pub unsafe fn run_destructors() {
    let tcb = current().tcb().as_ptr();
    // SAFETY: The TCB is that of a live area (1 of the contract).
    let list = unsafe { &raw mut (*tcb).destructors };
    // SAFETY:
    // 1. The list is this task's own, and the task is busy here.
    // 2. Whoever registered an object allowed the call; nobody uses the object (2 of the contract).
    unsafe { DestructorList::run(list) };
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::vec;

    use super::*;

    /// A list with a log, so that destructors can reach both.
    struct Task {
        list: DestructorList,
        log: RefCell<Vec<u32>>,
    }

    struct Object {
        task: *mut Task,
        name: u32,
        child: Option<*mut Object>,
    }

    unsafe extern "C-unwind" fn destroy(object: *mut u8) {
        // SAFETY: The tests register leaked objects only, with tasks that outlive the run.
        let object = unsafe { &*object.cast::<Object>() };
        // SAFETY: As above; the log is apart from the list.
        unsafe { (*object.task).log.borrow_mut().push(object.name) };
        if let Some(child) = object.child {
            // SAFETY: As above; `run` does not borrow the list while a destructor runs.
            unsafe { (*object.task).list.register(child.cast(), destroy) }.unwrap();
        }
    }

    /// Registers objects of these names, children from inside the destructors, and runs them.
    fn order_of(objects: &[(u32, Option<u32>)]) -> Vec<u32> {
        let mut task = Task { list: DestructorList::new(), log: RefCell::new(Vec::new()) };
        let task = &raw mut task;
        let mut owned = Vec::new();
        let mut object = |name, child| {
            let object =
                alloc::boxed::Box::into_raw(alloc::boxed::Box::new(Object { task, name, child }));
            owned.push(object);
            object
        };
        for &(name, child) in objects {
            let child = child.map(|name| object(name, None));
            let entry = object(name, child);
            // SAFETY: `task` is a local of this function.
            unsafe { (*task).list.register(entry.cast(), destroy) }.unwrap();
        }
        // SAFETY: The list is a local; each entry's object lives until the end of the function.
        unsafe { DestructorList::run(&raw mut (*task).list) };
        // SAFETY: The run is over; nobody else uses the task.
        assert_eq!(unsafe { (*task).list.entries.capacity() }, 0);
        for object in owned {
            // SAFETY: From `into_raw` above, taken back once.
            drop(unsafe { alloc::boxed::Box::from_raw(object) });
        }
        // SAFETY: As for the capacity.
        unsafe { (*task).log.take() }
    }

    #[test]
    fn the_last_registered_is_destroyed_first() {
        assert_eq!(order_of(&[(1, None), (2, None), (3, None)]), vec![3, 2, 1]);
    }

    #[test]
    fn what_a_destructor_registers_is_destroyed_in_the_same_run_and_next() {
        assert_eq!(order_of(&[(1, None), (2, Some(20)), (3, Some(30))]), vec![3, 30, 2, 20, 1]);
    }

    #[test]
    fn an_empty_list_runs_to_its_end() {
        assert_eq!(order_of(&[]), vec![]);
    }
}
