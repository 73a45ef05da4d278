//! Takes the object out of an rlib, for a crate that is not linked but loaded.
//!
//! ```text
//! libunspool_plugin.rlib = ar │ lib.rmeta │ unspool_plugin-….cgu.0.rcgu.o │
//! ```
//!
//! One codegen unit a crate makes it one object; several are refused.
#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use object::read::archive::ArchiveFile;

/// The one object of the rlib whose bytes these are.
///
/// # Errors
/// It is not an archive, or has not exactly one object in it.
pub fn object(rlib: &[u8]) -> Result<&[u8]> {
    let archive = ArchiveFile::parse(rlib).context("not an ar archive")?;
    let mut objects = Vec::new();
    let mut names = Vec::new();
    for member in archive.members() {
        let member = member?;
        if member.name().ends_with(b".o") {
            objects.push(member.data(rlib)?);
            names.push(String::from_utf8_lossy(member.name()).into_owned());
        }
    }
    match objects[..] {
        [object] => Ok(object),
        [] => bail!("no object in the rlib: does the crate have any code of its own?"),
        _ => bail!(
            "{} objects in the rlib ({}): the profile needs `codegen-units = 1`",
            names.len(),
            names.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ar archive (common format, short names) of the given members.
    fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = b"!<arch>\n".to_vec();
        for (name, data) in members {
            let name = format!("{name}/");
            let header =
                format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 644, data.len());
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(data);
            bytes.resize(bytes.len().next_multiple_of(2), b'\n');
        }
        bytes
    }

    #[test]
    fn the_object_is_found_among_the_metadata() {
        let rlib = ar(&[("lib.rmeta", b"meta"), ("p.rcgu.o", b"\x7fELF")]);
        assert_eq!(object(&rlib).unwrap(), b"\x7fELF");
    }

    #[test]
    fn no_object_and_two_objects_are_different_errors() {
        let none = ar(&[("lib.rmeta", b"meta")]);
        assert!(object(&none).unwrap_err().to_string().contains("no object"));
        let two = ar(&[("a.o", b"1"), ("b.o", b"2")]);
        assert!(object(&two).unwrap_err().to_string().contains("2 objects in the rlib (a.o, b.o)"));
        assert!(object(b"junk").is_err());
    }
}
