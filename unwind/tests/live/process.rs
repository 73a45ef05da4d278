//! This process as an environment: its modules, the stack of the running thread.

use std::ffi::{c_int, c_void};

use libc::{dl_iterate_phdr, dl_phdr_info, size_t};
use unspool_unwind::{Environment, FdeIndex, Module, Section, StackBounds, register};

/// Without anything that an environment need not have.
pub static PLAIN: Environment = Environment::new(stack, |error| panic!("{error}"));

/// Registers the modules of this process that have a search table.
pub fn modules() {
    extern "C" fn each(info: *mut dl_phdr_info, _size: size_t, _: *mut c_void) -> c_int {
        // SAFETY: the linker passes a valid entry.
        let info = unsafe { &*info };
        // SAFETY: the linker lists `dlpi_phnum` program headers.
        let headers =
            unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
        let range = |header: &libc::Elf64_Phdr| {
            let start = info.dlpi_addr + header.p_vaddr;
            start..start + header.p_memsz
        };
        let loads = || headers.iter().filter(|h| h.p_type == libc::PT_LOAD).map(range);
        let Some(table) = headers.iter().find(|h| h.p_type == libc::PT_GNU_EH_FRAME) else {
            return 0;
        };
        let table = range(table);
        // SAFETY: the segment is mapped, and stays so: nothing is unloaded here.
        let header = unsafe { memory(table.start, table.end) };
        // The pointer to .eh_frame: pcrel|sdata4 at offset 4, as every linker writes it.
        let relative = i32::from_le_bytes(header[4..8].try_into().unwrap());
        let start = (table.start + 4).wrapping_add_signed(relative.into());
        let segment = loads().find(|segment| segment.contains(&start)).unwrap();
        // SAFETY: mapped up to the end of the segment that holds it.
        let eh_frame = unsafe { memory(start, segment.end) };
        let low = loads().map(|segment| segment.start).min().unwrap();
        let high = loads().map(|segment| segment.end).max().unwrap();
        // The linker puts them next to each other.
        // SAFETY: mapped as a whole.
        let around = unsafe { memory(segment.start, segment.end) };
        let module = Module::new(low..high, Section::in_memory(eh_frame))
            .with_index(FdeIndex::Header(Section::in_memory(header)))
            .with_lsda(Section::in_memory(around));
        // SAFETY: the linker vouches for them; and they are only walked by.
        std::mem::forget(unsafe { register(module) }.unwrap());
        0
    }
    static REGISTERED: std::sync::Once = std::sync::Once::new();
    // SAFETY: `each` needs no argument.
    REGISTERED.call_once(|| _ = unsafe { dl_iterate_phdr(Some(each), std::ptr::null_mut()) });
}

/// # Safety
///
/// Mapped, and never unmapped or written.
unsafe fn memory(start: u64, end: u64) -> &'static [u8] {
    // SAFETY: this function's contract.
    unsafe { std::slice::from_raw_parts(start as *const u8, (end - start) as usize) }
}

pub fn stack(sp: u64) -> StackBounds {
    // SAFETY: plain calls of the C library on valid arguments.
    let high = unsafe {
        let mut attributes = std::mem::zeroed();
        assert_eq!(libc::pthread_getattr_np(libc::pthread_self(), &raw mut attributes), 0);
        let (mut low, mut size) = (std::ptr::null_mut(), 0);
        libc::pthread_attr_getstack(&raw const attributes, &raw mut low, &raw mut size);
        libc::pthread_attr_destroy(&raw mut attributes);
        low as u64 + size as u64
    };
    // SAFETY: that is what the C library says of the running thread's stack.
    unsafe { StackBounds::new(sp, high) }
}
