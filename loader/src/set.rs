//! What to load together: files, archives, and what to take of them.
//!
//! ```text
//!   Set "driver" ── Input "main.o"        an object: all of it
//!                ── Input "libdev.a"      an archive: members that define what is still undefined
//!                ── Input "libinit.a"     an archive, whole: all members
//!                ── roots                 symbols that count as referred to
//! ```
//!
//! Promise: the members that are taken do not depend on the order of the inputs, unless two archives
//! define the same symbol; then the first does.
#![forbid(unsafe_code)]

/// A file of a [`Set`]: a relocatable object, or an archive of such (System V gABI has the former,
/// `ar(5)` the latter; archives start with `!<arch>` and a newline).
///
/// Of an archive those members are taken that define a symbol which is still undefined: neither
/// the set so far defines it, nor an object that was loaded earlier, nor the program. Members that
/// are not ELF files (a Rust library has one with metadata) are passed over.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    pub(crate) name: &'a str,
    pub(crate) bytes: &'a [u8],
    pub(crate) whole: bool,
}

impl<'a> Input<'a> {
    /// The file with these contents. The name is for messages and for
    /// [`Object::files`](crate::Object::files), which call a member of an archive
    /// `archive(member)`.
    pub const fn new(name: &'a str, bytes: &'a [u8]) -> Self {
        Self { name, bytes, whole: false }
    }

    /// Of an archive: all members. An object is always taken whole.
    #[must_use]
    pub const fn whole(self) -> Self {
        Self { whole: true, ..self }
    }
}

/// Files that are loaded together, as if a linker had made one of them.
///
/// They may refer to each other in any order. Of their symbols the hidden ones (`STV_HIDDEN`) mean
/// something inside the set only.
#[derive(Clone, Copy, Debug)]
pub struct Set<'a> {
    pub(crate) name: &'a str,
    pub(crate) inputs: &'a [Input<'a>],
    pub(crate) roots: &'a [&'a str],
}

impl<'a> Set<'a> {
    /// The files `inputs`, loaded under a name of the caller's choice.
    pub const fn new(name: &'a str, inputs: &'a [Input<'a>]) -> Self {
        Self { name, inputs, roots: &[] }
    }

    /// Symbols that count as referred to, so that the member of an archive which defines one is
    /// taken (as with `ld -u`). That nothing defines one is no error.
    #[must_use]
    pub const fn roots(self, symbols: &'a [&'a str]) -> Self {
        Self { roots: symbols, ..self }
    }
}
