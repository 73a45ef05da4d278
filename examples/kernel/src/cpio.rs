//! Reads the modules out of a newc cpio archive, where they lie.
//!
//! ```text
//! │ header (110) │ name NUL… │ pad to 4 │ data │ pad to 4 │ header │ … │ TRAILER!!! │
//! ```
//!
//! An archive is checked once, as a whole; iterating over it cannot fail.
#![forbid(unsafe_code)]

use core::fmt;

/// Bytes of a header: the magic and 13 fields of 8 hexadecimal digits.
const HEADER: usize = 110;
/// Of a newc archive, without and with checksums.
const MAGICS: [&[u8]; 2] = [b"070701", b"070702"];
/// The name that ends an archive.
const TRAILER: &str = "TRAILER!!!";
/// `S_IFMT` and `S_IFREG` of the mode field.
const FILE_TYPE: usize = 0o170_000;
const REGULAR_FILE: usize = 0o100_000;

/// What is wrong with an archive; offsets are bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpioError {
    /// A header does not start with the magic of a newc archive.
    BadMagic {
        /// Where the header starts.
        offset: usize,
    },
    /// A header field is not hexadecimal.
    BadField {
        /// Where the header starts.
        offset: usize,
        /// Which field, counted from 0.
        field: usize,
    },
    /// A name is not UTF-8 or has no NUL.
    BadName {
        /// Where the header starts.
        offset: usize,
    },
    /// The archive ends inside a member, or before its trailer.
    Truncated {
        /// Where the member starts.
        offset: usize,
    },
}

impl fmt::Display for CpioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadMagic { offset } => write!(f, "no newc header at offset {offset:#x}"),
            Self::BadField { offset, field } => {
                write!(f, "field {field} of the newc header at {offset:#x} is not hexadecimal")
            }
            Self::BadName { offset } => write!(f, "bad name of the member at offset {offset:#x}"),
            Self::Truncated { offset } => write!(f, "truncated member at offset {offset:#x}"),
        }
    }
}

impl core::error::Error for CpioError {}

/// A file that was handed to the kernel at boot.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Module<'a> {
    /// Its name in the archive.
    pub name: &'a str,
    /// Its contents.
    pub bytes: &'a [u8],
}

impl fmt::Debug for Module<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Module {{ name: {:?}, {} bytes }}", self.name, self.bytes.len())
    }
}

/// A checked archive.
#[derive(Clone, Copy, Debug, Default)]
pub struct Archive<'a> {
    bytes: &'a [u8],
}

impl<'a> Archive<'a> {
    /// Without members.
    pub const EMPTY: Self = Self { bytes: &[] };

    /// Checks `bytes` up to the trailer; what follows it is padding.
    ///
    /// # Errors
    ///
    /// The first thing that is wrong, with its offset.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, CpioError> {
        let mut offset = 0;
        while let Some(member) = member(bytes, offset)? {
            offset = member.next;
        }
        Ok(Self { bytes: &bytes[..offset] })
    }

    /// The regular files, in order.
    pub fn modules(self) -> impl Iterator<Item = Module<'a>> + Clone {
        let mut offset = 0;
        core::iter::from_fn(move || {
            (offset < self.bytes.len()).then_some(())?;
            let member = member(self.bytes, offset).ok()??;
            offset = member.next;
            Some(member)
        })
        .filter(|member| member.regular)
        .map(|member| member.module)
    }
}

#[derive(Clone, Copy)]
struct Member<'a> {
    module: Module<'a>,
    regular: bool,
    /// Where the next header starts.
    next: usize,
}

/// The member whose header is at `offset`, or `None` if that is the trailer.
fn member(archive: &[u8], offset: usize) -> Result<Option<Member<'_>>, CpioError> {
    let truncated = CpioError::Truncated { offset };
    let header = archive.get(offset..).and_then(|rest| rest.get(..HEADER)).ok_or(truncated)?;
    if !MAGICS.contains(&&header[..6]) {
        return Err(CpioError::BadMagic { offset });
    }
    let field = |field: usize| {
        let digits = &header[6 + field * 8..14 + field * 8];
        let bad = CpioError::BadField { offset, field };
        // `from_str_radix` would accept a sign.
        digits.iter().try_fold(0, |value: usize, &digit| {
            let digit = char::from(digit).to_digit(16).ok_or(bad)?;
            Ok(value << 4 | digit as usize)
        })
    };
    let (mode, size, name_size) = (field(1)?, field(6)?, field(11)?);
    // Eight digits each, so the sums fit easily.
    let name_at = offset + HEADER;
    let data_at = (name_at + name_size).next_multiple_of(4);
    let name = archive.get(name_at..name_at + name_size).ok_or(truncated)?;
    let name = core::ffi::CStr::from_bytes_until_nul(name).ok().and_then(|name| name.to_str().ok());
    let name = name.ok_or(CpioError::BadName { offset })?;
    if name == TRAILER {
        return Ok(None);
    }
    let bytes = archive.get(data_at..data_at + size).ok_or(truncated)?;
    Ok(Some(Member {
        module: Module { name, bytes },
        regular: mode & FILE_TYPE == REGULAR_FILE,
        next: (data_at + size).next_multiple_of(4),
    }))
}
