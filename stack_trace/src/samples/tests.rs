//! One CPU's buffer: order, wrapping, full, and with somebody else at the same time.

use core::cell::Cell;
use core::iter;
use std::thread;

use unspool_unwind::{Cursor, Modules, NoStack, Pc, Registers};

use super::*;

fn words<const N: usize>() -> [AtomicU64; N] {
    [const { AtomicU64::new(0) }; N]
}

#[test]
fn samples_come_out_as_they_went_in_oldest_first() {
    let words = words::<64>();
    let samples = Samples::new(&words);
    assert!(samples.take().is_none());
    assert!(samples.keep(10, 7, [0x1000, 0x2000].into_iter()));
    assert!(samples.keep(11, 0, iter::empty()));
    let first = samples.take().unwrap();
    assert_eq!((first.time, first.task, first.cut), (10, 7, false));
    assert_eq!(first.addresses(), [0x1000, 0x2000]);
    let second = samples.take().unwrap();
    assert_eq!((second.time, second.task, second.addresses()), (11, 0, &[][..]));
    assert!(samples.take().is_none());
    assert_eq!((samples.kept(), samples.dropped()), (2, 0));
}

#[test]
fn a_trace_is_kept_as_the_addresses_to_look_up() {
    static NONE: Modules = Modules::new();
    let words = words::<64>();
    let samples = Samples::new(&words);
    let trace = |pc| Trace::new(Cursor::new(Registers::new(), pc, NoStack, &NONE));
    assert!(samples.keep_trace(1, 2, trace(Pc::Exact(0x1000))));
    assert!(samples.keep_trace(1, 2, trace(Pc::Return(0x2000))));
    assert_eq!(samples.take().unwrap().addresses(), [0x1000]);
    assert_eq!(samples.take().unwrap().addresses(), [0x1fff]);
}

#[test]
fn what_has_no_room_is_dropped_and_counted_and_harms_no_other() {
    let words = words::<16>();
    let samples = Samples::new(&words);
    // Seven words each: two fit, with two words left.
    let keep = |time| samples.keep(time, 1, [1, 2, 3, 4].into_iter().map(|n| time * 16 + n));
    assert!(keep(1) && keep(2));
    assert!(!keep(3) && !samples.keep(4, 1, iter::empty()));
    assert_eq!((samples.kept(), samples.dropped()), (2, 2));
    assert_eq!(samples.take().unwrap().addresses(), [17, 18, 19, 20]);
    assert!(keep(5), "there is room again");
    assert_eq!(samples.take().unwrap().addresses(), [33, 34, 35, 36]);
    assert_eq!(samples.take().unwrap().addresses(), [81, 82, 83, 84]);
    assert!(samples.take().is_none());
}

#[test]
fn exactly_all_words_can_be_used() {
    let words = words::<8>();
    let samples = Samples::new(&words);
    for round in 0..10 {
        assert!(samples.keep(round, 1, [1, 2, 3, 4, 5].into_iter()));
        assert!(!samples.keep(round, 1, iter::empty()));
        assert_eq!(samples.take().unwrap().time, round);
        assert!(!samples.keep(round, 1, 0..6), "a word too many");
    }
}

#[test]
fn no_words_keep_nothing() {
    let samples = Samples::new(&[]);
    assert!(!samples.keep(1, 1, iter::empty()));
    assert!(samples.take().is_none());
    assert_eq!(samples.dropped(), 1);
}

#[test]
fn a_deep_stack_is_cut_and_says_so() {
    let words = words::<256>();
    let samples = Samples::new(&words);
    let frames = FRAMES as u64;
    assert!(samples.keep(1, 1, 0..frames));
    assert!(samples.keep(2, 1, 0..frames + 1));
    let (whole, cut) = (samples.take().unwrap(), samples.take().unwrap());
    assert!(!whole.cut && cut.cut);
    assert!(whole.addresses().iter().copied().eq(0..frames));
    assert!(cut.addresses().iter().copied().eq(0..frames));
}

#[test]
fn who_interrupts_the_keeping_is_turned_away_and_counted() {
    let words = words::<64>();
    let samples = Samples::new(&words);
    let refused = Cell::new(0);
    let interrupted = (1..4).inspect(|_| {
        refused.set(refused.get() + u32::from(!samples.keep(9, 9, iter::once(9))));
    });
    assert!(samples.keep(1, 1, interrupted));
    assert_eq!((refused.get(), samples.kept(), samples.dropped()), (3, 1, 3));
    assert_eq!(samples.take().unwrap().addresses(), [1, 2, 3]);
    assert!(samples.take().is_none());
}

#[test]
fn counters_that_wrap_around_change_nothing() {
    let words = words::<16>();
    let samples = Samples::new(&words);
    samples.kept.store(usize::MAX - 2, Ordering::Relaxed);
    samples.taken.store(usize::MAX - 2, Ordering::Relaxed);
    for round in 0..20 {
        assert!(samples.keep(round, 2, [round, round + 1].into_iter()));
        let sample = samples.take().unwrap();
        assert_eq!((sample.time, sample.addresses()), (round, &[round, round + 1][..]));
    }
}

#[test]
fn one_keeps_while_another_takes() {
    const ROUNDS: u64 = if cfg!(miri) { 200 } else { 100_000 };
    let words = words::<128>();
    let samples = Samples::new(&words);
    // Whatever is taken out is whole: its addresses follow from its time.
    let frames = |time: u64| (0..time % 11).map(move |n| time << 8 | n);
    let taken = thread::scope(|scope| {
        scope.spawn(|| {
            for time in 1..=ROUNDS {
                if !samples.keep(time, !time, frames(time)) {
                    thread::yield_now();
                }
            }
        });
        let (mut last, mut taken) = (0, 0);
        while samples.kept() + samples.dropped() < ROUNDS || taken < samples.kept() {
            let Some(sample) = samples.take() else {
                thread::yield_now();
                continue;
            };
            assert!(sample.time > last, "in order, and none twice");
            assert_eq!(sample.task, !sample.time);
            assert!(sample.addresses().iter().copied().eq(frames(sample.time)));
            (last, taken) = (sample.time, taken + 1);
        }
        taken
    });
    assert_eq!(taken, samples.kept());
    assert_eq!(samples.kept() + samples.dropped(), ROUNDS);
}
