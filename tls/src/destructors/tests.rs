use std::boxed::Box;
use std::cell::RefCell;
use std::ptr;
use std::thread;
use std::vec;
use std::vec::Vec;

use super::*;

/// A list with a log, so that destructors can reach both.
struct Task {
    list: DestructorList,
    log: RefCell<Vec<u32>>,
}

struct Object {
    task: *const Task,
    name: u32,
    child: Option<*mut Object>,
}

fn entry(object: *mut u8) -> Entry {
    Entry { object, destructor: destroy, module: ptr::null_mut() }
}

unsafe extern "C-unwind" fn destroy(object: *mut u8) {
    // SAFETY: The tests register leaked objects only, with tasks that outlive the run.
    let object = unsafe { &*object.cast::<Object>() };
    // SAFETY: As above.
    let task = unsafe { &*object.task };
    task.log.borrow_mut().push(object.name);
    if let Some(child) = object.child {
        task.list.register(&entry(child.cast())).unwrap();
    }
}

/// Registers objects of these names, children from inside the destructors, and runs them.
fn order_of(objects: &[(u32, Option<u32>)]) -> Vec<u32> {
    let task = Task { list: DestructorList::new(), log: RefCell::new(Vec::new()) };
    let mut owned = Vec::new();
    let mut object = |name, child| {
        let object = Box::into_raw(Box::new(Object { task: &raw const task, name, child }));
        owned.push(object);
        object
    };
    for &(name, child) in objects {
        let child = child.map(|name| object(name, None));
        task.list.register(&entry(object(name, child).cast())).unwrap();
    }
    // SAFETY: The list is a local; each entry's object lives until the end of the function.
    unsafe { task.list.run() };
    for object in owned {
        // SAFETY: From `into_raw` above, taken back once.
        drop(unsafe { Box::from_raw(object) });
    }
    task.log.take()
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

#[test]
fn a_list_longer_than_its_first_segments_keeps_its_order() {
    let objects: Vec<_> = (0..1000).map(|name| (name, None)).collect();
    assert_eq!(order_of(&objects), (0..1000).rev().collect::<Vec<_>>());
}

#[test]
fn entries_are_placed_without_gaps() {
    let mut expected = (0, 0);
    for index in 0..10_000 {
        assert_eq!(place(index), expected);
        expected.1 += 1;
        if expected.1 == UNALLOCATED_DESTRUCTORS << expected.0 {
            expected = (expected.0 + 1, 0);
        }
    }
}

unsafe extern "C-unwind" fn nothing(_: *mut u8) {}

fn numbered(object: usize) -> Entry {
    Entry {
        object: ptr::without_provenance_mut(object),
        destructor: nothing,
        module: ptr::without_provenance_mut(object * 2),
    }
}

#[test]
fn entries_are_counted_wherever_they_are() {
    let list = DestructorList::new();
    for object in 0..100 {
        list.register(&numbered(object)).unwrap();
    }
    assert_eq!(list.count(|_| true), 100);
    assert_eq!(list.count(|entry| entry.object.addr() % 3 == 0), 34);
    assert_eq!(list.count(|entry| entry.module.addr() >= 100), 50);
    list.clear();
    assert_eq!(list.count(|_| true), 0);
}

#[test]
fn a_running_destructor_counts_until_the_list_is_done() {
    static LIST: DestructorList = DestructorList::new();
    fn count() -> usize {
        LIST.count(|entry| entry.destructor as usize == looks as *const () as usize)
    }
    unsafe extern "C-unwind" fn looks(left: *mut u8) {
        assert_eq!(count(), left.addr() + 1);
    }
    for left in 0..3 {
        let object = ptr::without_provenance_mut(left);
        let entry = Entry { object, destructor: looks, module: ptr::null_mut() };
        LIST.register(&entry).unwrap();
    }
    // SAFETY: The destructors only count.
    unsafe { LIST.run() };
    assert_eq!(count(), 0);
}

/// One destructor of the module is pending or running all the time, each registers the next.
#[test]
fn a_chain_of_destructors_is_never_missed() {
    static LIST: DestructorList = DestructorList::new();
    fn register(destructor: Destructor, left: *mut u8) {
        LIST.register(&Entry { object: left, destructor, module: ptr::null_mut() }).unwrap();
    }
    unsafe extern "C-unwind" fn of_the_module(left: *mut u8) {
        if left.addr() > 0 {
            register(of_the_module, left.wrapping_sub(1));
            register(nothing, left);
        }
    }
    const ROUNDS: usize = 100_000;
    register(of_the_module, ptr::without_provenance_mut(ROUNDS));
    thread::scope(|scope| {
        let runner = scope.spawn(|| {
            // SAFETY: The destructors only register.
            unsafe { LIST.run() };
        });
        let last: usize = 0;
        loop {
            let of_the_module = LIST
                .count(|entry| entry.destructor as usize == of_the_module as *const () as usize);
            if of_the_module == last {
                break;
            }
        }
        // The chain had come to its end, then, and only the end of the run can be left.
        assert_eq!(LIST.len.load(Ordering::Relaxed), 0);
        runner.join().unwrap();
    });
}
