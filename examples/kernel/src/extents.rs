//! Which addresses of a range have something: sorted pieces that do not touch. Arithmetic only.
//!
//! ```text
//!   │ piece │ gap │ piece      │ gap … │      insert joins what touches, remove may split
//! ```
//!
//! Nothing changes where there is no memory for a record.
#![forbid(unsafe_code)]

use core::ops::Range;

use alloc::vec::Vec;

use crate::machine::MapError;

/// A set of addresses.
#[derive(Debug, Default)]
pub(crate) struct Extents(Vec<Range<u64>>);

impl Extents {
    /// Nothing.
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    /// Sees to it that one [`insert`](Self::insert) has room.
    pub(crate) fn make_room(&mut self) -> Result<(), MapError> {
        self.0.try_reserve(1).map_err(|_| MapError::OutOfRecords)
    }

    /// Sees to it that to [`remove`](Self::remove) a range has room: it needs some to split a piece.
    pub(crate) fn make_room_without(&mut self, range: &Range<u64>) -> Result<(), MapError> {
        let piece = self.index(range).map(|index| &self.0[index]);
        let splits = piece.is_some_and(|piece| piece.start < range.start && range.end < piece.end);
        if splits { self.make_room() } else { Ok(()) }
    }

    /// Adds a range that is not empty; needs [room](Self::make_room).
    pub(crate) fn insert(&mut self, range: Range<u64>) {
        let first = self.0.partition_point(|piece| piece.end < range.start);
        let last = self.0.partition_point(|piece| piece.start <= range.end);
        let joined = self.0.get(first..last).unwrap_or_default();
        let start = joined.first().map_or(range.start, |piece| piece.start.min(range.start));
        let end = joined.last().map_or(range.end, |piece| piece.end.max(range.end));
        self.0.drain(first..last);
        self.0.insert(first, start..end);
    }

    /// Takes a range out; needs [room](Self::make_room_without).
    pub(crate) fn remove(&mut self, range: &Range<u64>) {
        let Some(index) = self.index(range) else { return };
        let piece = self.0[index].clone();
        // Only a range within one piece splits, and then nothing else is left to do.
        if piece.start < range.start && range.end < piece.end {
            self.0[index].end = range.start;
            self.0.insert(index + 1, range.end..piece.end);
            return;
        }
        for piece in &mut self.0[index..] {
            if piece.start >= range.start {
                piece.start = piece.start.max(range.end.min(piece.end));
            } else {
                piece.end = piece.end.min(range.start);
            }
            if piece.end >= range.end {
                break;
            }
        }
        self.0.retain(|piece| !piece.is_empty());
    }

    /// What the set has of `range`, first piece first.
    pub(crate) fn first_in(&self, range: &Range<u64>) -> Option<Range<u64>> {
        let piece = &self.0[self.index(range)?];
        Some(piece.start.max(range.start)..piece.end.min(range.end))
    }

    /// What the set does not have of `range`, first gap first.
    pub(crate) fn first_gap(&self, range: &Range<u64>) -> Option<Range<u64>> {
        let gap = match self.index(range).map(|index| (index, &self.0[index])) {
            None => range.clone(),
            Some((_, piece)) if range.start < piece.start => range.start..piece.start,
            Some((index, piece)) => {
                let next = self.0.get(index + 1).map_or(range.end, |next| next.start);
                piece.end..next.min(range.end)
            }
        };
        Some(gap).filter(|gap| !gap.is_empty())
    }

    /// The first piece that `range` meets.
    fn index(&self, range: &Range<u64>) -> Option<usize> {
        let index = self.0.partition_point(|piece| piece.end <= range.start);
        let meets = |piece: &&Range<u64>| !range.is_empty() && piece.start < range.end;
        self.0.get(index).filter(meets).map(|_| index)
    }
}
