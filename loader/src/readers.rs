//! Counts who is reading, so that a writer knows when nobody can see any more what it took away.
//!
//! ```text
//!   readers: turn 0 ▓▓▓▓░░░  turn 1 ░░░▓▓▓▓     one counter for each turn
//!   writer:        take away ─► other turn ─► turn 0 at zero? turn 1 at zero? ─► free
//! ```
//!
//! Whoever may see something was counted before it was taken away, in one of the two counters.
//! So once each of them has been zero since then, not necessarily at the same time, nobody can.
//! New readers are counted in the turn of the day; the other counter can only fall. Readers never
//! wait, which makes them fit for an NMI; the writer never waits either, it tries again later.
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicUsize, Ordering, fence};

/// How many are reading.
pub(crate) struct Readers {
    turn: AtomicUsize,
    counts: [AtomicUsize; 2],
}

/// Somebody who reads, for as long as this lives.
pub(crate) struct Reading<'r>(&'r AtomicUsize);

/// Which of the two counters have not been zero yet since something was taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting([bool; 2]);

impl Readers {
    pub const fn new() -> Self {
        Self { turn: AtomicUsize::new(0), counts: [const { AtomicUsize::new(0) }; 2] }
    }

    /// Begins to read.
    pub fn enter(&self) -> Reading<'_> {
        // Any turn will do, also one that has just passed.
        let count = &self.counts[self.turn.load(Ordering::Relaxed) & 1];
        count.fetch_add(1, Ordering::Relaxed);
        // Goes with the fence in `pass`: either the writer sees this count, or the reads that
        // follow here see what the writer has done before.
        fence(Ordering::SeqCst);
        Reading(count)
    }

    /// Notes in `waiting` which counters are zero. Only a writer may ask, about what it has
    /// taken away before; there is one writer at a time.
    pub fn pass<'w>(&self, waiting: impl Iterator<Item = &'w mut Waiting>) {
        fence(Ordering::SeqCst);
        // Acquire: what the last reader did, it did before.
        let busy = self.counts.each_ref().map(|count| count.load(Ordering::Acquire) != 0);
        for Waiting(flags) in waiting {
            flags.iter_mut().zip(busy).for_each(|(flag, busy)| *flag &= busy);
        }
        // The next to come go where nobody is, so that the others can come to an end.
        let turn = self.turn.load(Ordering::Relaxed) & 1;
        if busy[turn] && !busy[turn ^ 1] {
            self.turn.store(turn ^ 1, Ordering::Relaxed);
        }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

impl Waiting {
    /// For something taken away just now.
    pub const NEW: Self = Self([true; 2]);

    /// Whether nobody can see it any more.
    pub fn is_over(self) -> bool {
        self == Self([false; 2])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(readers: &Readers, waiting: &mut Waiting) -> bool {
        readers.pass(core::iter::once(&mut *waiting));
        waiting.is_over()
    }

    #[test]
    fn without_readers_nothing_waits() {
        let readers = Readers::new();
        assert!(pass(&readers, &mut { Waiting::NEW }));
    }

    #[test]
    fn what_a_reader_may_see_waits_for_it_however_often_the_writer_asks() {
        let readers = Readers::new();
        let reading = readers.enter();
        let mut waiting = Waiting::NEW;
        for _ in 0..5 {
            assert!(!pass(&readers, &mut waiting));
        }
        drop(reading);
        assert!(pass(&readers, &mut waiting));
    }

    #[test]
    fn readers_that_overlap_without_end_do_not_keep_it_for_ever() {
        let readers = Readers::new();
        let mut reading = readers.enter();
        let mut waiting = Waiting::NEW;
        let mut rounds = 0;
        while !pass(&readers, &mut waiting) {
            let next = readers.enter();
            reading = next;
            rounds += 1;
            assert!(rounds < 5);
        }
        drop(reading);
    }

    #[test]
    fn a_reader_of_the_last_turn_is_waited_for_by_what_is_taken_away_in_this_one() {
        let readers = Readers::new();
        let old = readers.enter();
        let mut first = Waiting::NEW;
        assert!(!pass(&readers, &mut first));
        // New readers are counted apart from `old` now.
        let new = readers.enter();
        let mut second = Waiting::NEW;
        assert!(!pass(&readers, &mut second));
        drop(new);
        assert!(!pass(&readers, &mut second));
        drop(old);
        assert!(pass(&readers, &mut second));
    }
}
