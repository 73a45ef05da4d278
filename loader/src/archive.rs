//! Reads archives of objects (`ar`, static libraries, Rust's `.rlib`).
//!
//! ```text
//!   !<arch>\n │ header │ symbols, "/" │ header │ long names, "//" │ header │ member │ …
//!             │        │ symbol ──────┼────────┼──────────────────┼─► offset of a header
//!             │        │              │        │ …/long_name.o/\n │
//!             │        │              │        │  ▲               └── "/57": where its name is
//! ```
//!
//! Promise: a [`Member`] lies in the archive and has a name that is text; whatever is wrong is told
//! with the offset of the header it is in. GNU archives (`/`, `/SYM64/`, `//`) and BSD archives
//! (`__.SYMDEF`, `#1/length`) are understood. Reference: the System V gABI, chapter 7 of the
//! editions that had one; GNU `ar.h`; BSD ar(5).
#![forbid(unsafe_code)]

use crate::error::{ArchiveProblem, Cause};

/// What every archive starts with.
const MAGIC: &[u8; 8] = b"!<arch>\n";
/// What an archive starts with that has only the names of its members.
const THIN_MAGIC: &[u8; 8] = b"!<thin>\n";

/// Bytes of a member's header: name (16), date (12), owner, group (6 each), mode (8), size (10), end.
const HEADER: usize = 60;
const NAME: core::ops::Range<usize> = 0..16;
const SIZE: core::ops::Range<usize> = 48..58;
const END: &[u8] = b"`\n";

/// Whether a file is an archive, of any kind.
pub(crate) fn is_archive(file: &[u8]) -> bool {
    file.starts_with(MAGIC) || file.starts_with(THIN_MAGIC)
}

/// An archive whose tables have been found.
#[derive(Clone, Copy)]
pub(crate) struct Archive<'a> {
    file: &'a [u8],
    /// The names that do not fit into headers.
    long_names: &'a [u8],
    index: Option<Index<'a>>,
    /// The offset of the first member's header.
    first: usize,
}

/// One file of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member<'a> {
    pub name: &'a str,
    pub bytes: &'a [u8],
    /// The offset of its header in the archive, by which the index of symbols names it.
    pub offset: u64,
}

impl Member<'_> {
    /// Whether it is no object and not meant to be one: what rustc tells other rustcs.
    pub fn is_metadata(&self) -> bool {
        self.name.ends_with(".rmeta") || self.name.starts_with("lib.rmeta")
    }
}

/// The index of symbols: which member defines which.
#[derive(Clone, Copy)]
struct Index<'a> {
    form: IndexForm,
    bytes: &'a [u8],
    /// The offset of its header.
    offset: usize,
}

/// How the index is written. GNU's: count, offsets, names, big-endian. BSD's: bytes of pairs,
/// pairs of name and offset, bytes of names, names, little-endian on x86.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IndexForm {
    Gnu { word: usize },
    Bsd { word: usize },
}

/// A header, taken apart: its name as it stands there, and the member's bytes.
struct Entry<'a> {
    raw_name: &'a [u8],
    bytes: &'a [u8],
    offset: usize,
    next: usize,
}

/// A symbol, and the offset of the member that defines it.
type Defined<'a> = Result<(&'a str, u64), Cause>;

fn error(offset: usize, problem: ArchiveProblem) -> Cause {
    Cause::Archive { offset: offset as u64, problem }
}

impl<'a> Archive<'a> {
    /// Finds the tables of `file`, of which [`is_archive`] must be true.
    pub fn parse(file: &'a [u8]) -> Result<Self, Cause> {
        if file.starts_with(THIN_MAGIC) {
            return Err(error(0, ArchiveProblem::Thin));
        }
        let mut archive = Self { file, long_names: &[], index: None, first: MAGIC.len() };
        while let Some(entry) = archive.entry(archive.first)? {
            let Entry { raw_name, bytes, offset, next } = entry;
            let form = match raw_name {
                b"/" => Some(IndexForm::Gnu { word: 4 }),
                b"/SYM64/" => Some(IndexForm::Gnu { word: 8 }),
                b"//" => None,
                _ => match archive.member(&entry)?.name {
                    "__.SYMDEF" | "__.SYMDEF SORTED" => Some(IndexForm::Bsd { word: 4 }),
                    "__.SYMDEF_64" | "__.SYMDEF_64 SORTED" => Some(IndexForm::Bsd { word: 8 }),
                    _ => break,
                },
            };
            match form {
                None => archive.long_names = bytes,
                Some(form) => {
                    // With a long name (BSD), the table comes after the name.
                    let bytes = match form {
                        IndexForm::Gnu { .. } => bytes,
                        IndexForm::Bsd { .. } => archive.member(&entry)?.bytes,
                    };
                    archive.index = Some(Index { form, bytes, offset });
                }
            }
            archive.first = next;
        }
        Ok(archive)
    }

    /// All members, in their order; after an error, none.
    pub fn members(&self) -> impl Iterator<Item = Result<Member<'a>, Cause>> {
        let archive = *self;
        let mut next = Some(self.first);
        core::iter::from_fn(move || {
            let entry = archive.entry(next.take()?).transpose()?;
            let member = entry.and_then(|entry| {
                let member = archive.member(&entry)?;
                next = Some(entry.next);
                Ok(member)
            });
            Some(member)
        })
    }

    /// The member whose header is at `offset`, as the index of symbols says.
    pub fn member_at(&self, offset: u64) -> Result<Member<'a>, Cause> {
        let nothing = || Cause::Archive { offset, problem: ArchiveProblem::NoMember };
        let at = usize::try_from(offset).map_err(|_| nothing())?;
        match self.entry(at)? {
            Some(entry) if at >= self.first => self.member(&entry),
            _ => Err(nothing()),
        }
    }

    /// Symbols that members define, with the offsets of these members, if the archive has an index.
    pub fn symbols(&self) -> Result<Option<impl Iterator<Item = Defined<'a>>>, Cause> {
        self.index.map(Index::symbols).transpose()
    }

    /// The entry whose header is at `offset`, if the archive does not end there.
    fn entry(&self, offset: usize) -> Result<Option<Entry<'a>>, Cause> {
        let len = self.file.len() as u64;
        let Some(rest) = self.file.get(offset..).filter(|rest| !rest.is_empty()) else {
            return Ok(None);
        };
        let truncated =
            |end: u64| error(offset, ArchiveProblem::Truncated { end: offset as u64 + end, len });
        let Some((header, rest)) = rest.split_first_chunk::<HEADER>() else {
            return Err(truncated(HEADER as u64));
        };
        if !header.ends_with(END) {
            return Err(error(offset, ArchiveProblem::NoHeader));
        }
        let size = decimal(header[SIZE].trim_ascii_end())
            .ok_or_else(|| error(offset, ArchiveProblem::BadSize))?;
        let bytes = usize::try_from(size).ok().and_then(|size| rest.get(..size));
        let bytes = bytes.ok_or_else(|| truncated((HEADER as u64).saturating_add(size)))?;
        let end = offset + HEADER + bytes.len();
        // Headers are at even offsets; a byte that is missing at the very end is not missed.
        let next = end.next_multiple_of(2);
        Ok(Some(Entry { raw_name: header[NAME].trim_ascii_end(), bytes, offset, next }))
    }

    fn member(&self, entry: &Entry<'a>) -> Result<Member<'a>, Cause> {
        let Entry { raw_name, bytes, offset, .. } = *entry;
        let bad_name = || error(offset, ArchiveProblem::BadName);
        let (name, bytes) = if let Some(len) = raw_name.strip_prefix(b"#1/") {
            let len = decimal(len).and_then(|len| usize::try_from(len).ok());
            let (name, bytes) =
                bytes.split_at_checked(len.ok_or_else(bad_name)?).ok_or_else(bad_name)?;
            // Filled up so that what comes after is aligned.
            (until(name, |byte| byte == 0), bytes)
        } else if let Some(at) = raw_name.strip_prefix(b"/") {
            let at = decimal(at).and_then(|at| usize::try_from(at).ok()).ok_or_else(bad_name)?;
            let name = self.long_names.get(at..).filter(|name| !name.is_empty());
            let name = until(name.ok_or_else(bad_name)?, |byte| byte == b'\n' || byte == 0);
            (name.strip_suffix(b"/").unwrap_or(name), bytes)
        } else {
            (raw_name.strip_suffix(b"/").unwrap_or(raw_name), bytes)
        };
        let name = core::str::from_utf8(name).ok().filter(|name| !name.is_empty());
        Ok(Member { name: name.ok_or_else(bad_name)?, bytes, offset: offset as u64 })
    }
}

impl<'a> Index<'a> {
    fn symbols(self) -> Result<impl Iterator<Item = Result<(&'a str, u64), Cause>>, Cause> {
        let bad = move || error(self.offset, ArchiveProblem::BadIndex);
        let (entries, names) = self.tables().ok_or_else(bad)?;
        let (width, mut next_name) = (self.form.entry(), 0);
        Ok(entries.chunks_exact(width).map(move |entry| {
            let (name_at, member) = match self.form {
                IndexForm::Gnu { .. } => (next_name, self.form.word(entry)),
                IndexForm::Bsd { word } => {
                    (self.form.word(entry) as usize, self.form.word(&entry[word..]))
                }
            };
            let name = names.get(name_at..).and_then(|names| {
                let end = names.iter().position(|&byte| byte == 0)?;
                core::str::from_utf8(&names[..end]).ok()
            });
            let name = name.ok_or_else(bad)?;
            next_name = name_at + name.len() + 1;
            Ok((name, member))
        }))
    }

    /// The entries, and the names of their symbols.
    fn tables(&self) -> Option<(&'a [u8], &'a [u8])> {
        let width = self.form.word_bytes();
        let first = |bytes: &'a [u8]| {
            let (word, rest) = bytes.split_at_checked(width)?;
            Some((usize::try_from(self.form.word(word)).ok()?, rest))
        };
        let (size, rest) = first(self.bytes)?;
        match self.form {
            IndexForm::Gnu { .. } => rest.split_at_checked(size.checked_mul(width)?),
            IndexForm::Bsd { .. } => {
                let (entries, rest) = rest.split_at_checked(size)?;
                let (size, names) = first(rest)?;
                Some((entries, names.get(..size)?))
            }
        }
    }
}

impl IndexForm {
    fn word_bytes(self) -> usize {
        match self {
            Self::Gnu { word } | Self::Bsd { word } => word,
        }
    }

    /// Bytes of an entry.
    fn entry(self) -> usize {
        match self {
            Self::Gnu { word } => word,
            Self::Bsd { word } => 2 * word,
        }
    }

    /// The number at the start of `bytes`, which has as many as a word.
    fn word(self, bytes: &[u8]) -> u64 {
        let digits = &bytes[..self.word_bytes()];
        let join = |number: u64, &byte: &u8| number << 8 | u64::from(byte);
        match self {
            Self::Gnu { .. } => digits.iter().fold(0, join),
            Self::Bsd { .. } => digits.iter().rev().fold(0, join),
        }
    }
}

/// A number in decimal digits, and nothing else.
fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    core::str::from_utf8(digits).ok()?.parse().ok()
}

/// `bytes` before the first that ends them.
fn until(bytes: &[u8], ends: impl Fn(u8) -> bool) -> &[u8] {
    let end = bytes.iter().position(|&byte| ends(byte)).unwrap_or(bytes.len());
    &bytes[..end]
}

#[cfg(test)]
mod tests;
