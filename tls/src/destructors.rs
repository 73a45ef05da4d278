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
//!
//! The first few entries take no memory but the area's; the list grows by segments that never
//! move. So others may look for a module's entries while the task goes on ([`count`]), and neither
//! waits for the other.
//!
//! [`count`]: DestructorList::count

use core::alloc::Layout;
use core::mem;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use crate::error::OutOfMemory;

/// Destroys the object it is given. A panic may leave it, and then leaves
/// [`run_destructors`](crate::run_destructors).
pub type Destructor = unsafe extern "C-unwind" fn(object: *mut u8);

/// How many destructors every task can register without memory.
pub const UNALLOCATED_DESTRUCTORS: usize = 1 << FIRST_BITS;

const FIRST_BITS: u32 = 3;
/// Segment `n` has 2ⁿ times the entries of the first, which is in the list itself.
const SEGMENTS: usize = 20;
/// How often a list that changes meanwhile is counted again.
const ATTEMPTS: usize = 64;

/// A registered destructor, as others may see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) object: *mut u8,
    pub(crate) destructor: Destructor,
    /// The `dso_handle` of C++, which stands for the module; null for others.
    pub(crate) module: *mut u8,
}

/// A place for an entry: three words, because others read it while its task writes.
#[derive(Debug)]
struct Slot {
    object: AtomicPtr<u8>,
    /// A [`Destructor`], or null.
    destructor: AtomicPtr<()>,
    module: AtomicPtr<u8>,
}

impl Slot {
    const fn new() -> Self {
        Self {
            object: AtomicPtr::new(ptr::null_mut()),
            destructor: AtomicPtr::new(ptr::null_mut()),
            module: AtomicPtr::new(ptr::null_mut()),
        }
    }

    fn store(&self, entry: &Entry) {
        self.object.store(entry.object, Ordering::Relaxed);
        self.module.store(entry.module, Ordering::Relaxed);
        self.destructor.store(entry.destructor as *mut (), Ordering::Release);
    }

    fn load(&self) -> Option<Entry> {
        let destructor = self.destructor.load(Ordering::Acquire);
        if destructor.is_null() {
            return None;
        }
        // SAFETY: Only `store` writes anything but null, and it writes a `Destructor`.
        let destructor = unsafe { mem::transmute::<*mut (), Destructor>(destructor) };
        let object = self.object.load(Ordering::Relaxed);
        Some(Entry { object, destructor, module: self.module.load(Ordering::Relaxed) })
    }
}

/// One task's pending destructors. Only the task itself registers and runs. Dropping the list
/// forgets them.
#[derive(Debug)]
pub(crate) struct DestructorList {
    /// Entries on the list.
    len: AtomicUsize,
    /// Entries ever registered; tells a reader that the list changed under it.
    registered: AtomicUsize,
    /// The entry popped last. It stays here until the next one is popped or the list has come to
    /// its end: its destructor may be running.
    running: Slot,
    first: [Slot; UNALLOCATED_DESTRUCTORS],
    /// All segments but the first.
    more: [AtomicPtr<Slot>; SEGMENTS - 1],
}

/// Which segment an entry is in, and where in it.
fn place(index: usize) -> (usize, usize) {
    let number = index + UNALLOCATED_DESTRUCTORS;
    let bits = number.ilog2();
    ((bits - FIRST_BITS) as usize, number - (1 << bits))
}

/// The memory of a segment.
fn segment_layout(segment: usize) -> Option<Layout> {
    Layout::array::<Slot>(UNALLOCATED_DESTRUCTORS << segment).ok()
}

impl DestructorList {
    /// Nothing to destroy.
    pub(crate) const fn new() -> Self {
        Self {
            len: AtomicUsize::new(0),
            registered: AtomicUsize::new(0),
            running: Slot::new(),
            first: [const { Slot::new() }; UNALLOCATED_DESTRUCTORS],
            more: [const { AtomicPtr::new(ptr::null_mut()) }; SEGMENTS - 1],
        }
    }

    /// The place of an entry, if its segment is there.
    fn slot(&self, index: usize) -> Option<&Slot> {
        let (segment, place) = place(index);
        let Some(more) = segment.checked_sub(1) else { return Some(&self.first[place]) };
        let start = NonNull::new(self.more.get(more)?.load(Ordering::Acquire))?;
        // SAFETY: A segment has room for this many entries, stays until the list is dropped or
        // cleared, and its slots are initialised.
        Some(unsafe { start.add(place).as_ref() })
    }

    /// Makes the segment of an entry.
    #[cold]
    fn grow(&self, index: usize) -> Result<(), OutOfMemory> {
        let (segment, _) = place(index);
        let more = segment.checked_sub(1).and_then(|more| self.more.get(more));
        let more = more.ok_or(OutOfMemory)?;
        let layout = segment_layout(segment).ok_or(OutOfMemory)?;
        // SAFETY: Not of size zero.
        let start = unsafe { alloc::alloc::alloc_zeroed(layout) };
        if start.is_null() {
            return Err(OutOfMemory);
        }
        // An allocator with thread-local values registers, too, and may have made the segment.
        if more.load(Ordering::Relaxed).is_null() {
            // Zeroes are empty slots.
            more.store(start.cast(), Ordering::Release);
        } else {
            // SAFETY: From just above, with this layout, and used by nobody.
            unsafe { alloc::alloc::dealloc(start, layout) };
        }
        Ok(())
    }

    /// Puts an entry on top. To be called by the list's task.
    pub(crate) fn register(&self, entry: &Entry) -> Result<(), OutOfMemory> {
        let (len, slot) = loop {
            let len = self.len.load(Ordering::Relaxed);
            match self.slot(len) {
                Some(slot) => break (len, slot),
                // The list may be longer afterwards.
                None => self.grow(len)?,
            }
        };
        slot.store(entry);
        self.len.store(len + 1, Ordering::Release);
        let registered = self.registered.load(Ordering::Relaxed);
        self.registered.store(registered.wrapping_add(1), Ordering::Release);
        Ok(())
    }

    /// Takes the top entry off and notes that it runs. To be called by the list's task.
    fn pop(&self) -> Option<Entry> {
        let top = self.len.load(Ordering::Relaxed).checked_sub(1)?;
        let entry = self.slot(top)?.load()?;
        self.running.store(&entry);
        self.len.store(top, Ordering::Release);
        Some(entry)
    }

    /// Runs and removes entries from the top until none is left.
    ///
    /// # Safety
    /// The caller is the list's task, no destructor of the list is running, and every entry may be
    /// called now, once.
    pub(crate) unsafe fn run(&self) {
        while let Some(entry) = self.pop() {
            // SAFETY: The entry is off the list, so this is its one call (contract).
            unsafe { (entry.destructor)(entry.object) };
        }
        self.running.destructor.store(ptr::null_mut(), Ordering::Release);
    }

    /// How many entries are `wanted`, the one whose destructor runs or ran last included. May be
    /// called while the task uses the list.
    ///
    /// An entry that is on the list from before the call until after it is counted, and so is
    /// every chain of such entries, each registered by the one before. If the list keeps changing,
    /// it counts as one wanted entry.
    pub(crate) fn count(&self, wanted: impl Fn(&Entry) -> bool) -> usize {
        for _ in 0..ATTEMPTS {
            let before = self.registered.load(Ordering::Acquire);
            let len = self.len.load(Ordering::Acquire);
            let listed = (0..len).filter_map(|index| self.slot(index)?.load());
            let listed = listed.filter(|entry| wanted(entry)).count();
            // After the list, because an entry goes from there to here. What was registered before
            // this one began to run shows in the number below.
            let running = self.running.load().filter(|entry| wanted(entry)).is_some();
            if self.registered.load(Ordering::Relaxed) == before {
                return listed + usize::from(running);
            }
        }
        1
    }

    /// Forgets all entries and gives the memory back. No task has the list.
    pub(crate) fn clear(&self) {
        self.len.store(0, Ordering::Relaxed);
        self.running.destructor.store(ptr::null_mut(), Ordering::Relaxed);
        for (more, segment) in self.more.iter().zip(1..) {
            let start = more.load(Ordering::Relaxed);
            let (false, Some(layout)) = (start.is_null(), segment_layout(segment)) else { return };
            more.store(ptr::null_mut(), Ordering::Relaxed);
            // SAFETY: From `grow`, with this layout; nobody uses a slot in it any more.
            unsafe { alloc::alloc::dealloc(start.cast(), layout) };
        }
    }
}

impl Drop for DestructorList {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests;
