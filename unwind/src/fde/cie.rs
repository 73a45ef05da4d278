//! Reads what the functions of a module have in common.
//!
//! ```text
//!   version │ "zPLR" │ factors │ column of the return address │ what the letters announce │ program
//! ```
//!
//! LSB core §10.6.1.1. Compilers write two of them, which are compared as bytes.
#![forbid(unsafe_code)]

use gimli::constants;
use gimli::{DwEhPe, Error, Reader, Result};

use super::{Cie, Span, length};
use crate::encoding::{Bytes, Pointer, pointer};
use crate::module::Module;

/// The DWARF number of the return address column.
const RETURN_ADDRESS: u64 = 16;
/// More letters than there are in an augmentation.
const LETTERS: usize = 8;

impl<'m> Module<'m> {
    #[inline(never)]
    pub(super) fn read_cie(&self, offset: usize, cie: &mut Cie) -> Result<()> {
        let invalid = Error::NotCieId(offset as u64);
        let entry = self.entry(offset)?.filter(|entry| entry.id == 0).ok_or(invalid)?;
        let mut reader = self.reader(entry.body)?;
        if self.read_usual_cie(reader.slice(), entry.body, cie) {
            return Ok(());
        }
        let version = reader.read_u8()?;
        if !matches!(version, 1 | 3 | 4) {
            return Err(Error::UnknownVersion(version.into()));
        }
        let augmentation = reader.read_null_terminated_slice()?;
        // GCC before 3.0 put a pointer to its own tables here.
        if augmentation.slice() == b"eh" {
            reader.skip(size_of::<u64>())?;
        }
        if version == 4 {
            match (reader.read_u8()?, reader.read_u8()?) {
                (8, 0) => {}
                (8, segment) => return Err(Error::UnsupportedSegmentSize(segment)),
                (address, _) => return Err(Error::UnsupportedAddressSize(address)),
            }
        }
        *cie = Cie::NEW;
        // What all compilers write: 1, −8, and the return address in column 16.
        if let ([1, 0x78, 16, ..], 1) = (reader.slice(), version) {
            reader.skip(3)?;
            (cie.code_factor, cie.data_factor) = (1, -8);
        } else {
            Self::factors(&mut reader, version, cie)?;
        }
        if let Some(letters) = augmentation.slice().strip_prefix(b"z") {
            cie.sized = true;
            let length = length(&mut reader)?;
            let data = reader.split(length)?;
            self.augmentation(cie, letters, data, entry.body.end - reader.len())?;
        } else if !matches!(augmentation.slice(), b"" | b"eh") {
            return Err(Error::UnknownAugmentation);
        }
        cie.program = Span { start: entry.body.end - reader.len(), end: entry.body.end };
        Ok(())
    }

    /// Reads what compilers write for C, or with a personality: what is said here is what
    /// [`read_cie`](Self::read_cie) says, at a fraction of the cost. Whether it is that.
    #[inline]
    fn read_usual_cie(&self, bytes: &[u8], body: Span, cie: &mut Cie) -> bool {
        let (length, encodings, personality) = match *bytes {
            [1, b'z', b'R', 0, 1, 0x78, 16, 1, address, ..] => {
                (9, [constants::DW_EH_PE_omit.0, address], None)
            }
            [1, b'z', b'P', b'L', b'R', 0, 1, 0x78, 16, 7, 0x9b, a, b, c, d, lsda, address, ..] => {
                let number = i64::from(i32::from_le_bytes([a, b, c, d]));
                let place = self.eh_frame.address.wrapping_add(body.start as u64 + 11);
                let pointer = Pointer::Indirect(place.wrapping_add_signed(number));
                (17, [lsda, address], (number != 0).then_some(pointer))
            }
            _ => return false,
        };
        *cie = Cie {
            data_factor: -8,
            program: Span { start: body.start + length, end: body.end },
            address_encoding: DwEhPe(encodings[1]),
            lsda_encoding: DwEhPe(encodings[0]),
            personality,
            sized: true,
            ..Cie::NEW
        };
        true
    }

    #[cold]
    fn factors(reader: &mut Bytes<'_>, version: u8, cie: &mut Cie) -> Result<()> {
        cie.code_factor = reader.read_uleb128()?;
        cie.data_factor = reader.read_sleb128()?;
        let return_address =
            if version == 1 { reader.read_u8()?.into() } else { reader.read_uleb128()? };
        match return_address {
            RETURN_ADDRESS => Ok(()),
            _ => Err(Error::UnsupportedRegister(return_address)),
        }
    }

    /// What the letters after `z` announce; `end` is where `data` ends in the section.
    #[inline(always)]
    fn augmentation(
        &self,
        cie: &mut Cie,
        letters: &[u8],
        mut data: Bytes<'m>,
        end: usize,
    ) -> Result<()> {
        // Each is said at most once: what an FDE costs to read has a bound.
        if letters.len() > LETTERS {
            return Err(Error::UnknownAugmentation);
        }
        for letter in letters {
            match letter {
                b'L' => cie.lsda_encoding = DwEhPe(data.read_u8()?),
                b'R' => cie.address_encoding = DwEhPe(data.read_u8()?),
                b'P' => {
                    let encoding = DwEhPe(data.read_u8()?);
                    let position = end - data.len();
                    cie.personality = pointer(&mut data, position, encoding, &self.bases())?;
                }
                b'S' => cie.signal_frame = true,
                // Pointer authentication on another architecture.
                b'B' => {}
                _ => return Err(Error::UnknownAugmentation),
            }
        }
        Ok(())
    }
}
