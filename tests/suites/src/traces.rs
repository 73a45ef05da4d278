//! Traces: which frames, in which order, with which names.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::ops::ControlFlow;
use core::sync::atomic::{AtomicUsize, Ordering};

use unspool::backtrace::{Captured, End, FrameKind, Style, Trace, print, trace};
use unspool::panic::platform;
use unspool::unwind::{FindModule, Pc, ReadStack};
use unspool_kernel::{cpu, nmi};

crate::tests![
    a_trace_names_its_frames_innermost_first,
    a_trace_ends_at_the_outermost_frame,
    a_printed_trace_looks_like_stds,
    a_trace_of_a_deep_stack_has_every_frame,
    what_a_trace_shows_at_once_is_what_its_steps_find,
];

/// Calls `look` from three functions down.
#[inline(never)]
fn outer<T>(look: &dyn Fn() -> T) -> T {
    core::hint::black_box(middle(look))
}

#[inline(never)]
fn middle<T>(look: &dyn Fn() -> T) -> T {
    core::hint::black_box(inner(look))
}

#[inline(never)]
fn inner<T>(look: &dyn Fn() -> T) -> T {
    core::hint::black_box(look())
}

#[inline(always)]
fn captured<const N: usize>() -> Captured<N> {
    Captured::take(trace())
}

fn names(trace: &Captured<128>) -> Vec<String> {
    let name = |pc: Pc| {
        let symbol = platform().symbols().symbolize(pc.lookup());
        symbol.map_or("<unknown>".to_string(), |symbol| symbol.name.to_string())
    };
    trace.frames().iter().map(|frame| name(frame.pc)).collect()
}

fn a_trace_names_its_frames_innermost_first() {
    let names = names(&outer(&captured::<128>));
    let place = |part: &str| {
        let found = names.iter().position(|name| name.contains("traces") && name.contains(part));
        found.unwrap_or_else(|| panic!("no {part} in {names:#?}"))
    };
    let (inner, middle, outer) = (place("inner"), place("middle"), place("outer"));
    assert!(inner < middle && middle < outer, "{names:#?}");
    assert!(!names.iter().any(|name| name == "<unknown>"), "{names:#?}");
}

fn a_trace_ends_at_the_outermost_frame() {
    assert_eq!(captured::<128>().end(), End::Outermost);
    assert_eq!(captured::<2>().end(), End::Full);
}

fn a_printed_trace_looks_like_stds() {
    let text = outer(&|| {
        let mut text = String::new();
        print(&mut text, trace(), Style::Short, platform().symbols()).unwrap();
        text
    });
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "stack backtrace:");
    assert!(lines[1].starts_with("   0: unspool_suites::traces::"), "{text}");
    assert!(text.contains("unspool_suites::traces::middle"), "{text}");
    assert!(!text.contains("__rust_begin_short_backtrace"), "{text}");
}

/// How many there are from here on. In a frame of its own: the iterator is larger than `recurse`.
#[inline(never)]
fn frames() -> usize {
    trace().count()
}

#[inline(never)]
fn recurse(depth: usize) -> usize {
    if depth == 0 {
        return frames();
    }
    core::hint::black_box(recurse(depth - 1))
}

fn a_trace_of_a_deep_stack_has_every_frame() {
    assert_eq!(recurse(300) - recurse(200), 100);
}

static FRAMES: AtomicUsize = AtomicUsize::new(0);
static OTHER_STACKS: AtomicUsize = AtomicUsize::new(0);
static WRONG: AtomicUsize = AtomicUsize::new(0);

/// Compares the frames that a trace shows, a few more at a time, with those of its steps.
fn compare<S: ReadStack + Copy, M: FindModule>(trace: Trace<'_, S, M>) {
    let (mut steps, mut walks) = (trace, trace);
    let wrong = |is_wrong: bool| WRONG.fetch_add(is_wrong.into(), Ordering::Relaxed);
    for stretch in (1..).step_by(7) {
        let mut left = stretch;
        walks.walk(|frame| {
            wrong(steps.next() != Some(frame));
            FRAMES.fetch_add(1, Ordering::Relaxed);
            let is_other = frame.kind == FrameKind::OtherStack;
            OTHER_STACKS.fetch_add(is_other.into(), Ordering::Relaxed);
            left -= 1;
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        if walks.end().is_some() {
            break;
        }
        wrong(left != 0);
    }
    wrong(steps.next().is_some() || steps.end() != walks.end());
}

#[inline(never)]
fn interrupted_deep(depth: usize) -> usize {
    if depth == 0 {
        // They come while it is this CPU that runs this.
        let _here = cpu::NoPreemption::new();
        (0..100).for_each(|_| nmi::send(cpu::current()));
        return 0;
    }
    core::hint::black_box(interrupted_deep(depth - 1)) + 1
}

fn what_a_trace_shows_at_once_is_what_its_steps_find() {
    const DEPTH: usize = 100;
    let before = nmi::set_handler(Some(|interrupted| {
        compare(interrupted.trace());
        compare(trace());
    }));
    let counters = [&FRAMES, &OTHER_STACKS, &WRONG];
    counters.iter().for_each(|counter| counter.store(0, Ordering::Relaxed));
    interrupted_deep(DEPTH);
    nmi::set_handler(before);
    let [frames, others, wrong] = counters.map(|counter| counter.load(Ordering::Relaxed));
    assert!(others > 0 && frames > 2 * DEPTH * others, "{frames} frames, {others} from elsewhere");
    assert_eq!(wrong, 0);
}
