//! Memory for one thing that one task does, apart from the heap: for what must be able to allocate
//! where the heap is locked, exhausted, or watched.
//!
//! ```text
//!   lend ─► the running task allocates here ─► the guard is dropped ─► from the heap again
//!   whose it was is seen by the address: memory goes back to where it came from
//! ```
//!
//! Promise: nobody waits. Memory that comes back while the arena is in use elsewhere is not used again.

use alloc::vec::Vec;
use core::alloc::Layout;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use linked_list_allocator::Heap;
use spin::Mutex;

use crate::arch::per_cpu;
use crate::machine::PAGE;
use crate::task::Task;

static ARENA: Mutex<Heap> = Mutex::new(Heap::empty());
/// Where it lies; of no size before [`init`].
static START: AtomicUsize = AtomicUsize::new(0);
static SIZE: AtomicUsize = AtomicUsize::new(0);
/// The task that allocates here; only compared.
static USER: AtomicPtr<Task> = AtomicPtr::new(null_mut());

/// Gives the arena so many bytes of the heap, forever; whether there are as many. To be called once,
/// at boot.
pub(crate) fn init(size: usize) -> bool {
    let Ok(layout) = Layout::from_size_align(size, PAGE) else { return false };
    // SAFETY: what debug information takes is never nothing: the caller adds to it.
    let start = unsafe { alloc::alloc::alloc(layout) };
    if start.is_null() {
        return false;
    }
    // SAFETY: the bytes were just allocated, and nobody else gets to know of them.
    unsafe { ARENA.lock().init(start, size) };
    START.store(start.addr(), Ordering::Relaxed);
    SIZE.store(size, Ordering::Release);
    true
}

/// While it exists, the task that made it allocates in the arena.
pub(crate) struct Lent(());

/// Lends the arena to the running task; `None` if somebody has it, or nobody is running.
pub(crate) fn lend() -> Option<Lent> {
    let task = per_cpu::running();
    if task.is_null() || SIZE.load(Ordering::Relaxed) == 0 {
        return None;
    }
    let free = USER.compare_exchange(null_mut(), task, Ordering::Acquire, Ordering::Relaxed);
    free.ok().map(|_| Lent(()))
}

impl Lent {
    /// Does something that may allocate for others, and keep it.
    pub(crate) fn paused<T>(&self, other: impl FnOnce() -> T) -> T {
        struct Resume(*mut Task);
        impl Drop for Resume {
            fn drop(&mut self) {
                USER.store(self.0, Ordering::Release);
            }
        }
        let _resume = Resume(USER.swap(PAUSED, Ordering::Release));
        other()
    }
}

/// Stands for nobody, while the arena stays lent; no task has this address.
const PAUSED: *mut Task = core::ptr::without_provenance_mut(1);

impl Drop for Lent {
    fn drop(&mut self) {
        USER.store(null_mut(), Ordering::Release);
    }
}

/// Memory for the running task, if it has the arena and there is enough.
pub(crate) fn allocate(layout: Layout) -> Option<NonNull<u8>> {
    let user = USER.load(Ordering::Relaxed);
    if user.is_null() || user != per_cpu::running() {
        return None;
    }
    ARENA.try_lock()?.allocate_first_fit(layout).ok()
}

/// Whether this is memory of the arena.
pub(crate) fn has(pointer: NonNull<u8>) -> bool {
    pointer.addr().get().wrapping_sub(START.load(Ordering::Relaxed)) < SIZE.load(Ordering::Acquire)
}

/// Takes memory back.
///
/// # Safety
///
/// [`allocate`] returned it for this layout, and nobody uses it any more.
pub(crate) unsafe fn free(pointer: NonNull<u8>, layout: Layout) {
    if let Some(mut arena) = ARENA.try_lock() {
        // SAFETY: the caller's promise.
        unsafe { arena.deallocate(pointer, layout) };
    }
}

/// Bytes in use, and bytes that there are; no bytes if somebody is changing that.
pub(crate) fn used() -> (usize, usize) {
    ARENA.try_lock().map_or((0, 0), |arena| (arena.used(), arena.size()))
}

/// All that was left of the arena.
#[derive(Debug)]
#[must_use]
pub struct Filled(Vec<(NonNull<u8>, Layout)>);

/// Takes all that is left, but for pieces smaller than a page.
pub(crate) fn fill() -> Filled {
    let mut filled = Filled(Vec::new());
    let (used, size) = used();
    let mut piece = size - used;
    while let Ok(layout) = Layout::from_size_align(piece, align_of::<usize>())
        && piece >= PAGE
    {
        let place = ARENA.lock().allocate_first_fit(layout);
        match place {
            Ok(place) => filled.0.push((place, layout)),
            Err(()) => piece /= 2,
        }
    }
    filled
}

impl Drop for Filled {
    fn drop(&mut self) {
        for (place, layout) in self.0.drain(..) {
            // SAFETY: `fill` got it for this layout, and nobody else knows of it.
            unsafe { ARENA.lock().deallocate(place, layout) };
        }
    }
}

/// Does something while the arena's lock is held.
pub(crate) fn locked<T>(other: impl FnOnce() -> T) -> T {
    let _held = ARENA.lock();
    other()
}
