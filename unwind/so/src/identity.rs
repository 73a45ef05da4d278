//! What tells a loaded object from another that takes its place: the linker's build ID.
//!
//! ```text
//!   first page │ ELF header │ program headers │ … PT_NOTE: "GNU", NT_GNU_BUILD_ID, hash │
//! ```
//!
//! The dynamic linker may give the next object the same addresses, the same extent and the same
//! `link_map`; what it keeps count of can only be asked under its lock. A build ID is a hash of all that
//! the linker wrote, so equal ones have equal tables. Linkers put it among the first bytes of a file.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU16, Ordering};

/// What is looked at of an object.
pub(crate) const PAGE: usize = 4096;

/// Shorter ones were made up by somebody (`--build-id=0x…`), and are no hash.
const SHORTEST: usize = 8;

const PT_NOTE: u32 = 4;
const NT_GNU_BUILD_ID: u32 = 3;
/// `Elf64_Phdr`.
const PROGRAM_HEADER: usize = 56;

/// Where in its first page an object had its build ID, by where the object was: a hint, which is tried
/// first, because walks ask again and again.
static PLACES: [AtomicU16; 64] = [const { AtomicU16::new(0) }; 64];

/// A number that differs between objects whose build ID, start or header's address differ; `None`
/// if the object has no build ID.
pub(crate) fn identity(page: &[u8; PAGE], start: u64, header: u64) -> Option<u64> {
    let place = &PLACES[(start / PAGE as u64 % PLACES.len() as u64) as usize];
    let id = match build_id(page, place.load(Ordering::Relaxed).into()) {
        Some(id) => id,
        None => {
            let found = find(page)?;
            place.store(u16::try_from(found).ok()?, Ordering::Relaxed);
            build_id(page, found)?
        }
    };
    // A bijection for each word: two identities are equal by chance only.
    let mix = |sum: u64, word: u64| {
        let product = (sum ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        product ^ product >> 32
    };
    let (words, last) = (id.as_chunks().0, id.last_chunk()?);
    let sum =
        words.iter().fold(mix(start, header), |sum, &word| mix(sum, u64::from_le_bytes(word)));
    Some(mix(sum, u64::from_le_bytes(*last)))
}

/// What the note says that begins at `at`, if it is a build ID (gABI, "Note Section").
fn build_id(page: &[u8; PAGE], at: usize) -> Option<&[u8]> {
    let head: &[u8; 16] = page.get(at..)?.first_chunk()?;
    let is_one = int(head, 0) == Some(4) && int(head, 8) == Some(NT_GNU_BUILD_ID);
    if !is_one || !head.ends_with(b"GNU\0") {
        return None;
    }
    let length = int(head, 4)? as usize;
    page.get(at + head.len()..)?.get(..length).filter(|id| id.len() >= SHORTEST)
}

/// Where the note with the build ID begins.
fn find(page: &[u8; PAGE]) -> Option<usize> {
    if !page.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (headers, count) = (word(page, 32)?, short(page, 56)?);
    let mut headers = page.get(headers..)?.chunks_exact(PROGRAM_HEADER).take(count);
    headers.find_map(|header| {
        if int(header, 0)? != PT_NOTE {
            return None;
        }
        // Both in the file, whose first page this is.
        let (mut at, size) = (word(header, 8)?, word(header, 32)?);
        let (end, align) = (at.checked_add(size)?.min(PAGE), word(header, 48)?.clamp(4, 8));
        while at < end && build_id(page, at).is_none() {
            let (name, length) = (int(page, at)?, int(page, at + 4)?);
            let description = (12 + name as usize).next_multiple_of(align);
            at += (description + length as usize).next_multiple_of(align);
        }
        (at < end).then_some(at)
    })
}

fn word(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?)).ok()
}

fn int(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn short(bytes: &[u8], at: usize) -> Option<usize> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?).into())
}
