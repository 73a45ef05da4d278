//! `.eh_frame_hdr`: what its table says is found as gimli finds it.
//!
//! ```text
//!   section ─► FDEs, sorted ─► header in some encoding ─ change bytes ─► our function = gimli's
//! ```

use gimli::{EhFrame, EhFrameHdr, LittleEndian, UnwindSection as _};
use unspool_unwind::{FdeEntry, FdeIndex, Module, Section, UnwindError};

use crate::Seeds;
use crate::frames::{self, ADDRESS, Fde, TEXT};
use crate::oracle::{self, Bytes};
use crate::random::Random;
use crate::section::{self, change_bytes};

/// Where headers lie: as linkers have it, below `.eh_frame`.
const HEADER: u64 = ADDRESS - 0x2000;

/// A section and its header.
pub fn inputs(seeds: &Seeds, random: &mut Random) -> Vec<Vec<u8>> {
    let data = section::make(&seeds.pairs, random);
    let mut header = header(&entries(&data), random);
    if !random.once_in(4) {
        for _ in 0..1 + random.below(3) {
            change_bytes(&mut header, random);
        }
    }
    vec![data, header]
}

fn entries(data: &[u8]) -> Vec<FdeEntry> {
    let mut entries = Vec::new();
    let module = Module::new(0..u64::MAX, Section { data, address: ADDRESS }).with_bases(TEXT, 0);
    let _ = module.for_each_entry(|entry| entries.push(entry));
    entries.sort();
    entries
}

/// A header as linkers make it, or in another encoding that is allowed.
fn header(entries: &[FdeEntry], random: &mut Random) -> Vec<u8> {
    let (table, width, base) = *random.choose(&[
        (0x3b, 4, HEADER),
        (0x3b, 4, HEADER),
        (0x3c, 8, HEADER),
        (0x03, 4, 0),
        (0x04, 8, 0),
        (0x2b, 4, TEXT),
    ]);
    let mut header = vec![1, 0x1b, 0x03, table];
    header.extend(((ADDRESS - HEADER - 4) as u32).to_le_bytes());
    header.extend((entries.len() as u32).to_le_bytes());
    for entry in entries {
        for value in [entry.start, ADDRESS + entry.offset] {
            header.extend(&value.wrapping_sub(base).to_le_bytes()[..width]);
        }
    }
    header
}

/// Compares what is found; how many addresses were found by both.
pub fn check(data: &[u8], header: &[u8]) -> u64 {
    let section = Section { data, address: ADDRESS };
    let header_section = Section { data: header, address: HEADER };
    let module = Module::new(TEXT..TEXT + 0x1000_0000, section)
        .with_index(FdeIndex::Header(header_section))
        .with_bases(TEXT, 0);
    let (frames, bases) = oracle::gimli(section, TEXT);
    let bases = bases.set_eh_frame_hdr(HEADER);
    let parsed = EhFrameHdr::new(header, LittleEndian).parse(&bases, 8);
    // In a table that is not sorted, two searches need not end at the same entry.
    let table = parsed.as_ref().ok().and_then(|parsed| parsed.table());
    // Entries in LEB128 cannot be searched; `.eh_frame` itself is then.
    let table = table.filter(|_| !matches!(header[3] & 0xf, 0x01 | 0x09)).and_then(|table| {
        let first = first_of_sorted(&table, &bases)?;
        Some((table, first))
    });
    let mut found = 0;
    let starts = entries(data).into_iter().map(|entry| entry.start);
    for address in starts.flat_map(|start| [start, start + 1, start.wrapping_sub(1)]) {
        let ours = module.function(address);
        if let Ok(ours) = ours {
            assert!((ours.start()..ours.end()).contains(&address));
        }
        let Some((table, first)) = &table else { continue };
        // So far beyond all entries is below them to us, as with the entries themselves.
        if address >= 1 << 63 {
            continue;
        }
        // Below the first entry, gimli tries that.
        if address < *first {
            assert!(ours.is_err());
            continue;
        }
        let Some(theirs) = look_up(table, &frames, &bases, address) else { continue };
        match ours {
            Ok(ours) => {
                let theirs = (theirs.initial_address(), theirs.end_address());
                assert_eq!((ours.start(), ours.end()), theirs, "{address:#x}");
                found += 1;
            }
            // More entries than there are bytes for.
            Err(UnwindError::BadTable { source: gimli::Error::OffsetOutOfBounds(_), .. }) => {}
            Err(error) => assert!(frames::may_refuse(error, &theirs), "{error}: {theirs:x?}"),
        }
    }
    found
}

/// What gimli finds. Its own way from the table to the section takes both for sound.
fn look_up<'a>(
    table: &gimli::EhHdrTable<'_, Bytes<'a>>,
    frames: &EhFrame<Bytes<'a>>,
    bases: &gimli::BaseAddresses,
    address: u64,
) -> Option<Fde<'a>> {
    let gimli::Pointer::Direct(fde) = table.lookup(address, bases).ok()? else { return None };
    let offset = usize::try_from(fde.checked_sub(ADDRESS)?).ok()?;
    let fde = frames.fde_from_offset(bases, offset.into(), EhFrame::cie_from_offset).ok()?;
    fde.contains(address).then_some(fde)
}

/// Where the first function starts, if the table is sorted.
fn first_of_sorted(
    table: &gimli::EhHdrTable<'_, Bytes<'_>>,
    bases: &gimli::BaseAddresses,
) -> Option<u64> {
    let mut rows = table.iter(bases);
    let mut starts = Vec::new();
    while let Some((start, _)) = rows.next().ok()? {
        let gimli::Pointer::Direct(start) = start else { return None };
        starts.push(start);
    }
    let (first, last) = (starts.first().copied()?, starts.last().copied()?);
    // An offset that leads below address 0 is less than all others to us, and the largest to gimli.
    (starts.is_sorted_by(|a, b| a < b) && last < 1 << 63).then_some(first)
}
