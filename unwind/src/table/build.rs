//! Makes the table of a module's frames.
//!
//! ```text
//!   FDEs by start ─► every row ─► runs: (start, rule) ─► numbers by frequency ─► rules, blocks, rows
//!                       │ nothing in it returns, or it is no rule: ASK
//!                       └ described twice: ASK, as the module's index decides
//! ```
//!
//! Needs memory for 24 bytes per FDE and 8 per run, of which the table has some three per FDE.
#![forbid(unsafe_code)]

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

use gimli::Error;

use super::code::may_call;
use super::{ASK, AT_ONCE, BLOCK, BLOCKS_OF_GROUP, GROUP, HALF, HEADER, MAGIC, RULE, WIDE};
use crate::fde::Function;
use crate::module::{Module, Section};
use crate::rule::Rule;

/// Why there is no table of a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildError {
    /// An entry of `.eh_frame` cannot be read.
    BadFrames(Error),
    /// The code, or the table, is too large for offsets of 32 bits (bytes).
    TooLarge(u64),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadFrames(source) => write!(f, ".eh_frame cannot be read: {source}"),
            Self::TooLarge(size) => write!(f, "{size:#x} bytes are too many for one table"),
        }
    }
}

impl core::error::Error for BuildError {}

impl From<Error> for BuildError {
    fn from(error: Error) -> Self {
        Self::BadFrames(error)
    }
}

/// The table of the module's frames, to be [parsed](super::FrameTable::parse).
///
/// `code` has the module's code, in any number of parts: rows in which nothing can return are left
/// out. Rows of code that is not there are kept.
///
/// # Errors
///
/// [`BuildError`]. Rows that DWARF cannot give are left out, for the walk to meet the error.
pub fn build(module: &Module<'_>, code: &[Section<'_>]) -> Result<Vec<u8>, BuildError> {
    let spans = spans(module)?;
    let Some(first) = spans.first().map(|span| span.start) else {
        return Collector::new(0).finish().write(module);
    };
    let mut collector = Collector::new(first);
    let mut described = first;
    for (index, span) in spans.iter().enumerate() {
        let next = spans.get(index + 1).map_or(u64::MAX, |next| next.start);
        let own = span.start.max(described)..span.end.min(next);
        described = described.max(span.end);
        if own.end.wrapping_sub(first) > u32::MAX.into() {
            return Err(BuildError::TooLarge(own.end.wrapping_sub(first)));
        }
        if !own.is_empty() {
            let mut function = Function::UNKNOWN;
            function.module = *module;
            function.read(span.offset)?;
            collector.function(&function, &own, code);
        }
    }
    collector.finish().write(module)
}

/// What an FDE is for, and where it is.
struct Span {
    start: u64,
    end: u64,
    offset: usize,
}

/// The FDEs, by what they describe first. (Linkers leave those of code that they dropped at 0.)
fn spans(module: &Module<'_>) -> Result<Vec<Span>, BuildError> {
    let mut spans = Vec::new();
    module.for_each_function(|function, offset| {
        let (start, end) = (function.start(), function.end());
        if start != 0 && start < end {
            spans.push(Span { start, end, offset });
        }
    })?;
    spans.sort_unstable_by_key(|span| (span.start, span.offset));
    Ok(spans)
}

/// From here to the next one, the same rule.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Run {
    /// Relative to the first address.
    start: u32,
    /// The number of the rule.
    number: u32,
}

/// Collects runs, and numbers rules as they come.
struct Collector {
    first: u64,
    runs: Vec<Run>,
    numbers: BTreeMap<[u64; 2], u32>,
}

impl Collector {
    const fn new(first: u64) -> Self {
        Self { first, runs: Vec::new(), numbers: BTreeMap::new() }
    }

    /// The rows of a function in `own`.
    fn function(&mut self, function: &Function<'_>, own: &Range<u64>, code: &[Section<'_>]) {
        // What cannot be read is left to DWARF, which says why.
        let _ = function.for_each_rule(|row, rule| {
            let row = row.start.max(own.start)..row.end.min(own.end);
            if row.is_empty() {
                return;
            }
            // A signal frame calls nothing.
            let rule = rule.filter(|_| !function.is_signal_frame() && returns(code, &row));
            let number = rule.map_or(ASK, |rule| self.number(rule));
            self.push(row.start, number);
            self.push(row.end, ASK);
        });
    }

    fn number(&mut self, rule: Rule) -> u32 {
        let next = self.numbers.len() as u32 + 1;
        *self.numbers.entry(rule.to_words()).or_insert(next)
    }

    fn push(&mut self, address: u64, number: u32) {
        let start = (address - self.first) as u32;
        if self.runs.last().is_some_and(|last| last.start == start) {
            self.runs.pop();
        }
        if self.runs.last().is_none_or(|last| last.number != number) {
            self.runs.push(Run { start, number });
        }
    }

    /// Numbers rules by how often they are needed.
    fn finish(mut self) -> Contents {
        let mut rules = Vec::from_iter(self.numbers.iter().map(|(&rule, &old)| (0u32, old, rule)));
        rules.sort_unstable_by_key(|&(_, old, _)| old);
        for run in self.runs.iter().filter(|run| run.number != ASK) {
            rules[run.number as usize - 1].0 += 1;
        }
        rules.sort_unstable_by_key(|&(uses, old, _)| (u32::MAX - uses, old));
        // What there are no numbers for is asked of DWARF.
        rules.truncate(u16::MAX.into());
        let mut new = Vec::new();
        new.resize(self.numbers.len() + 1, ASK);
        for (place, &(_, old, _)) in rules.iter().enumerate() {
            new[old as usize] = place as u32 + 1;
        }
        for run in &mut self.runs {
            run.number = new[run.number as usize];
        }
        let rules = rules.into_iter().map(|(_, _, rule)| rule).collect();
        Contents { first: self.first, runs: self.runs, rules }
    }
}

/// Whether anything may return into these addresses.
fn returns(code: &[Section<'_>], row: &Range<u64>) -> bool {
    let bytes = code.iter().find_map(|part| {
        let length = usize::try_from(row.end - row.start).ok()?;
        part.rest_at(row.start)?.get(..length)
    });
    bytes.is_none_or(may_call)
}

/// What a table has in it.
struct Contents {
    first: u64,
    runs: Vec<Run>,
    rules: Vec<[u64; 2]>,
}

impl Contents {
    fn write(self, module: &Module<'_>) -> Result<Vec<u8>, BuildError> {
        let (lengths, rows) = self.blocks();
        let groups = lengths.chunks(BLOCKS_OF_GROUP);
        let length = HEADER + self.rules.len() * RULE + groups.len() * GROUP + rows.len() + AT_ONCE;
        let eh_frame = module.eh_frame.data.len();
        let narrow =
            |size: usize| u32::try_from(size).map_err(|_| BuildError::TooLarge(size as u64));
        let mut out = Vec::with_capacity(length);
        out.extend(MAGIC);
        out.extend(narrow(length)?.to_le_bytes());
        out.extend(narrow(eh_frame)?.to_le_bytes());
        out.extend(self.first.wrapping_sub(module.eh_frame.address).to_le_bytes());
        out.extend(narrow(lengths.len())?.to_le_bytes());
        out.extend(narrow(self.rules.len())?.to_le_bytes());
        for word in self.rules.iter().flatten() {
            out.extend(word.to_le_bytes());
        }
        let mut place = 0;
        for group in groups {
            out.extend(narrow(place)?.to_le_bytes());
            out.extend(group);
            out.resize(out.len() + BLOCKS_OF_GROUP - group.len(), 0);
            place += group.iter().map(|&length| usize::from(length)).sum::<usize>();
        }
        out.extend(rows);
        out.extend([0; AT_ONCE]);
        Ok(out)
    }

    /// The blocks' rows, and how long those of each are.
    fn blocks(&self) -> (Vec<u8>, Vec<u8>) {
        let (mut lengths, mut rows) = (Vec::new(), Vec::new());
        let end = self.runs.last().map_or(0, |run| run.start);
        let mut runs = self.runs.iter().peekable();
        let mut number = ASK;
        for start in (0..end).step_by(BLOCK as usize) {
            if let Some(run) = runs.next_if(|run| run.start == start) {
                number = run.number;
            }
            let mut block = Block::new(number);
            while let Some(run) = runs.next_if(|run| run.start - start < BLOCK) {
                number = run.number;
                block.push((run.start - start) as usize, number);
            }
            // Where rules change so often that a byte cannot say the length, DWARF is asked.
            let empty = rows.len();
            let length =
                block.write(&mut rows).and_then(|()| u8::try_from(rows.len() - empty).ok());
            rows.truncate(empty + usize::from(length.unwrap_or(0)));
            lengths.push(length.unwrap_or(0));
        }
        (lengths, rows)
    }
}

/// The rows of a block: each number holds up to a boundary, where [`ASK`] begins, which holds up to the
/// next one, where the next number begins.
struct Block {
    numbers: Vec<u16>,
    boundaries: Vec<usize>,
}

impl Block {
    fn new(first: u32) -> Self {
        Self { numbers: Vec::from([first as u16]), boundaries: Vec::new() }
    }

    /// So many bytes into the block another rule begins.
    fn push(&mut self, at: usize, number: u32) {
        let asks = self.boundaries.len() % 2 == 1;
        if !asks {
            self.boundaries.push(at);
        }
        if number != ASK {
            self.boundaries.push(at);
            self.numbers.push(number as u16);
        }
    }

    /// `None`: there are too many.
    fn write(&self, rows: &mut Vec<u8>) -> Option<()> {
        let is_wide = self.numbers.iter().any(|number| *number > u8::MAX.into());
        match (&self.boundaries[..], &self.numbers[..]) {
            ([], [0]) => return Some(()),
            ([], _) => {}
            (boundaries, _) => {
                let lower = boundaries.partition_point(|at| *at < HALF);
                let lower = u8::try_from(lower).ok().filter(|lower| *lower < WIDE)?;
                rows.push(lower | if is_wide { WIDE } else { 0 });
                rows.extend(boundaries.iter().map(|at| *at as u8));
            }
        }
        for number in &self.numbers {
            rows.extend(&number.to_le_bytes()[..1 + usize::from(is_wide)]);
        }
        Some(())
    }
}
