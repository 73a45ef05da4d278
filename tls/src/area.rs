//! The memory of one task's area: the TCB at TP, the blocks below it.
//!
//! ```text
//!  allocation            TP − distance        TP
//!  ▼                     ▼                    ▼
//!  │ … surplus …         │ a block            │ Tcb │
//!                                     self ──►┘ 0x00
//! ```
//!
//! Every pointer into an area is derived from its allocation; no reference to a TCB is ever made,
//! because the task it belongs to uses it while the registry does.

use core::alloc::Layout;
use core::mem::offset_of;
use core::ptr::{self, NonNull};

use static_assertions::const_assert_eq;

use crate::arch;
use crate::destructors::DestructorList;
use crate::error::AreaError;
use crate::layout::{AreaLayout, Block, TpOffset};

/// The thread control block, at TP.
///
/// The first word and the canary are the ABI's (ELF TLS §3.4.6; `-fstack-protector` reads
/// `fs:0x28`), the word at 8 is where the ABI's dynamic model keeps its vector, the rest is ours.
#[repr(C)]
#[derive(Debug)]
pub struct Tcb {
    /// TP itself.
    this: *mut Tcb,
    /// The dynamic thread vector: null, as all modules have static space.
    dtv: *mut u8,
    /// The neighbours in the list of live areas; the registry's lock guards both.
    pub(crate) next: Option<NonNull<Tcb>>,
    pub(crate) previous: Option<NonNull<Tcb>>,
    /// Unused; keeps the canary where compilers expect it.
    reserved: usize,
    /// What `-fstack-protector` code compares.
    canary: u64,
    /// Only the task itself touches its list, until the area is dropped.
    pub(crate) destructors: DestructorList,
}

const_assert_eq!(offset_of!(Tcb, this), 0x00);
const_assert_eq!(offset_of!(Tcb, dtv), 0x08);
const_assert_eq!(offset_of!(Tcb, next), 0x10);
const_assert_eq!(offset_of!(Tcb, previous), 0x18);
const_assert_eq!(offset_of!(Tcb, reserved), 0x20);
const_assert_eq!(offset_of!(Tcb, canary), 0x28);
const_assert_eq!(offset_of!(Tcb, destructors), 0x30);
const_assert_eq!(size_of::<Tcb>(), 0x48);

/// The value that makes an area a task's own: the address of its TCB.
///
/// Whoever loads it into the FS base promises two things:
///
/// 1. The [`Area`](crate::Area) stays alive for as long as the value is there.
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

    /// The TCB.
    pub(crate) fn tcb(self) -> NonNull<Tcb> {
        self.0
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

/// Owns the memory of one area.
#[derive(Debug)]
pub(crate) struct AreaMemory {
    tcb: NonNull<Tcb>,
    tp: usize,
    memory: Layout,
}

impl AreaMemory {
    /// Memory with a TCB, and no block initialised.
    pub(crate) fn allocate(layout: &AreaLayout, canary: u64) -> Result<Self, AreaError> {
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
            dtv: ptr::null_mut(),
            next: None,
            previous: None,
            reserved: 0,
            canary,
            destructors: DestructorList::new(),
        };
        // SAFETY:
        // 1. `AreaLayout` leaves room for a TCB above TP and aligns TP for it.
        // 2. The memory is fresh, so nobody else looks at it.
        unsafe { tcb.write(initial) };
        Ok(Self { tcb, tp: layout.tp(), memory })
    }

    /// The value for the FS base.
    pub(crate) fn thread_pointer(&self) -> ThreadPointer {
        ThreadPointer(self.tcb)
    }
}

impl Drop for AreaMemory {
    fn drop(&mut self) {
        // SAFETY:
        // 1. The TCB was written by `allocate` and is dropped once, here.
        // 2. Whoever loaded TP into an FS base keeps the area alive while it is there (contract
        //    of `ThreadPointer`), so no task uses the list any more.
        unsafe { (&raw mut (*self.tcb.as_ptr()).destructors).drop_in_place() };
        // SAFETY: `allocate` placed the TCB this far into the allocation.
        let start = unsafe { self.tcb.cast::<u8>().sub(self.tp) };
        // SAFETY: `allocate` got `start` from the same allocator with the same layout.
        unsafe { alloc::alloc::dealloc(start.as_ptr(), self.memory) };
    }
}

/// Gives `block` of the area of `tcb` its initial contents: `tdata`, then zeroes.
///
/// # Safety
/// 1. `block` lies in the area, and `tdata` is no longer than it.
/// 2. Nobody else uses the bytes of the block meanwhile.
pub(crate) unsafe fn fill(tcb: NonNull<Tcb>, block: Block, tdata: &[u8]) {
    debug_assert!(tdata.len() <= block.size);
    // SAFETY: The block lies in the allocation that `tcb` is derived from (1 of the contract).
    let start = unsafe { tcb.cast::<u8>().sub(block.distance) };
    // SAFETY: Valid for the block's bytes (1) and unused by others (2); a block of an area cannot
    // overlap a slice.
    unsafe { start.copy_from_nonoverlapping(NonNull::from(tdata).cast(), tdata.len()) };
    // SAFETY: `tdata` is no longer than the block (1).
    let rest = unsafe { start.add(tdata.len()) };
    // SAFETY: What is left of the block (1), unused by others (2).
    unsafe { rest.write_bytes(0, block.size - tdata.len()) };
}
