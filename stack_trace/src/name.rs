//! Names of symbols, wherever they are kept: as text, or packed in the program's own table.
//!
//! ```text
//!   Name ─┬─ whole                ─────────────┐     a loaded object's string table, DWARF
//!         └─ packed ─► NameBuffer ─────────────┴─►   &str ─► demangled
//! ```
//!
//! Promise: a name is unpacked on the stack of whoever reads it, in a kibibyte that they provide.
#![forbid(unsafe_code)]

use core::fmt;

use crate::table::Unpack;

/// The name of a symbol, mangled if it was.
///
/// Demangling takes as much stack as the name nests: up to 16 KiB for 50 levels. `rustc-demangle` gives up at
/// 500, for which a name that somebody makes for that purpose takes up to 256 KiB.
#[derive(Clone, Copy)]
pub struct Name<'a>(Kept<'a>);

#[derive(Clone, Copy)]
enum Kept<'a> {
    Whole(&'a str),
    Packed { rules: &'a [u8], tokens: &'a [u8] },
}

/// Room for one unpacked name.
pub struct NameBuffer([u8; Self::SIZE]);

impl NameBuffer {
    /// How much of a name there is room for, in bytes. Of the kernels of this repository the longest
    /// name has half as many.
    pub const SIZE: usize = 1024;

    /// An empty one.
    pub const fn new() -> Self {
        Self([0; Self::SIZE])
    }
}

impl Default for NameBuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Name<'a> {
    pub(crate) const fn packed(rules: &'a [u8], tokens: &'a [u8]) -> Self {
        Self(Kept::Packed { rules, tokens })
    }

    /// The name, if it lies somewhere as text.
    pub const fn whole(&self) -> Option<&'a str> {
        match self.0 {
            Kept::Whole(name) => Some(name),
            Kept::Packed { .. } => None,
        }
    }

    /// Whether it has `part` in it.
    pub fn contains(&self, part: &str) -> bool {
        self.read(&mut NameBuffer::new()).contains(part)
    }

    /// The name as text; what is longer than the buffer is cut off.
    pub fn read<'b>(&self, buffer: &'b mut NameBuffer) -> &'b str
    where
        'a: 'b,
    {
        let mut len = 0;
        match self.0 {
            Kept::Whole(name) => return name,
            Kept::Packed { rules, tokens } => {
                for (to, from) in buffer.0.iter_mut().zip(Unpack::new(rules, tokens)) {
                    *to = from;
                    len += 1;
                }
            }
        }
        let bytes = &buffer.0[..len];
        match core::str::from_utf8(bytes) {
            Ok(name) => name,
            // Cut within a character, or damaged from there on.
            Err(error) => core::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default(),
        }
    }
}

impl<'a> From<&'a str> for Name<'a> {
    fn from(name: &'a str) -> Self {
        Self(Kept::Whole(name))
    }
}

impl PartialEq<str> for Name<'_> {
    fn eq(&self, other: &str) -> bool {
        match self.0 {
            Kept::Whole(name) => name == other,
            Kept::Packed { rules, tokens } => Unpack::new(rules, tokens).eq(other.bytes()),
        }
    }
}

impl PartialEq<&str> for Name<'_> {
    fn eq(&self, other: &&str) -> bool {
        *self == **other
    }
}

impl PartialEq for Name<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self.0, other.0) {
            (Kept::Whole(name), _) => *other == *name,
            (_, Kept::Whole(name)) => *self == *name,
            (Kept::Packed { rules, tokens }, Kept::Packed { rules: others, tokens: same }) => {
                Unpack::new(rules, tokens).eq(Unpack::new(others, same))
            }
        }
    }
}

impl Eq for Name<'_> {}

/// As it stands in the symbol table.
impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.read(&mut NameBuffer::new()))
    }
}

impl fmt::Debug for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.read(&mut NameBuffer::new()), f)
    }
}
