//! Dynamic thread vectors: where an area's block of a module is, for modules addressed by number.
//!
//! ```text
//!  fs:8 ─► │ capacity │ module 1 │ module 2 │ …        an entry is the block's address, null
//!                                                      while there is no block
//! ```
//!
//! Every vector has room for every module number that has been given out: the registry sees to it
//! before it gives one out, so that code need not compare (ELF TLS §3.4.6 leaves the vector's
//! shape to the implementation). A task without blocks of its own shares an empty vector with all
//! others; a task's first vector is part of its area, larger ones are allocated. One that is
//! outgrown stays until the task has ended: the task may be reading it just now.

use core::alloc::Layout;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, Ordering};

use static_assertions::const_assert_eq;

use crate::error::AccessError;

/// The capacity of an area's first vector, in words.
pub(crate) const INLINE: usize = 32;

/// The first vector that tasks without blocks share.
static NONE: [AtomicPtr<u8>; INLINE] = {
    let mut words = [const { AtomicPtr::new(ptr::null_mut()) }; INLINE];
    words[0] = AtomicPtr::new(number(INLINE));
    words
};

/// The vector of a task without blocks, while module numbers are below [`INLINE`].
pub(crate) const fn none() -> *mut AtomicPtr<u8> {
    (&raw const NONE).cast_mut().cast()
}

/// The words of a vector: its capacity, then an entry for each module.
///
/// # Safety
/// `vector` is a vector that stays in place during `'a`.
#[inline]
pub(crate) unsafe fn entries<'a>(vector: NonNull<AtomicPtr<u8>>) -> &'a [AtomicPtr<u8>] {
    // SAFETY: A vector has its capacity in its first word (contract).
    let capacity = unsafe { vector.as_ref() }.load(Ordering::Relaxed).addr();
    // SAFETY: And it has that many words.
    unsafe { core::slice::from_raw_parts(vector.as_ptr(), capacity) }
}

/// The head of an allocated vector.
#[repr(C)]
#[derive(Debug)]
struct Head {
    /// What it took the place of.
    older: AtomicPtr<Head>,
    /// The vector begins here.
    capacity: AtomicPtr<u8>,
}

const_assert_eq!(core::mem::offset_of!(Head, capacity), 8);

/// A capacity as a vector's first word.
const fn number(capacity: usize) -> *mut u8 {
    ptr::without_provenance_mut(capacity)
}

/// The memory of a vector. There are fewer modules than bytes, so it is never too large.
fn layout(capacity: usize) -> Layout {
    Layout::array::<usize>(capacity + 1).unwrap_or(Layout::new::<Head>())
}

/// An allocated vector that nobody uses yet.
#[derive(Debug)]
pub(crate) struct Vector(NonNull<Head>);

// SAFETY: Memory from the global allocator, owned by the value.
unsafe impl Send for Vector {}

impl Vector {
    /// An empty vector.
    pub(crate) fn allocate(capacity: usize) -> Result<Self, AccessError> {
        let layout = layout(capacity);
        // SAFETY: Not of size zero: the head is part of it.
        let memory = unsafe { alloc::alloc::alloc_zeroed(layout) };
        let head = NonNull::new(memory.cast::<Head>()).ok_or(AccessError::out_of_memory(layout))?;
        // SAFETY: Just allocated; zeroes are a valid head.
        unsafe { head.as_ref() }.capacity.store(number(capacity), Ordering::Relaxed);
        Ok(Self(head))
    }

    /// The vector itself.
    pub(crate) fn as_ptr(&self) -> *mut AtomicPtr<u8> {
        // SAFETY: Inside the allocation.
        unsafe { (&raw mut (*self.0.as_ptr()).capacity).cast() }
    }

    /// Its words.
    pub(crate) fn entries(&self) -> &[AtomicPtr<u8>] {
        // SAFETY: A vector, in place while it is borrowed.
        unsafe { entries(NonNull::new_unchecked(self.as_ptr())) }
    }

    /// Takes over the entries of an outgrown vector.
    fn inherit(&self, outgrown: &[AtomicPtr<u8>]) {
        for (to, from) in self.entries().iter().zip(outgrown).skip(1) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
}

impl Drop for Vector {
    fn drop(&mut self) {
        let layout = layout(self.entries().len());
        // SAFETY: From `allocate`, with this layout; nobody else has it.
        unsafe { alloc::alloc::dealloc(self.0.as_ptr().cast(), layout) };
    }
}

/// A task's own vectors. The registry's lock guards all changes.
#[derive(Debug)]
pub(crate) struct Vectors {
    /// The newest of the allocated ones.
    newest: AtomicPtr<Head>,
    /// The first vector.
    inline: [AtomicPtr<u8>; INLINE],
}

impl Vectors {
    pub(crate) const fn new() -> Self {
        Self {
            newest: AtomicPtr::new(ptr::null_mut()),
            inline: [const { AtomicPtr::new(ptr::null_mut()) }; INLINE],
        }
    }

    /// The vector inside the area, with the entries of `outgrown`.
    pub(crate) fn first(&self) -> *mut AtomicPtr<u8> {
        for word in &self.inline {
            word.store(ptr::null_mut(), Ordering::Relaxed);
        }
        self.inline[0].store(number(INLINE), Ordering::Relaxed);
        (&raw const self.inline).cast_mut().cast()
    }

    /// Takes `vector`, with the entries of `outgrown`, to be kept until [`clear`](Self::clear).
    pub(crate) fn adopt(&self, vector: Vector, outgrown: &[AtomicPtr<u8>]) -> *mut AtomicPtr<u8> {
        vector.inherit(outgrown);
        let words = vector.as_ptr();
        // SAFETY: The vector's head is in place.
        let older = unsafe { &vector.0.as_ref().older };
        older.store(self.newest.load(Ordering::Relaxed), Ordering::Relaxed);
        self.newest.store(vector.0.as_ptr(), Ordering::Relaxed);
        core::mem::forget(vector);
        words
    }

    /// Frees all allocated vectors. No task has the area.
    pub(crate) fn clear(&self) {
        let mut newest = self.newest.load(Ordering::Relaxed);
        if newest.is_null() {
            return;
        }
        self.newest.store(ptr::null_mut(), Ordering::Relaxed);
        while let Some(head) = NonNull::new(newest) {
            // SAFETY: Vectors on the chain are in place, and this is the one time it is taken apart.
            newest = unsafe { head.as_ref() }.older.load(Ordering::Relaxed);
            drop(Vector(head));
        }
    }
}

impl Drop for Vectors {
    fn drop(&mut self) {
        self.clear();
    }
}
