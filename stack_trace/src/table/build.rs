//! Writes the table; run by the build, on the host.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::{HEADER, MAGIC};

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
/// If the table would exceed 4 GiB.
pub fn build(symbols: &[Entry<'_>]) -> Vec<u8> {
    let mut symbols = symbols.to_vec();
    symbols.sort_by(|a, b| (a.address, b.size, a.name).cmp(&(b.address, a.size, b.name)));
    symbols.dedup();
    let (names, offsets) = names(&symbols);
    let code = code_index(&symbols);
    let by_name = name_index(&symbols);
    let mut table = Vec::from(MAGIC);
    table.extend([0; 4]);
    for count in [symbols.len(), code.len(), by_name.len()] {
        table.extend(narrow(count).to_le_bytes());
    }
    debug_assert_eq!(table.len(), HEADER);
    for (symbol, offset) in symbols.iter().zip(offsets) {
        table.extend(symbol.address.to_le_bytes());
        table.extend(symbol.size.to_le_bytes());
        table.extend(offset.to_le_bytes());
        table.extend([0; 4]);
    }
    for index in code.into_iter().chain(by_name) {
        table.extend(narrow(index).to_le_bytes());
    }
    table.extend(names);
    let length = narrow(table.len()).to_le_bytes();
    table[8..12].copy_from_slice(&length);
    table
}

/// The names, each once, and the offset of each symbol's.
fn names(symbols: &[Entry<'_>]) -> (Vec<u8>, Vec<u32>) {
    let mut names = Vec::new();
    let mut known = BTreeMap::new();
    let offsets = symbols
        .iter()
        .map(|symbol| {
            *known.entry(symbol.name).or_insert_with(|| {
                let offset = narrow(names.len());
                let mut length = symbol.name.len().min(usize::from(u16::MAX));
                while !symbol.name.is_char_boundary(length) {
                    length -= 1;
                }
                names.extend((length as u16).to_le_bytes());
                names.extend(&symbol.name.as_bytes()[..length]);
                offset
            })
        })
        .collect();
    (names, offsets)
}

/// The code symbols by address, one an address, none inside another: a label within a function
/// must not hide the function.
fn code_index(symbols: &[Entry<'_>]) -> Vec<usize> {
    let mut index = Vec::new();
    let mut covered = 0;
    let mut last = None;
    for (at, symbol) in symbols.iter().enumerate().filter(|(_, symbol)| symbol.code) {
        let inside = symbol.size == 0 && symbol.address < covered;
        if inside || last == Some(symbol.address) {
            continue;
        }
        covered = covered.max(symbol.address.saturating_add(symbol.size));
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
