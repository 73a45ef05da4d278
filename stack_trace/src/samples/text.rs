//! Samples as lines of text, which leave a kernel by its console among all that it says.
//!
//! ```text
//!   @s 1 7 8f3a2c 201234 2035f0 m.o(.text.f)+0x34 *c5f00d11
//!      │ │ │      └ frames, innermost first          └ sum of what stands before it
//!      │ │ └ time, all numbers are hexadecimal
//!      │ └ task
//!      └ CPU
//!   @w 1 2f0a *…          a piece of work took so long, with (1) or without (0) sampling
//!   @e 3e8 11 0 … *…      the end: what there should have been
//! ```
//!
//! Promise: a line that lost something on its way is noticed, and the others still mean the same.
#![forbid(unsafe_code)]

use core::fmt::{self, Write};

use super::Sample;
use crate::symbolize::Symbolize;

/// What marks a frame that had more frames around it than were kept.
const MORE: &str = "...";

/// What there should have been.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Samples a second, on each CPU.
    pub hertz: u64,
    /// CPUs that took part.
    pub cpus: u64,
    /// Samples that were kept.
    pub kept: u64,
    /// Samples that were lost for lack of room.
    pub dropped: u64,
    /// Nanoseconds that all CPUs together spent on taking them.
    pub spent: u64,
    /// Nanoseconds for which they were taken.
    pub elapsed: u64,
}

/// A line.
#[derive(Clone, Copy)]
pub enum Record<'a> {
    /// What a CPU was doing. Addresses in loaded modules, which `symbols` has a
    /// [place](Symbolize::place) for, become places; all others stay as they are.
    Sample {
        /// The number of the CPU.
        cpu: usize,
        /// What it did.
        sample: &'a Sample,
        /// Knows the loaded modules.
        symbols: &'a dyn Symbolize,
    },
    /// How long a piece of work took that is always the same.
    Work {
        /// Whether samples were taken meanwhile.
        sampled: bool,
        /// Nanoseconds.
        elapsed: u64,
    },
    /// The end.
    End(Counts),
}

/// The line, without a newline.
impl fmt::Display for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = Summing { out: f, sum: Sum::NEW };
        match *self {
            Self::Sample { cpu, sample, symbols } => {
                write!(out, "@s {cpu:x} {:x} {:x}", sample.task, sample.time)?;
                for &address in sample.addresses() {
                    match symbols.place(address) {
                        Some(place) => write!(out, " {}", OneWord(format_args!("{place}")))?,
                        None => write!(out, " {address:x}")?,
                    }
                }
                if sample.cut {
                    write!(out, " {MORE}")?;
                }
            }
            Self::Work { sampled, elapsed } => {
                write!(out, "@w {:x} {elapsed:x}", u8::from(sampled))?;
            }
            Self::End(Counts { hertz, cpus, kept, dropped, spent, elapsed }) => {
                write!(out, "@e {hertz:x} {cpus:x} {kept:x} {dropped:x} {spent:x} {elapsed:x}")?;
            }
        }
        let Sum(sum) = out.sum;
        write!(f, " *{sum:08x}")
    }
}

/// Blanks would end a frame.
struct OneWord<'a>(fmt::Arguments<'a>);

impl fmt::Display for OneWord<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Joined<'f, 'g>(&'f mut fmt::Formatter<'g>);
        impl fmt::Write for Joined<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                text.split_whitespace().try_for_each(|word| self.0.write_str(word))
            }
        }
        Joined(f).write_fmt(self.0)
    }
}

/// FNV-1a, 32 bits.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Sum(u32);

impl Sum {
    const NEW: Self = Self(0x811c_9dc5);

    fn add(self, text: &str) -> Self {
        let step = |sum: u32, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        Self(text.bytes().fold(self.0, step))
    }
}

struct Summing<'f, 'g> {
    out: &'f mut fmt::Formatter<'g>,
    sum: Sum,
}

impl fmt::Write for Summing<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.sum = self.sum.add(text);
        self.out.write_str(text)
    }
}

/// A line that was read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded<'t> {
    /// See [`Record::Sample`].
    Sample {
        /// The number of the CPU.
        cpu: u64,
        /// The number of the task; 0 for none.
        task: u64,
        /// When.
        time: u64,
        /// For [`frames`](Self::frames).
        frames: &'t str,
    },
    /// See [`Record::Work`].
    Work {
        /// Whether samples were taken meanwhile.
        sampled: bool,
        /// Nanoseconds.
        elapsed: u64,
    },
    /// See [`Record::End`].
    End(Counts),
    /// It began as such a line, and something is missing or in between.
    Garbled,
}

/// A frame of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleFrame<'t> {
    /// An address in the program.
    Address(u64),
    /// `module(section)+0x10`, in what was loaded.
    Place(&'t str),
    /// There were more frames around the one before.
    More,
}

impl<'t> Recorded<'t> {
    /// Reads a line; `None` if it is none of these.
    pub fn parse(line: &'t str) -> Option<Self> {
        let line = line.trim_end();
        // Whatever was said without a newline stands before it.
        let start = ["@s ", "@w ", "@e "].iter().filter_map(|mark| line.rfind(mark)).max()?;
        Some(Self::checked(&line[start..]).unwrap_or(Self::Garbled))
    }

    fn checked(line: &'t str) -> Option<Self> {
        let (text, sum) = line.rsplit_once(" *")?;
        if sum.len() != 8 || Sum::NEW.add(text) != Sum(u32::from_str_radix(sum, 16).ok()?) {
            return None;
        }
        let (kind, rest) = text.split_at(3);
        let mut words = rest.splitn(4, ' ');
        let mut number = || hexadecimal(words.next()?);
        Some(match kind {
            "@s " => {
                let (cpu, task, time) = (number()?, number()?, number()?);
                Self::Sample { cpu, task, time, frames: words.next().unwrap_or_default() }
            }
            "@w " => Self::Work { sampled: number()? != 0, elapsed: number()? },
            _ => {
                let mut words = rest.split(' ');
                let mut number = || hexadecimal(words.next()?);
                Self::End(Counts {
                    hertz: number()?,
                    cpus: number()?,
                    kept: number()?,
                    dropped: number()?,
                    spent: number()?,
                    elapsed: number()?,
                })
            }
        })
    }

    /// The frames of a sample, innermost first.
    pub fn frames(&self) -> impl DoubleEndedIterator<Item = SampleFrame<'t>> + use<'t> {
        let frames = if let Self::Sample { frames, .. } = *self { frames } else { "" };
        frames.split_ascii_whitespace().map(|word| match hexadecimal(word) {
            Some(address) => SampleFrame::Address(address),
            None if word == MORE => SampleFrame::More,
            None => SampleFrame::Place(word),
        })
    }
}

fn hexadecimal(word: &str) -> Option<u64> {
    u64::from_str_radix(word, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::Samples;
    use crate::symbolize::{NoSymbols, Place, Symbol};
    use core::sync::atomic::AtomicU64;

    /// A page of `my module.o`.
    struct Loaded;

    impl Symbolize for Loaded {
        fn symbolize(&self, _: u64) -> Option<Symbol<'_>> {
            None
        }

        fn place(&self, address: u64) -> Option<Place<'_>> {
            let offset = address.checked_sub(0x4000).filter(|&offset| offset < 0x1000)?;
            Some(Place { module: "my module.o".into(), section: Some(".text.f".into()), offset })
        }
    }

    fn sample(addresses: impl Iterator<Item = u64>) -> Sample {
        let words = [const { AtomicU64::new(0) }; 128];
        let samples = Samples::new(&words);
        assert!(samples.keep(0x1234, 7, addresses));
        samples.take().unwrap()
    }

    fn line(sample: &Sample, symbols: &dyn Symbolize) -> String {
        Record::Sample { cpu: 3, sample, symbols }.to_string()
    }

    #[test]
    fn a_sample_is_read_as_it_was_written() {
        let line = line(&sample([0x2012ab, 0x4010, 0x20].into_iter()), &Loaded);
        let read = Recorded::parse(&line).unwrap();
        let Recorded::Sample { cpu: 3, task: 7, time: 0x1234, .. } = read else {
            panic!("{read:?}");
        };
        let frames: Vec<_> = read.frames().collect();
        let place = SampleFrame::Place("mymodule.o(.text.f)+0x10");
        assert_eq!(frames, [SampleFrame::Address(0x2012ab), place, SampleFrame::Address(0x20)]);
    }

    #[test]
    fn a_sample_says_that_it_was_cut() {
        let written = [0, 64, 65].map(|count| line(&sample(0..count), &NoSymbols));
        let last = |line| Recorded::parse(line).and_then(|read| read.frames().next_back());
        let [none, whole, cut] = written.each_ref().map(|line| last(line));
        assert_eq!(none, None);
        assert_eq!(whole, Some(SampleFrame::Address(63)));
        assert_eq!(cut, Some(SampleFrame::More));
    }

    #[test]
    fn work_and_the_end_are_read_as_they_were_written() {
        let work = Record::Work { sampled: true, elapsed: 0x9876 }.to_string();
        assert_eq!(Recorded::parse(&work), Some(Recorded::Work { sampled: true, elapsed: 0x9876 }));
        let counts =
            Counts { hertz: 1000, cpus: 4, kept: 17, dropped: 2, spent: 33, elapsed: u64::MAX };
        let end = Record::End(counts).to_string();
        assert_eq!(Recorded::parse(&format!("{end}\r\n")), Some(Recorded::End(counts)));
    }

    #[test]
    fn whatever_is_lost_or_in_between_is_noticed() {
        let line = line(&sample([0x2012ab, 0x203344].into_iter()), &NoSymbols);
        for at in 3..line.len() {
            let without = [&line[..at], &line[at + 1..]].concat();
            assert_eq!(Recorded::parse(&without), Some(Recorded::Garbled), "{without}");
            let with = [&line[..at], "f", &line[at..]].concat();
            assert_eq!(Recorded::parse(&with), Some(Recorded::Garbled), "{with}");
        }
        assert_eq!(Recorded::parse("test suite::name ... ok"), None);
        // Something without a newline came before.
        let behind = format!("waiting...{line}");
        assert!(matches!(Recorded::parse(&behind), Some(Recorded::Sample { .. })));
    }
}
