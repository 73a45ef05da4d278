//! A load to look at: all that Unspool does, again and again, on all CPUs.
//!
//! ```text
//!   a turn, always the same work:   worker │ crunch │ panic, catch │ spawn, thread_local!, join
//!                                   … one for each CPU            │ the first: load, unload a crate
//! ```
//!
//! By turns with sampling and without: what that costs is the difference.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::hint::black_box;

use unspool::panic::{catch_unwind, set_hook};
use unspool::thread_local;
use unspool_kernel::walk::AllStacks;
use unspool_kernel::{Boot, ExitCode, cpu, loader, println, profile, task};

use crate::guest_book::{self, GuestBook};

/// What begins the word with the seconds.
pub const WORD: &str = "load=";

/// What a worker does in a turn, so often.
const ROUNDS: u32 = 8;
/// Numbers that are crunched in a round; panics, and calls that they are below; tasks.
const NUMBERS: u64 = 200_000;
const PANICS: u32 = 64;
const DEPTH: u32 = 16;
const TASKS: u32 = 4;

thread_local! {
    static SEEN: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Works for so many seconds.
pub fn run(boot: &Boot, seconds: &str) -> ExitCode {
    let (Ok(seconds), Some(bytes)) = (seconds.parse::<u64>(), boot.module(guest_book::OBJECT))
    else {
        println!("`{WORD}` wants a number of seconds, and the module {}", guest_book::OBJECT);
        return ExitCode::FAILURE;
    };
    // It stays, so that samples in it can be named at the end.
    let Some((_object, book)) = guest_book::load_again(bytes) else {
        println!("{} cannot be loaded", guest_book::OBJECT);
        return ExitCode::FAILURE;
    };
    set_hook(Box::new(|_| ()));
    let (mut turns, mut right) = (0_u64, true);
    profile::compare(seconds * 1_000_000_000, || {
        right &= turn(book, bytes);
        turns += 1;
    });
    println!("load complete: {turns} turns on {} CPUs", cpu::count());
    if right { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn turn(book: GuestBook, bytes: &'static [u8]) -> bool {
    let workers: Vec<_> = (0..cpu::count())
        .map(|number| {
            task::spawn("worker", move || {
                let loads = number > 0 || come_and_go(bytes);
                loads && (0..ROUNDS).all(|round| work(book, round.into()))
            })
        })
        .collect();
    workers.into_iter().fold(true, |right, worker| right & worker.join().ok().unwrap_or(false))
}

/// A round of one worker; whether all went as it should.
#[inline(never)]
fn work(book: GuestBook, round: u64) -> bool {
    let crunched = crunch(2 * round) != crunch(2 * round + 2);
    let panics = (0..PANICS).all(|number| black_box(go_down(number % DEPTH, book)));
    let tasks = (0..TASKS).all(|number| {
        let task = task::spawn("short", move || {
            SEEN.with_borrow_mut(|seen| {
                seen.extend(0..u64::from(number));
                seen.len() as u64
            })
        });
        task.join().ok() == Some(number.into())
    });
    crunched && panics && tasks
}

/// Where most of the time goes: numbers that depend on each other.
#[inline(never)]
fn crunch(seed: u64) -> u64 {
    (0..NUMBERS).fold(black_box(seed) | 1, |state, number| {
        let state = state ^ state << 13;
        let state = state ^ state >> 7;
        (state ^ state << 17).wrapping_add(number)
    })
}

/// A panic some calls further down, half of the time in the crate that was loaded.
#[inline(never)]
fn go_down(left: u32, book: GuestBook) -> bool {
    match left {
        0 => book.sign_and_panic(),
        1 => catch_unwind(|| panic!("the bottom")).is_err_and(|_| true),
        _ => black_box(go_down(left - 2, book)),
    }
}

/// A crate comes and goes.
#[inline(never)]
fn come_and_go(bytes: &[u8]) -> bool {
    let Some((object, _)) = guest_book::load_again(bytes) else { return false };
    // Somebody may be looked at while it only was about to look.
    (0..1000).any(|_| {
        let gone = loader().unload(&object, &AllStacks).is_ok();
        if !gone {
            task::yield_now();
        }
        gone
    })
}
