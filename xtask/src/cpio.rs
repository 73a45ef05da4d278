//! Packs the modules a kernel gets: a plain newc archive, uncompressed.
//!
//! ```text
//! │ header (110) │ name NUL… │ data │ pad to 4 │ header │ … │ TRAILER!!! │
//!                            ▲ a multiple of 16 from the archive's start
//! ```
//!
//! An ELF reader wants its header aligned, and the kernel reads the modules where they lie. newc
//! itself aligns to 4 only, so a name gets as many NULs as it takes: readers stop at the first.
#![forbid(unsafe_code)]

use std::fmt;

/// Where a member's data may begin, in bytes from the archive's start.
const DATA_ALIGNMENT: usize = 16;
/// Bytes of a newc header: the magic and 13 fields of 8 hexadecimal digits.
const HEADER: usize = 110;
/// The name that ends an archive.
const TRAILER: &str = "TRAILER!!!";
/// `S_IFREG | 0644`.
const REGULAR_FILE: usize = 0o100_644;

/// One file of the archive.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its name; no NUL, not the trailer's.
    pub name: String,
    /// Its bytes, fewer than 4 GiB.
    pub data: Vec<u8>,
}

/// What cannot be packed.
#[derive(Debug, PartialEq, Eq)]
pub enum CpioError {
    /// The name is empty, has a NUL in it, or is the trailer's.
    BadName(String),
    /// The data's size does not fit the header's 8 digits (bytes).
    TooLarge { name: String, size: usize },
}

impl fmt::Display for CpioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadName(name) => write!(f, "{name:?} cannot be the name of an archive member"),
            Self::TooLarge { name, size } => {
                write!(f, "module {name} has {size} bytes; newc ends at {}", u32::MAX)
            }
        }
    }
}

impl std::error::Error for CpioError {}

/// The archive of `members`, in their order.
///
/// # Errors
/// A name or a size that newc cannot express.
pub fn archive(members: &[Member]) -> Result<Vec<u8>, CpioError> {
    let mut bytes = Vec::new();
    for (index, member) in members.iter().enumerate() {
        let Member { name, data } = member;
        if name.is_empty() || name == TRAILER || name.contains('\0') {
            return Err(CpioError::BadName(name.clone()));
        }
        if u32::try_from(data.len()).is_err() {
            return Err(CpioError::TooLarge { name: name.clone(), size: data.len() });
        }
        let header = Header { inode: index + 1, mode: REGULAR_FILE, size: data.len() };
        header.write(name, DATA_ALIGNMENT, &mut bytes);
        bytes.extend_from_slice(data);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    Header { inode: 0, mode: 0, size: 0 }.write(TRAILER, 4, &mut bytes);
    Ok(bytes)
}

/// The data of the first member with this name, in an archive as [`archive`] makes it.
pub fn member<'a>(archive: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut rest = archive;
    loop {
        // c_filesize and c_namesize, of eight digits each, behind the magic.
        let field = |index: usize| {
            let digits = rest.get(6 + 8 * index..)?.get(..8)?;
            usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
        };
        let (size, name_size) = (field(6)?, field(11)?);
        let (found, data) = rest.get(HEADER..)?.split_at_checked(name_size)?;
        let found = found.split(|&byte| byte == 0).next()?;
        let (data, after) = data.split_at_checked(size)?;
        if found == name.as_bytes() {
            return Some(data);
        }
        // Where data may begin is a multiple of 4, too.
        rest = after.get(size.next_multiple_of(4) - size..)?;
    }
}

struct Header {
    inode: usize,
    mode: usize,
    size: usize,
}

impl Header {
    /// Appends the header and the name, so that what follows is aligned to `alignment`.
    fn write(&self, name: &str, alignment: usize, bytes: &mut Vec<u8>) {
        let name_at = bytes.len() + HEADER;
        let data_at = (name_at + name.len() + 1).next_multiple_of(alignment);
        // Readers round the end of the name up to 4 themselves, so `data_at` is where they look.
        let name_size = data_at - name_at;
        // c_ino c_mode c_uid c_gid c_nlink c_mtime c_filesize c_dev{major,minor}
        // c_rdev{major,minor} c_namesize c_check
        let fields = [self.inode, self.mode, 0, 0, 1, 0, self.size, 0, 0, 0, 0, name_size, 0];
        bytes.extend_from_slice(b"070701");
        for field in fields {
            bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        bytes.extend_from_slice(name.as_bytes());
        bytes.resize(data_at, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, data: &[u8]) -> Member {
        Member { name: name.to_owned(), data: data.to_owned() }
    }

    /// Reads as cpio(5) says: a field at a time, rounding up to 4 after the name and the data.
    fn read(archive: &[u8]) -> Vec<(String, usize, Vec<u8>)> {
        let mut members = Vec::new();
        let mut at = 0;
        loop {
            let header = &archive[at..at + HEADER];
            assert_eq!(&header[..6], b"070701");
            let field = |index: usize| {
                let digits = std::str::from_utf8(&header[6 + index * 8..14 + index * 8]).unwrap();
                usize::from_str_radix(digits, 16).unwrap()
            };
            let (size, name_size) = (field(6), field(11));
            let name = &archive[at + HEADER..at + HEADER + name_size];
            assert_eq!(name.last(), Some(&0));
            let name = name.split(|&byte| byte == 0).next().unwrap();
            let data_at = (at + HEADER + name_size).next_multiple_of(4);
            at = (data_at + size).next_multiple_of(4);
            if name == TRAILER.as_bytes() {
                assert_eq!(at, archive.len());
                return members;
            }
            let name = String::from_utf8(name.to_owned()).unwrap();
            members.push((name, data_at, archive[data_at..data_at + size].to_owned()));
        }
    }

    #[test]
    fn an_independent_reader_finds_every_member() {
        let members: Vec<_> =
            (0..40).map(|n| member(&"n".repeat(n + 1), &vec![n as u8; n * 7 % 33])).collect();
        let found = read(&archive(&members).unwrap());
        assert_eq!(found.len(), members.len());
        for (member, (name, data_at, data)) in members.iter().zip(found) {
            assert_eq!((&member.name, &member.data), (&name, &data));
            assert_eq!(data_at % DATA_ALIGNMENT, 0);
        }
        let bytes = archive(&members).unwrap();
        for Member { name, data } in &members {
            assert_eq!(super::member(&bytes, name), Some(&**data));
        }
        assert_eq!(super::member(&bytes, "absent"), None);
    }

    #[test]
    fn an_empty_archive_is_a_trailer() {
        assert!(read(&archive(&[]).unwrap()).is_empty());
    }

    #[test]
    fn headers_are_as_the_format_says() {
        let bytes = archive(&[member("a.o", b"ELF")]).unwrap();
        let expected = "070701\
            00000001000081a4000000000000000000000001000000000000000300000000\
            00000000000000000000000000000012\
            00000000a.o\0";
        assert_eq!(&bytes[..expected.len()], expected.as_bytes());
    }

    #[test]
    fn names_that_would_end_or_break_the_archive_are_refused() {
        for name in ["", TRAILER, "a\0b"] {
            let error = archive(&[member(name, b"")]).unwrap_err();
            assert_eq!(error, CpioError::BadName(name.to_owned()));
        }
    }
}
