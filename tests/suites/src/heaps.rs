//! Small pieces of memory wander between CPUs, and a CPU has its own for the next throw.
//!
//! ```text
//!   CPU 0: alloc, write ─► a common table ─► CPU 3: is it all there? free ─► alloc, write …
//! ```

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicPtr, Ordering};

use unspool::panic::{catch_unwind, resume_unwind};
use unspool_kernel::cpu::NoPreemption;
use unspool_kernel::{cpu, heap, task};

use crate::support::footprint;

crate::tests![
    a_throw_needs_only_what_the_cpu_has_kept,
    what_wanders_between_cpus_stays_whole,
    a_cpu_keeps_a_bounded_number_of_pieces,
];

fn a_throw_needs_only_what_the_cpu_has_kept() {
    let throw = || {
        let thrown = catch_unwind(|| resume_unwind(Box::new(7u64)));
        assert_eq!(thrown.map(|(): ()| ()).unwrap_err().downcast_ref::<u64>(), Some(&7));
    };
    let _here = NoPreemption::new();
    throw();
    // Whoever waited for the heap now would wait forever.
    heap::in_allocation(throw);
}

/// Sizes of pieces: on both sides of every class's end, and beyond the largest.
const SIZES: [usize; 12] = [1, 15, 16, 17, 32, 63, 64, 65, 128, 129, 256, 257];

/// A piece, in another one.
struct Piece(Vec<u8>);

/// What is in a piece that was filled with this.
fn filled(seed: u64) -> Piece {
    let size = SIZES[seed as usize % SIZES.len()];
    Piece(vec![(seed >> 32) as u8; size])
}

fn assert_whole(piece: &[u8]) {
    assert!(SIZES.contains(&piece.len()));
    assert!(piece.iter().all(|byte| *byte == piece[0]), "{piece:?}");
}

fn what_wanders_between_cpus_stays_whole() {
    static TABLE: [AtomicPtr<Piece>; 64] = [const { AtomicPtr::new(core::ptr::null_mut()) }; 64];
    let take = |place: &AtomicPtr<Piece>, new| {
        let old = place.swap(new, Ordering::AcqRel);
        // SAFETY: only boxes are put there, and this one was just taken out.
        (!old.is_null()).then(|| unsafe { Box::from_raw(old) })
    };
    let run = move |rounds: u64| {
        let wander = |number: u64| {
            task::spawn("wanders", move || {
                let mut seed = number;
                for _ in 0..rounds {
                    // Knuth's MMIX generator.
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(number | 1);
                    let place = &TABLE[(seed >> 50) as usize % TABLE.len()];
                    if let Some(old) = take(place, Box::into_raw(Box::new(filled(seed >> 8)))) {
                        assert_whole(&old.0);
                    }
                }
            })
        };
        let all: Vec<_> = (0..8).map(wander).collect();
        all.into_iter().for_each(|each| each.join().unwrap());
        for place in &TABLE {
            take(place, core::ptr::null_mut()).into_iter().for_each(|left| assert_whole(&left.0));
        }
    };
    run(100);
    let before = footprint();
    run(20_000);
    assert_eq!(footprint(), before);
}

fn a_cpu_keeps_a_bounded_number_of_pieces() {
    const MANY: u64 = 10_000;
    // What others have left is freed first.
    footprint();
    let _here = NoPreemption::new();
    let before = heap::used();
    let pieces: Vec<Box<u64>> = (0..MANY).map(Box::new).collect();
    assert!(heap::used() >= before + MANY as usize * size_of::<u64>());
    drop(pieces);
    assert!(heap::used() <= before);
    // Thirty-two of each size.
    assert!(heap::kept() <= cpu::count() * 32 * (64 + 128 + 256));
}
