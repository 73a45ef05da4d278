//! Reads pointers as exception tables encode them.
//!
//! ```text
//!   DW_EH_PE   │ indirect? │ relative to: 0, here, text, data, function │ format: u16 … s64, LEB │
//! ```
//!
//! LSB core §10.5.1. The same encodings are in CIEs, FDEs, `.eh_frame_hdr` and LSDAs.
#![forbid(unsafe_code)]

use gimli::constants;
use gimli::{DwEhPe, EndianSlice, Error, LittleEndian, Reader, Result};

/// Little-endian bytes to read from.
pub type Bytes<'m> = EndianSlice<'m, LittleEndian>;

/// A decoded pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pointer {
    /// The address.
    Direct(u64),
    /// Where the address is stored.
    Indirect(u64),
}

impl Pointer {
    /// The address, of the thing or of where it is stored.
    pub const fn address(self) -> u64 {
        match self {
            Self::Direct(address) | Self::Indirect(address) => address,
        }
    }
}

/// What pointers of a section may be relative to. Zero where there is none: then they are errors.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bases {
    /// The address of the section's first byte, for pc-relative pointers.
    pub section: u64,
    /// The address of the text.
    pub text: u64,
    /// The address of the data: of the section itself in `.eh_frame_hdr`.
    pub data: u64,
    /// The first address of the function.
    pub function: u64,
}

/// Four bytes with a sign, relative to themselves.
pub(crate) const PC_RELATIVE_32: DwEhPe =
    DwEhPe(constants::DW_EH_PE_pcrel.0 | constants::DW_EH_PE_sdata4.0);

/// Reads the number in a pointer, without what it is relative to.
///
/// # Errors
///
/// The input ends, or the format is unknown.
#[inline]
pub fn number(reader: &mut Bytes<'_>, encoding: DwEhPe) -> Result<u64> {
    match encoding.format() {
        constants::DW_EH_PE_sdata4 => Ok(i64::from(reader.read_i32()?) as u64),
        _ => other_number(reader, encoding),
    }
}

/// As [`number`], in the formats that are rare.
#[inline(never)]
fn other_number(reader: &mut Bytes<'_>, encoding: DwEhPe) -> Result<u64> {
    match encoding.format() {
        constants::DW_EH_PE_udata4 => Ok(u64::from(reader.read_u32()?)),
        constants::DW_EH_PE_absptr | constants::DW_EH_PE_udata8 | constants::DW_EH_PE_sdata8 => {
            reader.read_u64()
        }
        constants::DW_EH_PE_uleb128 => reader.read_uleb128(),
        constants::DW_EH_PE_sleb128 => Ok(reader.read_sleb128()? as u64),
        constants::DW_EH_PE_udata2 => Ok(u64::from(reader.read_u16()?)),
        constants::DW_EH_PE_sdata2 => Ok(i64::from(reader.read_i16()?) as u64),
        _ => Err(Error::UnsupportedPointerEncoding(encoding)),
    }
}

/// Reads a pointer; `position` is where `reader` stands in its section. `None` for the number
/// zero, which stands for "no pointer" whatever it is relative to.
///
/// # Errors
///
/// The input ends, or the encoding is unknown.
#[inline(always)]
pub fn pointer(
    reader: &mut Bytes<'_>,
    position: usize,
    encoding: DwEhPe,
    bases: &Bases,
) -> Result<Option<Pointer>> {
    // What nearly all are.
    if encoding == PC_RELATIVE_32 {
        let number = i64::from(reader.read_i32()?);
        let place = bases.section.wrapping_add(position as u64);
        let address = place.wrapping_add_signed(number);
        return Ok((number != 0).then_some(Pointer::Direct(address)));
    }
    other_pointer(reader, position, encoding, bases)
}

/// As [`pointer`], in the encodings that are rare.
#[inline(never)]
fn other_pointer(
    reader: &mut Bytes<'_>,
    position: usize,
    encoding: DwEhPe,
    bases: &Bases,
) -> Result<Option<Pointer>> {
    if encoding == constants::DW_EH_PE_aligned {
        let address = bases.section.wrapping_add(position as u64);
        reader.skip((address.wrapping_neg() & 7) as usize)?;
        return Ok(Some(reader.read_u64()?).filter(|&n| n != 0).map(Pointer::Direct));
    }
    let number = number(reader, encoding)?;
    let base = base(position, encoding, bases)?;
    if number == 0 {
        return Ok(None);
    }
    let address = base.wrapping_add(number);
    Ok(Some(if encoding.is_indirect() {
        Pointer::Indirect(address)
    } else {
        Pointer::Direct(address)
    }))
}

/// What a pointer at `position` is relative to.
#[inline]
pub(crate) fn base(position: usize, encoding: DwEhPe, bases: &Bases) -> Result<u64> {
    let (base, undefined) = match encoding.application() {
        constants::DW_EH_PE_absptr => return Ok(0),
        constants::DW_EH_PE_pcrel => return Ok(bases.section.wrapping_add(position as u64)),
        constants::DW_EH_PE_textrel => {
            (bases.text, Error::TextRelativePointerButTextBaseIsUndefined)
        }
        constants::DW_EH_PE_datarel => {
            (bases.data, Error::DataRelativePointerButDataBaseIsUndefined)
        }
        constants::DW_EH_PE_funcrel => (bases.function, Error::FuncRelativePointerInBadContext),
        _ => return Err(Error::UnsupportedPointerEncoding(encoding)),
    };
    if base == 0 { Err(undefined) } else { Ok(base) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], encoding: u8) -> Result<Option<Pointer>> {
        let bases = Bases { section: 0x1000, text: 0x2000, data: 0x3000, function: 0x4000 };
        pointer(&mut EndianSlice::new(bytes, LittleEndian), 4, DwEhPe(encoding), &bases)
    }

    #[test]
    fn a_pointer_is_relative_to_what_its_encoding_says() {
        let minus_2 = [0xfe, 0xff, 0xff, 0xff];
        assert_eq!(read(&minus_2, 0x1b), Ok(Some(Pointer::Direct(0x1002))));
        assert_eq!(read(&minus_2, 0x2b), Ok(Some(Pointer::Direct(0x1ffe))));
        assert_eq!(read(&minus_2, 0x3b), Ok(Some(Pointer::Direct(0x2ffe))));
        assert_eq!(read(&minus_2, 0x4b), Ok(Some(Pointer::Direct(0x3ffe))));
        assert_eq!(read(&minus_2, 0x03), Ok(Some(Pointer::Direct(0xffff_fffe))));
        assert_eq!(read(&minus_2, 0x9b), Ok(Some(Pointer::Indirect(0x1002))));
    }

    #[test]
    fn an_aligned_pointer_is_read_at_the_next_multiple_of_eight() {
        for (position, padding) in [(0, 0), (1, 7), (4, 4), (7, 1)] {
            let mut bytes = vec![0xee; padding];
            bytes.extend(0x1234u64.to_le_bytes());
            let mut reader = EndianSlice::new(&bytes, LittleEndian);
            let bases = Bases { section: 0x1000, ..Bases::default() };
            let read = pointer(&mut reader, position, DwEhPe(0x50), &bases);
            assert_eq!(read, Ok(Some(Pointer::Direct(0x1234))));
            assert!(reader.is_empty());
        }
    }

    #[test]
    fn zero_is_no_pointer_whatever_it_is_relative_to() {
        assert_eq!(read(&[0; 4], 0x1b), Ok(None));
        assert_eq!(read(&[0], 0x01), Ok(None));
    }

    #[test]
    fn cut_input_and_unknown_encodings_are_errors() {
        assert!(read(&[1, 2, 3], 0x1b).is_err());
        assert!(read(&[0x80], 0x01).is_err());
        assert_eq!(read(&[1; 8], 0x05), Err(Error::UnsupportedPointerEncoding(DwEhPe(0x05))));
        assert_eq!(read(&[1; 8], 0x5b), Err(Error::UnsupportedPointerEncoding(DwEhPe(0x5b))));
    }
}
