//! Unwind tables of compiled code, registered for as long as a value exists.
//!
//! ```text
//!   Module (a share of it) ─► .eh_frame ─► sorted ─► unwind::register ─┐ dropped in this order:
//!                          └► .symtab ─► NAMES                         ▼ tables, names, index, module
//! ```
//!
//! Promise: the module stays until its tables are no longer found.

use core::fmt;
use core::mem::ManuallyDrop;
use core::ptr::NonNull;

use alloc::vec::Vec;

use unspool::unwind::{FdeEntry, FdeIndex, Module, RegisterError, Registration, Section, register};

use crate::error::FramesError;
use crate::image;
use crate::names::Named;

/// While this exists, traces and raises walk through the frames of a module and know their names.
#[must_use = "dropping it takes the tables away"]
pub struct JitFrames {
    // Dropped in this order: first what is found, then what it refers to.
    _registration: Registration<'static>,
    _names: Named,
    _index: Index,
    _module: wasmtime::Module,
}

/// A sorted table of FDEs. Not a `Vec`, whose moves would claim that nobody else reads it.
struct Index {
    entries: NonNull<FdeEntry>,
    len: usize,
    capacity: usize,
}

// SAFETY: the entries are numbers that nobody changes.
unsafe impl Send for Index {}
// SAFETY: as above.
unsafe impl Sync for Index {}

impl Index {
    fn new(entries: Vec<FdeEntry>) -> Self {
        let mut entries = ManuallyDrop::new(entries);
        let (len, capacity) = (entries.len(), entries.capacity());
        Self { entries: NonNull::from(entries.as_mut_slice()).cast(), len, capacity }
    }

    /// # Safety
    ///
    /// The slice is not used after this value is dropped.
    unsafe fn entries(&self) -> &'static [FdeEntry] {
        // SAFETY: taken apart by `new`, put together by `drop`, and never written to.
        unsafe { NonNull::slice_from_raw_parts(self.entries, self.len).as_ref() }
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        // SAFETY: `new` took it apart, and it is put together once.
        drop(unsafe { Vec::from_raw_parts(self.entries.as_ptr(), self.len, self.capacity) });
    }
}

impl JitFrames {
    /// Registers the tables and names of `module`.
    ///
    /// # Errors
    ///
    /// The image has none, or they cannot be read; or there is no room.
    ///
    /// # Safety
    ///
    /// When the result is dropped, no frame of the module is on any stack, and nobody is asking for
    /// names of its addresses.
    pub unsafe fn register(module: &wasmtime::Module) -> Result<Self, FramesError> {
        let module = module.clone();
        let image = module.image_range();
        let size = image.end.addr() - image.start.addr();
        // SAFETY: the image is there, and as it is, as long as the module of which this value keeps a
        // share; what refers to it is dropped before that.
        let image = unsafe { core::slice::from_raw_parts(image.start, size) };
        let text = module.text().as_ptr_range();
        let text = text.start.expose_provenance() as u64..text.end.expose_provenance() as u64;
        let (tables, functions) = image::read(image, text.start)?;
        let tables = Module::new(text.clone(), Section::in_memory(tables));
        let mut entries = Vec::new();
        tables
            .for_each_entry(|entry| entries.push(entry))
            .map_err(|error| FramesError::Register(RegisterError::BadFrames(error)))?;
        entries.sort_unstable_by_key(|entry| entry.start);
        let index = Index::new(entries);
        // SAFETY: the registration is dropped before the index, by the order of the fields.
        let tables = tables.with_index(FdeIndex::Sorted(unsafe { index.entries() }));
        let names = Named::new(&text, functions)?;
        // SAFETY: Cranelift made the tables for this code, which stays as long as the value.
        let registration = unsafe { register(tables) }.map_err(FramesError::Register)?;
        Ok(Self { _registration: registration, _names: names, _index: index, _module: module })
    }
}

impl fmt::Debug for JitFrames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JitFrames").finish_non_exhaustive()
    }
}
