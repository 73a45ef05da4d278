//! The loaded objects of this process, as the dynamic linker lists them.

use std::ffi::{CStr, c_int, c_void};

use unspool_unwind::{FdeIndex, Module, Section};

use libc::{dl_iterate_phdr, dl_phdr_info, size_t};

/// One object's memory and unwind tables.
pub struct Object {
    /// As the linker has it; empty for the program itself.
    pub name: String,
    pub base: u64,
    pub range: (u64, u64),
    pub header: &'static [u8],
    pub eh_frame: &'static [u8],
    pub code: Vec<&'static [u8]>,
}

impl Object {
    /// As our unwinder has it.
    pub fn module(&self) -> Module<'static> {
        Module::new(self.range.0..self.range.1, Section::in_memory(self.eh_frame))
            .with_index(FdeIndex::Header(Section::in_memory(self.header)))
    }
}

/// All that have unwind tables. None of them is unloaded again.
pub fn all() -> Vec<Object> {
    extern "C" fn each(info: *mut dl_phdr_info, _size: size_t, all: *mut c_void) -> c_int {
        // SAFETY: the linker passes a valid entry, and `all` its vector.
        let (info, all) = unsafe { (&*info, &mut *all.cast::<Vec<Object>>()) };
        // SAFETY: the linker lists `dlpi_phnum` program headers.
        let headers =
            unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        // SAFETY: the linker's names end with a zero.
        let name = unsafe { CStr::from_ptr(info.dlpi_name) }.to_string_lossy().into_owned();
        all.extend(object(name, info.dlpi_addr, headers));
        0
    }
    let mut all = Vec::new();
    // SAFETY: `each` gets the vector that it expects.
    unsafe { dl_iterate_phdr(Some(each), (&raw mut all).cast()) };
    all
}

fn object(name: String, base: u64, headers: &[libc::Elf64_Phdr]) -> Option<Object> {
    let range = |h: &libc::Elf64_Phdr| (base + h.p_vaddr, base + h.p_vaddr + h.p_memsz);
    let loads = || headers.iter().filter(|h| h.p_type == libc::PT_LOAD).map(range);
    let header = headers.iter().find(|h| h.p_type == libc::PT_GNU_EH_FRAME)?;
    let (start, end) = range(header);
    // SAFETY: the segment is mapped, and stays so.
    let header = unsafe { memory(start, end) };
    // The pointer to .eh_frame: pcrel|sdata4 at offset 4, as every linker writes it.
    let relative = i32::from_le_bytes(header.get(4..8)?.try_into().ok()?);
    let eh_frame = (start + 4).wrapping_add_signed(relative.into());
    let (_, end) = loads().find(|(low, high)| (*low..*high).contains(&eh_frame))?;
    // SAFETY: mapped up to the end of the segment that holds it.
    let eh_frame = unsafe { memory(eh_frame, end) };
    let low = loads().map(|(low, _)| low).min()?;
    let high = loads().map(|(_, high)| high).max()?;
    let is_code = |h: &&libc::Elf64_Phdr| h.p_type == libc::PT_LOAD && h.p_flags & libc::PF_X != 0;
    let code = headers.iter().filter(is_code).map(range);
    // SAFETY: the segment is mapped, and stays so.
    let code = code.map(|(start, end)| unsafe { memory(start, end) }).collect();
    Some(Object { name, base, range: (low, high), header, eh_frame, code })
}

/// # Safety
///
/// Mapped, and never unmapped.
unsafe fn memory(start: u64, end: u64) -> &'static [u8] {
    let first = std::ptr::with_exposed_provenance(start as usize);
    // SAFETY: this function's contract.
    unsafe { std::slice::from_raw_parts(first, (end - start) as usize) }
}

/// The calling thread's stack.
pub fn stack() -> (u64, u64) {
    // SAFETY: the attributes are filled before they are read.
    unsafe {
        let mut attributes = std::mem::zeroed();
        assert_eq!(libc::pthread_getattr_np(libc::pthread_self(), &raw mut attributes), 0);
        let (mut low, mut size) = (std::ptr::null_mut(), 0);
        libc::pthread_attr_getstack(&raw const attributes, &raw mut low, &raw mut size);
        libc::pthread_attr_destroy(&raw mut attributes);
        (low as u64, low as u64 + size as u64)
    }
}
