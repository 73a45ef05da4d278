//! The global allocator: one region, first fit, behind a spin lock; small pieces are kept by the CPU
//! that freed them.
//!
//! A task can have its own allocations [fail], to see what becomes of it then. A program can have
//! code of its own run in the allocator, in the task that allocates: see [`extend`].

mod kept;

use core::alloc::{GlobalAlloc, Layout};
use core::marker::PhantomData;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use linked_list_allocator::Heap;

use crate::arch::per_cpu;
use crate::arena;
use crate::lock::Lock;

use self::kept::Class;

/// Bytes of the heap.
pub(crate) const SIZE: usize = 256 << 20;

static HEAP: Lock<Heap> = Lock::new(Heap::empty());

/// The task whose allocations fail although there is memory; only compared. 0: nobody's.
static SHORT: AtomicUsize = AtomicUsize::new(0);
/// So many of them succeed first, so many then fail, so many have failed. Only that task uses these.
static AFTER: AtomicUsize = AtomicUsize::new(0);
static COUNT: AtomicUsize = AtomicUsize::new(0);
static FAILED: AtomicUsize = AtomicUsize::new(0);

/// Lets allocations of the running task fail, `count` of them after `after` that succeed, until the
/// result is dropped. For tests of what happens without memory; one at a time.
///
/// # Panics
///
/// If somebody does so already.
pub fn fail(after: usize, count: usize) -> Failing {
    let task = per_cpu::running().addr();
    let began = SHORT.compare_exchange(0, task, Ordering::Acquire, Ordering::Relaxed);
    assert!(began.is_ok(), "one shortage at a time");
    for (place, value) in [(&AFTER, after), (&COUNT, count), (&FAILED, 0)] {
        place.store(value, Ordering::Relaxed);
    }
    Failing(PhantomData)
}

/// Lets all allocations of all tasks fail, until the result is dropped.
///
/// # Panics
///
/// If somebody does so already, or [lets some fail](fail).
pub fn exhaust() -> Failing {
    let began = SHORT.compare_exchange(0, ALL, Ordering::Acquire, Ordering::Relaxed);
    assert!(began.is_ok(), "one shortage at a time");
    FAILED.store(0, Ordering::Relaxed);
    Failing(PhantomData)
}

/// Stands for all tasks: no task has this address.
const ALL: usize = usize::MAX;

/// While it exists, some allocations [fail].
#[derive(Debug)]
#[must_use]
pub struct Failing(PhantomData<*mut ()>);

impl Failing {
    /// How many allocations have failed.
    pub fn failed(&self) -> usize {
        FAILED.load(Ordering::Relaxed)
    }
}

impl Drop for Failing {
    fn drop(&mut self) {
        SHORT.store(0, Ordering::Release);
    }
}

/// Whether an allocation of the running task is to fail.
fn is_short() -> bool {
    let task = SHORT.load(Ordering::Relaxed);
    if task == ALL {
        FAILED.fetch_add(1, Ordering::Relaxed);
        return true;
    }
    if task == 0 || task != per_cpu::running().addr() {
        return false;
    }
    let after = AFTER.load(Ordering::Relaxed);
    if after > 0 {
        AFTER.store(after - 1, Ordering::Relaxed);
        return false;
    }
    let failed = FAILED.load(Ordering::Relaxed);
    let fails = failed < COUNT.load(Ordering::Relaxed);
    FAILED.store(failed + usize::from(fails), Ordering::Relaxed);
    fails
}

/// What the allocator was just asked for, or given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Memory for this.
    Allocated(Layout),
    /// This is free again.
    Freed(Layout),
}

/// A function that the allocator calls, or null.
static EXTENSION: AtomicPtr<()> = AtomicPtr::new(null_mut());

/// Makes `extension` part of the allocator until the result is dropped: it is called after every
/// change, in the task that allocates. Not on a CPU that is idle, which has no thread-local storage.
///
/// As code of any global allocator, it may use thread-local values, also for the first time, and may
/// allocate if it knows where to stop; and it must not unwind, nor wait: some that allocate have
/// preemption switched off.
///
/// # Panics
///
/// If there is one already.
pub fn extend(extension: fn(Change)) -> Extended {
    let function = extension as *mut ();
    let alone =
        EXTENSION.compare_exchange(null_mut(), function, Ordering::Release, Ordering::Relaxed);
    assert!(alone.is_ok(), "one extension at a time");
    Extended(PhantomData)
}

/// While it exists, the allocator is [extended](extend).
#[derive(Debug)]
#[must_use]
pub struct Extended(PhantomData<*mut ()>);

impl Drop for Extended {
    fn drop(&mut self) {
        EXTENSION.store(null_mut(), Ordering::Release);
    }
}

fn tell(change: Change) {
    let extension = EXTENSION.load(Ordering::Acquire);
    if extension.is_null() || per_cpu::running().is_null() {
        return;
    }
    // SAFETY: only `extend` puts anything but null there, and it puts such a function there.
    let extension = unsafe { core::mem::transmute::<*mut (), fn(Change)>(extension) };
    extension(change);
}

/// Does something in the middle of an allocation, with the heap's lock held: for tests of who waits for
/// it. It must not allocate.
pub fn in_allocation<T>(other: impl FnOnce() -> T) -> T {
    let _held = HEAP.lock();
    other()
}

struct KernelHeap;

#[global_allocator]
static ALLOCATOR: KernelHeap = KernelHeap;

/// Gives the heap its memory. Until then nothing can be allocated.
///
/// # Safety
///
/// To be called once; `start` points to [`SIZE`] bytes that are writable, aligned to a page, and
/// the heap's alone forever.
pub(crate) unsafe fn init(start: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe { HEAP.lock().init(start, SIZE) };
}

/// Whether this CPU was in the middle of an allocation.
pub(crate) fn is_held_here() -> bool {
    HEAP.is_held_here() || kept::is_busy_here()
}

/// Bytes that CPUs keep of what was freed, for the next who need a little.
pub fn kept() -> usize {
    kept::bytes()
}

/// Bytes that are allocated.
pub fn used() -> usize {
    let used = HEAP.lock().used();
    // Others go on meanwhile.
    used.saturating_sub(kept())
}

/// Memory of the heap; if it has none, also of what this CPU keeps.
fn fresh(layout: Layout) -> Option<NonNull<u8>> {
    let allocate = || HEAP.lock().allocate_first_fit(layout).ok();
    allocate().or_else(|| give_up_kept().then(allocate)?)
}

/// Gives what this CPU keeps back to the heap; whether it kept anything. What others keep is theirs: a
/// few KiB each.
#[cold]
fn give_up_kept() -> bool {
    let mut any = false;
    for class in Class::all() {
        while let Some(piece) = kept::take(class) {
            // SAFETY: a piece of this class, which nobody has had since it was kept.
            unsafe { HEAP.lock().deallocate(piece, class.layout()) };
            any = true;
        }
    }
    any
}

// SAFETY: `Heap` hands out disjoint, suitably aligned pieces of its memory, and does not unwind;
// the lock keeps changes apart.
unsafe impl GlobalAlloc for KernelHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if let Some(place) = arena::allocate(layout) {
            return place.as_ptr();
        }
        if is_short() {
            return null_mut();
        }
        let class = Class::of(layout);
        let whole = class.map_or(layout, Class::layout);
        let Some(place) = class.and_then(kept::take).or_else(|| fresh(whole)) else {
            return null_mut();
        };
        tell(Change::Allocated(layout));
        place.as_ptr()
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let Some(pointer) = NonNull::new(pointer) else { return };
        if arena::has(pointer) {
            // SAFETY: the caller's promise is the same.
            return unsafe { arena::free(pointer, layout) };
        }
        let class = Class::of(layout);
        // SAFETY: the caller got it from `alloc` with the same layout, so it is of this class.
        let is_kept = class.is_some_and(|class| unsafe { kept::keep(pointer, class) });
        if !is_kept {
            let whole = class.map_or(layout, Class::layout);
            // SAFETY: the same: this is what `alloc` asked for.
            unsafe { HEAP.lock().deallocate(pointer, whole) };
        }
        tell(Change::Freed(layout));
    }
}
