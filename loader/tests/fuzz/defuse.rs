//! Takes out of a file what would be run when it is loaded.
//!
//! ```text
//!   .init_array* .ctors* .fini_array* … ──► not for memory        STT_GNU_IFUNC ──► STT_FUNC
//! ```
//!
//! What a mutated constructor does is nobody's promise. Everything else about it is loaded.

use crate::view::{self, SYM, View, kind};

const RUN: [&[u8]; 7] =
    [b".init", b".fini", b".preinit_array", b".ctors", b".dtors", b".init_array", b".fini_array"];

/// Types of sections that list functions (gABI: `SHT_INIT_ARRAY` to `SHT_PREINIT_ARRAY`).
const LISTS: std::ops::RangeInclusive<u32> = 14..=16;

const IFUNC: u8 = 10;
const FUNC: u8 = 2;

/// Changes all objects in `file`.
pub fn defuse(file: &mut [u8]) {
    for base in view::objects(file) {
        let Some(view) = View::of(file, base) else { continue };
        for index in 0..view.count {
            let Some(header) = view.header(file, index) else { continue };
            let name = view.name(file, &header).unwrap_or_default();
            if LISTS.contains(&header.kind) || RUN.iter().any(|run| name.starts_with(run)) {
                // SHT_PROGBITS without flags.
                view::put(file, header.at + 4, 4, 1);
                view::put(file, header.at + 8, 8, 0);
            }
            if header.kind == kind::SYMTAB {
                let contents = header.contents(file);
                for symbol in file[contents].chunks_exact_mut(SYM) {
                    if symbol[4] & 0xf == IFUNC {
                        symbol[4] = symbol[4] & 0xf0 | FUNC;
                    }
                }
            }
        }
    }
}
