//! An object's unwind tables, from sealed bytes to the unwinder's list of modules.
//!
//! ```text
//!   .eh_frame (sealed) ──► for_each_entry ──► Index, sorted ──► register ──► found by any raise
//!                                                                  │ drop
//!                                                                  └─────► not found any more
//! ```
//!
//! Promise: whatever the unwinder finds, stays until it is no longer found.

use alloc::vec::Vec;
use core::mem::ManuallyDrop;
use core::ops::Range;
use core::ptr::NonNull;

use unspool_unwind::{FdeEntry, FdeIndex, Module, Registration, Section as Bytes};

use crate::error::Cause;
use crate::memory::Sealed;
use crate::placement::Layout;
use crate::runs;

/// An object's unwind tables while they are registered.
pub(crate) struct Unwind {
    // Dropped before the index that it refers to.
    _registration: Registration<'static>,
    _index: Index,
}

/// A sorted table of an object's FDEs. Not a `Vec`, whose moves would claim that nobody else reads
/// what is in it.
struct Index {
    entries: NonNull<FdeEntry>,
    len: usize,
    capacity: usize,
}

// SAFETY: the entries are numbers that nobody changes.
unsafe impl Send for Index {}
// SAFETY: as above.
unsafe impl Sync for Index {}

impl Drop for Index {
    fn drop(&mut self) {
        let Self { entries, len, capacity } = *self;
        // SAFETY: `new` took it apart, and it is put together once.
        drop(unsafe { Vec::from_raw_parts(entries.as_ptr(), len, capacity) });
    }
}

impl Index {
    fn new(entries: Vec<FdeEntry>) -> Self {
        let mut entries = ManuallyDrop::new(entries);
        let (len, capacity) = (entries.len(), entries.capacity());
        Self { entries: NonNull::from(entries.as_mut_slice()).cast(), len, capacity }
    }

    /// # Safety
    ///
    /// The slice must not be used after this value is dropped.
    unsafe fn entries(&self) -> &'static [FdeEntry] {
        // SAFETY: leaked by `new` and freed by `drop`, before which the caller stops using it;
        // never written to.
        unsafe { NonNull::slice_from_raw_parts(self.entries, self.len).as_ref() }
    }
}

impl Unwind {
    /// Indexes and registers the unwind tables of a sealed object, if it has code and tables.
    ///
    /// `entries`: how many these have, about.
    ///
    /// # Safety
    ///
    /// The result must be dropped before `memory`.
    pub unsafe fn register(
        layout: &Layout,
        entries: usize,
        memory: &Sealed<'_>,
    ) -> Result<Option<Self>, Cause> {
        if layout.text.is_empty() || layout.eh_frame.is_empty() {
            return Ok(None);
        }
        // SAFETY:
        // 1. Layouts put these ranges into their read-only part.
        // 2. The caller drops the registration, the only holder of the slices, before `memory`.
        let bytes =
            |range: &Range<usize>| Bytes::in_memory(unsafe { memory.read_only(range.clone()) });
        let base = memory.address();
        let text = base + layout.text.start as u64..base + layout.text.end as u64;
        let module =
            Module::new(text, bytes(&layout.eh_frame)).with_lsda(bytes(&layout.except_table));
        let index = Index::new(sorted_entries(&module, entries)?);
        // SAFETY: the registration, the only holder of the slice, is dropped before the index
        // (order of the fields; if there is none, it is never used).
        let entries = unsafe { index.entries() };
        let module = module.with_index(FdeIndex::Sorted(entries));
        // SAFETY:
        // 1. The tables are sealed; they and the index outlive the registration (above).
        // 2. Whether they describe the code matters once the code runs: whoever calls into an
        //    object (which takes `unsafe`) vouches for what was loaded.
        let registration = unsafe { unspool_unwind::register(module) }?;
        Ok(Some(Self { _registration: registration, _index: index }))
    }
}

/// The FDEs of a module, which are about `count`.
fn sorted_entries(module: &Module<'_>, count: usize) -> Result<Vec<FdeEntry>, Cause> {
    let mut entries = Vec::new();
    entries.try_reserve_exact(count)?;
    let mut memory = Ok(());
    let read = module.for_each_entry(|entry| {
        if memory.is_ok() {
            memory = entries.try_reserve(1).map(|()| entries.push(entry));
        }
    });
    memory?;
    if read.is_err() {
        return Err(Cause::BadUnwindEntry { after: entries.len() });
    }
    runs::sort(&mut entries, |entry| *entry)?;
    Ok(entries)
}
