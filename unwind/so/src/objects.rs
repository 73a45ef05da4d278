//! Finds the loaded object around an address, as the dynamic linker knows it.
//!
//! ```text
//!   _dl_find_object (glibc 2.35, no lock) ─┬─► identity: what is remembered counts for it
//!                                          ├─► .eh_frame_hdr ─► .eh_frame ─► Module
//!   else dl_iterate_phdr (a lock) ─────────┴─► loads + unloads so far: the same for all objects
//! ```
//!
//! A walk asks whenever it comes into another object, and for the count once: an object with a frame
//! on the stack is not unloaded meanwhile. Where there is `_dl_find_object`, neither a walk nor a raise
//! takes a lock, so both may be in a callback of `dl_iterate_phdr`, or in a handler of a signal that
//! interrupted the dynamic linker. Nothing allocates.

use core::ffi::{c_char, c_int, c_void};
use core::mem::offset_of;
use core::ops::Range;
use core::ptr::{from_mut, null_mut, with_exposed_provenance};
use core::slice;

use gimli::{DwEhPe, EndianSlice, LittleEndian, Reader};
use static_assertions::const_assert_eq;
use unspool_unwind::encoding::{Bases, Pointer, pointer};
use unspool_unwind::{FdeIndex, Module, Section, Whose};

use crate::arch::{FindObject, dl_find_object};
use crate::identity::{PAGE, identity};
use crate::runtime::personality;

/// `struct dl_find_object` (glibc, <dlfcn.h>).
#[repr(C)]
pub(crate) struct FoundObject {
    flags: u64,
    map_start: *mut c_void,
    map_end: *mut c_void,
    link_map: *mut c_void,
    eh_frame_hdr: *mut c_void,
    reserved: [u64; 7],
}

/// `struct dl_phdr_info` (<link.h>).
#[repr(C)]
struct Object {
    address: u64,
    name: *const c_char,
    headers: *const ProgramHeader,
    header_count: u16,
    loads: u64,
    unloads: u64,
}

const_assert_eq!(offset_of!(Object, loads), 32);

/// `Elf64_Phdr`.
#[repr(C)]
struct ProgramHeader {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    physical: u64,
    file_size: u64,
    memory_size: u64,
    align: u64,
}

const_assert_eq!(size_of::<ProgramHeader>(), 56);

const PT_LOAD: u32 = 1;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;

type Visit = unsafe extern "C" fn(*const Object, usize, *mut c_void) -> c_int;

unsafe extern "C" {
    /// Calls `visit` for every loaded object until it returns something else than 0.
    fn dl_iterate_phdr(visit: Visit, data: *mut c_void) -> c_int;

    /// What the kernel told the process when it started.
    fn getauxval(kind: u64) -> u64;
}

const AT_ENTRY: u64 = 9;

/// The program itself, which is never unloaded, and the object of C++'s runtime, which stays as long as
/// this library; all there is, where their places cannot be found without a lock.
pub(crate) fn always() -> [Range<u64>; 2] {
    let Some(find) = dl_find_object() else {
        return [0..u64::MAX, 0..0];
    };
    // SAFETY: any key may be asked for.
    let entry = unsafe { getauxval(AT_ENTRY) };
    [entry, personality()].map(|address| match address {
        0 => 0..0,
        address => ask(find, address).map_or(0..0, |found| found.start..found.end),
    })
}

/// What object is around `address` now.
pub(crate) fn whose(address: u64) -> Whose {
    let Some(found) = dl_find_object().and_then(|find| ask(find, address)) else {
        return Whose::Nobodys;
    };
    let Found { start, end, header, .. } = found;
    if end - start < PAGE as u64 {
        return Whose::Unknown;
    }
    // SAFETY: the first page of what the linker has mapped.
    let page = unsafe { &*with_exposed_provenance::<[u8; PAGE]>(start as usize) };
    match identity(page, start, header) {
        Some(identity) => Whose::Known(start..end, identity),
        None => Whose::Unknown,
    }
}

/// Whether [`whose`] tells one object from another.
pub(crate) fn have_identities() -> bool {
    dl_find_object().is_some()
}

/// How many objects were loaded and unloaded so far.
pub(crate) fn generation() -> u64 {
    unsafe extern "C" fn first(object: *const Object, _size: usize, count: *mut c_void) -> c_int {
        // SAFETY: the linker gives an object that is valid during the call, with these fields
        // since glibc 2.4.
        let Object { loads, unloads, .. } = unsafe { &*object };
        // SAFETY: `generation` gives its number.
        unsafe { count.cast::<u64>().write(loads + unloads) };
        1
    }
    let mut count = 0u64;
    // SAFETY: `first` gets the number it expects.
    unsafe { dl_iterate_phdr(first, from_mut(&mut count).cast()) };
    count
}

/// The object whose memory contains `address`.
pub(crate) fn find(address: u64) -> Option<Module<'static>> {
    let found = match dl_find_object() {
        Some(find) => ask(find, address),
        None => iterate(address),
    };
    let Found { start, end, header, .. } = found?;
    if header == 0 {
        return None;
    }
    // SAFETY: the linker has mapped the object from `start` to `end`; its tables are not written.
    let header = unsafe { section(header, end) };
    let eh_frame = eh_frame(&header)?;
    if !(start..end).contains(&eh_frame) {
        return None;
    }
    // SAFETY: as above.
    let (eh_frame, all) = unsafe { (section(eh_frame, end), section(start, end)) };
    let module = Module::new(start..end, eh_frame);
    Some(module.with_index(FdeIndex::Header(header)).with_lsda(all))
}

/// An object: its extent, and where its `.eh_frame_hdr` and its `struct link_map` are, or 0.
struct Found {
    start: u64,
    end: u64,
    header: u64,
    link: u64,
}

/// Asks glibc.
fn ask(find: FindObject, address: u64) -> Option<Found> {
    let mut found = FoundObject {
        flags: 0,
        map_start: null_mut(),
        map_end: null_mut(),
        link_map: null_mut(),
        eh_frame_hdr: null_mut(),
        reserved: [0; 7],
    };
    let pc = with_exposed_provenance::<c_void>(address as usize).cast_mut();
    // SAFETY: any address may be asked for; the result is a `struct dl_find_object`.
    if unsafe { find(pc, &mut found) } != 0 {
        return None;
    }
    let at = |pointer: *mut c_void| pointer.expose_provenance() as u64;
    Some(Found {
        start: at(found.map_start),
        end: at(found.map_end),
        header: at(found.eh_frame_hdr),
        link: at(found.link_map),
    })
}

/// An object as the dynamic linker has it.
pub(crate) struct Linked {
    /// All of it.
    pub(crate) memory: Section<'static>,
    /// What its addresses are relative to.
    pub(crate) base: u64,
    /// Where its dynamic section is.
    pub(crate) dynamic: u64,
}

/// `struct link_map` (<link.h>), as far as it is public and needed.
#[repr(C)]
struct LinkMap {
    base: u64,
    name: *const c_char,
    dynamic: u64,
}

/// The object around `address`, if the dynamic linker tells without a lock.
pub(crate) fn linked(address: u64) -> Option<Linked> {
    let Found { start, end, link, .. } = ask(dl_find_object()?, address)?;
    let link = with_exposed_provenance::<LinkMap>(link as usize);
    // SAFETY: the linker keeps one for each object that is loaded, and writes these fields no more.
    let LinkMap { base, dynamic, .. } = unsafe { link.read() };
    // SAFETY: it has mapped the object from `start` to `end`.
    Some(Linked { memory: unsafe { section(start, end) }, base, dynamic })
}

/// Where the `.eh_frame` is that a header belongs to (LSB core §10.6.2).
fn eh_frame(header: &Section<'_>) -> Option<u64> {
    let mut reader = EndianSlice::new(header.data, LittleEndian);
    if reader.read_u8().ok()? != 1 {
        return None;
    }
    let encoding = DwEhPe(reader.read_u8().ok()?);
    let _count_and_table = reader.read_u16().ok()?;
    let bases = Bases { section: header.address, data: header.address, ..Bases::default() };
    let position = header.data.len() - reader.len();
    match pointer(&mut reader, position, encoding, &bases) {
        Ok(Some(Pointer::Direct(address))) => Some(address),
        _ => None,
    }
}

/// # Safety
///
/// `start..end` is memory of a loaded object.
unsafe fn section(start: u64, end: u64) -> Section<'static> {
    let first = with_exposed_provenance(start as usize);
    // SAFETY: the caller's promise.
    Section::in_memory(unsafe { slice::from_raw_parts(first, (end - start) as usize) })
}

/// What is looked for, and what is found.
struct Search {
    address: u64,
    found: Option<Found>,
}

/// As `_dl_find_object`, where there is none.
fn iterate(address: u64) -> Option<Found> {
    unsafe extern "C" fn look(object: *const Object, _size: usize, search: *mut c_void) -> c_int {
        // SAFETY: the linker gives an object that is valid during the call; `iterate` its search.
        let (object, search) = unsafe { (&*object, &mut *search.cast::<Search>()) };
        let count = usize::from(object.header_count);
        // SAFETY: the object has that many program headers.
        let headers = unsafe { slice::from_raw_parts(object.headers, count) };
        let (mut low, mut high, mut inside, mut header) = (u64::MAX, 0, false, 0);
        for each in headers {
            let start = object.address.wrapping_add(each.address);
            let end = start.wrapping_add(each.memory_size);
            if each.kind == PT_LOAD {
                (low, high) = (low.min(start), high.max(end));
                inside |= (start..end).contains(&search.address);
            } else if each.kind == PT_GNU_EH_FRAME {
                header = start;
            }
        }
        if inside {
            search.found = Some(Found { start: low, end: high, header, link: 0 });
        }
        c_int::from(inside)
    }
    let mut search = Search { address, found: None };
    // SAFETY: `look` gets the search it expects.
    unsafe { dl_iterate_phdr(look, from_mut(&mut search).cast()) };
    search.found
}
