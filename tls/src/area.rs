//! The memory of one task's area: the TCB at TP, the blocks below it.
//!
//! ```text
//!  allocation            TP − distance        TP
//!  ▼                     ▼                    ▼
//!  │ … surplus …         │ a block            │ Tcb │
//!                                     self ──►┘ 0x00
//! ```
//!
//! Every pointer into an area is derived from its allocation. What a task and the registry both
//! use in a TCB is atomic, so that neither waits for the other.

use core::marker::PhantomData;
use core::mem::offset_of;
use core::ops::Deref;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use static_assertions::const_assert_eq;

use crate::arch;
use crate::blocks::{Blocks, FirstBlocks};
use crate::destructors::DestructorList;
use crate::dtv::{self, Vectors};
use crate::error::AreaError;
use crate::layout::{AreaLayout, Block, TpOffset};
use crate::ready::Readiness;
use crate::registry::Registry;

/// The thread control block, at TP.
///
/// The first word and the canary are the ABI's (ELF TLS §3.4.6; `-fstack-protector` reads
/// `fs:0x28`), the word at 8 is where the ABI's dynamic model keeps its vector, the rest is ours.
#[repr(C)]
#[derive(Debug)]
pub struct Tcb {
    /// TP itself.
    this: *mut Tcb,
    /// The dynamic thread vector; see `dtv`. Never null.
    dtv: AtomicPtr<AtomicPtr<u8>>,
    /// The registry of the area, while a task has it.
    registry: AtomicPtr<Registry>,
    /// The neighbours in the list of areas; the registry's lock guards both.
    pub(crate) next: AtomicPtr<Tcb>,
    pub(crate) previous: AtomicPtr<Tcb>,
    /// What `-fstack-protector` code compares.
    canary: AtomicU64,
    /// Who fills the area.
    pub(crate) readiness: Readiness,
    /// Vectors of this task's own.
    pub(crate) vectors: Vectors,
    /// The memory of its blocks of dynamic modules.
    pub(crate) blocks: Blocks,
    /// What the task has to destroy before it ends.
    pub(crate) destructors: DestructorList,
    /// The first of its blocks of dynamic modules.
    pub(crate) first_blocks: FirstBlocks,
}

const_assert_eq!(offset_of!(Tcb, this), 0x00);
const_assert_eq!(offset_of!(Tcb, dtv), arch::DTV);
const_assert_eq!(offset_of!(Tcb, registry), 0x10);
const_assert_eq!(offset_of!(Tcb, next), 0x18);
const_assert_eq!(offset_of!(Tcb, previous), 0x20);
const_assert_eq!(offset_of!(Tcb, canary), 0x28);
const_assert_eq!(offset_of!(Tcb, readiness), 0x30);
const_assert_eq!(offset_of!(Tcb, vectors), 0x38);

/// The value that makes an area a task's own: the address of its TCB.
///
/// Whoever loads it into the FS base promises two things:
///
/// 1. The [`Area`](crate::Area) stays alive for as long as the value is there, and its registry
///    stays where it is.
/// 2. The function that loads it uses no thread-local variable before or after, and is not inlined
///    into one that does. Compilers take the thread pointer for constant within a function and
///    keep addresses derived from it. A switch of stacks keeps the promise by itself: each task
///    comes back with the thread pointer it left with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadPointer(NonNull<Tcb>);

// SAFETY: It is an address; nothing safe is done through it but arithmetic.
unsafe impl Send for ThreadPointer {}
// SAFETY: As above.
unsafe impl Sync for ThreadPointer {}

impl ThreadPointer {
    /// The thread pointer of the area with this TCB.
    pub(crate) fn new(tcb: NonNull<Tcb>) -> Self {
        Self(tcb)
    }

    /// The value for the FS base.
    pub fn address(self) -> u64 {
        self.0.addr().get() as u64
    }

    /// Where the block at `offset` starts in this task's area.
    ///
    /// Points into the area if `offset` comes from the registry the area belongs to.
    pub fn block(self, offset: TpOffset) -> *mut u8 {
        self.0.as_ptr().cast::<u8>().wrapping_offset(offset.get() as isize)
    }
}

/// The running task's thread pointer, from `fs:0`.
///
/// The ABI of the target promises that the FS base points to its own address, as it does to
/// everything that uses a thread-local variable; a kernel keeps the promise from the moment it
/// loads the FS base with the thread pointer of its first area.
///
/// # Panics
/// `fs:0` holds zero.
#[inline]
pub fn current() -> ThreadPointer {
    match NonNull::new(arch::thread_pointer().cast()) {
        Some(tcb) => ThreadPointer(tcb),
        None => no_thread_pointer(),
    }
}

#[cold]
#[inline(never)]
fn no_thread_pointer() -> ! {
    panic!("no thread pointer: the FS base does not point to a TLS area")
}

/// An area that is in place for `'a`: its TCB, and the way to its blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AreaRef<'a> {
    tcb: NonNull<Tcb>,
    in_place: PhantomData<&'a Tcb>,
}

impl<'a> AreaRef<'a> {
    /// # Safety
    /// `tcb` is the TCB of an area that [`allocate`] made and nobody frees during `'a`; the pointer
    /// is derived from the whole allocation.
    pub(crate) unsafe fn new(tcb: NonNull<Tcb>) -> Self {
        Self { tcb, in_place: PhantomData }
    }

    /// The running task's area.
    ///
    /// # Safety
    /// The FS base holds the thread pointer of an [`Area`](crate::Area) during `'a`.
    #[inline]
    pub(crate) unsafe fn current() -> Self {
        // SAFETY: A thread pointer in the FS base is that of an area in place (contract).
        unsafe { Self::new(current().0) }
    }

    /// The registry of the area.
    ///
    /// # Safety
    /// A task has the area during `'a`, and does not outlive the registry (contract of
    /// [`ThreadPointer`]).
    pub(crate) unsafe fn registry(self) -> &'a Registry {
        // SAFETY: `begin` stored the reference that the area's owner still holds (contract).
        unsafe { &*self.registry.load(Ordering::Relaxed) }
    }

    /// Gives the area to a task of `registry`.
    pub(crate) fn begin(self, registry: &Registry, canary: u64) {
        self.registry.store(ptr::from_ref(registry).cast_mut(), Ordering::Relaxed);
        self.canary.store(canary, Ordering::Relaxed);
    }

    /// The area's dynamic thread vector, as long as its capacity.
    pub(crate) fn dtv(self) -> &'a [AtomicPtr<u8>] {
        // SAFETY: The word always holds a vector that stays in place for as long as the area is
        // used (contract of `set_dtv`).
        unsafe { dtv::entries(NonNull::new_unchecked(self.dtv.load(Ordering::Acquire))) }
    }

    /// Makes `vector` the area's.
    ///
    /// # Safety
    /// It is a vector (its first word is its capacity) that stays in place until the area is
    /// freed or given to another task.
    pub(crate) unsafe fn set_dtv(self, vector: *mut AtomicPtr<u8>) {
        self.dtv.store(vector, Ordering::Release);
    }

    /// Where what is `distance` bytes below TP lies.
    pub(crate) fn below(self, distance: usize) -> *mut u8 {
        self.tcb.as_ptr().cast::<u8>().wrapping_sub(distance)
    }

    /// Gives `block` its initial contents: `tdata`, then zeroes.
    ///
    /// # Safety
    /// 1. `block` lies in the area, and `tdata` is no longer than it.
    /// 2. Nobody else uses the bytes of the block meanwhile.
    pub(crate) unsafe fn fill(self, block: Block, tdata: &[u8]) {
        debug_assert!(tdata.len() <= block.size);
        // SAFETY: The bytes of the block are valid (1), and unused by others (2).
        unsafe { initialise(self.below(block.distance), tdata, block.size) };
    }
}

impl Deref for AreaRef<'_> {
    type Target = Tcb;

    fn deref(&self) -> &Tcb {
        // SAFETY: In place and initialised (contract of `new`). Whatever changes in it is atomic.
        unsafe { self.tcb.as_ref() }
    }
}

/// Writes `tdata` and then zeroes, `size` bytes in all.
///
/// # Safety
/// `start` is valid for writes of `size` bytes, at least as many as `tdata` has, that nobody else
/// uses.
pub(crate) unsafe fn initialise(start: *mut u8, tdata: &[u8], size: usize) {
    // SAFETY: Valid and unused (contract), so not part of a slice.
    unsafe { start.copy_from_nonoverlapping(tdata.as_ptr(), tdata.len()) };
    // SAFETY: `tdata` is no longer than the block.
    let rest = unsafe { start.add(tdata.len()) };
    // SAFETY: What is left of the block.
    unsafe { rest.write_bytes(0, size - tdata.len()) };
}

/// Memory for an area, with a TCB, no block initialised, and no task.
pub(crate) fn allocate(layout: &AreaLayout) -> Result<NonNull<Tcb>, AreaError> {
    let memory = layout.memory();
    // SAFETY: The size is not zero, because a TCB is part of it.
    let start = unsafe { alloc::alloc::alloc(memory) };
    let Some(start) = NonNull::new(start) else {
        return Err(AreaError::OutOfMemory { size: memory.size(), align: memory.align() });
    };
    // SAFETY: TP lies inside the allocation (invariant of `AreaLayout`).
    let tcb = unsafe { start.add(layout.tp()) }.cast::<Tcb>();
    let initial = Tcb {
        this: tcb.as_ptr(),
        dtv: AtomicPtr::new(dtv::none()),
        registry: AtomicPtr::new(ptr::null_mut()),
        next: AtomicPtr::new(ptr::null_mut()),
        previous: AtomicPtr::new(ptr::null_mut()),
        canary: AtomicU64::new(0),
        readiness: Readiness(AtomicUsize::new(0)),
        vectors: Vectors::new(),
        blocks: Blocks::new(),
        first_blocks: FirstBlocks::new(),
        destructors: DestructorList::new(),
    };
    // SAFETY:
    // 1. `AreaLayout` leaves room for a TCB above TP and aligns TP for it.
    // 2. The memory is fresh, so nobody else looks at it.
    unsafe { tcb.write(initial) };
    Ok(tcb)
}

/// Gives the memory of an area back.
///
/// # Safety
/// `tcb` is from [`allocate`] with the same layout, and nobody uses any part of the area any more.
pub(crate) unsafe fn free(tcb: NonNull<Tcb>, layout: &AreaLayout) {
    // SAFETY: The TCB was written by `allocate` and is dropped once, here (contract).
    unsafe { tcb.drop_in_place() };
    // SAFETY: `allocate` placed the TCB this far into the allocation.
    let start = unsafe { tcb.cast::<u8>().sub(layout.tp()) };
    // SAFETY: `allocate` got `start` from the same allocator with the same layout.
    unsafe { alloc::alloc::dealloc(start.as_ptr(), layout.memory()) };
}
