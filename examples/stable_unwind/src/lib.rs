//! A kernel on stable Rust, panics and all: caught, with their drops run and their values thrown.
//!
//! ```text
//!   1 a panic is caught   2 drops   3 a panic of core's   4 of a task   5 a thrown value   6 a fault
//! ```
//!
//! Stable Rust refuses to link a program without std whose panics unwind, for want of a language item.
//! It links one whose panics abort from crates whose panics unwind, and asks for no language item then.
//! So everything is in this library, and the program itself, `main.rs`, is what is left.
//!
//! What remains of the difference: memory that runs out ends the program, as `alloc`'s handler for that
//! does not unwind; and that a panic must not unwind is found out only after its report.
#![no_std]

extern crate alloc;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::hint::black_box;
use core::panic::PanicInfo;
use core::ptr::with_exposed_provenance;
use core::sync::atomic::{AtomicU32, Ordering};

use unspool::panic::{
    AssertUnwindSafe, Thrower, begin_panic, catch_thrown, catch_unwind, panicking, resume_unwind,
};
use unspool_kernel::{Boot, ExitCode, println, task};

unspool_kernel::entry!(main);

/// Where the panic handler goes: a function of a crate whose panics unwind.
#[inline(never)]
pub fn panics(info: &PanicInfo<'_>) -> ! {
    begin_panic(info)
}

/// A step of the journey, which says whether it went as it should.
type Step = fn() -> bool;

const STEPS: &[(&str, Step)] = &[
    ("a panic is caught, with its message", caught),
    ("drops run on the way", drops),
    ("a panic of core's code unwinds, too", index),
    ("a task ends with its panic", ends),
    ("a value is thrown", thrown),
    ("a fault unwinds its task", faults),
];

fn main(_: &Boot) -> ExitCode {
    println!("Unspool on stable Rust: panics that unwind");
    for (number, (heading, step)) in (1..).zip(STEPS) {
        println!("\n== {number}. {heading} ==");
        if !step() {
            println!("that is not what should have happened");
            return ExitCode::FAILURE;
        }
    }
    println!("\njourney complete: {} steps went as they should", STEPS.len());
    ExitCode::SUCCESS
}

fn caught() -> bool {
    let payload = catch_unwind(|| panic!("number {}", black_box(42))).map(|(): ()| ()).unwrap_err();
    let text = payload.downcast_ref::<String>().map(String::as_str);
    println!("  caught: {text:?}");
    text == Some("number 42") && !panicking()
}

static DROPS: AtomicU32 = AtomicU32::new(0);

struct Counts;

impl Drop for Counts {
    fn drop(&mut self) {
        DROPS.fetch_add(u32::from(panicking()), Ordering::Relaxed);
    }
}

#[inline(never)]
fn nested(depth: u32) {
    let _counts = Counts;
    if depth == 0 {
        resume_unwind(Box::new(depth));
    }
    nested(depth - 1);
}

fn drops() -> bool {
    DROPS.store(0, Ordering::Relaxed);
    let caught = catch_unwind(|| nested(9));
    println!("  dropped: {}", DROPS.load(Ordering::Relaxed));
    caught.is_err() && DROPS.load(Ordering::Relaxed) == 10
}

fn index() -> bool {
    let numbers = Vec::from([1, 2, 3]);
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let _counts = Counts;
        numbers[black_box(7)]
    }));
    caught.is_err() && DROPS.load(Ordering::Relaxed) == 11
}

fn ends() -> bool {
    let payload = task::spawn("ends", || -> u32 { panic!("the end") }).join().panicked();
    payload.and_then(|payload| payload.downcast_ref().copied()) == Some("the end")
}

fn thrown() -> bool {
    let thrown = catch_thrown(|to: &Thrower<[u32; 3]>| {
        let _counts = Counts;
        to.throw([1, 2, 3]);
    });
    thrown.map(|(): ()| ()) == Err([1, 2, 3]) && DROPS.load(Ordering::Relaxed) == 12
}

fn faults() -> bool {
    let outcome = task::spawn("faults", || {
        let _counts = Counts;
        read(black_box(8))
    });
    let fault = outcome.join().faulted();
    println!("  faulted: {}, dropped: {}", fault.is_some(), DROPS.load(Ordering::Relaxed));
    fault.is_some()
}

#[inline(never)]
fn read(address: usize) -> u8 {
    // SAFETY: none: the fault is what is shown.
    unsafe { with_exposed_provenance::<u8>(address).read_volatile() }
}
