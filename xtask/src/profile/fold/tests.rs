//! A recorded stream, with all that can happen to it.

use unspool_stack_trace::{Function, Symbol};

use super::*;

/// A function every 0x100 bytes from 0x100 on; `inlined` is in the second half of `crunch`.
struct Kernel;

const NAMES: [&str; 3] =
    ["_RNvCs3fZK_6kernel4main", "work", "_ZN6kernel6crunch17h0123456789abcdefE"];

impl Symbolize for Kernel {
    fn symbolize(&self, address: u64) -> Option<Symbol<'_>> {
        let name = NAMES.get((address / 0x100).checked_sub(1)? as usize)?;
        Some(Symbol { name: (*name).into(), address: address & !0xff, size: 0x100 })
    }

    fn functions(&self, address: u64, each: &mut dyn FnMut(&Function<'_>)) -> bool {
        let Some(symbol) = self.symbolize(address) else { return false };
        if address >= 0x380 {
            each(&Function { name: Some("inlined<[u8; 4]>".into()), location: None });
        }
        each(&Function { name: Some(symbol.name), location: None });
        true
    }
}

/// As a kernel wrote it, with CR from a serial line; one line lost a digit, one is cut off by another
/// CPU's words.
const STREAM: &str = "\
booting\r
@s 0 7 10 310 210 110 *351d004f\r
@s 1 8 11 390 210 110 *ad7979d2\r
and on@s 0 7 20 311 210 110 *a631a93f\r
@s 0 7 21 31 210 110 *27acab37\r
@s 0 7 hello\r
@s 1 0 12 900 *91097df5\r
@s 1 9 13 m.o(.text._ZN1m4deep17h0123456789abcdefE)+0x4 211 ... *33d51ae1\r
@w 0 64 *891dda7a\r
@w 1 6e *009a08d0\r
@w 0 6e *3a1d5e1d\r
@w 1 64 *b1998c73\r
@w 0 5 *5673ae57\r
@e 3e8 2 7 1 4e20 9 *418d4758\r
test something ... ok\r
";

#[test]
fn a_recorded_stream_is_folded() {
    let profile = Profile::read(STREAM.lines(), &Kernel);
    let expected = "\
[more];work;m::deep [m.o] 1
[unknown] 1
kernel::main;work;kernel::crunch 2
kernel::main;work;kernel::crunch;inlined<[u8, 4]> 1
";
    assert_eq!(profile.folded(), expected);
    assert_eq!((profile.samples, profile.idle), (5, 1));
}

#[test]
fn the_top_counts_a_function_once_a_sample() {
    let profile = Profile::read(STREAM.lines(), &Kernel);
    let top = profile.top();
    assert_eq!(top[0], ("kernel::crunch", Share { own: 3, total: 3 }));
    let work = top.iter().find(|(name, _)| *name == "work").unwrap().1;
    assert_eq!(work, Share { own: 0, total: 4 });
    assert!(!top.iter().any(|(name, _)| name.contains("inlined")));
    assert_eq!(top.iter().map(|(_, share)| share.own).sum::<u64>(), profile.samples - profile.idle);
}

#[test]
fn the_end_tells_what_is_missing_and_turns_what_it_cost() {
    let profile = Profile::read(STREAM.lines(), &Kernel);
    let end = profile.end.unwrap();
    assert_eq!((end.hertz, end.cpus, end.kept, end.dropped), (1000, 2, 7, 1));
    assert_eq!(end.kept - profile.samples, 2, "the two that are garbled");
    let slower: Vec<_> = profile.slower().iter().map(|more| (more * 1000.0).round()).collect();
    assert_eq!(slower, [-91.0, 100.0], "in order, and only of whole pairs");
    assert!(Profile::read("".lines(), &Kernel).slower().is_empty());
}
