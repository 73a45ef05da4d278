//! From lines on a console to stacks with how often each was seen.
//!
//! ```text
//!   @s 0 7 … 2012ab 203344        main;work;crunch 812      outermost first
//!   @s 1 9 … 2012b0 203344   ──►  main;work;spawn;next 31
//!   anything else                 crunch: 812 itself, 812 in all
//! ```
//!
//! Stacks have the functions that were inlined, too (`next`). They have no path in their names, and
//! say little by themselves: what is counted by function are those that are called.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap, HashSet};

use rustc_demangle::demangle;
use unspool_stack_trace::samples::{Counts, Recorded, SampleFrame};
use unspool_stack_trace::{NameBuffer, Symbolize};

/// What stands for frames that were not kept.
const MORE: &str = "[more]";
/// What stands for an address without a name.
const UNKNOWN: &str = "[unknown]";

/// A function of a stack.
#[derive(Clone, Debug)]
struct Frame {
    name: String,
    inlined: bool,
}

impl Frame {
    const fn called(name: String) -> Self {
        Self { name, inlined: false }
    }
}

/// In how many samples a function was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// As the innermost one.
    pub own: u64,
    /// Anywhere.
    pub total: u64,
}

/// All samples of a run.
#[derive(Debug, Default)]
pub struct Profile {
    /// How many there are.
    pub samples: u64,
    /// Of them, those of CPUs without a task.
    pub idle: u64,
    /// What there should have been.
    pub end: Option<Counts>,
    stacks: BTreeMap<String, u64>,
    functions: HashMap<String, Share>,
    /// Nanoseconds of each turn, without and with sampling.
    work: [Vec<u64>; 2],
}

impl Profile {
    /// Reads what a kernel wrote; `symbols` has the names of its own addresses.
    pub fn read<'t>(lines: impl Iterator<Item = &'t str>, symbols: &dyn Symbolize) -> Self {
        let mut profile = Self::default();
        let mut names = Names { symbols, known: HashMap::new() };
        for record in lines.filter_map(Recorded::parse) {
            match record {
                Recorded::Sample { task, .. } => profile.add(task, &names.stack(record)),
                Recorded::Work { sampled, elapsed } => {
                    profile.work[usize::from(sampled)].push(elapsed);
                }
                Recorded::End(counts) => profile.end = Some(counts),
                // The numbers at the end tell how many there were.
                Recorded::Garbled => {}
            }
        }
        profile
    }

    /// Adds a sample; its frames are in the order of a flame graph, outermost first.
    fn add(&mut self, task: u64, stack: &[Frame]) {
        self.samples += 1;
        let names: Vec<_> = stack.iter().map(|frame| frame.name.as_str()).collect();
        *self.stacks.entry(names.join(";")).or_default() += 1;
        if task == 0 {
            self.idle += 1;
            return;
        }
        let called = || stack.iter().filter(|frame| !frame.inlined).map(|frame| &frame.name);
        for name in called().collect::<HashSet<_>>() {
            self.functions.entry(name.clone()).or_default().total += 1;
        }
        if let Some(name) = called().next_back() {
            self.functions.entry(name.clone()).or_default().own += 1;
        }
    }

    /// Each stack with how often it was seen, a line each.
    pub fn folded(&self) -> String {
        self.stacks.iter().map(|(stack, count)| format!("{stack} {count}\n")).collect()
    }

    /// All functions that tasks were in, those first in which most samples were taken.
    pub fn top(&self) -> Vec<(&str, Share)> {
        let mut top: Vec<_> =
            self.functions.iter().map(|(name, &share)| (name.as_str(), share)).collect();
        top.sort_by_key(|&(name, share)| (u64::MAX - share.own, u64::MAX - share.total, name));
        top
    }

    /// How much longer turns took with sampling than the ones before without, as ratios in their
    /// order: what else the host does changes both, and is gone in the middle of many.
    pub fn slower(&self) -> Vec<f64> {
        let [without, with] = &self.work;
        let pairs = without.iter().zip(with).filter(|&(&without, _)| without > 0);
        let mut slower: Vec<_> =
            pairs.map(|(&without, &with)| with as f64 / without as f64 - 1.0).collect();
        slower.sort_unstable_by(f64::total_cmp);
        slower
    }
}

/// Names of addresses, remembered: the same ones come again and again.
struct Names<'s> {
    symbols: &'s dyn Symbolize,
    known: HashMap<u64, Vec<Frame>>,
}

impl Names<'_> {
    /// The functions of a sample, outermost first.
    fn stack(&mut self, sample: Recorded<'_>) -> Vec<Frame> {
        let mut stack = Vec::new();
        for frame in sample.frames().rev() {
            match frame {
                SampleFrame::Address(address) => stack.extend_from_slice(self.functions(address)),
                SampleFrame::Place(place) => stack.push(Frame::called(of_place(place))),
                SampleFrame::More => stack.push(Frame::called(MORE.to_owned())),
            }
        }
        if stack.is_empty() { vec![Frame::called(UNKNOWN.to_owned())] } else { stack }
    }

    /// The functions at an address, outermost first.
    fn functions(&mut self, address: u64) -> &[Frame] {
        let symbols = self.symbols;
        self.known.entry(address).or_insert_with(|| {
            let mut frames = Vec::new();
            symbols.functions(address, &mut |function| {
                let mut buffer = NameBuffer::new();
                let name = function.name.as_ref().map(|name| name.read(&mut buffer));
                let name = name.map_or_else(|| UNKNOWN.to_owned(), plain);
                frames.push(Frame { name, inlined: true });
            });
            // The last one is the one that was called.
            match frames.last_mut() {
                Some(frame) => frame.inlined = false,
                None => frames.push(Frame::called(UNKNOWN.to_owned())),
            }
            frames.reverse();
            frames
        })
    }
}

/// A name as a frame can have it: without the compiler's hashes, and without what separates frames.
fn plain(name: &str) -> String {
    format!("{:#}", demangle(name)).replace(';', ",")
}

/// `module(.text.function)+0x10` as `function [module]`: the compiler gives each function a section of
/// its own.
fn of_place(place: &str) -> String {
    let place = place.rsplit_once("+0x").map_or(place, |(place, _)| place);
    let Some((module, section)) = place.strip_suffix(')').and_then(|place| place.rsplit_once('('))
    else {
        return place.replace(';', ",");
    };
    let function = [".text.unlikely.", ".text.hot.", ".text."]
        .iter()
        .find_map(|prefix| section.strip_prefix(prefix));
    let name = function.map_or_else(|| section.to_owned(), plain);
    format!("{name} [{module}]").replace(';', ",")
}

#[cfg(test)]
mod tests;
