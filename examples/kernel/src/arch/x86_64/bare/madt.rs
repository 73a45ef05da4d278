//! Which CPUs there are: ACPI's multiple APIC description table.
//!
//! ```text
//!   start info ─► RSDP ─► RSDT ─► MADT ─► (APIC number, enabled)…
//! ```
//!
//! The `acpi` crate finds and checks the tables; this lists what they say, without a heap.

use core::ptr::NonNull;

use acpi::madt::{Madt, MadtEntry};
use acpi::{AcpiHandler, AcpiTables, PhysicalMapping};

use crate::cpu::MAX_CPUS;

/// The flag of a processor that can be used (ACPI 6.5, table 5.22).
const ENABLED: u32 = 1;

/// The APIC numbers of the machine's CPUs, as many as the kernel uses.
#[derive(Clone, Copy)]
pub(super) struct Apics {
    ids: [u8; MAX_CPUS],
    count: usize,
}

impl Apics {
    /// None: without tables there is the CPU that booted, and no other.
    pub(super) const NONE: Self = Self { ids: [0; MAX_CPUS], count: 0 };

    /// The numbers.
    pub(super) fn ids(&self) -> &[u8] {
        &self.ids[..self.count]
    }

    /// Reads the tables at the physical address `rsdp`.
    ///
    /// # Safety
    ///
    /// `rsdp` is what the boot loader passed, and memory is mapped one to one.
    pub(super) unsafe fn read(rsdp: u64) -> Self {
        // SAFETY: the caller's promise.
        let tables = unsafe { AcpiTables::from_rsdp(OneToOne, rsdp as usize) };
        let Ok(madt) = tables.and_then(|tables| tables.find_table::<Madt>()) else {
            return Self::NONE;
        };
        let mut apics = Self::NONE;
        for entry in madt.get().entries() {
            let MadtEntry::LocalApic(entry) = entry else { continue };
            if entry.flags & ENABLED != 0 && apics.count < MAX_CPUS {
                apics.ids[apics.count] = entry.apic_id;
                apics.count += 1;
            }
        }
        apics
    }
}

/// Physical memory where it is.
#[derive(Clone)]
struct OneToOne;

impl AcpiHandler for OneToOne {
    unsafe fn map_physical_region<T>(&self, start: usize, size: usize) -> PhysicalMapping<Self, T> {
        let place = core::ptr::with_exposed_provenance_mut(start);
        let place = NonNull::new(place).unwrap_or(NonNull::dangling());
        // SAFETY: memory is mapped one to one while tables are read; the crate checks lengths.
        unsafe { PhysicalMapping::new(start, place, size, size, Self) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}
