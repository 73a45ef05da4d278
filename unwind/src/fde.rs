//! Finds the FDE of an address and reads what it and its CIE say of the function.
//!
//! ```text
//!   .eh_frame_hdr, or an index: pc ─ binary search ─► FDE ─► CIE
//!   length │ CIE pointer │ start │ size │ LSDA │ program …      │ augmentation "zPLR" │ program …
//! ```
//!
//! LSB core §10.6. Reading an entry leaves a [`Function`] of some 200 bytes and nothing else on
//! the stack; numbers, constants and errors are gimli's.
#![forbid(unsafe_code)]

use gimli::constants;
use gimli::{DwEhPe, EndianSlice, Error, LittleEndian, Reader, Result};

use crate::encoding::{Bases, Bytes, PC_RELATIVE_32, Pointer, base, number, pointer};
use crate::error::UnwindError;
use crate::lsda::{Action, Lsda, Site};
use crate::module::{FdeIndex, Module, Section};
use crate::modules::FindModule;

/// How every linker writes the search table: pairs of `datarel | sdata4`.
const COMMON_TABLE: DwEhPe = DwEhPe(0x3b);

/// No CIE lies there: a section would have to reach around all addresses.
const NOWHERE: usize = usize::MAX;

/// Where an FDE starts in its section and which code it describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FdeEntry {
    /// The first address of the function.
    pub start: u64,
    /// The offset of the FDE in `.eh_frame`, in bytes.
    pub offset: u64,
}

/// A part of `.eh_frame`, in bytes from its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// What a CIE says (LSB core §10.6.1.1).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cie {
    pub(crate) code_factor: u64,
    pub(crate) data_factor: i64,
    pub(crate) program: Span,
    pub(crate) address_encoding: DwEhPe,
    lsda_encoding: DwEhPe,
    personality: Option<Pointer>,
    /// The augmentation starts with `z`: FDEs say how long theirs is.
    sized: bool,
    signal_frame: bool,
    /// Its program and factors are those of all compilers.
    pub(crate) is_usual: bool,
}

/// What the tables say of the function around an address.
#[derive(Clone, Copy, Debug)]
pub struct Function<'m> {
    pub(crate) module: Module<'m>,
    pub(crate) cie: Cie,
    /// Where that is read from: others of the module often have the same. [`NOWHERE`]: nowhere yet.
    cie_at: usize,
    pub(crate) program: Span,
    start: u64,
    end: u64,
    lsda: Option<Pointer>,
}

impl<'m> Function<'m> {
    /// No function: a place to put one.
    pub(crate) const UNKNOWN: Self = Self {
        module: Module::new(0..0, Section::EMPTY),
        cie: Cie::NEW,
        cie_at: NOWHERE,
        program: Span { start: 0, end: 0 },
        start: 0,
        end: 0,
        lsda: None,
    };

    /// Sets the module of `address`. Gives back the stack that finding it takes.
    #[inline(never)]
    pub(crate) fn enter(&mut self, modules: &'m impl FindModule, address: u64) -> Option<()> {
        // By reference: it would be on the stack once more if it were moved out.
        let found = &modules.find(address);
        (self.module, self.cie_at) = (*found.as_ref()?, NOWHERE);
        Some(())
    }

    /// Finds the function around `address` in the module that is set, and gives its FDE's offset.
    ///
    /// In place: a `Function` is too large to be handed through returns on a small stack.
    #[inline]
    pub(crate) fn locate(&mut self, address: u64) -> core::result::Result<usize, UnwindError> {
        let bad_table = |source| UnwindError::BadTable { pc: address, source };
        let found = self.module.find(address).map_err(bad_table)?;
        let offset = found.ok_or(UnwindError::NoFde(address))?;
        self.read(offset).map_err(bad_table)?;
        if (self.start..self.end).contains(&address) {
            Ok(offset)
        } else {
            Err(UnwindError::NoFde(address))
        }
    }

    /// Reads the FDE at `offset`, with its CIE, in the module that is set.
    #[inline(never)]
    pub(crate) fn read(&mut self, offset: usize) -> Result<()> {
        let invalid = Error::NoEntryAtGivenOffset(offset as u64);
        let entry = self.module.entry(offset)?.filter(|entry| entry.id != 0).ok_or(invalid)?;
        self.read_entry(&entry)
    }

    /// Reads an FDE, with its CIE unless that has just been read.
    #[inline]
    fn read_entry(&mut self, entry: &Entry) -> Result<()> {
        let cie = entry.cie()?;
        if self.cie_at != cie {
            self.cie_at = NOWHERE;
            self.module.read_cie(cie, &mut self.cie)?;
            let program = self.module.reader(self.cie.program)?;
            self.cie.is_usual = self.cie.begins_as_usual(program.slice());
            self.cie_at = cie;
        }
        if self.read_usual_fde(entry.body) { Ok(()) } else { self.read_fde(entry) }
    }

    /// Reads an FDE whose CIE is there.
    #[inline(never)]
    fn read_fde(&mut self, entry: &Entry) -> Result<()> {
        let cie = &self.cie;
        let mut reader = self.module.reader(entry.body)?;
        let mut bases = self.module.bases();
        let at = |reader: &Bytes<'_>| entry.body.end - reader.len();
        let position = at(&reader);
        let start = pointer(&mut reader, position, cie.address_encoding, &bases)?;
        let start = match start {
            // Code at what its address is relative to; absolute, that is code that was dropped.
            None => base(position, cie.address_encoding, &bases)?,
            Some(Pointer::Direct(address)) => address,
            // No linker makes it so: nobody could sort such a table.
            Some(Pointer::Indirect(_)) => {
                return Err(Error::UnsupportedPointerEncoding(cie.address_encoding));
            }
        };
        // The size is a number in the same format, relative to nothing.
        let end = start.wrapping_add(number(&mut reader, cie.address_encoding)?);
        bases.function = start;
        let mut lsda = None;
        if cie.sized {
            let length = length(&mut reader)?;
            let mut augmentation = reader.split(length)?;
            if cie.lsda_encoding != constants::DW_EH_PE_omit {
                let position = at(&reader) - augmentation.len();
                lsda = pointer(&mut augmentation, position, cie.lsda_encoding, &bases)?;
            }
        }
        self.program = Span { start: at(&reader), end: entry.body.end };
        (self.start, self.end, self.lsda) = (start, end, lsda);
        Ok(())
    }

    /// Reads what compilers write, with an LSDA or without: what is said here is what
    /// [`read_fde`](Self::read_fde) says, at a fraction of the cost. Whether it is that.
    #[inline(always)]
    fn read_usual_fde(&mut self, body: Span) -> bool {
        let Cie { sized: true, address_encoding: PC_RELATIVE_32, lsda_encoding, .. } = self.cie
        else {
            return false;
        };
        let number = |bytes| i64::from(i32::from_le_bytes(bytes));
        let section = self.module.eh_frame;
        let place = section.address.wrapping_add(body.start as u64);
        let Some([a, b, c, d, e, f, g, h, size, rest @ ..]) =
            section.data.get(body.start..body.end)
        else {
            return false;
        };
        self.lsda = match (lsda_encoding, size, rest) {
            (constants::DW_EH_PE_omit, 0, _) => None,
            (PC_RELATIVE_32, 4, &[a, b, c, d, ..]) => {
                let number = number([a, b, c, d]);
                let address = place.wrapping_add(9).wrapping_add_signed(number);
                (number != 0).then_some(Pointer::Direct(address))
            }
            _ => return false,
        };
        self.start = place.wrapping_add_signed(number([*a, *b, *c, *d]));
        self.end = self.start.wrapping_add_signed(number([*e, *f, *g, *h]));
        self.program = Span { start: body.start + 9 + usize::from(*size), end: body.end };
        true
    }

    /// The first address of the function (or of the part that this FDE covers).
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// One past the last address.
    pub const fn end(&self) -> u64 {
        self.end
    }

    /// Whether the frame is that of an interrupted instruction's handler (augmentation `S`): its
    /// caller is to be looked up at the exact address.
    pub const fn is_signal_frame(&self) -> bool {
        self.cie.signal_frame
    }

    /// Where the language-specific data area of the function lies, if it has one.
    pub const fn lsda(&self) -> Option<Pointer> {
        self.lsda
    }

    /// Where the LSDA of the function starts, to the end of the module's LSDAs, if it lies there.
    pub fn lsda_data(&self) -> Option<&'m [u8]> {
        match self.lsda? {
            Pointer::Direct(address) => self.module.lsda.rest_at(address),
            Pointer::Indirect(_) => None,
        }
    }

    /// What the function wants to do about an exception at `address`, if its LSDA can be read and
    /// says so in the way that most languages agree on.
    #[inline(never)]
    pub(crate) fn site(&self, address: u64) -> Option<Site> {
        let Some(Pointer::Direct(lsda)) = self.lsda() else {
            let nothing = Site { action: Action::None, has_entries: false };
            return self.lsda().is_none().then_some(nothing);
        };
        let area = Lsda { data: self.lsda_data()?, address: lsda, function: self.start() };
        area.site(address).ok()
    }

    /// The personality routine of the function, if it has one.
    pub const fn personality(&self) -> Option<Pointer> {
        self.cie.personality
    }
}

impl<'m> Module<'m> {
    /// The function around `address`.
    ///
    /// # Errors
    ///
    /// [`UnwindError::NoFde`] if no FDE covers the address, [`UnwindError::BadTable`] if the
    /// table cannot be read.
    pub fn function(&self, address: u64) -> core::result::Result<Function<'m>, UnwindError> {
        let mut function = Function { module: *self, ..Function::UNKNOWN };
        function.locate(address)?;
        Ok(function)
    }

    /// From the lowest address that an FDE describes to one past the highest; `None` if there
    /// is no FDE with code. (Linkers leave FDEs of code that they dropped at address 0.)
    pub(crate) fn extent(&self) -> Result<Option<(u64, u64)>> {
        let (mut offset, mut function) = (0, Function { module: *self, ..Function::UNKNOWN });
        let mut extent: Option<(u64, u64)> = None;
        while let Some(entry) = self.entry(offset)? {
            if entry.id != 0 {
                function.read(offset)?;
                let Function { start, end, .. } = function;
                if start != 0 && start < end {
                    let (low, high) = extent.unwrap_or((start, end));
                    extent = Some((low.min(start), high.max(end)));
                }
            }
            offset = entry.body.end;
        }
        Ok(extent)
    }

    /// Calls `each` with every FDE, in the order of `.eh_frame`; sorted by `start`, they are an
    /// [`FdeIndex::Sorted`].
    ///
    /// # Errors
    ///
    /// What is wrong with the first entry that cannot be read.
    pub fn for_each_entry(&self, mut each: impl FnMut(FdeEntry)) -> Result<()> {
        self.for_each_function(|function, offset| {
            each(FdeEntry { start: function.start, offset: offset as u64 });
        })
    }

    /// Calls `each` with what every FDE says and where it is, in the order of `.eh_frame`.
    pub(crate) fn for_each_function(
        &self,
        mut each: impl FnMut(&Function<'m>, usize),
    ) -> Result<()> {
        let (mut offset, mut function) = (0, Function { module: *self, ..Function::UNKNOWN });
        while let Some(entry) = self.entry(offset)? {
            if entry.id != 0 {
                function.read_entry(&entry)?;
                each(&function, offset);
            }
            offset = entry.body.end;
        }
        Ok(())
    }

    /// Where the FDE lies that may cover `address`.
    fn find(&self, address: u64) -> Result<Option<usize>> {
        match self.index {
            FdeIndex::Linear => self.search(address),
            FdeIndex::Header(header) => self.look_up(&header, address),
            FdeIndex::Sorted(table) => {
                let after = table.partition_point(|entry| entry.start <= address);
                Ok(table[..after].last().map(|entry| entry.offset as usize))
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn search(&self, address: u64) -> Result<Option<usize>> {
        let (mut offset, mut function) = (0, Function { module: *self, ..Function::UNKNOWN });
        while let Some(entry) = self.entry(offset)? {
            if entry.id != 0 {
                function.read(offset)?;
                if (function.start..function.end).contains(&address) {
                    return Ok(Some(offset));
                }
            }
            offset = entry.body.end;
        }
        Ok(None)
    }

    /// Searches the table of `.eh_frame_hdr` (LSB core §10.6.2).
    #[inline(always)]
    fn look_up(&self, header: &Section<'_>, address: u64) -> Result<Option<usize>> {
        // What all linkers write: a count of 4 bytes.
        if let [1, 0x1b, 0x03, 0x3b, _, _, _, _, a, b, c, d, ref table @ ..] = *header.data {
            let count = u32::from_le_bytes([a, b, c, d]);
            return self.look_up_common(header.address, table, count.into(), address);
        }
        self.look_up_any(header, address)
    }

    /// As [`look_up`](Self::look_up), in a table as it may be. Without one, or in an encoding whose entries
    /// differ in size, `.eh_frame` itself is read.
    #[cold]
    #[inline(never)]
    fn look_up_any(&self, header: &Section<'_>, address: u64) -> Result<Option<usize>> {
        let mut reader = EndianSlice::new(header.data, LittleEndian);
        let version = reader.read_u8()?;
        if version != 1 {
            return Err(Error::UnknownVersion(version.into()));
        }
        let eh_frame = DwEhPe(reader.read_u8()?);
        let count = DwEhPe(reader.read_u8()?);
        let table = DwEhPe(reader.read_u8()?);
        number(&mut reader, eh_frame)?;
        let size = match table.format() {
            constants::DW_EH_PE_sdata2 | constants::DW_EH_PE_udata2 => 2,
            constants::DW_EH_PE_sdata4 | constants::DW_EH_PE_udata4 => 4,
            constants::DW_EH_PE_sdata8
            | constants::DW_EH_PE_udata8
            | constants::DW_EH_PE_absptr => 8,
            _ => return self.search(address),
        };
        if count == constants::DW_EH_PE_omit {
            return self.search(address);
        }
        // Where an address is stored cannot be sorted by it.
        if table.is_indirect() {
            return Err(Error::UnsupportedPointerEncoding(table));
        }
        let count = number(&mut reader, count)?;
        if count > reader.len() as u64 / (2 * size) {
            return Err(Error::OffsetOutOfBounds(count));
        }
        if table == COMMON_TABLE {
            return self.look_up_common(header.address, reader.slice(), count, address);
        }
        let first = header.data.len() - reader.len();
        let bases = Bases {
            section: header.address,
            data: header.address,
            text: self.text_base,
            function: 0,
        };
        let value = |place: u64| -> Result<u64> {
            let position = first + (place * size) as usize;
            let rest = header.data.get(position..).ok_or(Error::OffsetOutOfBounds(place))?;
            let mut reader = EndianSlice::new(rest, LittleEndian);
            // Zero is a number here as any other: all entries are there.
            let number = number(&mut reader, table)?;
            Ok(number.wrapping_add(base(position, table, &bases)?))
        };
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low.midpoint(high);
            if value(middle * 2)? <= address {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let Some(found) = low.checked_sub(1) else { return Ok(None) };
        let fde = value(found * 2 + 1)?.wrapping_sub(self.eh_frame.address);
        usize::try_from(fde).map(Some).map_err(|_| Error::OffsetOutOfBounds(fde))
    }

    /// As [`look_up`](Self::look_up), in a table as linkers write it.
    #[inline]
    fn look_up_common(
        &self,
        header: u64,
        table: &[u8],
        count: u64,
        address: u64,
    ) -> Result<Option<usize>> {
        let (pairs, _) = table.as_chunks::<8>();
        let pairs = usize::try_from(count).ok().and_then(|count| pairs.get(..count));
        let pairs = pairs.ok_or(Error::OffsetOutOfBounds(count))?;
        // No module is as large as half of all addresses.
        let address = address.wrapping_sub(header) as i64;
        let relative = |bytes: [u8; 4]| i64::from(i32::from_le_bytes(bytes));
        let above = pairs.partition_point(|&[a, b, c, d, ..]| relative([a, b, c, d]) <= address);
        let Some(&[.., a, b, c, d]) = above.checked_sub(1).map(|found| &pairs[found]) else {
            return Ok(None);
        };
        let fde = header.wrapping_add_signed(relative([a, b, c, d]));
        let fde = fde.wrapping_sub(self.eh_frame.address);
        usize::try_from(fde).map(Some).map_err(|_| Error::OffsetOutOfBounds(fde))
    }

    /// The entry at `offset`; `None` at the end of the section or at its terminator.
    #[inline]
    fn entry(&self, offset: usize) -> Result<Option<Entry>> {
        let beyond = Error::OffsetOutOfBounds(offset as u64);
        let section = self.eh_frame.data;
        let mut reader = EndianSlice::new(section.get(offset..).ok_or(beyond)?, LittleEndian);
        if reader.is_empty() {
            return Ok(None);
        }
        let length = match reader.read_u32()? {
            0 => return Ok(None),
            u32::MAX => reader.read_u64()?,
            length => length.into(),
        };
        let length = usize::try_from(length).map_err(|_| beyond)?;
        let id_at = section.len() - reader.len();
        let mut body = reader.split(length)?;
        // 32 bits even in 64-bit entries (LSB core §10.6.1).
        let id = body.read_u32()?;
        let end = section.len() - reader.len();
        Ok(Some(Entry { id, id_at, body: Span { start: end - body.len(), end } }))
    }

    /// A part of `.eh_frame`.
    pub(crate) fn reader(&self, span: Span) -> Result<Bytes<'m>> {
        let bytes = self.eh_frame.data.get(span.start..span.end);
        let bytes = bytes.ok_or(Error::OffsetOutOfBounds(span.start as u64))?;
        Ok(EndianSlice::new(bytes, LittleEndian))
    }

    pub(crate) const fn bases(&self) -> Bases {
        Bases {
            section: self.eh_frame.address,
            text: self.text_base,
            data: self.data_base,
            function: 0,
        }
    }
}

impl Cie {
    const NEW: Self = Self {
        code_factor: 1,
        data_factor: 1,
        program: Span { start: 0, end: 0 },
        address_encoding: constants::DW_EH_PE_absptr,
        lsda_encoding: constants::DW_EH_PE_omit,
        personality: None,
        sized: false,
        signal_frame: false,
        is_usual: false,
    };
}

/// One entry of `.eh_frame`.
#[derive(Clone, Copy)]
struct Entry {
    /// 0 for a CIE; for an FDE how far its CIE lies before this field.
    id: u32,
    /// Where that field stands.
    id_at: usize,
    /// What follows it.
    body: Span,
}

impl Entry {
    /// Where the CIE of an FDE lies.
    fn cie(&self) -> Result<usize> {
        let missing = Error::NoEntryAtGivenOffset(self.id_at as u64);
        self.id_at.checked_sub(self.id as usize).ok_or(missing)
    }
}

fn length(reader: &mut Bytes<'_>) -> Result<usize> {
    if let [length @ ..0x80, ..] = *reader.slice() {
        reader.skip(1)?;
        return Ok(length.into());
    }
    let length = reader.read_uleb128()?;
    usize::try_from(length).map_err(|_| Error::OffsetOutOfBounds(length))
}

mod cie;
#[cfg(test)]
mod tests;
