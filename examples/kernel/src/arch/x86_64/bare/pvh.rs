//! What the boot loader says: memory, command line, the initrd.
//!
//! ```text
//!   start info ─┬─► memory map: (address, size, type)…
//!               ├─► module list: (address, size, …)…
//!               └─► command line, NUL
//! ```
//!
//! Layouts: Xen, public/arch-x86/hvm/start_info.h. All of it lies in physical memory that the
//! boot tables map one to one; it is copied before they go.

use core::ffi::CStr;
use core::ops::Range;

use static_assertions::const_assert_eq;

use crate::error::Error;

const MAGIC: u32 = 0x336e_c578;
/// The map type of ordinary memory.
const RAM: u32 = 1;
/// How many entries of the memory map are looked at; QEMU makes about ten.
pub(super) const MAX_REGIONS: usize = 32;

#[repr(C)]
#[derive(Clone, Copy)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    nr_modules: u32,
    modlist: u64,
    cmdline: u64,
    rsdp: u64,
    memmap: u64,
    memmap_entries: u32,
    reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct ModuleEntry {
    address: u64,
    size: u64,
    cmdline: u64,
    reserved: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct MemoryEntry {
    address: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

const_assert_eq!(size_of::<StartInfo>(), 56);
const_assert_eq!(size_of::<ModuleEntry>(), 32);
const_assert_eq!(size_of::<MemoryEntry>(), 24);

/// The boot loader's information, copied out of its memory except for what is large.
pub(super) struct BootInfo {
    ram: [Range<u64>; MAX_REGIONS],
    regions: usize,
    /// The first module: the initrd.
    pub initrd: Option<Range<u64>>,
    cmdline: u64,
    /// Where ACPI's tables begin; 0 if the boot loader does not know.
    pub rsdp: u64,
}

impl BootInfo {
    /// Reads the information at the physical address `start`.
    ///
    /// # Safety
    ///
    /// `start` is what the boot loader passed, and memory is mapped one to one.
    pub(super) unsafe fn read(start: u64) -> Result<Self, Error> {
        // SAFETY: the caller says that this is where the boot loader put it.
        let info = unsafe { physical::<StartInfo>(start) };
        if info.magic != MAGIC {
            return Err(Error::BadStartInfo { address: start, magic: info.magic });
        }
        if info.version == 0 || info.memmap == 0 {
            return Err(Error::NoMemoryMap);
        }
        let mut ram = [const { 0..0 }; MAX_REGIONS];
        let mut regions = 0;
        for index in 0..u64::from(info.memmap_entries) {
            let address = info.memmap + index * size_of::<MemoryEntry>() as u64;
            // SAFETY: as for the start info, which says how many entries there are.
            let entry = unsafe { physical::<MemoryEntry>(address) };
            if entry.kind == RAM && regions < MAX_REGIONS {
                ram[regions] = entry.address..entry.address.saturating_add(entry.size);
                regions += 1;
            }
        }
        let initrd = (info.nr_modules > 0).then(|| {
            // SAFETY: as for the start info, which says that there is one.
            let module = unsafe { physical::<ModuleEntry>(info.modlist) };
            module.address..module.address.saturating_add(module.size)
        });
        Ok(Self { ram, regions, initrd, cmdline: info.cmdline, rsdp: info.rsdp })
    }

    /// Ordinary memory.
    pub(super) fn ram(&self) -> &[Range<u64>] {
        &self.ram[..self.regions]
    }

    /// The command line, in the boot loader's memory.
    ///
    /// # Safety
    ///
    /// Memory is still mapped one to one, and the result is not used after that.
    pub(super) unsafe fn cmdline(&self) -> &'static [u8] {
        let start = core::ptr::with_exposed_provenance(self.cmdline as usize);
        if self.cmdline == 0 {
            return &[];
        }
        // SAFETY: the boot loader passes a string that ends with a NUL.
        unsafe { CStr::from_ptr(start) }.to_bytes()
    }
}

/// A structure in physical memory.
///
/// # Safety
///
/// There is one of this type at `address`, and memory is mapped one to one.
unsafe fn physical<T: Copy>(address: u64) -> T {
    let place = core::ptr::with_exposed_provenance::<T>(address as usize);
    // SAFETY: the caller's promise; the boot loader does not promise alignment.
    unsafe { place.read_unaligned() }
}
