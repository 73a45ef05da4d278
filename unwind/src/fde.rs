//! Finds the FDE of an address and reads what it says of the function.
//!
//! ```text
//!   .eh_frame_hdr:  pc ─ binary search ─► FDE ─► CIE      LSB core §10.6
//! ```
//!
//! Two files speak gimli's language: this one for entries, `cfi` for their programs (`dwarf`
//! evaluates the expressions that programs may contain).
#![forbid(unsafe_code)]

use gimli::{
    BaseAddresses, EhFrame, EhFrameHdr, EhFrameOffset, EndianSlice, LittleEndian, Pointer,
    UnwindSection as _,
};

use crate::error::UnwindError;
use crate::module::{FdeIndex, Module};

pub(crate) type Bytes<'m> = EndianSlice<'m, LittleEndian>;
pub(crate) type Fde<'m> = gimli::FrameDescriptionEntry<Bytes<'m>>;

/// Where an FDE starts in its section and which code it describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FdeEntry {
    /// The first address of the function.
    pub start: u64,
    /// The offset of the FDE in `.eh_frame`, in bytes.
    pub offset: u64,
}

/// What the tables say of the function around an address.
#[derive(Clone, Debug)]
pub struct Function<'m> {
    pub(crate) module: Module<'m>,
    pub(crate) fde: Fde<'m>,
}

impl<'m> Function<'m> {
    /// The first address of the function (or of the part that this FDE covers).
    pub fn start(&self) -> u64 {
        self.fde.initial_address()
    }

    /// One past the last address.
    pub fn end(&self) -> u64 {
        self.fde.end_address()
    }

    /// Whether the frame is that of an interrupted instruction's handler (augmentation `S`): its
    /// caller is to be looked up at the exact address.
    pub fn is_signal_frame(&self) -> bool {
        self.fde.is_signal_trampoline()
    }

    /// Where the language-specific data area of the function lies, if it has one.
    pub fn lsda(&self) -> Option<u64> {
        // A null pointer is how some assemblers say "none".
        self.fde.lsda().map(Pointer::pointer).filter(|&address| address != 0)
    }

    /// Where the LSDA of the function starts, to the end of the module's LSDAs.
    pub fn lsda_data(&self) -> Option<&'m [u8]> {
        self.module.lsda.rest_at(self.lsda()?)
    }

    pub(crate) fn personality(&self) -> Option<Pointer> {
        self.fde.personality()
    }

    pub(crate) fn section(&self) -> EhFrame<Bytes<'m>> {
        section(&self.module)
    }

    pub(crate) fn bases(&self) -> BaseAddresses {
        bases(&self.module)
    }
}

impl<'m> Module<'m> {
    /// The function around `address`.
    ///
    /// # Errors
    ///
    /// [`UnwindError::NoFde`] if no FDE covers the address, [`UnwindError::BadTable`] if the
    /// table cannot be read.
    pub fn function(&self, address: u64) -> Result<Function<'m>, UnwindError> {
        let bad_table = |source| match source {
            gimli::Error::NoUnwindInfoForAddress => UnwindError::NoFde(address),
            source => UnwindError::BadTable { pc: address, source },
        };
        let eh_frame = section(self);
        let bases = bases(self);
        let fde = match self.index {
            FdeIndex::Linear => eh_frame.fde_for_address(&bases, address, EhFrame::cie_from_offset),
            FdeIndex::Header(header) => header_offset(header.data, &bases, address)
                .and_then(|offset| entry_at(&eh_frame, &bases, offset)),
            FdeIndex::Sorted(table) => {
                let after = table.partition_point(|entry| entry.start <= address);
                let entry = table[..after].last().ok_or(UnwindError::NoFde(address))?;
                entry_at(&eh_frame, &bases, EhFrameOffset(entry.offset as usize))
            }
        }
        .map_err(bad_table)?;
        if fde.contains(address) {
            Ok(Function { module: *self, fde })
        } else {
            Err(UnwindError::NoFde(address))
        }
    }

    /// Calls `each` with every FDE, in the order of `.eh_frame`; sorted by `start`, they are an
    /// [`FdeIndex::Sorted`].
    ///
    /// # Errors
    ///
    /// What the parser says of the first entry that it cannot read.
    pub fn for_each_entry(&self, mut each: impl FnMut(FdeEntry)) -> Result<(), gimli::Error> {
        let eh_frame = section(self);
        let bases = bases(self);
        let mut entries = eh_frame.entries(&bases);
        while let Some(entry) = entries.next()? {
            if let gimli::CieOrFde::Fde(partial) = entry {
                let fde = partial.parse(EhFrame::cie_from_offset)?;
                each(FdeEntry { start: fde.initial_address(), offset: fde.offset() as u64 });
            }
        }
        Ok(())
    }
}

fn section<'m>(module: &Module<'m>) -> EhFrame<Bytes<'m>> {
    EhFrame::new(module.eh_frame.data, LittleEndian)
}

fn bases(module: &Module<'_>) -> BaseAddresses {
    let bases =
        BaseAddresses::default().set_eh_frame(module.eh_frame.address).set_text(module.text.0);
    match module.index {
        FdeIndex::Header(header) => bases.set_eh_frame_hdr(header.address),
        _ => bases,
    }
}

fn header_offset(
    header: &[u8],
    bases: &BaseAddresses,
    address: u64,
) -> Result<EhFrameOffset, gimli::Error> {
    let header = EhFrameHdr::new(header, LittleEndian).parse(bases, size_of::<u64>() as u8)?;
    let table = header.table().ok_or(gimli::Error::NoUnwindInfoForAddress)?;
    table.pointer_to_offset(table.lookup(address, bases)?)
}

fn entry_at<'m>(
    eh_frame: &EhFrame<Bytes<'m>>,
    bases: &BaseAddresses,
    offset: EhFrameOffset,
) -> Result<Fde<'m>, gimli::Error> {
    eh_frame.fde_from_offset(bases, offset, EhFrame::cie_from_offset)
}
