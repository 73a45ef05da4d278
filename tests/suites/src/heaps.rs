//! Small pieces of memory wander between CPUs, and a CPU has its own for the next throw.
//!
//! ```text
//!   CPU 0: alloc, write ─► a common table ─► CPU 3: is it all there? free ─► alloc, write …
//! ```

use alloc::alloc::{alloc, dealloc};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::ptr::{null_mut, without_provenance_mut};
use core::sync::atomic::{AtomicPtr, Ordering};

use unspool::panic::{catch_unwind, resume_unwind};
use unspool_kernel::cpu::NoPreemption;
use unspool_kernel::{cpu, heap, task};

use crate::support::footprint;

crate::tests![
    a_throw_needs_only_what_the_cpu_has_kept,
    what_wanders_between_cpus_stays_whole,
    a_cpu_keeps_a_bounded_number_of_pieces,
    what_a_cpu_keeps_is_there_for_all_sizes,
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

/// All of the heap that pieces of some sizes can have.
struct All(*mut Taken);

/// At the start of each.
struct Taken {
    next: *mut Self,
    layout: Layout,
}

impl All {
    /// Takes one more piece, if there is one.
    fn take(&mut self, size: usize) -> Option<*mut Taken> {
        let layout = Layout::from_size_align(size, 64).unwrap();
        // SAFETY: it has a size.
        let piece = unsafe { alloc(layout) }.cast::<Taken>();
        if piece.is_null() {
            return None;
        }
        // SAFETY: just allocated, and large enough.
        unsafe { piece.write(Taken { next: self.0, layout }) };
        self.0 = piece;
        Some(piece)
    }

    /// Gives back the piece that was taken last.
    fn give_back(&mut self) -> Option<()> {
        let last = self.0;
        // SAFETY: `take` wrote it, or there is none.
        let Taken { next, layout } = unsafe { (!last.is_null()).then(|| last.read()) }?;
        self.0 = next;
        // SAFETY: it was allocated so, and is in the list no more.
        unsafe { dealloc(last.cast(), layout) };
        Some(())
    }
}

impl Drop for All {
    fn drop(&mut self) {
        while self.give_back().is_some() {}
    }
}

fn what_a_cpu_keeps_is_there_for_all_sizes() {
    /// The largest that CPUs keep.
    const KEPT: usize = 256;
    const RUN: usize = 8;
    footprint();
    let _here = NoPreemption::new();
    let mut all = All(null_mut());
    for size in (14..28).rev().map(|bits| 1 << bits) {
        while all.take(size).is_some() {}
    }
    // What is left, piece by piece, until the last of them lie one after the other.
    let (mut last, mut run) = (without_provenance_mut::<Taken>(0), 0);
    while run < RUN
        && let Some(piece) = all.take(KEPT)
    {
        run = if piece.addr() == last.addr() + KEPT { run + 1 } else { 1 };
        last = piece;
    }
    // The rest, held apart: nothing but those pieces is free then.
    let mut rest = All(null_mut());
    for size in [KEPT, KEPT / 2, KEPT / 4] {
        while rest.take(size).is_some() {}
    }
    let freed = (0..run).filter_map(|_| all.give_back()).count();
    let large = rest.take(RUN * KEPT);
    assert!(run == RUN && freed == RUN && large.is_some(), "{run} pieces");
}
