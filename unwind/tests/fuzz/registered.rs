//! `.eh_frame` that is registered by its address alone, as just-in-time compilers have it.
//!
//! ```text
//!   section ─ ends at its terminator? ─► register ─► find ─► deregister, and nothing stays
//! ```

use unspool_unwind::{
    FindModule as _, Module, Section, deregister_frames, global, register_frames,
};

/// Registers a section and asks about places in it; whether it could be registered.
pub fn check(data: &[u8]) -> u64 {
    if !is_terminated(data) {
        return 0;
    }
    let begin = data.as_ptr();
    let before = global().len();
    // SAFETY: the section ends at its terminator, and is gone again before its memory changes.
    // Nothing is unwound by it.
    let registered = unsafe { register_frames(begin) };
    let added = global().len() - before;
    match registered {
        Ok(()) if added == 1 => {}
        // A section without code is nothing.
        Ok(()) => {
            assert!(deregister_frames(begin).is_err());
            return 0;
        }
        Err(_) => {
            assert_eq!(added, 0);
            return 0;
        }
    }
    let mut starts = Vec::new();
    let section = Section::in_memory(data);
    let _ = Module::new(0..u64::MAX, section).for_each_entry(|entry| starts.push(entry.start));
    for start in starts {
        let Some(module) = global().find(start) else { continue };
        if let Ok(function) = module.function(start) {
            let _ = (function.row(start), function.row(function.end().wrapping_sub(1)));
            assert!(module.contains(start));
        }
    }
    assert_eq!(deregister_frames(begin), Ok(0));
    assert_eq!(global().len(), before);
    1
}

/// Whether the lengths of the entries lead to a terminator: what who registers promises.
fn is_terminated(data: &[u8]) -> bool {
    let word = |at: usize| data.get(at..at + 4).map(|w| u32::from_le_bytes(w.try_into().unwrap()));
    let mut at = 0;
    loop {
        let length = match word(at) {
            None => return false,
            Some(0) => return true,
            Some(u32::MAX) => {
                let Some(long) = data.get(at + 4..at + 12) else { return false };
                at += 8;
                u64::from_le_bytes(long.try_into().unwrap())
            }
            Some(length) => length.into(),
        };
        if length > data.len() as u64 {
            return false;
        }
        at += 4 + length as usize;
    }
}
