//! The floating-point control words.
//!
//! ```text
//!   before anybody is asked: keep ─► MXCSR │ x87 ─► restore, if others are current, right before a landing
//! ```

use core::arch::asm;
use core::mem::{MaybeUninit, offset_of};

/// The floating-point control words, which callees keep as they are (psABI x86-64 §3.2.1):
/// MXCSR and the x87's.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct ControlWords {
    mxcsr: u32,
    x87: u16,
}

impl ControlWords {
    /// What no unwinding has begun with.
    pub(crate) const NONE: Self = Self { mxcsr: 0, x87: 0 };

    /// Keeps the current ones there.
    ///
    /// # Safety
    ///
    /// `to` is valid for a write.
    #[inline(always)]
    pub(crate) unsafe fn keep(to: *mut Self) {
        // SAFETY: writes four bytes, and two, to where they belong (contract).
        unsafe {
            asm!(
                "stmxcsr [{to}]",
                "fnstcw [{to} + 4]",
                to = in(reg) to,
                options(nostack, preserves_flags),
            );
        }
    }

    #[inline(always)]
    fn are_current(&self) -> bool {
        let mut current = MaybeUninit::uninit();
        // SAFETY: there is room for them.
        unsafe { Self::keep(current.as_mut_ptr()) };
        // SAFETY: they have just been written.
        *self == unsafe { current.assume_init() }
    }

    /// Makes these the current ones. Loading them takes long, so only others are replaced.
    #[inline(always)]
    pub(crate) fn restore(&self) {
        if !self.are_current() {
            self.replace();
        }
    }

    #[cold]
    fn replace(&self) {
        // SAFETY: reads four bytes, and two, from where they are; they were current once.
        unsafe {
            asm!(
                "ldmxcsr [{from}]",
                "fldcw [{from} + 4]",
                from = in(reg) core::ptr::from_ref(self),
                options(nostack, preserves_flags, readonly),
            );
        }
    }
}

static_assertions::const_assert_eq!(offset_of!(ControlWords, x87), 4);
