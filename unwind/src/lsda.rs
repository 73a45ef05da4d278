//! Reads the language-specific data area of a function, as far as all languages agree on it.
//!
//! ```text
//!   header │ LPStart? │ TType? │ call sites: (start, length, landing pad, action)* │ actions …
//! ```
//!
//! The format is the Itanium ABI's (EH §7, "LSDA"), as GCC and LLVM write it. Every number is
//! bounds-checked: a damaged table is an error, not a wrong jump target read from beyond it.
#![forbid(unsafe_code)]

use crate::encoding::{Bases, Bytes, Pointer, number, pointer};
use gimli::{DwEhPe, EndianSlice, LittleEndian, Reader, constants};

/// What a frame wants to do about an exception.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing: go on with the caller.
    None,
    /// Run the cleanup at this address.
    Cleanup(u64),
    /// Catch at this address.
    Catch(u64),
    /// Catch at this address unless nobody may (an exception specification, in C++'s terms:
    /// how LLVM ends unwinding in functions that must not unwind).
    Filter(u64),
    /// The instruction has no call site at all: it must not unwind.
    Terminate,
}

/// What an area says of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Site {
    pub(crate) action: Action,
    /// There are entries in the table of actions for it. All may be read by a language that catches by
    /// type; the action is that of the first.
    pub(crate) has_entries: bool,
}

/// The data area of one function.
#[derive(Clone, Copy, Debug)]
pub struct Lsda<'a> {
    /// From the start of the area; may reach beyond its end.
    pub data: &'a [u8],
    /// The address of its first byte.
    pub address: u64,
    /// The first address of the function, which call sites are relative to.
    pub function: u64,
}

impl Lsda<'_> {
    /// What to do at `ip`, the address of an instruction of the function.
    ///
    /// # Errors
    ///
    /// The area is damaged, or has an encoding that is not known.
    pub fn action(&self, ip: u64) -> gimli::Result<Action> {
        Ok(self.site(ip)?.action)
    }

    /// As [`action`](Self::action), and whether that is all there is.
    pub(crate) fn site(&self, ip: u64) -> gimli::Result<Site> {
        let mut reader = EndianSlice::new(self.data, LittleEndian);
        let landing_base = self.landing_base(&mut reader)?;
        if DwEhPe(reader.read_u8()?) != constants::DW_EH_PE_omit {
            // The offset of the type table, for languages that catch by type.
            reader.read_uleb128()?;
        }
        let encoding = DwEhPe(reader.read_u8()?);
        let length =
            usize::try_from(reader.read_uleb128()?).map_err(|_| gimli::Error::UnsupportedOffset)?;
        let mut sites = reader.split(length)?;
        let actions = reader;
        while !sites.is_empty() {
            let start = self.function.wrapping_add(number(&mut sites, encoding)?);
            let length = number(&mut sites, encoding)?;
            let landing_pad = number(&mut sites, encoding)?;
            let action = sites.read_uleb128()?;
            // Call sites are sorted by their start.
            if ip < start {
                break;
            }
            if ip - start < length {
                let pad = landing_base.wrapping_add(landing_pad);
                let interpreted = match landing_pad {
                    0 => Action::None,
                    _ => interpret(actions, action, pad)?,
                };
                return Ok(Site { action: interpreted, has_entries: action != 0 });
            }
        }
        Ok(Site { action: Action::Terminate, has_entries: false })
    }

    /// What landing pads are relative to: the function, unless the area says otherwise.
    fn landing_base(&self, reader: &mut Bytes<'_>) -> gimli::Result<u64> {
        let encoding = DwEhPe(reader.read_u8()?);
        if encoding == constants::DW_EH_PE_omit {
            return Ok(self.function);
        }
        // An address in the code of the function is not stored elsewhere.
        if encoding.is_indirect() {
            return Err(gimli::Error::UnsupportedPointerEncoding(encoding));
        }
        let bases = Bases { section: self.address, function: self.function, ..Bases::default() };
        let position = self.data.len() - reader.len();
        Ok(pointer(reader, position, encoding, &bases)?.map_or(0, Pointer::address))
    }
}

/// What an entry of the action table means for a language that catches everything or nothing.
fn interpret(mut actions: Bytes<'_>, action: u64, landing_pad: u64) -> gimli::Result<Action> {
    let Some(offset) = action.checked_sub(1) else {
        return Ok(Action::Cleanup(landing_pad));
    };
    actions.skip(usize::try_from(offset).map_err(|_| gimli::Error::UnsupportedOffset)?)?;
    Ok(match actions.read_sleb128()? {
        0 => Action::Cleanup(landing_pad),
        1.. => Action::Catch(landing_pad),
        _ => Action::Filter(landing_pad),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Call sites 0x10..0x14 → cleanup at +0x40, 0x20..0x28 → none, 0x30..0x31 → action 1,
    /// 0x38..0x39 → action 3.
    const TABLE: &[u8] = &[
        0xff, 0xff, 0x01, 16, //
        0x10, 4, 0x40, 0, //
        0x20, 8, 0, 0, //
        0x30, 1, 0x50, 1, //
        0x38, 1, 0x60, 3, //
        1, 0, 0x7f, 0,
    ];

    fn action(data: &[u8], offset: u64) -> gimli::Result<Action> {
        Lsda { data, address: 0x9000, function: 0x1000 }.action(0x1000 + offset)
    }

    #[test]
    fn a_call_site_names_its_landing_pad() {
        assert_eq!(action(TABLE, 0x10), Ok(Action::Cleanup(0x1040)));
        assert_eq!(action(TABLE, 0x13), Ok(Action::Cleanup(0x1040)));
        assert_eq!(action(TABLE, 0x24), Ok(Action::None));
        assert_eq!(action(TABLE, 0x30), Ok(Action::Catch(0x1050)));
        assert_eq!(action(TABLE, 0x38), Ok(Action::Filter(0x1060)));
    }

    #[test]
    fn a_cleanup_of_its_own_is_told_from_one_among_other_entries() {
        // 0x10..0x14 → +0x40 without an entry, 0x14..0x18 → +0x40 by entry 1: a filter of 0, which goes
        // on with entry 3, whose type is 1.
        const BOTH: &[u8] = &[0xff, 0xff, 0x01, 8, 0x10, 4, 0x40, 0, 0x14, 4, 0x40, 1, 0, 1, 1, 0];
        let site = |offset: u64| {
            let lsda = Lsda { data: BOTH, address: 0x9000, function: 0x1000 };
            lsda.site(0x1000 + offset).unwrap()
        };
        let action = Action::Cleanup(0x1040);
        assert_eq!(site(0x10), Site { action, has_entries: false });
        assert_eq!(site(0x14), Site { action, has_entries: true });
    }

    #[test]
    fn an_instruction_without_call_site_must_not_unwind() {
        for offset in [0, 0xf, 0x14, 0x1f, 0x28, 0x100] {
            assert_eq!(action(TABLE, offset), Ok(Action::Terminate));
        }
    }

    #[test]
    fn a_table_cut_anywhere_is_an_error_and_never_a_panic() {
        for length in 0..20 {
            assert!(action(&TABLE[..length], 0x38).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn other_encodings_are_read_and_unknown_ones_refused() {
        // LPStart pcrel|sdata4 at offset 1: 0x9001 + 0x100; call sites udata4.
        let mut table = vec![0x1b, 0, 1, 0, 0, 0xff, 0x03, 13];
        table.extend(0x10u32.to_le_bytes());
        table.extend(4u32.to_le_bytes());
        table.extend(0x20u32.to_le_bytes());
        table.push(0);
        assert_eq!(action(&table, 0x12), Ok(Action::Cleanup(0x9121)));
        table[6] = 0x05;
        assert!(matches!(action(&table, 0x12), Err(gimli::Error::UnsupportedPointerEncoding(_))));
        // LPStart is not stored elsewhere.
        (table[0], table[6]) = (0x9b, 0x03);
        assert!(matches!(action(&table, 0x12), Err(gimli::Error::UnsupportedPointerEncoding(_))));
    }
}
