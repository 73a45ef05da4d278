//! Tables of frames: what is built says what DWARF says, and what is damaged says something.
//!
//! ```text
//!   section ─► table ─┬──────────────────► at each row and beside it: DWARF's rule, or none
//!                     └─► change bytes ──► some rule, or none
//! ```

use unspool_unwind::table::{FrameTable, build};
use unspool_unwind::{FdeEntry, Module, Rule, Section};

use crate::Seeds;
use crate::frames::{ADDRESS, TEXT};
use crate::random::Random;
use crate::room;
use crate::section::{self, change_bytes};

fn module(data: &[u8]) -> Module<'_> {
    Module::new(TEXT..TEXT + 0x1000_0000, Section { data, address: ADDRESS })
}

/// A section and its table, which may be damaged; or no table, where there is none or it is huge.
pub fn inputs(seeds: &Seeds, random: &mut Random) -> Vec<Vec<u8>> {
    let data = section::make(&seeds.pairs, random);
    let mut table = build(&module(&data), &[]).unwrap_or_default();
    if table.len() > room::SIZE {
        table.clear();
    }
    if !table.is_empty() && random.once_in(4) {
        for _ in 0..1 + random.below(3) {
            change_bytes(&mut table, random);
        }
    }
    table.truncate(room::SIZE);
    vec![data, table]
}

/// How many addresses have DWARF's rule by a table that is whole.
pub fn check(data: &[u8], bytes: &[u8]) -> u64 {
    let module = module(data);
    let Ok(table) = FrameTable::parse(bytes, &module.eh_frame) else { return 0 };
    let whole = build(&module, &[]).is_ok_and(|built| built == bytes);
    let mut starts: Vec<u64> = Vec::new();
    let _ = module.for_each_entry(|FdeEntry { start, .. }| starts.push(start));
    let mut agree = 0;
    for start in starts {
        for distance in (0..0x40).chain([0x80, 0x3ff, 0x400, 0x7ff, 0x1000]) {
            let address = start.wrapping_add(distance);
            let Some(rule) = table.rule(address, ADDRESS) else { continue };
            if whole {
                let row = module.function(address).and_then(|function| function.row(address));
                let row = row.unwrap_or_else(|error| panic!("{error}"));
                assert_eq!(Some(rule), Rule::from_row(&row), "{address:#x}");
                agree += 1;
            }
        }
    }
    agree
}
