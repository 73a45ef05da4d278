//! Writes the table; run by the build, on the host.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec;
use alloc::vec::Vec;

use super::{ALIGN, HEADER, MAGIC, TOGETHER, hash, place_bits, places_size};

mod pairs;

/// Bytes that are kept of a name.
const LONGEST: usize = u16::MAX as usize;

/// A symbol to put into a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The name as in the ELF file; at most 65,535 bytes are kept.
    pub name: &'a str,
    /// Where it lies at run time.
    pub address: u64,
    /// Bytes; 0 if unknown.
    pub size: u64,
    /// Whether it is code (`STT_FUNC`, or any symbol in an executable section): traces name
    /// addresses by these.
    pub code: bool,
    /// Whether its binding is global or weak; local ones are found by name only if no other
    /// symbol has the name.
    pub global: bool,
}

/// Makes a table of `symbols`.
///
/// # Panics
///
/// If the symbols span more than 4 GiB.
pub fn build(symbols: &[Entry<'_>]) -> Vec<u8> {
    let mut symbols = symbols.to_vec();
    symbols.sort_by(|a, b| (a.address, b.size, a.name).cmp(&(b.address, a.size, b.name)));
    symbols.dedup();
    let names: Vec<_> = symbols.iter().map(|symbol| kept(symbol.name)).collect();
    let packed = pairs::pack(&names);
    let code: BTreeSet<_> = code_index(&symbols).into_iter().collect();
    let (slots, by_name) = places(&symbols, &name_index(&symbols));
    let base = symbols.first().map_or(0, |symbol| symbol.address);

    let (mut blocks, mut stream, mut end) = (Vec::new(), Vec::new(), 0);
    for (at, symbol) in symbols.iter().enumerate() {
        if at.is_multiple_of(TOGETHER) {
            blocks.extend(narrow((symbol.address - base) as usize).to_le_bytes());
            blocks.extend(narrow(stream.len()).to_le_bytes());
            end = symbol.address;
        }
        let aligned = end.checked_next_multiple_of(ALIGN) == Some(symbol.address);
        // No address space is so large that a size needs its two uppermost bits.
        let size = symbol.size & u64::MAX >> 2;
        put(&mut stream, size << 2 | u64::from(aligned) << 1 | u64::from(code.contains(&at)));
        if !aligned {
            let distance = symbol.address.wrapping_sub(end) as i64;
            put(&mut stream, (distance << 1 ^ distance >> 63) as u64);
        }
        put(&mut stream, packed.names[at].len() as u64);
        stream.extend(&packed.names[at]);
        end = symbol.address.wrapping_add(size);
    }

    let mut table = Vec::from(MAGIC);
    table.extend([0; 4]);
    for count in [symbols.len(), packed.rules.len(), slots] {
        table.extend(narrow(count).to_le_bytes());
    }
    debug_assert_eq!(table.len(), HEADER);
    table.extend(base.to_le_bytes());
    table.extend(packed.rules);
    table.extend(blocks);
    table.extend(by_name);
    table.extend(stream);
    let length = narrow(table.len()).to_le_bytes();
    table[8..12].copy_from_slice(&length);
    table
}

/// What is kept of a name.
fn kept(name: &str) -> &str {
    let mut length = name.len().min(LONGEST);
    while !name.is_char_boundary(length) {
        length -= 1;
    }
    &name[..length]
}

/// Writes seven bits a byte (LEB128).
fn put(to: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

/// The hash table of the symbols in `index`, and how many places it has.
fn places(symbols: &[Entry<'_>], index: &[usize]) -> (usize, Vec<u8>) {
    // A tenth of the places stays free, and so at least one.
    let mut places = vec![0_u32; index.len() + index.len() / 9 + 1];
    for &at in index {
        let mut place = hash(symbols[at].name) as usize % places.len();
        while places[place] != 0 {
            place = (place + 1) % places.len();
        }
        places[place] = narrow(at + 1);
    }
    let bits = place_bits(symbols.len());
    let size = places_size(places.len(), bits).expect("a symbol table stays under 4 GiB");
    let mut packed = vec![0; size];
    for (at, &number) in places.iter().enumerate() {
        let at = at * bits as usize;
        let word = (u64::from(number) << (at % 8)).to_le_bytes();
        packed[at / 8..].iter_mut().zip(word).for_each(|(to, from)| *to |= from);
    }
    (places.len(), packed)
}

/// The code symbols by address, one an address, none inside another: a label or a second entrance
/// within a function must not hide the function.
fn code_index(symbols: &[Entry<'_>]) -> Vec<usize> {
    let mut index = Vec::new();
    let mut covered = 0;
    let mut last = None;
    for (at, symbol) in symbols.iter().enumerate().filter(|(_, symbol)| symbol.code) {
        let end = symbol.address.saturating_add(symbol.size);
        let inside = symbol.address < covered && end <= covered;
        if inside || last == Some(symbol.address) {
            continue;
        }
        covered = covered.max(end);
        last = Some(symbol.address);
        index.push(at);
    }
    index
}

/// One symbol a name: the global one, or the local one if it is alone.
fn name_index(symbols: &[Entry<'_>]) -> Vec<usize> {
    let mut by_name = BTreeMap::<&str, Vec<usize>>::new();
    for (at, symbol) in symbols.iter().enumerate() {
        by_name.entry(symbol.name).or_default().push(at);
    }
    by_name
        .into_values()
        .filter_map(|same| {
            let global = same.iter().find(|&&at| symbols[at].global).copied();
            let address = symbols[same[0]].address;
            let alone = same.iter().all(|&at| symbols[at].address == address);
            global.or_else(|| alone.then_some(same[0]))
        })
        .collect()
}

fn narrow(number: usize) -> u32 {
    u32::try_from(number).expect("a symbol table stays under 4 GiB")
}
