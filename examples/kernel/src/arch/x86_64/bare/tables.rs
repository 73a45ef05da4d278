//! Reads the page tables in use, as the CPU does (Intel SDM volume 3, §4.5).
//!
//! ```text
//!   CR3 ─► level 4 ─► level 3 ─► level 2 ─► level 1 ─► 4 KiB
//!                       └ 1 GiB     └ 2 MiB
//!   writable: the bit is set at every level      executable: the other one at none
//! ```
//!
//! Without the lock of those who change them, so that nothing that lasts only a moment is hidden.
//! Tables are never given back.

use x86_64::registers::control::Cr3;

use crate::machine::Mapping;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
/// Bits 51 to 12: the address of a table or a page.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

const ENTRIES: u64 = 512;

/// Shows every page that is present.
pub(super) fn visit(visit: &mut dyn FnMut(Mapping)) {
    let root = Cr3::read().0.start_address().as_u64();
    table(root, 4, 0, WRITABLE, visit);
}

/// The pages of the table at `address`, which is one of `level` and for the addresses from `start`
/// on. `rights` are those of the levels above.
fn table(address: u64, level: u32, start: u64, rights: u64, visit: &mut dyn FnMut(Mapping)) {
    let size = 1 << (12 + 9 * (level - 1));
    for index in 0..ENTRIES {
        let place = core::ptr::with_exposed_provenance::<u64>((address + 8 * index) as usize);
        // SAFETY: tables in use are mapped one to one, and stay.
        let entry = unsafe { place.read_volatile() };
        if entry & PRESENT == 0 {
            continue;
        }
        let start = canonical(start + index * size);
        let rights = rights & entry & WRITABLE | (rights | entry) & NO_EXECUTE;
        if level > 1 && entry & LARGE == 0 {
            table(entry & ADDRESS, level - 1, start, rights, visit);
            continue;
        }
        visit(Mapping {
            start,
            size,
            // In a large page's entry, lower bits have other meanings.
            memory: Some(entry & ADDRESS & !(size - 1)),
            writable: rights & WRITABLE != 0,
            executable: rights & NO_EXECUTE == 0,
        });
    }
}

/// Bit 47 says what the bits above it are.
const fn canonical(address: u64) -> u64 {
    ((address << 16) as i64 >> 16) as u64
}
