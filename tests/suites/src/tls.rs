//! Thread-local blocks as the linker and the compiler see them.

use alloc::vec::Vec;
use core::arch::asm;
use core::cell::Cell;
use core::sync::atomic::{AtomicBool, Ordering};

use unspool_kernel::platform::tls_registry;
use unspool_kernel::{loader, task};

use crate::support::{footprint, module};

crate::tests![
    tdata_starts_with_its_value_and_tbss_with_zero,
    every_task_has_its_own_copy,
    blocks_are_aligned_as_declared,
    the_thread_pointer_points_at_itself,
    every_task_has_its_own_canary,
    existing_tasks_see_tdata_of_a_later_object,
    an_area_is_given_back_at_the_end_of_its_task,
];

#[repr(C, align(1024))]
struct Wide([Cell<u8>; 1500]);

#[thread_local]
static START: Cell<u64> = Cell::new(0xfeed_beef);
#[thread_local]
static ZERO: Cell<[u64; 32]> = Cell::new([0; 32]);
#[thread_local]
static WIDE: Wide = Wide([const { Cell::new(9) }; 1500]);

fn tdata_starts_with_its_value_and_tbss_with_zero() {
    assert_eq!(START.get(), 0xfeed_beef);
    assert_eq!(ZERO.get(), [0; 32]);
    assert!(WIDE.0.iter().all(|byte| byte.get() == 9));
}

fn every_task_has_its_own_copy() {
    START.set(1);
    ZERO.set([1; 32]);
    let others: Vec<_> = (2..10)
        .map(|n| {
            task::spawn("copy", move || {
                tdata_starts_with_its_value_and_tbss_with_zero();
                START.set(n);
                task::yield_now();
                START.get()
            })
        })
        .collect();
    for (n, other) in (2..10).zip(others) {
        assert_eq!(other.join().unwrap(), n);
    }
    assert_eq!(START.get(), 1);
    assert_eq!(ZERO.get(), [1; 32]);
}

fn blocks_are_aligned_as_declared() {
    let addresses: Vec<_> = (0..8)
        .map(|_| task::spawn("aligned", || (&raw const WIDE).addr()))
        .map(|task| task.join().unwrap())
        .collect();
    assert!(addresses.iter().all(|address| address.is_multiple_of(1024)), "{addresses:x?}");
}

/// The word at an offset from the FS base.
fn fs_word<const OFFSET: u32>() -> u64 {
    let word;
    // SAFETY: the thread control block of every area has these words.
    unsafe { asm!("mov {}, fs:[{}]", out(reg) word, const OFFSET, options(nostack, readonly)) };
    word
}

fn the_thread_pointer_points_at_itself() {
    let current = unspool::tls::current();
    assert_eq!(fs_word::<0>(), current.address());
}

fn every_task_has_its_own_canary() {
    let canary = || task::spawn("canary", fs_word::<0x28>).join().unwrap();
    let canaries: Vec<_> = (0..4).map(|_| canary()).collect();
    for (n, canary) in canaries.iter().enumerate() {
        assert_ne!(*canary, 0);
        assert!(!canaries[..n].contains(canary), "{canaries:x?}");
    }
}

fn existing_tasks_see_tdata_of_a_later_object() {
    for name in ["tls.static.o", "tls.pic.o"] {
        static GO: AtomicBool = AtomicBool::new(false);
        static mut OBJECT: Option<[usize; 5]> = None;
        GO.store(false, Ordering::Relaxed);
        let check = || {
            while !GO.load(Ordering::Acquire) {
                task::yield_now();
            }
            // SAFETY: written before `GO` was set, and not after.
            use_object(unsafe { OBJECT }.expect("written"));
        };
        let early: Vec<_> = (0..20).map(|_| task::spawn("early", check)).collect();
        task::yield_now();
        let object = loader().load(name, module(name)).unwrap();
        let symbols = ["start", "set_start", "wide_address", "wide_sum", "zero_sum"];
        let address = |symbol: &str| {
            let symbol = alloc::format!("tls_{symbol}");
            object.symbol(&symbol).unwrap_or_else(|| panic!("{symbol} in {name}")) as usize
        };
        // SAFETY: the tasks read it only after `GO` is set.
        unsafe { OBJECT = Some(symbols.map(address)) };
        GO.store(true, Ordering::Release);
        let late: Vec<_> = (0..5).map(|_| task::spawn("late", check)).collect();
        check();
        for task in early.into_iter().chain(late) {
            task.join().unwrap();
        }
    }
}

/// Checks the calling task's copy of the variables of `tests/objects/tls.rs`.
fn use_object([start, set_start, wide_address, wide_sum, zero_sum]: [usize; 5]) {
    // SAFETY: these are the addresses of the object's functions, of these types.
    let (start, set_start, wide_address, wide_sum, zero_sum) = unsafe {
        (
            core::mem::transmute::<usize, extern "C" fn() -> u64>(start),
            core::mem::transmute::<usize, extern "C" fn(u64)>(set_start),
            core::mem::transmute::<usize, extern "C" fn() -> usize>(wide_address),
            core::mem::transmute::<usize, extern "C" fn() -> u64>(wide_sum),
            core::mem::transmute::<usize, extern "C" fn() -> u64>(zero_sum),
        )
    };
    assert_eq!(start(), 0x1122_3344_5566_7788);
    assert!(wide_address().is_multiple_of(256), "{:#x}", wide_address());
    assert_eq!((wide_sum(), zero_sum()), (7 * 40, 0));
    let mine = unspool::tls::current().address();
    set_start(mine);
    task::yield_now();
    assert_eq!(start(), mine, "another task changed it");
}

fn an_area_is_given_back_at_the_end_of_its_task() {
    footprint();
    let before = tls_registry().live_areas();
    let task = task::spawn("short", || tls_registry().live_areas());
    assert_eq!(task.join().unwrap(), before + 1);
    // Another CPU may still be about to leave its stack.
    footprint();
    assert_eq!(tls_registry().live_areas(), before);
}
