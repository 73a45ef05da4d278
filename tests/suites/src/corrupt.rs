//! Corrupt stacks: a walk of what is left of one ends, with a reason, and reads nothing else.
//!
//! ```text
//!   a real stack ─► copy ─► random words, registers ◄─ random · code · stack · 0 ─► trace ─► End
//!   the same stack, as it is used ─► words of callers' frames ─► trace ─► words as before
//! ```

use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::hint::black_box;
use core::ops::Range;

use unspool::backtrace::{End, Trace, trace};
use unspool::unwind::{Cursor, Pc, ReadStack, Register, Registers, UnwindError, global};
use unspool_kernel::cpu::NoPreemption;
use unspool_kernel::{println, task};

crate::tests![
    a_hundred_thousand_corrupt_copies_of_stacks_end_with_a_reason,
    twenty_thousand_corruptions_of_the_live_stack_end_with_a_reason,
];

const COPIES: usize = 100_000;
const LIVE: usize = 20_000;
const WORD: u64 = size_of::<u64>() as u64;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        ((self.next() >> 16) % bound as u64) as usize
    }

    /// What a corrupt word may be: anything, or something that looks right.
    fn word(&mut self, stack: &Range<u64>, old: u64) -> u64 {
        let size = (stack.end - stack.start) as usize;
        match self.below(8) {
            0 => 0,
            1 => self.next(),
            2 => old ^ 1 << self.below(64),
            3 => old.wrapping_add(WORD * self.below(64) as u64),
            4 => old.wrapping_sub(WORD * self.below(64) as u64),
            // Code, at any byte of it.
            5 => (descend::<()> as *const () as u64).wrapping_add(self.below(1 << 18) as u64),
            // A place on the stack, aligned or not.
            6 => stack.start + self.below(size) as u64,
            _ => stack.start + (self.below(size) as u64 & !7),
        }
    }
}

/// How traces ended.
#[derive(Default, Debug)]
struct Ends {
    outermost: usize,
    no_module: usize,
    no_fde: usize,
    stack_read: usize,
    not_above: usize,
    other: usize,
}

impl Ends {
    fn count(&mut self, end: Option<End>) {
        *match end.expect("a trace ends") {
            End::Outermost => &mut self.outermost,
            End::Error(UnwindError::NoModule(_)) => &mut self.no_module,
            End::Error(UnwindError::NoFde(_)) => &mut self.no_fde,
            End::Error(UnwindError::StackRead { .. }) => &mut self.stack_read,
            End::Error(UnwindError::CfaNotAbove { .. }) => &mut self.not_above,
            End::Error(_) => &mut self.other,
            End::Full => unreachable!("nothing is kept"),
        } += 1;
    }
}

/// A stack as it was: words at the addresses that they had.
struct Copied {
    range: Range<u64>,
    words: Vec<Cell<u64>>,
    /// The addresses of the words that a walk read: return addresses, saved registers.
    read: RefCell<Vec<u64>>,
}

impl Copied {
    fn cell(&self, address: u64) -> Option<&Cell<u64>> {
        let offset = address.checked_sub(self.range.start)?;
        (offset % WORD == 0).then(|| self.words.get((offset / WORD) as usize))?
    }
}

impl ReadStack for Copied {
    fn read(&self, address: u64) -> Option<u64> {
        if let Ok(mut read) = self.read.try_borrow_mut() {
            read.push(address);
        }
        self.cell(address).map(Cell::get)
    }
}

/// The frames until the end, as many as a stack of this size can have at most: a frame takes a word.
fn ends<S: ReadStack>(
    mut frames: Trace<'_, S, unspool::unwind::Modules>,
    most: usize,
) -> Option<End> {
    let seen = frames.by_ref().take(most + 8).count();
    assert!(seen < most + 8, "{seen} frames on a stack of {most} words");
    frames.end()
}

/// Copies the caller's stack from here to its end, with the registers here.
#[inline(never)]
fn copy() -> (Registers, Copied) {
    let registers = Registers::here();
    let range = registers.sp() & !7..task::current().stack().end;
    let first = core::ptr::with_exposed_provenance::<u64>(range.start as usize);
    let words = (0..((range.end - range.start) / WORD) as usize)
        // SAFETY: inside the caller's own stack.
        .map(|index| Cell::new(unsafe { first.add(index).read_volatile() }))
        .collect();
    (registers, Copied { range, words, read: RefCell::default() })
}

/// Calls `body` from some frames down, each with registers to save and a stack of its own size.
#[inline(never)]
fn descend<R>(depth: u64, body: &mut dyn FnMut() -> R) -> R {
    let numbers = black_box([depth; 5]);
    let saved = black_box((depth + 1, depth + 2, depth + 3, depth + 4));
    let result = if depth == 0 { body() } else { descend(depth - 1, body) };
    black_box((numbers, saved));
    result
}

fn a_hundred_thousand_corrupt_copies_of_stacks_end_with_a_reason() {
    let (registers, stack) = descend(12, &mut copy);
    let whole = |registers: Registers| {
        let cursor = Cursor::new(registers, Pc::Return(registers.ip()), &stack, global());
        [cursor, cursor.with_guesses()]
    };
    for cursor in whole(registers) {
        assert_eq!(ends(Trace::new(cursor), stack.words.len()), Some(End::Outermost));
    }
    let (mut random, mut counts) = (Random(0x9e37_79b9_7f4a_7c15), Ends::default());
    // From here on the list is only looked at.
    let read = stack.read.borrow();
    let saved: Vec<u64> = stack.words.iter().map(Cell::get).collect();
    for number in 0..COPIES {
        let mut registers = registers;
        for _ in 0..1 + random.below(4) {
            if random.below(4) == 0 {
                let register = Register::from_dwarf(random.below(Register::COUNT) as u16).unwrap();
                let word = random.word(&stack.range, registers.get(register));
                registers.set(register, word);
            } else {
                let cell = stack.cell(read[random.below(read.len())]).unwrap();
                cell.set(random.word(&stack.range, cell.get()));
            }
        }
        let cursor = whole(registers)[number % 2];
        counts.count(ends(Trace::new(cursor), stack.words.len()));
        stack.words.iter().zip(&saved).for_each(|(cell, &word)| cell.set(word));
    }
    println!("{COPIES} corrupt copies of {} words: {counts:?}", stack.words.len());
    assert!(counts.outermost < COPIES / 4 * 3 && counts.stack_read > 0 && counts.no_module > 0);
}

/// Corrupts the frames of its callers, takes a trace, and mends them. All by values, or on the heap: what
/// else is referred to may lie in those frames. Returns where the random numbers go on, too.
#[inline(never)]
fn corrupt_live(seed: u64, stack: (u64, u64), read: &[u64]) -> (u64, Option<End>) {
    const MOST: usize = 4;
    let mut changed = [(core::ptr::null_mut::<u64>(), 0); MOST];
    // The callers' frames from the caller's caller on: nothing of them is used until they are mended.
    let low = Registers::here().sp() + 1024;
    let (mut random, stack) = (Random(seed), stack.0..stack.1);
    let first = read.partition_point(|&address| address < low);
    let read = &read[first..];
    let many = 1 + random.below(MOST);
    for place in &mut changed[..many] {
        let address = read[random.below(read.len())];
        let word = core::ptr::with_exposed_provenance_mut::<u64>(address as usize);
        // SAFETY: a word of the caller's own stack.
        let old = unsafe { word.read_volatile() };
        *place = (word, old);
        // SAFETY: nobody uses it before it is mended: the task keeps its CPU, and the callers wait.
        unsafe { word.write_volatile(random.word(&stack, old)) };
    }
    let end = ends_here();
    for &(word, old) in changed[..many].iter().rev() {
        // SAFETY: as above; the first value of a word that was changed twice is written last.
        unsafe { word.write_volatile(old) };
    }
    (random.0, end)
}

/// The addresses that a walk from the caller reads, from low to high.
#[inline(never)]
fn read_by_a_walk() -> Vec<u64> {
    let (registers, stack) = copy();
    let cursor = Cursor::new(registers, Pc::Return(registers.ip()), &stack, global());
    ends(Trace::new(cursor), stack.words.len());
    let mut read = stack.read.take();
    read.sort_unstable();
    read
}

#[inline(never)]
fn ends_here() -> Option<End> {
    let mut frames = trace();
    frames.by_ref().take(10_000).for_each(drop);
    frames.end()
}

fn twenty_thousand_corruptions_of_the_live_stack_end_with_a_reason() {
    let stack = task::current().stack();
    let mut seed = 0x2545_f491_4f6c_dd1d;
    let mut counts = Ends::default();
    let mut places = Vec::new();
    for round in 0..=LIVE {
        let mut corrupt = || {
            // Room between the frames that are in use and those that are corrupted.
            let room = black_box([0_u64; 128]);
            if round == 0 {
                places = read_by_a_walk();
                return None;
            }
            let read = places.as_slice();
            let _here = NoPreemption::new();
            let (next, end) = corrupt_live(seed, (stack.start, stack.end), read);
            black_box(room);
            seed = next;
            end
        };
        let end = descend(12, &mut corrupt);
        if round > 0 {
            counts.count(end);
        }
    }
    println!("{LIVE} corruptions of the live stack: {counts:?}");
    assert!(counts.outermost < LIVE / 4 * 3 && counts.stack_read > 0 && counts.no_module > 0);
}
