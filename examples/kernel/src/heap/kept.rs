//! Small pieces of memory that a CPU keeps when they are freed, for whoever needs some next.
//!
//! ```text
//!   alloc ───► class of the size ─► this CPU's list ─ empty ─► the heap, behind its lock
//!   dealloc ─► class of the size ─► this CPU's list ─ full ──► the heap
//!                                   all its lists ◄─ exhausted ──┘
//! ```
//!
//! What a thrown value lives in is such a piece. Promise: a CPU that reuses what was freed on it waits
//! for no other.

use core::alloc::Layout;
use core::ptr::{NonNull, null_mut};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering, compiler_fence};

use crate::cpu::{self, MAX_CPUS, NoPreemption};

/// Sizes are powers of two, from this one (bytes): a cache line, so that no two CPUs write to one of these …
const SMALLEST: usize = 64;
/// … in so many classes.
const CLASSES: usize = 3;
/// Pieces of each class that a CPU keeps.
const MOST: usize = 32;

/// How large a small piece really is.
#[derive(Clone, Copy)]
pub(super) struct Class(usize);

impl Class {
    /// The class of memory of this layout, if that is small.
    #[inline]
    pub(super) fn of(layout: Layout) -> Option<Self> {
        let number = layout.size().div_ceil(SMALLEST).next_power_of_two().trailing_zeros() as usize;
        (number < CLASSES && layout.align() <= SMALLEST).then_some(Self(number))
    }

    /// All classes.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..CLASSES).map(Self)
    }

    const fn size(self) -> usize {
        SMALLEST << self.0
    }

    /// What the heap is asked for.
    pub(super) const fn layout(self) -> Layout {
        match Layout::from_size_align(self.size(), SMALLEST) {
            Ok(layout) => layout,
            Err(_) => unreachable!(),
        }
    }
}

/// What a kept piece holds.
struct Free {
    next: *mut Self,
}

/// Pieces of one class. Only its CPU changes it.
struct List {
    first: AtomicPtr<Free>,
    length: AtomicUsize,
}

impl List {
    const fn empty() -> Self {
        Self { first: AtomicPtr::new(null_mut()), length: AtomicUsize::new(0) }
    }
}

/// What one CPU keeps; alone in its cache lines.
#[repr(align(64))]
struct Kept {
    lists: [List; CLASSES],
    /// A list is in the middle of a change.
    busy: AtomicBool,
}

impl Kept {
    const fn nothing() -> Self {
        Self { lists: [const { List::empty() }; CLASSES], busy: AtomicBool::new(false) }
    }
}

static KEPT: [Kept; MAX_CPUS] = [const { Kept::nothing() }; MAX_CPUS];

/// Changes this CPU's list of a class: nobody else does, and handlers of interrupts allocate nothing.
#[inline]
fn change<T>(class: Class, change: impl FnOnce(&List) -> T) -> T {
    let _here = NoPreemption::new();
    let kept = &KEPT[cpu::current()];
    kept.busy.store(true, Ordering::Relaxed);
    // For a fault in between.
    compiler_fence(Ordering::SeqCst);
    let result = change(&kept.lists[class.0]);
    compiler_fence(Ordering::SeqCst);
    kept.busy.store(false, Ordering::Relaxed);
    result
}

/// A piece of this class that this CPU has kept.
#[inline]
pub(super) fn take(class: Class) -> Option<NonNull<u8>> {
    change(class, |list| {
        let piece = NonNull::new(list.first.load(Ordering::Relaxed))?;
        // SAFETY: `keep` wrote it, and nobody has had the piece since.
        let Free { next } = unsafe { piece.read() };
        list.first.store(next, Ordering::Relaxed);
        list.length.store(list.length.load(Ordering::Relaxed) - 1, Ordering::Relaxed);
        Some(piece.cast())
    })
}

/// Keeps a piece, unless there are enough of them; whether it does.
///
/// # Safety
///
/// The piece is of this class, and free.
#[inline]
pub(super) unsafe fn keep(piece: NonNull<u8>, class: Class) -> bool {
    change(class, |list| {
        let length = list.length.load(Ordering::Relaxed);
        if length == MOST {
            return false;
        }
        let next = list.first.load(Ordering::Relaxed);
        let piece = piece.cast::<Free>();
        // SAFETY: it is free, large enough and aligned (contract).
        unsafe { piece.write(Free { next }) };
        list.first.store(piece.as_ptr(), Ordering::Relaxed);
        list.length.store(length + 1, Ordering::Relaxed);
        true
    })
}

/// Bytes that all CPUs keep.
pub(super) fn bytes() -> usize {
    let lists = KEPT.iter().flat_map(|kept| kept.lists.iter().enumerate());
    lists.map(|(class, list)| list.length.load(Ordering::Relaxed) * Class(class).size()).sum()
}

/// Whether this CPU was in the middle of a change.
pub(super) fn is_busy_here() -> bool {
    let _here = NoPreemption::new();
    KEPT[cpu::current()].busy.load(Ordering::Relaxed)
}
