//! LSDAs: what a damaged one says is what a plain reader of the whole table finds in it.
//!
//! ```text
//!   area ─┬─► plain reader: all call sites, in a list ─► the one at ip ─┐
//!         └─► ours: the same without the list ──────────────────────────┴─ equal
//! ```

use gimli::{DwEhPe, EndianSlice, LittleEndian, Reader as _};
use unspool_unwind::lsda::{Action, Lsda};

use crate::Seeds;
use crate::oracle::Bytes;
use crate::random::Random;
use crate::section::{change_bytes, encoding, number};

const ADDRESS: u64 = 0x6000_0000;
const FUNCTION: u64 = 0x4000_0000;

/// An area, changed or (once in eight times) as it was.
pub fn input(seeds: &Seeds, random: &mut Random) -> Vec<u8> {
    let mut data = random.choose(&seeds.areas).clone();
    match random.below(8) {
        0 => {}
        // The encodings, of the landing pads' base, of types, of call sites.
        1 | 2 => {
            let at = random.below(4).min(data.len() - 1);
            data[at] = encoding(random);
        }
        3 => {
            let mut more = Vec::new();
            number(&mut more, random);
            let at = random.below(data.len().min(64));
            data.splice(at..at, more);
        }
        _ => {
            for _ in 0..1 + random.below(3) {
                change_bytes(&mut data, random);
            }
        }
    }
    data
}

/// Compares at some addresses; at how many there was something to compare.
pub fn check(data: &[u8]) -> u64 {
    let lsda = Lsda { data, address: ADDRESS, function: FUNCTION };
    let table = Table::read(data);
    let mut compared = 0;
    let mut offsets = vec![0, 1, u64::MAX, 0x1000];
    if let Some(table) = &table {
        let ends =
            table.sites.iter().flat_map(|site| [site.start, site.start.wrapping_add(site.length)]);
        offsets.extend(ends.take(64).flat_map(|offset| [offset.wrapping_sub(1), offset]));
    }
    for offset in offsets {
        let ip = FUNCTION.wrapping_add(offset);
        let ours = lsda.action(ip);
        // Without a whole table there may still be a call site at its beginning.
        let Some(table) = table.as_ref().filter(|table| table.is_sorted()) else { continue };
        assert_eq!(ours.ok(), table.action(ip), "at {ip:#x}: {ours:?}");
        compared += 1;
    }
    compared
}

struct Site {
    start: u64,
    length: u64,
    landing_pad: u64,
    action: u64,
}

/// All of an area.
struct Table<'a> {
    landing_base: u64,
    sites: Vec<Site>,
    actions: Bytes<'a>,
}

impl<'a> Table<'a> {
    fn read(data: &'a [u8]) -> Option<Self> {
        let mut reader = EndianSlice::new(data, LittleEndian);
        let landing = reader.read_u8().ok()?;
        let landing_base = match landing {
            0xff => FUNCTION,
            _ => {
                let at = ADDRESS + 1;
                based(&mut reader, landing, at)?
            }
        };
        if reader.read_u8().ok()? != 0xff {
            reader.read_uleb128().ok()?;
        }
        let format = reader.read_u8().ok()?;
        let length = usize::try_from(reader.read_uleb128().ok()?).ok()?;
        let mut rest = reader.split(length).ok()?;
        let mut sites = Vec::new();
        while !rest.is_empty() {
            sites.push(Site {
                start: plain(&mut rest, format)?,
                length: plain(&mut rest, format)?,
                landing_pad: plain(&mut rest, format)?,
                action: rest.read_uleb128().ok()?,
            });
        }
        Some(Self { landing_base, sites, actions: reader })
    }

    fn is_sorted(&self) -> bool {
        self.sites.is_sorted_by_key(|site| FUNCTION.wrapping_add(site.start))
    }

    fn action(&self, ip: u64) -> Option<Action> {
        let inside = |site: &&Site| {
            let start = FUNCTION.wrapping_add(site.start);
            ip >= start && ip - start < site.length
        };
        let Some(site) = self.sites.iter().find(inside) else { return Some(Action::Terminate) };
        if site.landing_pad == 0 {
            return Some(Action::None);
        }
        let landing_pad = self.landing_base.wrapping_add(site.landing_pad);
        if site.action == 0 {
            return Some(Action::Cleanup(landing_pad));
        }
        let entry = self.actions.slice().get(usize::try_from(site.action - 1).ok()?..)?;
        match EndianSlice::new(entry, LittleEndian).read_sleb128().ok()? {
            0 => Some(Action::Cleanup(landing_pad)),
            1.. => Some(Action::Catch(landing_pad)),
            _ => Some(Action::Filter(landing_pad)),
        }
    }
}

/// A number in one of the formats (LSB core §10.5.1).
fn plain(reader: &mut Bytes<'_>, format: u8) -> Option<u64> {
    Some(match format & 0xf {
        0x0 | 0x4 | 0xc => reader.read_u64().ok()?,
        0x1 => reader.read_uleb128().ok()?,
        0x2 => reader.read_u16().ok()?.into(),
        0x3 => reader.read_u32().ok()?.into(),
        0x9 => reader.read_sleb128().ok()? as u64,
        0xa => i64::from(reader.read_i16().ok()?) as u64,
        0xb => i64::from(reader.read_i32().ok()?) as u64,
        _ => return None,
    })
}

/// A pointer in one of the encodings, at `at`. What landing pads are relative to is not stored
/// elsewhere.
fn based(reader: &mut Bytes<'_>, encoding: u8, at: u64) -> Option<u64> {
    if encoding == gimli::DW_EH_PE_aligned.0 {
        reader.skip((at.wrapping_neg() & 7) as usize).ok()?;
        return reader.read_u64().ok();
    }
    if DwEhPe(encoding).is_indirect() {
        return None;
    }
    let number = plain(reader, encoding)?;
    let base = match DwEhPe(encoding).application() {
        gimli::DW_EH_PE_absptr => 0,
        gimli::DW_EH_PE_pcrel => at,
        gimli::DW_EH_PE_funcrel => FUNCTION,
        _ => return None,
    };
    Some(if number == 0 { 0 } else { base.wrapping_add(number) })
}
