//! What a running task does: accesses by number and by descriptor, destructors, and what is left
//! when there is no memory.

mod allocator;
mod arch;

use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use allocator::{first, without_memory};
use arch::{on, through};
use unspool_tls::{
    __cxa_thread_atexit, __cxa_thread_atexit_impl, __tls_get_addr, AccessError, Area, Destructor,
    Registry, Template, TlsIndex, UNALLOCATED_DESTRUCTORS, address, dynamic_descriptor, prepare,
    register_destructor, run_destructors, set_access_failure_handler, static_descriptor,
};

/// One test at a time: they share the allocator's state, and a log.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn registry() -> Registry {
    Registry::new(Template::EMPTY, 4096).unwrap()
}

/// What `act` returns on a task with this area.
fn run<R: Copy>(area: &Area<'_>, default: R, mut act: impl FnMut() -> R) -> R {
    let mut result = default;
    on(area, &mut || result = act());
    result
}

/// The word at an address of one of the tests' blocks.
fn word(address: *mut u8) -> u64 {
    // SAFETY: the tests' blocks are at least that large where they ask, and no task uses them.
    unsafe { address.cast::<u64>().read_unaligned() }
}

#[test]
fn code_that_asks_by_number_gets_its_task_s_copy() {
    let _alone = alone();
    let registry = registry();
    let older = registry.new_area(0).unwrap();
    let fixed = registry.reserve(16, 8).unwrap().publish(&[1; 16]).unwrap();
    let dynamic = registry.add_dynamic(&[2; 16], 16, 2048).unwrap();
    let newer = registry.new_area(0).unwrap();
    let indices = [fixed.module(), dynamic.module()]
        .map(|module| TlsIndex { module: module.get(), offset: 8 });
    let ask = |area: &Area<'_>| {
        // SAFETY: published modules, on an area of their registry.
        let ask = || indices.each_ref().map(|index| unsafe { __tls_get_addr(index) });
        let first = run(area, [ptr::null_mut(); 2], ask);
        assert_eq!(run(area, [ptr::null_mut(); 2], ask), first, "the second time, too");
        first
    };
    let (in_older, in_newer) = (ask(&older), ask(&newer));
    for (area, [fixed_word, dynamic_word]) in [(&older, in_older), (&newer, in_newer)] {
        assert_eq!(fixed_word, area.thread_pointer().block(fixed.offset()).wrapping_add(8));
        assert_eq!(dynamic_word.addr() % 2048, 8);
        assert_eq!((word(fixed_word), word(dynamic_word)), (!0 / 255, !0 / 255 * 2));
    }
    assert_ne!(in_older[1], in_newer[1]);
}

#[test]
fn descriptors_lead_to_the_same_variables() {
    let _alone = alone();
    let registry = registry();
    let fixed = registry.reserve(16, 8).unwrap().publish(&[]).unwrap();
    let dynamic = registry.add_dynamic(&[3; 8], 8, 8).unwrap();
    let [of_fixed, of_dynamic] = [fixed.module(), dynamic.module()]
        .map(|module| TlsIndex { module: module.get(), offset: 4 });
    let descriptors = [
        static_descriptor(fixed.offset(), 4),
        dynamic_descriptor(&of_fixed),
        dynamic_descriptor(&of_dynamic),
    ];
    let area = registry.new_area(0).unwrap();
    let offsets = run(&area, [0; 3], || descriptors.each_ref().map(through));
    assert_eq!(run(&area, [0; 3], || descriptors.each_ref().map(through)), offsets);
    let tp = area.thread_pointer().address();
    let block = area.prepare(dynamic.module()).unwrap();
    assert_eq!(offsets[0], (i64::from(fixed.offset().get()) + 4).cast_unsigned());
    assert_eq!(offsets[1], offsets[0]);
    assert_eq!(tp.wrapping_add(offsets[2]), block.addr() as u64 + 4);
    assert_eq!(word(block), !0 / 255 * 3);
}

#[test]
fn an_access_that_may_fail_says_why_and_can_be_made_again() {
    let _alone = alone();
    let registry = registry();
    let module = registry.add_dynamic(&[4; 8], 640, 8).unwrap();
    let id = module.module();
    let area = registry.new_area(0).unwrap();
    let missing = Err(AccessError::NoSuchModule { module: id.get() });
    // SAFETY: on an area.
    let ask = || unsafe { address(id, 1) };
    // SAFETY: on an area.
    let prepare = || unsafe { prepare(id) };
    let mut refused = missing;
    without_memory(|| refused = run(&area, missing, ask));
    assert_eq!(refused, Err(AccessError::OutOfMemory { size: 640, align: 8 }));
    run(&area, Ok(()), prepare).unwrap();
    let mut found = missing;
    without_memory(|| found = run(&area, missing, ask));
    assert_eq!(found.unwrap(), area.prepare(id).unwrap().wrapping_add(1));
    drop(module);
    assert_eq!(run(&area, Ok(ptr::null_mut()), ask), missing);
}

/// Order of destruction, as digits.
static LOG: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C-unwind" fn note(object: *mut u8) {
    LOG.store(LOG.load(Ordering::Relaxed) * 10 + object.addr(), Ordering::Relaxed);
}

unsafe extern "C-unwind" fn note_and_register(object: *mut u8) {
    // SAFETY: only notes.
    unsafe { note(object) };
    // SAFETY: on an area, and `note` may be called with anything.
    let _ = unsafe { __cxa_thread_atexit(note, object.wrapping_add(1), ptr::null_mut()) };
}

fn number(number: usize) -> *mut u8 {
    ptr::without_provenance_mut(number)
}

#[test]
fn destructors_of_both_languages_are_on_one_list() {
    let _alone = alone();
    let registry = registry();
    let area = registry.new_area(0).unwrap();
    LOG.store(0, Ordering::Relaxed);
    on(&area, &mut || {
        // SAFETY: on an area, and the destructors may be called with anything.
        unsafe {
            let _ = register_destructor(number(1), note);
            let _ = __cxa_thread_atexit_impl(note_and_register, number(2), ptr::null_mut());
            let _ = register_destructor(number(4), note_and_register);
            let _ = __cxa_thread_atexit(note, number(6), ptr::null_mut());
            run_destructors();
        }
    });
    assert_eq!(LOG.load(Ordering::Relaxed), 645231);
}

#[test]
fn the_first_destructors_need_no_memory() {
    let _alone = alone();
    let registry = registry();
    let area = registry.new_area(0).unwrap();
    // SAFETY: on an area, and the destructor may be called with anything.
    let register = || unsafe { __cxa_thread_atexit_impl(note, number(1), ptr::null_mut()) };
    let mut results = [1; UNALLOCATED_DESTRUCTORS + 2];
    without_memory(|| on(&area, &mut || results.fill_with(register)));
    let (made, refused) = results.split_at(UNALLOCATED_DESTRUCTORS);
    assert!(made.iter().all(|result| *result == 0));
    assert!(refused.iter().all(|result| *result != 0));
    assert_eq!(run(&area, 1, register), 0);
    LOG.store(0, Ordering::Relaxed);
    // SAFETY: on an area.
    on(&area, &mut || unsafe { run_destructors() });
    assert_eq!(LOG.load(Ordering::Relaxed), 111_111_111);
}

#[test]
fn an_allocator_may_register_destructors_itself() {
    let _alone = alone();
    let registry = registry();
    let area = registry.new_area(0).unwrap();
    let register = |name| {
        // SAFETY: on an area, and the destructor may be called with anything.
        unsafe { __cxa_thread_atexit_impl(note, number(name), ptr::null_mut()) }
    };
    on(&area, &mut || (0..UNALLOCATED_DESTRUCTORS).for_each(|_| _ = register(1)));
    // SAFETY: as above.
    first(|| _ = unsafe { register_destructor(number(2), note) });
    assert_eq!(run(&area, 1, || register(3)), 0);
    LOG.store(0, Ordering::Relaxed);
    // SAFETY: on an area.
    on(&area, &mut || unsafe { run_destructors() });
    assert_eq!(LOG.load(Ordering::Relaxed), 3_211_111_111);
}

fn function(destructor: Destructor) -> Range<u64> {
    let start = destructor as usize as u64;
    start..start + 1
}

#[test]
fn pending_destructors_are_found_by_function_module_and_object() {
    let _alone = alone();
    let registry = registry();
    let fixed = registry.reserve(64, 8).unwrap().publish(&[]).unwrap();
    let dynamic = registry.add_dynamic(&[], 64, 8).unwrap();
    let (first, second) = (registry.new_area(0).unwrap(), registry.new_area(0).unwrap());
    let of = |area: &Area<'_>, destructor: Destructor, object: *mut u8, module: *mut u8| {
        // SAFETY: on an area; the destructors are never run.
        let result = run(area, 1, || unsafe { __cxa_thread_atexit(destructor, object, module) });
        assert_eq!(result, 0);
    };
    of(&first, note, number(1), number(0));
    of(&second, note, number(1), number(0));
    of(&second, note_and_register, number(0x100), number(0x2000));
    of(&first, note, first.thread_pointer().block(fixed.offset()).wrapping_add(63), number(0));
    of(&second, note, second.prepare(dynamic.module()).unwrap().wrapping_add(8), number(0));
    let count = |range: Range<u64>| registry.pending_destructors(&[range]);
    assert_eq!(count(function(note)), 4);
    assert_eq!(count(function(note_and_register)), 1);
    assert_eq!((count(0x2000..0x2001), count(0x100..0x101), count(0x2001..0x3000)), (1, 1, 0));
    assert_eq!(registry.pending_destructors(&[0x2000..0x2001, function(note)]), 5);
    assert_eq!((fixed.pending_destructors(&[]), dynamic.pending_destructors(&[])), (1, 1));
    let object = 0x100..0x101;
    assert_eq!(dynamic.pending_destructors(&[object]), 2);
    drop(first);
    assert_eq!((fixed.pending_destructors(&[]), count(function(note))), (0, 2));
    drop(second);
    assert_eq!(dynamic.pending_destructors(&[]), 0);
}

/// Ends the process with the reason.
fn exit_with_the_reason(error: AccessError) -> ! {
    let code = match error {
        AccessError::OutOfMemory { size: 640, align: 8 } => 41,
        AccessError::NoSuchModule { module: 31 } => 42,
        _ => 43,
    };
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

/// The exit code of a child process that does this on a task.
fn in_a_child(area: &Area<'_>, mut act: impl FnMut()) -> i32 {
    // SAFETY: the child does what a forked process may: no locks, no allocations of the C library.
    let child = unsafe { libc::fork() };
    assert!(child >= 0);
    if child == 0 {
        set_access_failure_handler(exit_with_the_reason);
        without_memory(|| on(area, &mut act));
        // SAFETY: ends the process.
        unsafe { libc::_exit(0) };
    }
    let mut status = 0;
    // SAFETY: our child, and a place for its status.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert!(libc::WIFEXITED(status), "the task died: {status:#x}");
    libc::WEXITSTATUS(status)
}

#[test]
fn an_access_that_cannot_fail_ends_with_a_reason() {
    let _alone = alone();
    let registry = registry();
    let module = registry.add_dynamic(&[], 640, 8).unwrap();
    let area = registry.new_area(0).unwrap();
    let index = TlsIndex { module: module.module().get(), offset: 0 };
    let absent = TlsIndex { module: 31, offset: 0 };
    let ask = |index: &TlsIndex| {
        // SAFETY: on an area; every vector has room for 31 modules.
        in_a_child(&area, || _ = unsafe { __tls_get_addr(index) })
    };
    let descriptor = dynamic_descriptor(&index);
    assert_eq!(ask(&index), 41);
    assert_eq!(ask(&absent), 42);
    assert_eq!(in_a_child(&area, || _ = through(&descriptor)), 41);
    area.prepare(module.module()).unwrap();
    assert_eq!(ask(&index), 0);
    assert_eq!(in_a_child(&area, || _ = through(&descriptor)), 0);
}
