//! Registers `.eh_frame` sections by their address alone, as just-in-time compilers have them.
//!
//! ```text
//!   begin ─► CIE │ FDE │ … │ 0        read to its terminator once, for the range of its code
//! ```
//!
//! What `__register_frame` and its kin are made of (LSB core §10.6 has the format, no standard
//! the functions). The section is remembered by `begin`.

use crate::error::RegisterError;
use crate::module::{Module, Section};
use crate::modules::global;

/// Adds the section at `begin` to the [`global`] table. A section that is empty is nothing, and
/// well.
///
/// # Errors
///
/// As [`register`](crate::register); [`RegisterError::BadFrames`] if the section cannot be read.
///
/// # Safety
///
/// 1. `begin` points to an `.eh_frame` section with its terminator.
/// 2. [`Modules::register`](crate::Modules::register)'s contract holds for it until it is
///    removed.
pub unsafe fn register_frames(begin: *const u8) -> Result<(), RegisterError> {
    // SAFETY: the caller's promise is the same.
    unsafe { register_with(begin, &Manner { key: begin.addr() as u64, ..Manner::default() }) }
}

/// How a section is registered through a C name.
#[derive(Clone, Copy, Default)]
pub(crate) struct Manner {
    /// What removes it again; not zero.
    pub(crate) key: u64,
    /// What is handed back then.
    pub(crate) object: u64,
    /// What `DW_EH_PE_textrel` is relative to in it.
    pub(crate) text_base: u64,
    /// What `DW_EH_PE_datarel` is relative to.
    pub(crate) data_base: u64,
}

/// As [`register_frames`], in this manner.
///
/// # Safety
///
/// As [`register_frames`].
pub(crate) unsafe fn register_with(begin: *const u8, manner: &Manner) -> Result<(), RegisterError> {
    // SAFETY: the caller's promise.
    let data = unsafe { section(begin) };
    let module =
        Module::new(0..0, Section::in_memory(data)).with_bases(manner.text_base, manner.data_base);
    let Some(text) = module.extent().map_err(RegisterError::BadFrames)? else { return Ok(()) };
    // SAFETY: the caller's promise.
    unsafe { global().register_frames(Module { text, ..module }, manner.key, manner.object) }
}

/// Removes the section at `begin`; what came with it when it was registered through a C name, or
/// else 0.
///
/// # Errors
///
/// [`RegisterError::NotRegistered`] if it is not there.
pub fn deregister_frames(begin: *const u8) -> Result<u64, RegisterError> {
    let begin = begin.addr() as u64;
    global().deregister_frames(begin).ok_or(RegisterError::NotRegistered { begin })
}

/// The section at `begin`, with its terminator.
///
/// # Safety
///
/// As [`register_frames`], 1.
unsafe fn section(begin: *const u8) -> &'static [u8] {
    let mut length = 0;
    loop {
        // SAFETY: the section has a terminator, and `length` is not beyond it (contract).
        let entry = unsafe { begin.add(length).cast::<u32>().read_unaligned() };
        length += size_of::<u32>();
        match entry {
            0 => break,
            u32::MAX => {
                // SAFETY: an entry with this mark has a longer length after it (LSB core §10.6.1).
                let long = unsafe { begin.add(length).cast::<u64>().read_unaligned() };
                length += size_of::<u64>() + long as usize;
            }
            _ => length += entry as usize,
        }
    }
    // SAFETY: the bytes to the terminator are the section's (contract), and stay valid.
    unsafe { core::slice::from_raw_parts(begin, length) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::FindModule;
    use crate::sample::{self, CALL_FRAME, START};

    #[test]
    fn frames_are_found_until_they_are_deregistered_and_only_once() {
        let section: &'static [u8] = sample::section(1, CALL_FRAME, &[]).leak();
        let begin = section.as_ptr();
        // SAFETY: a whole section that is never freed; nothing is unwound by it.
        unsafe { register_frames(begin) }.unwrap();
        let module = global().find(START + 0xff).unwrap();
        assert_eq!(module.text, (START, START + 0x100));
        assert_eq!(module.eh_frame.data.len(), section.len());
        // SAFETY: as above.
        let again = unsafe { register_frames(begin) };
        assert_eq!(again, Err(RegisterError::Overlap { start: START, existing: START }));
        assert_eq!(deregister_frames(begin), Ok(0));
        assert!(global().find(START).is_none());
        let begin_address = begin.addr() as u64;
        let unknown = Err(RegisterError::NotRegistered { begin: begin_address });
        assert_eq!(deregister_frames(begin), unknown);
        assert!(deregister_frames(core::ptr::null()).is_err());
    }

    #[test]
    fn an_empty_section_is_nothing() {
        let empty = [0u32; 2];
        // SAFETY: its first entry is the terminator.
        assert_eq!(unsafe { register_frames(empty.as_ptr().cast()) }, Ok(()));
        assert!(deregister_frames(empty.as_ptr().cast()).is_err());
    }
}
