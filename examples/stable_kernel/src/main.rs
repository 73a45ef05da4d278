//! A kernel on stable Rust: tasks with thread-local values, and traces.
//!
//! ```text
//!   1 tasks with a thread_local! each     2 destructors before join     3 a trace     4 a panic
//! ```
//!
//! What stable Rust withholds is the language items of a panic runtime. So panics abort
//! (`--profile abort`): the handler below reports, prints a trace and ends the program. All the
//! rest is as on nightly.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::string::String;
use core::cell::{Cell, RefCell};
use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};

use unspool::backtrace::{self, Style};
use unspool::panic::{backtrace, platform, trace};
use unspool::thread_local;
use unspool_kernel::{Boot, ExitCode, println, task};

unspool_kernel::entry!(main);

/// A step of the journey, which says whether it went as it should.
type Step = fn() -> bool;

const STEPS: &[(&str, Step)] = &[
    ("two tasks, each with its own values", own_values),
    ("destructors have run when join returns", destructors),
    ("a trace of the stack", traces),
];

/// The word of the command line that asks for a panic at the end.
const PANIC: &str = "panic";

fn main(boot: &Boot) -> ExitCode {
    println!("Unspool on stable Rust: thread-local storage, thread_local! and traces");
    for (number, (heading, step)) in (1..).zip(STEPS) {
        println!("\n== {number}. {heading} ==");
        if !step() {
            println!("that is not what should have happened");
            return ExitCode::FAILURE;
        }
    }
    if boot.args().any(|word| word == PANIC) {
        println!("\n== 4. a panic ==");
        panics();
    }
    println!("\njourney complete: {} steps went as they should", STEPS.len());
    ExitCode::SUCCESS
}

thread_local! {
    static COUNT: Cell<u32> = const { Cell::new(10) };
    static NAME: RefCell<String> = RefCell::new(String::from(task::current().name()));
}

fn own_values() -> bool {
    let count = |by: u32| {
        (0..by).for_each(|_| {
            COUNT.set(COUNT.get() + 1);
            task::yield_now();
        });
        NAME.with_borrow(|name| println!("  {name} counted to {}", COUNT.get()));
        COUNT.get()
    };
    let first = task::spawn("first", move || count(3));
    let second = task::spawn("second", move || count(5));
    (first.join().ok(), second.join().ok(), COUNT.get()) == (Some(13), Some(15), 10)
}

fn destructors() -> bool {
    static ORDER: AtomicU32 = AtomicU32::new(0);
    struct Noting(u32);
    impl Drop for Noting {
        fn drop(&mut self) {
            ORDER.store(ORDER.load(Ordering::Relaxed) * 10 + self.0, Ordering::Relaxed);
        }
    }
    thread_local! {
        static LAZY: Noting = Noting(1);
        static CONST: Noting = const { Noting(2) };
    }
    let joined = task::spawn("mortal", || (LAZY.with(|_| ()), CONST.with(|_| ()))).join();
    println!("  destroyed: {}", ORDER.load(Ordering::Relaxed));
    joined.is_completed() && ORDER.load(Ordering::Relaxed) == 21
}

fn traces() -> bool {
    let mut text = String::new();
    let written = traced(&mut text);
    println!("{text}");
    written && text.contains("unspool_stable_kernel::traced")
}

#[inline(never)]
fn traced(text: &mut String) -> bool {
    backtrace::print(text, trace(), Style::Short, platform().symbols()).is_ok()
}

fn panics() {
    let survived = task::spawn("doomed", doomed).join().is_completed();
    println!("survived: {survived}");
}

#[inline(never)]
fn doomed() {
    assert!(COUNT.get() > 10, "nothing was counted here");
}

/// Reports a panic as std does, and ends the program.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    /// The platform's console.
    struct Console;
    impl Write for Console {
        fn write_str(&mut self, text: &str) -> core::fmt::Result {
            platform().write(text);
            Ok(())
        }
    }
    // The console cannot fail.
    let _ = writeln!(Console, "\nthread {} {info}", platform().task());
    backtrace(Style::Full);
    platform().halt()
}

/// What the tables of the precompiled `core` name. With panics that abort, no unwinder ever asks.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
