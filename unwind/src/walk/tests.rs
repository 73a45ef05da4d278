//! Walks find what steps find, on stacks made up at random.

use core::cell::Cell;
use core::ops::ControlFlow;

use crate::address::Pc;
use crate::cache::{Cache, Memory, Trail};
use crate::cursor::{Cursor, Step};
use crate::error::UnwindError;
use crate::module::Module;
use crate::modules::FindModule;
use crate::registers::{Register, Registers};
use crate::rule::{BASE_RBP, Rule};
use crate::sample::Words;

const CODE: u64 = 0x10_0000;
const GENERATION: u32 = 2;
const SAVED: [Register; 6] =
    [Register::RBX, Register::RBP, Register::R12, Register::R13, Register::R14, Register::R15];

/// Remembers some rules, has all of them in a table, and knows no modules.
struct Remembered {
    cache: Cache,
    /// One for every 16 bytes of code.
    rules: Vec<Rule>,
    /// How often the table was asked.
    asked: Cell<usize>,
}

impl FindModule for Remembered {
    fn find(&self, _address: u64) -> Option<Module<'_>> {
        None
    }

    fn rule(&self, address: u64) -> Option<Rule> {
        self.asked.set(self.asked.get() + 1);
        let offset = address.checked_sub(CODE).filter(|offset| offset % 16 == 0)?;
        self.rules.get(offset as usize / 16).copied()
    }

    fn recall_rule(&self, address: u64, trail: &mut Trail) -> Option<Rule> {
        self.cache.recall_rule(address, GENERATION, trail)
    }

    fn memory(&self, _address: u64, trail: &mut Trail) -> Option<Memory<'_>> {
        trail.enter(0..u64::MAX, 0);
        Some(self.cache.memory(GENERATION))
    }
}

/// Numbers in no order.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % end
    }
}

/// A stack, its frames' rules in a cache, and the registers of the lowest frame.
struct Sample {
    words: Vec<u64>,
    modules: Remembered,
    start: Registers,
}

impl Sample {
    fn new(seed: u64, frames: u64) -> Self {
        let mut random = Random(seed);
        let mut words = vec![0u64; 12 * frames as usize];
        let low = words.as_mut_ptr().expose_provenance() as u64;
        // Addresses on the stack: any of them may be what a CFA is relative to.
        let length = words.len() as u64;
        words.iter_mut().for_each(|word| *word = low + 8 * random.below(length));
        let mut start = Registers::new().with(Register::RSP, low);
        for register in SAVED {
            start.set(register, low + 8 * random.below(length));
        }
        start.set(Register::RA, CODE + 1);
        let (mut sp, mut rbp) = (low, start.get(Register::RBP));
        let (cache, mut rules) = (Cache::new(), Vec::new());
        for number in 0..frames {
            let size = 1 + random.below(10);
            let cfa = sp + 8 * size;
            let at = |slots: u64| (cfa - 8 * slots - low) as usize / 8;
            let by_rbp = random.below(3) == 0;
            let (bits, base) = if by_rbp { (BASE_RBP, rbp) } else { (0, sp) };
            let cfa_offset = cfa.wrapping_sub(base) as i32;
            let (mut saved, mut slots) = ([0; SAVED.len()], 2);
            for (place, register) in saved.iter_mut().zip(SAVED) {
                if slots <= size && random.below(2) == 0 {
                    *place = slots as u8;
                    if register == Register::RBP {
                        rbp = words[at(slots)];
                    }
                    slots += 1;
                }
            }
            let last = number + 1 == frames;
            words[at(1)] = if last { 0 } else { CODE + 16 * (number + 1) + 1 };
            let address = CODE + 16 * number;
            let rule = Rule::new(bits, cfa_offset, 0, saved);
            rules.push(rule);
            if random.below(8) != 0 {
                cache.memorize_rule(address, GENERATION, rule, &mut { Trail::START });
            }
            sp = cfa;
        }
        let modules = Remembered { cache, rules, asked: Cell::new(0) };
        Self { words, modules, start }
    }

    /// A cursor, on so much of the stack.
    fn cursor(&self, words: usize) -> Cursor<'_, Words<'_>, Remembered> {
        let stack = Words(&self.words[..words]);
        Cursor::new(self.start, Pc::Return(self.start.ip()), stack, &self.modules)
    }

    fn steps(&self, words: usize) -> (Vec<(Registers, u64)>, Result<Step, UnwindError>) {
        let mut cursor = self.cursor(words);
        let mut frames = Vec::new();
        loop {
            match cursor.step() {
                Ok(Step::Caller { cfa }) => frames.push((*cursor.registers(), cfa)),
                end => return (frames, end),
            }
        }
    }
}

#[test]
fn registers_are_right_whenever_they_are_asked_for() {
    for seed in 0..20 {
        let sample = Sample::new(seed, 150);
        let (frames, end) = sample.steps(sample.words.len());
        assert_eq!((frames.len(), end), (149, Ok(Step::End)));
        let asked = sample.modules.asked.take();
        assert!(asked != 0, "all frames are remembered");
        for every in [1, 2, 31, 32, 33, 1000] {
            let mut left = frames.iter().zip(1..);
            let end = sample.cursor(sample.words.len()).walk(|frame| {
                let ((registers, cfa), number) = left.next().unwrap();
                assert_eq!((frame.pc(), frame.sp()), (Pc::Return(registers.ip()), *cfa));
                if number % every == 0 {
                    assert_eq!(frame.registers(), registers);
                }
                ControlFlow::<()>::Continue(())
            });
            assert_eq!(end, Ok(None));
            assert!(left.next().is_none());
            // What is remembered is not looked up, nor anything else twice.
            assert_eq!(sample.modules.asked.take(), asked);
        }
    }
}

#[test]
fn a_walk_that_breaks_leaves_the_cursor_in_the_frame() {
    let sample = Sample::new(7, 100);
    let (frames, _) = sample.steps(sample.words.len());
    let mut cursor = sample.cursor(sample.words.len());
    for (place, stretch) in [(0, 1), (1, 1), (3, 2), (43, 40), (98, 55)] {
        let mut count = 0;
        let end = cursor.walk(|_| {
            count += 1;
            if count == stretch { ControlFlow::Break(place) } else { ControlFlow::Continue(()) }
        });
        assert_eq!(end, Ok(Some(place)));
        assert_eq!(*cursor.registers(), frames[place].0);
        assert_eq!(cursor.pc(), Pc::Return(frames[place].0.ip()));
    }
}

#[test]
fn a_stack_that_ends_early_ends_walks_where_it_ends_steps() {
    let sample = Sample::new(3, 60);
    for words in 0..sample.words.len() / 2 {
        let (frames, end) = sample.steps(words);
        let mut count = 0;
        let walked = sample.cursor(words).walk(|_| {
            count += 1;
            ControlFlow::<()>::Continue(())
        });
        assert_eq!(count, frames.len());
        assert_eq!(walked.map(|_| Step::End), end);
    }
}
