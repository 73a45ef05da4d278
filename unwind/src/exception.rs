//! The exception header and the vocabulary of personality functions.
//!
//! ```text
//!   Exception (32 bytes, 16-aligned)      │ the thrower's object follows
//!   class │ cleanup │ private 1 │ private 2
//!                     way, or     CFA of the handler's frame
//!                     stop fn     argument
//! ```
//!
//! Itanium EH §1.2 (header), §1.6 (personality routine).
#![forbid(unsafe_code)]

use static_assertions::const_assert_eq;

use crate::cache::Hint;
use crate::context::Context;

/// The header of every exception, at the start of the thrower's object
/// (`struct _Unwind_Exception`).
#[derive(Debug)]
#[repr(C, align(16))]
pub struct Exception {
    /// Who threw: eight bytes, vendor and language.
    pub class: u64,
    /// Frees the exception when a foreign runtime caught it.
    pub cleanup: Option<unsafe extern "C" fn(Reason, *mut Exception)>,
    /// The unwinder's: the stop function of a forced unwinding, a [`Way`] during phase 2, or 0.
    pub(crate) private_1: u64,
    /// The unwinder's: the CFA of the frame that catches, set by phase 1; the stop function's
    /// argument, if there is one.
    pub(crate) private_2: u64,
}

const_assert_eq!(size_of::<Exception>(), 32);
const_assert_eq!(align_of::<Exception>(), 16);

impl Exception {
    /// A header that is ready to be raised.
    pub const fn new(
        class: u64,
        cleanup: Option<unsafe extern "C" fn(Reason, *mut Exception)>,
    ) -> Self {
        Self { class, cleanup, private_1: 0, private_2: 0 }
    }

    /// Whether it is on its way by forced unwinding.
    pub(crate) const fn is_forced(&self) -> bool {
        self.private_1 != 0 && Way::of(self).is_none()
    }

    /// The CFA of the frame that phase 1, or [`raise_forced`](crate::raise_forced), chose to catch
    /// it; 0 before that.
    pub const fn handler_cfa(&self) -> u64 {
        self.private_2
    }
}

/// What phase 2 has from phase 1, and from one cleanup for the next: a word that is no address, so that
/// it is no stop function's (x86-64: bits 56 to 63 of one are the same).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way(u64);

impl Way {
    const MARK: u64 = 1 << 63;
    const WHOLE: u64 = 1 << 32;

    /// Nothing that phase 1 found out.
    pub(crate) const UNKNOWN: Self = Self::new(false, Hint(0));

    /// With a `whole` one, all frames up to the handler are on one stack that can be read; `hint` is
    /// where the cache may have the next frame that goes on after a cleanup.
    #[inline(always)]
    pub(crate) const fn new(whole: bool, hint: Hint) -> Self {
        Self(Self::MARK | if whole { Self::WHOLE } else { 0 } | hint.0 as u64)
    }

    /// That of an exception in phase 2 that was raised.
    #[inline(always)]
    pub(crate) const fn of(exception: &Exception) -> Option<Self> {
        let way = exception.private_1;
        if way >> 33 == Self::MARK >> 33 { Some(Self(way)) } else { None }
    }

    #[inline(always)]
    pub(crate) const fn is_whole(self) -> bool {
        self.0 & Self::WHOLE != 0
    }

    #[inline(always)]
    pub(crate) const fn hint(self) -> Hint {
        Hint(self.0 as u32)
    }

    /// The same way with another hint.
    #[inline(always)]
    pub(crate) const fn with_hint(self, hint: Hint) -> Self {
        Self(self.0 >> 32 << 32 | hint.0 as u64)
    }

    #[inline(always)]
    pub(crate) const fn word(self) -> u64 {
        self.0
    }
}

/// `_Unwind_Reason_Code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Reason(pub i32);

impl Reason {
    /// Nothing to report.
    pub const NO_REASON: Self = Self(0);
    /// A foreign runtime caught the exception.
    pub const FOREIGN_EXCEPTION_CAUGHT: Self = Self(1);
    /// Phase 2 failed.
    pub const FATAL_PHASE2_ERROR: Self = Self(2);
    /// Phase 1 failed.
    pub const FATAL_PHASE1_ERROR: Self = Self(3);
    /// Not an error: the walk was asked to stop.
    pub const NORMAL_STOP: Self = Self(4);
    /// Nobody catches.
    pub const END_OF_STACK: Self = Self(5);
    /// Phase 1: this frame catches.
    pub const HANDLER_FOUND: Self = Self(6);
    /// Phase 2: the context was changed to a landing pad of this frame.
    pub const INSTALL_CONTEXT: Self = Self(7);
    /// Go on with the caller.
    pub const CONTINUE_UNWIND: Self = Self(8);
}

/// `_Unwind_Action`: what a personality function is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Actions(pub i32);

impl Actions {
    /// Phase 1: say whether this frame catches, change nothing.
    pub const SEARCH_PHASE: Self = Self(1);
    /// Phase 2: run this frame's cleanups.
    pub const CLEANUP_PHASE: Self = Self(2);
    /// With [`CLEANUP_PHASE`](Self::CLEANUP_PHASE): this is the frame that phase 1 chose.
    pub const HANDLER_FRAME: Self = Self(4);
    /// With [`CLEANUP_PHASE`](Self::CLEANUP_PHASE): nobody may catch.
    pub const FORCE_UNWIND: Self = Self(8);
    /// For a stop function: there is no frame left.
    pub const END_OF_STACK: Self = Self(16);

    /// Whether all of `other`'s bits are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A personality routine: the language's part of unwinding (Itanium EH §1.6). The arguments are
/// the ABI version (1), what to do, the exception's class, the exception, and the frame.
pub type Personality =
    unsafe extern "C" fn(i32, Actions, u64, *mut Exception, &mut Context) -> Reason;

/// Decides, frame by frame, whether a forced unwinding goes on (`_Unwind_Stop_Fn`, Itanium EH
/// §1.3.2). The arguments are those of a personality, and what the unwinding was begun with.
pub type Stop = unsafe extern "C" fn(
    i32,
    Actions,
    u64,
    *mut Exception,
    &mut Context,
    *mut core::ffi::c_void,
) -> Reason;

/// Is told of every frame of a walk (`_Unwind_Trace_Fn`); anything but
/// [`Reason::NO_REASON`] ends it.
pub type Trace = unsafe extern "C" fn(&mut Context, *mut core::ffi::c_void) -> Reason;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_told_from_the_address_of_a_stop_function() {
        let mut exception = Exception::new(1, None);
        let stop_functions = [1, 0x1000, 0x7fff_ffff_ffff, 0x00ff_ffff_ffff_ffff, u64::MAX]
            .into_iter()
            .chain([0xff00_0000_0000_0000, 0xffff_8000_0000_0000, 0xffff_ffff_8000_0000]);
        for stop in stop_functions {
            exception.private_1 = stop;
            assert!(exception.is_forced(), "{stop:#x}");
        }
        exception.private_1 = 0;
        assert!(!exception.is_forced() && Way::of(&exception).is_none());
        for (whole, hint) in [(false, 0), (true, 0x40), (false, u32::MAX), (true, u32::MAX)] {
            exception.private_1 = Way::new(whole, Hint(0x60)).with_hint(Hint(hint)).word();
            assert!(!exception.is_forced());
            let way = Way::of(&exception).unwrap();
            assert_eq!((way.is_whole(), way.hint().0), (whole, hint));
        }
    }
}
