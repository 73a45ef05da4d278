//! One object's code and the tables that describe it.
//!
//! ```text
//!   text        │ code …                           │   which ip's are ours
//!   .eh_frame   │ CIE │ FDE │ FDE │ … │ 0           │   how to unwind them
//!   index       │ (start, FDE) sorted │               or .eh_frame_hdr, or nothing: linear
//!   LSDAs       │ .gcc_except_table   │               what personalities read
//! ```
//!
//! A `Module` by itself is only bytes with addresses: parsing one, hostile or not, is safe. What
//! must be trusted is said where modules are registered for raising ([`register`](crate::register)).
#![forbid(unsafe_code)]

use core::ops::Range;

use crate::fde::FdeEntry;

/// Bytes and the address they have (or would have) in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Section<'m> {
    /// The section's contents.
    pub data: &'m [u8],
    /// The address of the first byte; pc-relative pointers are relative to it.
    pub address: u64,
}

impl<'m> Section<'m> {
    /// An empty section.
    pub const EMPTY: Self = Self { data: &[], address: 0 };

    /// A section that lies in this address space.
    pub fn in_memory(data: &'m [u8]) -> Self {
        Self { data, address: data.as_ptr().expose_provenance() as u64 }
    }

    /// The contents from `address` to the end of the section, if it lies inside.
    pub fn rest_at(&self, address: u64) -> Option<&'m [u8]> {
        let offset = usize::try_from(address.checked_sub(self.address)?).ok()?;
        self.data.get(offset..).filter(|rest| !rest.is_empty())
    }
}

/// How the FDE of an address is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FdeIndex<'m> {
    /// By reading `.eh_frame` from its start.
    Linear,
    /// By the binary search table of `.eh_frame_hdr` (LSB core §10.6.2).
    Header(Section<'m>),
    /// By a table sorted by `start`, made with [`Module::for_each_entry`] by whoever
    /// loaded the object.
    Sorted(&'m [FdeEntry]),
}

/// One object's code and the tables that describe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Module<'m> {
    /// Where its code lies.
    pub text: (u64, u64),
    /// Its `.eh_frame`.
    pub eh_frame: Section<'m>,
    /// How to search it.
    pub index: FdeIndex<'m>,
    /// Where its LSDAs lie: `.gcc_except_table`, or all of its read-only data.
    pub lsda: Section<'m>,
    /// What `DW_EH_PE_textrel` is relative to. 0 unless it was said: no tool for x86-64 uses it.
    pub text_base: u64,
    /// What `DW_EH_PE_datarel` is relative to outside `.eh_frame_hdr`; 0 as well.
    pub data_base: u64,
}

impl<'m> Module<'m> {
    /// A module whose `.eh_frame` is searched linearly and that has no LSDA.
    pub const fn new(text: Range<u64>, eh_frame: Section<'m>) -> Self {
        Self {
            text: (text.start, text.end),
            eh_frame,
            index: FdeIndex::Linear,
            lsda: Section::EMPTY,
            text_base: 0,
            data_base: 0,
        }
    }

    /// The same module, searched through `index`.
    #[must_use]
    pub const fn with_index(self, index: FdeIndex<'m>) -> Self {
        Self { index, ..self }
    }

    /// The same module with its LSDAs.
    #[must_use]
    pub const fn with_lsda(self, lsda: Section<'m>) -> Self {
        Self { lsda, ..self }
    }

    /// The same module with what its tables' pointers are relative to.
    #[must_use]
    pub const fn with_bases(self, text_base: u64, data_base: u64) -> Self {
        Self { text_base, data_base, ..self }
    }

    /// Whether `address` lies in the module's code.
    pub const fn contains(&self, address: u64) -> bool {
        self.text.0 <= address && address < self.text.1
    }
}
