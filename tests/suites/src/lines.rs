//! Lines and inlined functions in traces, from debug information that came with the kernel.
//!
//! These run where it did come: `cargo xtask test lines`.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::hint::black_box;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use unspool::backtrace::{
    Backtrace, Captured, Frame, FrameKind, Function, Style, print, print_frame, trace,
};
use unspool::panic::{BacktraceStyle, get_backtrace_style, set_backtrace_style};
use unspool::panic::{catch_unwind, platform, resume_unwind};
use unspool::unwind::Pc;
use unspool_kernel::boot::boot;
use unspool_kernel::{ExitCode, cpu, heap, lines, loader, nmi, print, println, task};

use crate::heard::heard;
use crate::support::{all_cpus_came_by, module};

crate::tests![
    a_trace_has_the_lines_of_inlined_functions,
    a_panics_trace_with_lines_begins_where_stds_does,
    lines_need_nothing_of_the_heap,
    what_is_made_of_lines_is_on_the_heap,
    a_task_that_prints_lines_may_panic,
    an_nmi_gets_names_alone,
    a_short_stack_gets_names_alone,
    tasks_that_trace_at_once_all_get_names,
    all_lines_are_read_on_the_stack_that_is_asked_for,
    in_the_middle_of_an_allocation_there_are_lines,
    who_changes_the_memory_of_lines_gets_names_alone,
    without_memory_for_lines_there_are_names,
];

/// Whether these can run.
pub fn came() -> bool {
    boot().module(lines::FILE).is_some()
}

#[inline(always)]
fn inlined() -> (Backtrace, u32) {
    (Backtrace::force_capture(), line!())
}

#[inline(never)]
fn around() -> (Backtrace, [u32; 2]) {
    let ((trace, first), second) = (inlined(), line!());
    black_box((trace, [first, second]))
}

/// What of the program a trace shows where it has lines.
fn location(address: u64) -> Option<(String, u32)> {
    let mut last = None;
    platform().symbols().functions(address, &mut |function| {
        last = function.location.map(|location| (location.file.to_string(), location.line));
    });
    last
}

fn a_trace_has_the_lines_of_inlined_functions() {
    let (trace, [first, second]) = around();
    let text = trace.to_string();
    let lines: Vec<_> = text.lines().collect();
    let at = lines.iter().position(|line| line.ends_with(": inlined")).expect("it was inlined");
    let place = |line| alloc::format!("at ./tests/suites/src/lines.rs:{line}:");
    assert!(lines[at + 1].trim_start().starts_with(&place(first)), "{text}");
    assert!(lines[at + 2].ends_with(": unspool_suites::lines::around"), "{text}");
    assert!(lines[at + 3].trim_start().starts_with(&place(second)), "{text}");
    let full = alloc::format!("{trace:#}");
    assert!(full.contains(" at /") && !full.contains(" at ./"), "{full}");
}

fn a_panics_trace_with_lines_begins_where_stds_does() {
    let style = get_backtrace_style().unwrap();
    set_backtrace_style(BacktraceStyle::Short);
    let (text, outcome) = heard(|| task::spawn("panics", || panic!("shown")).join());
    set_backtrace_style(style);
    assert!(outcome.panicked().is_some());
    let is_number = |text: &str| text.trim().parse::<u32>().is_ok();
    let numbered = text.lines().filter_map(|line| line.split_once(": "));
    let names: Vec<_> = numbered.filter(|(number, _)| is_number(number)).collect();
    assert!(names[0].1.ends_with("rust_begin_unwind"), "{text}");
    let machinery = ["_short", "begin_panic", "handler::handle"];
    let shown = |part| names.iter().any(|(_, name)| name.contains(part));
    assert!(!machinery.into_iter().any(shown), "{text}");
    assert!(names.last().unwrap().1.contains("a_panics_trace_with_lines"), "{text}");
}

/// Text without a heap.
struct Fixed<const N: usize>([u8; N], usize);

impl<const N: usize> Fixed<N> {
    const fn new() -> Self {
        Self([0; N], 0)
    }

    fn text(&self) -> &str {
        str::from_utf8(&self.0[..self.1]).unwrap()
    }
}

impl<const N: usize> Write for Fixed<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let to = self.0.get_mut(self.1..self.1 + text.len()).ok_or(fmt::Error)?;
        to.copy_from_slice(text.as_bytes());
        self.1 += text.len();
        Ok(())
    }
}

fn lines_need_nothing_of_the_heap() {
    let (mut text, failing) = (Fixed::<8192>::new(), heap::fail(0, usize::MAX));
    let printed = print(&mut text, trace(), Style::Full, platform().symbols());
    let failed = failing.failed();
    drop(failing);
    printed.unwrap();
    assert!(text.text().contains("/suites/src/lines.rs:"), "{}", text.text());
    assert_eq!(failed, 0);
    let (used, size) = lines::memory();
    assert!(0 < used && used < size, "{used} of {size} bytes");
}

fn what_is_made_of_lines_is_on_the_heap() {
    let (trace, _) = around();
    drop(trace.to_string());
    let before = lines::memory();
    let texts: Vec<_> = (0..10).map(|_| trace.to_string()).collect();
    assert_eq!(lines::memory(), before);
    assert!(texts.iter().all(|text| text.contains("lines.rs:")));
}

fn a_task_that_prints_lines_may_panic() {
    let address = around as *const () as u64;
    let caught = catch_unwind(|| {
        platform().symbols().functions(address, &mut |_| {
            // Nobody else reads meanwhile, this task included.
            assert_eq!(location(address), None);
            resume_unwind(alloc::boxed::Box::new(7_u8));
        })
    });
    assert_eq!(caught.unwrap_err().downcast_ref::<u8>(), Some(&7));
    assert!(location(address).is_some(), "and it is all right again");
}

static NAMES: AtomicU64 = AtomicU64::new(0);
static LINES: AtomicU64 = AtomicU64::new(0);

fn look(_: &nmi::Interrupted<'_>) {
    let mut count = |function: &Function<'_>| {
        let name = u64::from(function.name.is_some_and(|name| name.contains("around")));
        NAMES.fetch_add(name, Ordering::Relaxed);
        LINES.fetch_add(function.location.is_some().into(), Ordering::Relaxed);
    };
    platform().symbols().functions(around as *const () as u64, &mut count);
}

fn an_nmi_gets_names_alone() {
    const MANY: u64 = 200;
    let before = nmi::set_handler(Some(look));
    NAMES.store(0, Ordering::Relaxed);
    LINES.store(0, Ordering::Relaxed);
    // In the middle of it, and anywhere.
    platform().symbols().functions(around as *const () as u64, &mut |_| nmi::send(cpu::current()));
    let enough = || NAMES.load(Ordering::Relaxed) >= MANY;
    let reads = task::spawn("reads", move || {
        while !enough() {
            // Sometimes the other task is reading.
            black_box(location(around as *const () as u64));
        }
    });
    while !enough() {
        (0..cpu::count()).for_each(nmi::send);
        task::yield_now();
    }
    reads.join().unwrap();
    // One that was sent last may be on its way.
    all_cpus_came_by();
    nmi::set_handler(before);
    assert_eq!(LINES.load(Ordering::Relaxed), 0);
}

/// Whether a trace has names, and lines; taken without the heap.
#[inline(never)]
fn names_and_lines() -> (bool, bool) {
    let mut text = Fixed::<4096>::new();
    let shown = Captured::<4>::take(trace());
    for frame in shown.frames() {
        print_frame(&mut text, 0, *frame, Style::Short, platform().symbols()).unwrap();
    }
    (text.text().contains("lines::names_and_lines"), text.text().contains("lines.rs:"))
}

fn a_short_stack_gets_names_alone() {
    let short = task::Builder::new("short").stack_size(20 << 10);
    assert_eq!(short.spawn(names_and_lines).unwrap().join().unwrap(), (true, false));
    assert_eq!(task::spawn("long", names_and_lines).join().unwrap(), (true, true));
}

fn in_the_middle_of_an_allocation_there_are_lines() {
    assert_eq!(heap::in_allocation(names_and_lines), (true, true));
}

fn who_changes_the_memory_of_lines_gets_names_alone() {
    assert_eq!(names_and_lines(), (true, true));
    let failing = heap::fail(0, usize::MAX);
    assert_eq!(lines::in_allocation(names_and_lines), (true, false));
    let both = || heap::in_allocation(names_and_lines);
    assert_eq!(lines::in_allocation(both), (true, false));
    assert_eq!((failing.failed(), names_and_lines()), (0, (true, true)));
}

fn without_memory_for_lines_there_are_names() {
    let filled = lines::exhaust();
    let failing = heap::fail(0, usize::MAX);
    assert_eq!(names_and_lines(), (true, false));
    assert_eq!(heap::in_allocation(names_and_lines), (true, false));
    assert_eq!(failing.failed(), 0);
    drop(failing);
    drop(filled);
    assert_eq!(names_and_lines(), (true, true), "and it is all right again");
}

fn tasks_that_trace_at_once_all_get_names() {
    static WITH_LINES: AtomicUsize = AtomicUsize::new(0);
    let read = || {
        for _ in 0..50 {
            let (trace, _) = around();
            let text = trace.to_string();
            assert!(text.contains("unspool_suites::lines::around"), "{text}");
            assert!(!text.contains("<unknown>"), "{text}");
            WITH_LINES.fetch_add(text.contains("lines.rs:").into(), Ordering::Relaxed);
            task::yield_now();
        }
    };
    let tasks: Vec<_> = (0..8).map(|_| task::spawn("traces", read)).collect();
    tasks.into_iter().for_each(|task| task.join().unwrap());
    assert!(WITH_LINES.load(Ordering::Relaxed) > 0);
}

/// The program's code.
fn text() -> Range<u64> {
    unsafe extern "C" {
        safe static __text_start: u8;
        safe static __text_end: u8;
    }
    (&raw const __text_start).expose_provenance() as u64
        ..(&raw const __text_end).expose_provenance() as u64
}

fn all_lines_are_read_on_the_stack_that_is_asked_for() {
    // What a look takes above what it asks for, and a page for what fits no page.
    let stack = task::Builder::new("reads all").stack_size(lines::ROOM as usize + (8 << 10));
    let reads = || text().step_by(64).filter(|&address| location(address).is_some()).count();
    let found = stack.spawn(reads).unwrap().join().unwrap();
    let all = text().step_by(64).count();
    assert!(found > all * 9 / 10, "{found} of {all}");
    let (used, size) = lines::memory();
    assert!(used < size * 3 / 4, "{used} of {size} bytes");
}

fn show_address(address: u64) {
    let frame = Frame { pc: Pc::Exact(address), sp: 0, kind: FrameKind::Call };
    let mut text = String::new();
    print_frame(&mut text, 0, frame, Style::Full, platform().symbols()).unwrap();
    print!("{text}");
}

/// The object that addresses are shown of: the crate that comes with each kernel.
const OBJECT: &str = "unspool_plugin.o";

/// Shows what is known of addresses all over the program and over a loaded object, for whoever
/// compares it.
pub fn show() -> ExitCode {
    const APART: usize = 509;
    const APART_IN_OBJECT: usize = 11;
    text().step_by(APART).for_each(show_address);
    let object = loader().load(OBJECT, module(OBJECT)).unwrap();
    for section in object.sections() {
        let code = section.address..section.address + section.size;
        for address in code.step_by(APART_IN_OBJECT).filter(|at| object.text().contains(at)) {
            let place = platform().symbols().place(address).expect("it was loaded");
            println!("in {place}");
            show_address(address);
        }
    }
    let (used, size) = lines::memory();
    println!("memory of lines: {used} of {size} bytes");
    ExitCode::SUCCESS
}
