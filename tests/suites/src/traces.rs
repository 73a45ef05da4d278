//! Traces: which frames, in which order, with which names.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use unspool::backtrace::{Captured, End, Style, print, trace};
use unspool::panic::platform;
use unspool::unwind::Pc;

crate::tests![
    a_trace_names_its_frames_innermost_first,
    a_trace_ends_at_the_outermost_frame,
    a_printed_trace_looks_like_stds,
    a_trace_of_a_deep_stack_has_every_frame,
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
