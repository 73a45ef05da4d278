//! Throws and catches in a kernel program: what a panic costs without `std`.
//!
//! ```text
//!   throw DEPTH GUARDS BATCH TASKS ─► time stamps of one throw
//!   catch COUNT                       catches without a panic, to count instructions
//!   first DEPTH                       the first throw there ever was
//!   walk FRAMES                       a walk of which nothing is known, by DWARF
//!   walk_table FRAMES                 the same, by the table of frames in the image
//! ```
//!
//! The last line is what was measured.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::ControlFlow;
use core::sync::atomic::{AtomicU32, Ordering};

use unspool::panic::{catch_unwind, platform, resume_unwind};
use unspool::unwind::table::FrameTable;
use unspool::unwind::{self, Cursor, FindModule, Module, Modules, Pc, Registers};
use unspool_kernel::{Boot, ExitCode, println, task};

include!("../../compare/programs/work.rs");

unspool_kernel::entry!(main);

fn main(boot: &Boot) -> ExitCode {
    let words: Vec<&str> = boot.args().collect();
    let number = |place: usize| words.get(place).and_then(|word| word.parse::<u32>().ok());
    let numbers = [1, 2, 3, 4].map(|place| number(place).unwrap_or(0));
    match (words.first(), numbers) {
        (Some(&"throw"), [depth, guards, batch, tasks]) if tasks > 0 => {
            println!("{:.1}", in_tasks(stack(depth as usize, guards != 0), batch, tasks));
        }
        (Some(&"catch"), [count, ..]) => {
            (0..count).for_each(|n| drop(black_box(catch_unwind(move || black_box(n)))));
            println!("0");
        }
        (Some(&"count"), [depth, guards, count, _]) => {
            let frames = stack(depth as usize, guards != 0);
            (0..count).for_each(|_| once(frames));
            println!("0");
        }
        (Some(&"first"), [depth, guards, ..]) => {
            let start = stamps();
            once(stack(depth as usize, guards != 0));
            println!("{}", stamps() - start);
        }
        (Some(&what @ ("walk" | "walk_table")), [frames, ..]) => {
            FRAMES.store(frames, Ordering::Relaxed);
            let walk = if what == "walk" { walk_by_dwarf } else { walk_by_table };
            let thrown =
                catch_unwind(|| next(black_box(stack(SLACK + frames as usize, false)), walk));
            println!("{}", thrown.unwrap_err().downcast::<u64>().expect("time stamps"));
        }
        _ => return ExitCode::FAILURE,
    }
    ExitCode::SUCCESS
}

fn throw() -> ! {
    resume_unwind(Box::new(1u64))
}

/// Frames besides those that are walked: a walk ends before the program's own.
const SLACK: usize = 4;
/// How many are walked.
static FRAMES: AtomicU32 = AtomicU32::new(0);

fn walk_by_table() -> ! {
    walk(program())
}

fn walk_by_dwarf() -> ! {
    walk(program().with_table(FrameTable::NONE))
}

fn program() -> Module<'static> {
    unwind::global()
        .find(walk_by_table as fn() -> ! as usize as u64)
        .expect("the program is registered")
}

/// Walks as if nobody ever had, and throws the time stamps that it took.
///
/// A kernel's memory is there from its boot on, and a process's comes when it is touched: so one walk
/// does that. Then all that is remembered is forgotten, and all that was read is driven out of L2.
#[inline(always)]
fn walk(program: Module<'static>) -> ! {
    static MODULES: Modules = Modules::new();
    let stack = platform().stack();
    let mut took = 0;
    for _ in 0..2 {
        // SAFETY: the program's tables describe its code, which stays; what is registered here is used
        // for this walk alone.
        let registration = unsafe { MODULES.register(program) }.expect("room for one module");
        OTHER.iter().for_each(|line| _ = line[0].fetch_add(1, Ordering::Relaxed));
        let registers = Registers::here();
        let pc = Pc::Return(registers.ip());
        let mut cursor = Cursor::new(registers, pc, stack.above(registers.sp()), &MODULES);
        let mut left = FRAMES.load(Ordering::Relaxed);
        let start = stamps();
        let end = cursor.walk(|frame| {
            black_box(frame.pc());
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        took = stamps() - start;
        assert!(matches!(end, Ok(Some(()))), "the walk ends early");
        drop(registration);
    }
    resume_unwind(Box::new(took))
}

/// More than L2 has room for.
static OTHER: [[AtomicU32; 16]; 64 * 1024] =
    [const { [const { AtomicU32::new(0) }; 16] }; 64 * 1024];

fn once(frames: &'static [Frame]) {
    let thrown = catch_unwind(|| next(black_box(frames), throw));
    assert!(thrown.is_err_and(|payload| payload.is::<u64>()));
}

/// Mean over tasks that throw at the same time.
fn in_tasks(frames: &'static [Frame], batch: u32, tasks: u32) -> f64 {
    static READY: AtomicU32 = AtomicU32::new(0);
    let spawn = |_| {
        task::spawn("throws", move || {
            READY.fetch_add(1, Ordering::SeqCst);
            while READY.load(Ordering::SeqCst) < tasks {
                core::hint::spin_loop();
            }
            median(batch, || once(frames))
        })
    };
    let all: Vec<_> = (0..tasks).map(spawn).collect();
    let sum: f64 = all.into_iter().filter_map(|each| each.join().ok()).sum();
    sum / f64::from(tasks)
}
