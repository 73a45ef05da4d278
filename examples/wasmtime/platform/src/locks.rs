//! A lock of many readers or one writer, in a word that starts as 0.
//!
//! ```text
//!   │ 32 bits: who waits │ 32 bits: 0 free, n readers, or WRITER │     x86-64 is little-endian
//! ```
//!
//! Who frees it wakes those who wait, if there are any; who waits looks again. No lock is fair.

use core::sync::atomic::{AtomicU32, Ordering};

use unspool::panic::no_unwind;

use crate::host::host;

/// The lower half: one task has it alone.
const WRITER: u32 = u32::MAX;

/// A lock in a word of wasmtime's.
#[repr(C, align(8))]
pub(crate) struct Word {
    state: AtomicU32,
    waiting: AtomicU32,
}

impl Word {
    /// The lock in the word at `lock`.
    ///
    /// # Safety
    ///
    /// The word lives as long as the result, starts as 0, and is used as a lock alone.
    pub(crate) unsafe fn at<'w>(lock: *mut usize) -> &'w Self {
        // SAFETY: the caller's promise; the size and the alignment are those of a `usize`.
        unsafe { &*lock.cast() }
    }

    /// Waits until nobody has it.
    pub(crate) fn write(&self) {
        self.acquire(|state| (state == 0).then_some(WRITER));
    }

    /// Waits until no writer has it.
    pub(crate) fn read(&self) {
        // The largest count is never reached: there are not so many tasks.
        self.acquire(|state| (state < WRITER - 1).then_some(state + 1));
    }

    /// Ends [`write`](Self::write).
    pub(crate) fn write_release(&self) {
        self.state.store(0, Ordering::SeqCst);
        self.wake();
    }

    /// Ends [`read`](Self::read).
    pub(crate) fn read_release(&self) {
        if self.state.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.wake();
        }
    }

    fn acquire(&self, next: impl Fn(u32) -> Option<u32>) {
        let take = || self.state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, &next);
        let Err(_) = take() else { return };
        // From here on it may wait, but not die: no unwinding passes through C.
        let _whole = no_unwind();
        // Whoever frees it from here on sees this, or the state that is looked at next is free.
        self.waiting.fetch_add(1, Ordering::SeqCst);
        while let Err(state) = take() {
            host().wait(&self.state, state);
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    fn wake(&self) {
        if self.waiting.load(Ordering::SeqCst) != 0 {
            let _whole = no_unwind();
            host().wake_all(&self.state);
        }
    }
}
