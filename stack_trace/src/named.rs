//! Names of code that came with no symbol table: what a just-in-time compiler made.
//!
//! ```text
//!   name_code(0x7000..0x7400, "jit::sum") ─► NamedCode ── dropped ─► no name again
//!                        Named.symbolize(0x7010) ─► "jit::sum"
//! ```
//!
//! Promise: looking a name up waits for nobody; while the table changes, there is none.
#![forbid(unsafe_code)]

use core::ops::Range;

use spin::RwLock;

use crate::symbolize::{Symbol, Symbolize};

/// How many pieces of code can have a name at once.
const MOST: usize = 256;

type Piece = Option<(u64, u64, &'static str)>;

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
    let mut table = TABLE.write();
    let free = table.iter().position(Option::is_none)?;
    table[free] = Some((code.start, code.end, name));
    Some(NamedCode(free))
}

impl Drop for NamedCode {
    fn drop(&mut self) {
        TABLE.write()[self.0] = None;
    }
}

/// Knows what [`name_code`] was told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Named;

impl Symbolize for Named {
    fn symbolize(&self, address: u64) -> Option<Symbol<'_>> {
        let table = TABLE.try_read()?;
        let mut pieces = table.iter().flatten();
        let &(start, end, name) =
            pieces.find(|(start, end, _)| (*start..*end).contains(&address))?;
        Some(Symbol { name: name.into(), address: start, size: end - start })
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
}
