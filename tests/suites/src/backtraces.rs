//! Traces that are kept: of the caller, of a fault, of other tasks, with and without names.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use unspool::backtrace::{
    Backtrace, BacktraceStatus, Captured, FrameKind, OnlyPlaces, Style, Symbolize, name_code,
    print, trace,
};
use unspool::panic::{BacktraceStyle, get_backtrace_style, platform, set_backtrace_style};
use unspool_kernel::walk::{AllStacks, Doing, dump, trace_of};
use unspool_kernel::{ExitCode, heap, loader, print, task};

use crate::support::module;

crate::tests![
    a_backtrace_is_captured_if_it_is_wanted,
    a_backtrace_prints_short_full_and_debug,
    a_capture_takes_no_memory,
    a_blocked_task_shows_what_it_waits_in,
    a_running_task_shows_what_it_was_interrupted_in,
    all_tasks_are_listed_with_their_traces,
    a_frame_of_an_object_has_a_place,
    packed_names_are_found_by_name_and_by_address,
    code_that_was_made_here_has_the_name_it_was_given,
];

/// The object whose functions are shown by their places, and the function of it.
const OBJECT: &str = "calls.static.o";

#[inline(never)]
fn here() -> Backtrace {
    core::hint::black_box(Backtrace::force_capture())
}

fn a_backtrace_is_captured_if_it_is_wanted() {
    let style = get_backtrace_style().unwrap();
    set_backtrace_style(BacktraceStyle::Off);
    let (unwanted, forced) = (Backtrace::capture(), here());
    set_backtrace_style(style);
    assert_eq!(unwanted.status(), BacktraceStatus::Disabled);
    assert_eq!(unwanted.to_string(), "disabled backtrace");
    assert_eq!(format!("{unwanted:?}"), "<disabled>");
    assert_eq!(forced.status(), BacktraceStatus::Captured);
    assert_eq!(Backtrace::disabled().status(), BacktraceStatus::Disabled);
    assert_eq!(Backtrace::capture().status(), BacktraceStatus::Captured);
}

fn a_backtrace_prints_short_full_and_debug() {
    let trace = here();
    let (short, full, debug) = (trace.to_string(), format!("{trace:#}"), format!("{trace:?}"));
    assert!(short.starts_with("   0: unspool_suites::backtraces::here\n   1: "), "{short}");
    let ip = format!("   0: {:#18x} - ", trace.frames()[0].pc);
    assert!(full.starts_with(&ip) && full.contains("::backtraces::here\n"), "{full}");
    let start = "Backtrace [{ fn: \"unspool_suites::backtraces::here\" }, { fn: \"";
    assert!(debug.starts_with(start), "{debug}");
    assert_eq!(short.lines().count(), trace.frames().len());
}

fn a_capture_takes_no_memory() {
    let before = heap::used();
    let captured = core::hint::black_box(Captured::<64>::take(trace()));
    // Others may give memory back meanwhile, but nobody else runs who takes any.
    assert!(heap::used() <= before);
    assert!(captured.frames().len() > 3);
}

#[inline(never)]
fn waits_for_ever_so_long(stop: &AtomicU32) {
    while stop.load(Ordering::Acquire) == 0 {
        task::park();
        core::hint::black_box(());
    }
}

#[inline(never)]
fn runs_for_ever_so_long(stop: &AtomicU32) {
    while stop.load(Ordering::Acquire) == 0 {
        core::hint::spin_loop();
    }
}

fn text(trace: &unspool_kernel::walk::TaskTrace) -> String {
    let mut text = String::new();
    trace.print(&mut text, Style::Short, platform().symbols()).unwrap();
    text
}

fn a_blocked_task_shows_what_it_waits_in() {
    static STOP: AtomicU32 = AtomicU32::new(0);
    STOP.store(0, Ordering::Release);
    let waits = task::spawn("waits", || waits_for_ever_so_long(&STOP));
    let shown = loop {
        match trace_of(waits.task()) {
            Some((Doing::Waits, trace)) if text(&trace).contains("park") => break text(&trace),
            _ => task::yield_now(),
        }
    };
    assert!(shown.contains("backtraces::waits_for_ever_so_long"), "{shown}");
    STOP.store(1, Ordering::Release);
    waits.task().unpark();
    let ended = alloc::sync::Arc::new(waits);
    while !ended.is_finished() {
        task::yield_now();
    }
    assert!(trace_of(ended.task()).is_none());
    assert!(alloc::sync::Arc::into_inner(ended).unwrap().join().is_completed());
}

/// With one CPU the task is suspended, in the frame that preemption made; else another CPU was
/// asked, and took the trace in its handler.
fn a_running_task_shows_what_it_was_interrupted_in() {
    static STOP: AtomicU32 = AtomicU32::new(0);
    STOP.store(0, Ordering::Release);
    let runs = task::spawn("runs", || runs_for_ever_so_long(&STOP));
    let (doing, trace) = loop {
        match trace_of(runs.task()) {
            Some((doing, trace)) if text(&trace).contains("runs_for_ever_so_long") => {
                break (doing, trace);
            }
            _ => task::yield_now(),
        }
    };
    STOP.store(1, Ordering::Release);
    assert!(runs.join().is_completed());
    assert!(doing != Doing::Starts);
    let interrupted = trace.frames().iter().find(|frame| frame.kind != FrameKind::Call);
    let interrupted = interrupted.expect("it never calls anything");
    let symbol = platform().symbols().symbolize(interrupted.pc.lookup()).unwrap();
    assert!(symbol.name.contains("runs_for_ever_so_long"), "{}", symbol.name);
    assert!(text(&trace).contains("[... interrupted ...]"), "{}", text(&trace));
}

fn all_tasks_are_listed_with_their_traces() {
    static STOP: AtomicU32 = AtomicU32::new(0);
    STOP.store(0, Ordering::Release);
    let tasks: Vec<_> = ["first", "second"]
        .into_iter()
        .map(|name| task::spawn(name, || waits_for_ever_so_long(&STOP)))
        .collect();
    let listed = loop {
        let mut listed = String::new();
        dump(&mut listed).unwrap();
        if listed.matches("waits_for_ever_so_long").count() == 2 {
            break listed;
        }
        task::yield_now();
    };
    STOP.store(1, Ordering::Release);
    for task in tasks {
        task.task().unpark();
        assert!(task.join().is_completed());
    }
    let own = format!("({}) runs on CPU", task::current().id());
    assert!(
        listed.contains(&own) && listed.contains("backtraces::all_tasks_are_listed"),
        "{listed}"
    );
    assert!(listed.contains("task 'first' (") && listed.contains("task 'second' ("), "{listed}");
}

fn a_frame_of_an_object_has_a_place() {
    let text = places();
    let place = format!(" - {OBJECT}(.text");
    assert!(text.contains(&place) && text.contains("<unknown>"), "{text}");
    assert!(!text.contains("backtraces"), "{text}");
}

/// Writes a trace without names to the text at this address.
#[inline(never)]
extern "C-unwind" fn show_places(text: usize) {
    let text = core::ptr::with_exposed_provenance_mut::<String>(text);
    // SAFETY: `places` lends its text for this call.
    let text = unsafe { &mut *text };
    print(text, trace(), Style::Short, &OnlyPlaces(platform().symbols())).unwrap();
}

/// A trace through an object, without names.
#[inline(never)]
fn places() -> String {
    type CallsBack = extern "C-unwind" fn(extern "C-unwind" fn(usize), usize) -> u64;
    let object = loader().load(OBJECT, module(OBJECT)).unwrap();
    let function = object.symbol("calls_back").unwrap() as usize;
    let function = core::ptr::with_exposed_provenance::<()>(function);
    // SAFETY: the function of `tests/objects/calls.rs`, with its type.
    let calls_back = unsafe { core::mem::transmute::<*const (), CallsBack>(function) };
    let mut text = String::new();
    calls_back(show_places, (&raw mut text).expose_provenance());
    // Others may have been interrupted while they only looked.
    while loader().unload(&object, &AllStacks).is_err() {
        task::yield_now();
    }
    text
}

/// Prints that trace, for whoever decodes it.
pub fn show() -> ExitCode {
    print!("{}", places());
    ExitCode::SUCCESS
}

fn packed_names_are_found_by_name_and_by_address() {
    let symbols = unspool_kernel::platform::symbols().expect("the build put them there");
    let mut found = 0;
    for frame in here().frames() {
        let Some(symbol) = symbols.symbolize(frame.pc.lookup()) else { continue };
        let name = symbol.name.to_string();
        // A name that several functions have names none of them.
        found += usize::from(symbols.by_name(&name) == Some(symbol));
        assert_eq!(symbols.by_name(&format!("{name}x")), None);
    }
    assert!(found > 3);
}

fn code_that_was_made_here_has_the_name_it_was_given() {
    // No code is there; names do not ask.
    let named = name_code(0x7000_0000_0000..0x7000_0000_1000, "jit::made_here").unwrap();
    let name = || platform().symbols().symbolize(0x7000_0000_0800).map(|s| s.name.to_string());
    assert_eq!(name().as_deref(), Some("jit::made_here"));
    drop(named);
    assert_eq!(name(), None);
}
