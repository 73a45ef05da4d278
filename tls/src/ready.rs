//! Which of two has the last word on a block of a new area: its creator or a publisher.
//!
//! ```text
//!  creator     0 ─► copy the image ─► 0 → READY? ─── yes ─► done: publishers fill the area
//!              ▲                          │ no, SEEN
//!              └──────────────────────────┘ copy again, the image is newer
//!  publisher   change the image ─► set SEEN ─► was it READY? fill it : leave it to its creator
//! ```
//!
//! Creators take no lock and miss no publisher: both sides read and write this word in one
//! operation each, so one of them comes second and sees the other. A creator copies again only
//! after a publisher has come to an end with it. The model of it is checked in `models`.

use super::sync::{AtomicUsize, Ordering};

/// The area has all blocks, and publishers fill it.
const READY: usize = 1;
/// A publisher has come by. Says nothing about an area that is ready.
const SEEN: usize = 2;

/// The state of one area. Zero at first: it has no block yet.
#[derive(Debug)]
pub(crate) struct Readiness(pub(crate) AtomicUsize);

impl Readiness {
    /// The creator's part: calls `copy`, again and again if need be, until what it copied is not
    /// older than any publisher that took the area for unfinished.
    ///
    /// Publishers find the area, and leave it alone, from before this until it returns.
    #[inline]
    pub(crate) fn complete(&self, mut copy: impl FnMut()) {
        // The area may have been seen long ago; to copy twice because of that would be a waste.
        if self.0.load(Ordering::Relaxed) != 0 {
            self.0.swap(0, Ordering::AcqRel);
        }
        loop {
            copy();
            if self.0.compare_exchange(0, READY, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return;
            }
            self.0.swap(0, Ordering::AcqRel);
        }
    }

    /// The publisher's part, after it changed the image: whether the area is its to fill. If not,
    /// the area's creator will copy the changed image.
    pub(crate) fn visit(&self) -> bool {
        self.0.fetch_or(SEEN, Ordering::AcqRel) & READY != 0
    }

    /// Whether the area has all its blocks.
    pub(crate) fn is_ready(&self) -> bool {
        self.0.load(Ordering::Acquire) & READY != 0
    }

    /// Ends it: publishers leave the area alone from now on. Excludes publishers.
    pub(crate) fn retire(&self) {
        self.0.store(0, Ordering::Release);
    }
}
