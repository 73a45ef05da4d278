//! Addresses that are reserved first and backed later.
//!
//! ```text
//!   │ RW 7 │ none │ RX 3 │ RW 0 │ not backed …     what each page should be, beside what it is
//! ```

use alloc::vec::Vec;
use core::ops::Range;
use core::ptr::{with_exposed_provenance, with_exposed_provenance_mut};

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use unspool::panic::catch_unwind;
use unspool_kernel::cpu::{self, NoPreemption};
use unspool_kernel::fault::{FaultInfo, FaultKind, PageAccess};
use unspool_kernel::machine::{Access, MapError, Mapping, PAGE, Pages, machine};
use unspool_kernel::reserve::{RUNTIMES, decommit, protect, release, reserve};
use unspool_kernel::{heap, task};

crate::tests![
    a_reservation_takes_addresses_and_no_memory,
    every_page_is_as_the_last_call_left_it,
    what_is_no_reservation_is_an_error,
    what_memory_cannot_back_is_an_error,
    what_cannot_be_backed_takes_nothing_for_ever,
    no_memory_is_needed_to_give_memory_back,
    what_is_given_back_is_forgotten_on_every_cpu,
];

/// Pages of a small reservation.
const COUNT: usize = 24;

fn part(pages: Pages, range: &Range<usize>) -> Pages {
    let start = pages.start() + (range.start * PAGE) as u64;
    Pages::new(start, range.len() * PAGE).expect("a range that is not empty")
}

fn give_back(pages: Pages) {
    // SAFETY: the test made it, and is done.
    unsafe { release(pages) }.unwrap();
}

fn a_reservation_takes_addresses_and_no_memory() {
    const HUGE: usize = 1 << 40;
    let all = [(); 4].map(|()| reserve(HUGE).unwrap());
    for (index, pages) in all.iter().enumerate() {
        assert!(pages.start() >= RUNTIMES.start && pages.end() <= RUNTIMES.end);
        // The page before is nobody's.
        assert!(all[..index].iter().all(|before| before.end() < pages.start()));
    }
    let address = all[1].start() + (HUGE / 2) as u64;
    // SAFETY: an access that faults, and a fault unwinds.
    let read = || unsafe { with_exposed_provenance::<u8>(address as usize).read_volatile() };
    let fault = catch_unwind(read).expect_err("nothing is there").downcast::<FaultInfo>();
    let kind = FaultKind::PageFault { address, access: PageAccess::Read, present: false };
    assert_eq!(fault.expect("a fault").kind, kind);
    all.into_iter().for_each(give_back);
    // Its addresses are free again.
    give_back(reserve(all[0].size() * 7).unwrap());
}

/// What a page should be.
#[derive(Clone, Copy, Debug, PartialEq)]
struct State {
    access: Access,
    /// What is in it, if it is backed.
    tag: Option<u8>,
}

fn every_page_is_as_the_last_call_left_it() {
    let pages = reserve(COUNT * PAGE).unwrap();
    let mut model = [State { access: Access::None, tag: None }; COUNT];
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..300_u32 {
        seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let first = (seed >> 33) as usize % COUNT;
        let range = first..first + 1 + (seed >> 43) as usize % (COUNT - first);
        let access = [Access::None, Access::ReadWrite, Access::ReadExecute];
        let access = access.get((seed >> 53) as usize % 4).copied();
        let chosen = part(pages, &range);
        // SAFETY: these are the test's.
        let done = unsafe {
            match access {
                Some(access) => protect(chosen, access),
                None => decommit(chosen),
            }
        };
        done.unwrap();
        for state in &mut model[range] {
            *state = match access {
                None => State { access: Access::None, tag: None },
                Some(Access::None) => State { access: Access::None, ..*state },
                Some(access) => State { access, tag: state.tag.or(Some(0)) },
            };
        }
        check(pages, &model);
        fill(pages, &mut model, round as u8);
    }
    give_back(pages);
}

/// Writes another tag into every page that can be written.
fn fill(pages: Pages, model: &mut [State; COUNT], tag: u8) {
    for (index, state) in model.iter_mut().enumerate() {
        if state.access == Access::ReadWrite {
            let start = pages.start() as usize + index * PAGE;
            // SAFETY: the test's own page, writable.
            unsafe { with_exposed_provenance_mut::<u8>(start).write_bytes(tag, PAGE) };
            state.tag = Some(tag);
        }
    }
}

fn check(pages: Pages, model: &[State; COUNT]) {
    let mut seen = [Access::None; COUNT];
    machine()
        .mappings(&mut |Mapping { start, size, writable, executable, .. }: Mapping| {
            for (index, seen) in seen.iter_mut().enumerate() {
                let page = pages.start() + (index * PAGE) as u64;
                if (start..start + size).contains(&page) && (writable || executable) {
                    *seen = if writable { Access::ReadWrite } else { Access::ReadExecute };
                }
            }
        })
        .unwrap();
    for (index, (state, seen)) in model.iter().zip(seen).enumerate() {
        assert_eq!(state.access, seen, "page {index}");
        if seen != Access::None {
            let start = pages.start() as usize + index * PAGE;
            // SAFETY: the test's own page, readable.
            let bytes =
                unsafe { core::slice::from_raw_parts(with_exposed_provenance(start), PAGE) };
            assert!(bytes.iter().all(|&byte| Some(byte) == state.tag), "page {index}");
        }
    }
}

fn what_is_no_reservation_is_an_error() {
    let pages = reserve(COUNT * PAGE).unwrap();
    let beyond = Pages::new(pages.start(), (COUNT + 1) * PAGE).unwrap();
    let before = Pages::new(pages.start() - PAGE as u64, PAGE).unwrap();
    for wrong in [beyond, before] {
        let unexpected = Err(MapError::Unexpected { page: wrong.start() });
        // SAFETY: refused.
        unsafe {
            assert_eq!(protect(wrong, Access::ReadWrite), unexpected);
            assert_eq!(decommit(wrong), unexpected);
            assert_eq!(release(wrong), unexpected);
        }
    }
    // A part cannot be released.
    let half = part(pages, &(0..COUNT / 2));
    // SAFETY: refused.
    let refused = unsafe { release(half) };
    assert_eq!(refused, Err(MapError::Unexpected { page: pages.start() }));
    give_back(pages);
    let too_much = (RUNTIMES.end - RUNTIMES.start) as usize;
    for too_much in [too_much, usize::MAX - PAGE, usize::MAX] {
        assert!(matches!(reserve(too_much), Err(MapError::WindowFull { .. })), "{too_much:#x}");
    }
}

fn what_memory_cannot_back_is_an_error() {
    const MUCH: usize = 1 << 42;
    let pages = reserve(MUCH).unwrap();
    // SAFETY: the test's own.
    let backed = unsafe { protect(pages, Access::ReadWrite) };
    assert!(matches!(backed, Err(MapError::OutOfFrames { .. } | MapError::System { .. })));
    // Nothing of it is left behind: a page can be backed.
    // SAFETY: the test's own.
    unsafe { protect(part(pages, &(0..1)), Access::ReadWrite) }.unwrap();
    give_back(pages);
}

/// Nor memory for page tables, which is never given back.
fn what_cannot_be_backed_takes_nothing_for_ever() {
    const MUCH: usize = 1 << 42;
    /// So far apart, they need tables of their own, for as much as there is memory.
    const APART: usize = 4 << 30;
    let pages = reserve(MUCH).unwrap();
    for attempt in 0..16 {
        let much = part(pages, &(attempt * APART / PAGE..MUCH / PAGE));
        // SAFETY: the test's own.
        let backed = unsafe { protect(much, Access::ReadWrite) };
        assert!(matches!(backed, Err(MapError::OutOfFrames { .. } | MapError::System { .. })));
    }
    // SAFETY: the test's own.
    let last = unsafe { protect(part(pages, &(MUCH / PAGE - 1..MUCH / PAGE)), Access::ReadWrite) };
    give_back(pages);
    assert_eq!(last, Ok(()));
}

fn no_memory_is_needed_to_give_memory_back() {
    // So many pieces that some number of them fills whatever the list of them has room for.
    for pieces in 1..=COUNT / 2 {
        let pages = reserve(COUNT * PAGE).unwrap();
        for piece in 0..pieces {
            // SAFETY: the test's own.
            unsafe { protect(part(pages, &(2 * piece..2 * piece + 1)), Access::ReadWrite) }
                .unwrap();
        }
        let exhausted = heap::exhaust();
        // SAFETY: the test's own, and nobody uses them.
        let (decommitted, released) = unsafe { (decommit(part(pages, &(0..1))), release(pages)) };
        drop(exhausted);
        assert_eq!((decommitted, released), (Ok(()), Ok(())), "{pieces} pieces");
    }
}

/// Tasks are moved to other CPUs at any instruction, also in the middle of giving pages back.
fn what_is_given_back_is_forgotten_on_every_cpu() {
    const ROUNDS: u32 = 500;
    static LOOK: AtomicBool = AtomicBool::new(false);
    static STOP: AtomicBool = AtomicBool::new(false);
    /// The CPUs that have looked, as bits, and what they saw, all in one.
    static LOOKED: AtomicU32 = AtomicU32::new(0);
    static SEEN: AtomicU32 = AtomicU32::new(0);
    STOP.store(false, Ordering::SeqCst);
    let [page, other] = [(); 2].map(|()| reserve(PAGE).unwrap());
    let place = |page: Pages| with_exposed_provenance_mut::<u8>(page.start() as usize);
    let looks = move || {
        while !STOP.load(Ordering::SeqCst) {
            let preemption = NoPreemption::new();
            let here = 1 << cpu::current();
            if LOOK.load(Ordering::SeqCst) && LOOKED.load(Ordering::SeqCst) & here == 0 {
                // SAFETY: backed until all have looked.
                let seen = unsafe { place(page).read_volatile() };
                SEEN.fetch_or(seen.into(), Ordering::SeqCst);
                LOOKED.fetch_or(here, Ordering::SeqCst);
            }
            drop(preemption);
            task::yield_now();
        }
    };
    let lookers: Vec<_> = (0..cpu::count() + 2).map(|_| task::spawn("looks", looks)).collect();
    let all_see = || {
        LOOKED.store(0, Ordering::SeqCst);
        LOOK.store(true, Ordering::SeqCst);
        while LOOKED.load(Ordering::SeqCst).count_ones() < cpu::count() as u32 {
            task::yield_now();
        }
        LOOK.store(false, Ordering::SeqCst);
        SEEN.swap(0, Ordering::SeqCst)
    };
    // SAFETY: the test's own.
    let back = |page| unsafe { protect(page, Access::ReadWrite) }.unwrap();
    // SAFETY: as above; nobody looks at it.
    let give_up = |page| unsafe { decommit(page) }.unwrap();
    let mut stale = 0;
    for _ in 0..ROUNDS {
        back(page);
        all_see();
        give_up(page);
        // What was behind it is another's now.
        back(other);
        // SAFETY: just backed, writable.
        unsafe { place(other).write_volatile(0xff) };
        back(page);
        stale += u32::from(all_see() != 0);
        give_up(page);
        give_up(other);
    }
    STOP.store(true, Ordering::SeqCst);
    lookers.into_iter().for_each(|looker| looker.join().unwrap());
    [page, other].into_iter().for_each(give_back);
    assert_eq!(stale, 0, "rounds in which a CPU saw what was given back");
}
