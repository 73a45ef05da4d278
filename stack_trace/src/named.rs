//! Names of code that came with no symbol table: what a just-in-time compiler made.
//!
//! ```text
//!   name_code(0x7000..0x7400, "jit::sum") ─► NamedCode ── dropped ─► no name again
//!                        Named.symbolize(0x7010) ─► "jit::sum"
//!   name_functions(0x8000..0x9000, &WASM)  ─► WASM.symbolize(address)
//! ```
//!
//! Promise: looking a name up waits for nobody; while the table changes, there is none.
#![forbid(unsafe_code)]

use core::ops::Range;

use spin::RwLock;

use crate::symbolize::{Symbol, Symbolize};

/// How many pieces of code can have a name at once.
const MOST: usize = 256;

type Piece = Option<(u64, u64, Names)>;

/// Whose names a piece of code has.
#[derive(Clone, Copy)]
enum Names {
    One(&'static str),
    Many(&'static dyn Symbolize),
}

static TABLE: RwLock<[Piece; MOST]> = RwLock::new([None; MOST]);

/// A piece of code that has a name until this is dropped.
#[derive(Debug)]
#[must_use]
pub struct NamedCode(usize);

/// Gives the code at these addresses a name; `None` if too many have one. Next to
/// [`register_frames`](unspool_unwind::register_frames), which makes frames of it known.
///
/// Not to be called, nor [`NamedCode`] to be dropped, in a handler.
pub fn name_code(code: Range<u64>, name: &'static str) -> Option<NamedCode> {
    add(code, Names::One(name))
}

/// The same for code with many functions, or a region where such code comes and goes: has `names`
/// asked about the addresses in it.
pub fn name_functions(code: Range<u64>, names: &'static dyn Symbolize) -> Option<NamedCode> {
    add(code, Names::Many(names))
}

fn add(code: Range<u64>, names: Names) -> Option<NamedCode> {
    let mut table = TABLE.write();
    let free = table.iter().position(Option::is_none)?;
    table[free] = Some((code.start, code.end, names));
    Some(NamedCode(free))
}

impl Drop for NamedCode {
    fn drop(&mut self) {
        TABLE.write()[self.0] = None;
    }
}

/// Knows what [`name_code`] and [`name_functions`] were told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Named;

impl Symbolize for Named {
    fn symbolize(&self, address: u64) -> Option<Symbol<'_>> {
        let table = TABLE.try_read()?;
        let around = |piece: &&(u64, u64, Names)| (piece.0..piece.1).contains(&address);
        table.iter().flatten().filter(around).find_map(|&(start, end, names)| match names {
            Names::One(name) => {
                Some(Symbol { name: name.into(), address: start, size: end - start })
            }
            Names::Many(names) => names.symbolize(address),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(address: u64) -> Option<String> {
        Named.symbolize(address).map(|symbol| symbol.name.to_string())
    }

    #[test]
    fn code_has_a_name_until_that_is_dropped() {
        let sum = name_code(0x7000..0x7400, "jit::sum").unwrap();
        let other = name_code(0x7400..0x7500, "jit::other").unwrap();
        assert_eq!(name(0x73ff).as_deref(), Some("jit::sum"));
        assert_eq!(name(0x7400).as_deref(), Some("jit::other"));
        assert_eq!(name(0x7500), None);
        drop(sum);
        assert_eq!(name(0x7000), None);
        assert_eq!(name(0x7400).as_deref(), Some("jit::other"));
        let change = TABLE.write();
        assert_eq!(name(0x7400), None, "and nobody waits");
        drop(change);
        drop(other);
    }

    #[test]
    fn a_region_has_the_names_that_somebody_else_knows() {
        struct Even;
        impl Symbolize for Even {
            fn symbolize(&self, address: u64) -> Option<Symbol<'_>> {
                address.is_multiple_of(2).then_some(Symbol {
                    name: "even".into(),
                    address,
                    size: 1,
                })
            }
        }
        let region = name_functions(0x1_0000..0x2_0000, &Even).unwrap();
        let inside = name_code(0x1_0100..0x1_0200, "jit::inside").unwrap();
        assert_eq!(name(0x1_0100).as_deref(), Some("even"), "the first that knows");
        assert_eq!(name(0x1_0101).as_deref(), Some("jit::inside"));
        assert_eq!((name(0xfffe), name(0x2_0000), name(0x1_0201)), (None, None, None));
        drop(region);
        assert_eq!(name(0x1_0100).as_deref(), Some("jit::inside"));
        drop(inside);
    }
}
