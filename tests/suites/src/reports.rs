//! What panics say: whole, one after the other, and to whom.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use unspool::panic::{
    AssertUnwindSafe, catch_unwind, panics_in_flight, resume_unwind, set_hook, set_task_hook,
    take_hook, take_task_hook,
};
use unspool_kernel::console::listen;
use unspool_kernel::{cpu, eprint, eprintln, task};

use crate::heard::{heard, heard_in_turns};

crate::tests![
    reports_of_all_cpus_do_not_mix,
    a_report_that_hangs_does_not_keep_others_from_theirs,
    a_panic_within_a_cleanup_is_traced_in_full,
    a_task_has_a_hook_of_its_own,
    panics_are_counted_over_all_tasks,
    what_was_printed_before_a_display_panics_or_dies_is_written,
];

/// Panics after so many calls.
#[inline(never)]
pub fn panics_deep(depth: u32, number: usize) -> u32 {
    assert!(depth > 0, "message of {number}");
    panics_deep(depth - 1, number) + core::hint::black_box(1)
}

/// One whole report at the start of `text`; what follows it.
pub fn whole_report(text: &str) -> &str {
    let text = text.strip_prefix("\nthread 'reports-").unwrap_or_else(|| panic!("at {text}"));
    let (name, text) = text.split_once('\'').unwrap();
    let (_, text) = text.split_once(":\n").unwrap();
    let text = text.strip_prefix(&*format!("message of {name}\nstack backtrace:\n"));
    let mut text = text.unwrap_or_else(|| panic!("the message is not that of {name}"));
    let (mut frame, mut deep) = (0, 0);
    while text.starts_with(' ') {
        let (line, rest) = text.split_once('\n').unwrap();
        let (number, name) = line.split_once(": ").unwrap();
        assert_eq!(number.trim().parse(), Ok(frame), "{line}");
        deep += u32::from(name.contains("panics_deep"));
        (text, frame) = (rest, frame + 1);
    }
    assert!(deep >= 5, "{deep} frames");
    let (note, rest) = text.split_once('\n').unwrap();
    assert!(note.starts_with("note: "), "{note}");
    rest
}

fn reports_of_all_cpus_do_not_mix() {
    static READY: AtomicUsize = AtomicUsize::new(0);
    let tasks = 2 * cpu::count();
    for _ in 0..10 {
        let text = heard_in_turns(|| {
            READY.store(0, Ordering::SeqCst);
            let tasks: Vec<_> = (0..tasks)
                .map(|number| {
                    task::spawn(&format!("reports-{number}"), move || {
                        READY.fetch_add(1, Ordering::SeqCst);
                        while READY.load(Ordering::SeqCst) < tasks {
                            task::yield_now();
                        }
                        panics_deep(5, number)
                    })
                })
                .collect();
            tasks.into_iter().for_each(|task| assert!(task.join().panicked().is_some()));
        });
        let mut rest = text.as_str();
        for _ in 0..tasks {
            rest = whole_report(rest);
        }
        assert_eq!(rest, "");
    }
}

/// As a task that was stopped in the middle of its report, by an NMI that never returns, or by whoever
/// needs its CPU.
fn a_report_that_hangs_does_not_keep_others_from_theirs() {
    /// 1: the first one hangs, 2: the second one has got through.
    static STAGE: AtomicU32 = AtomicU32::new(0);
    STAGE.store(0, Ordering::SeqCst);
    let listening = listen(|text| {
        if text.contains("it hangs") {
            STAGE.store(1, Ordering::SeqCst);
            while STAGE.load(Ordering::SeqCst) == 1 {
                core::hint::spin_loop();
            }
        }
        if text.contains("it does not") {
            STAGE.store(2, Ordering::SeqCst);
        }
    });
    let first = task::spawn("first", || -> u32 { panic!("it hangs") });
    while STAGE.load(Ordering::SeqCst) != 1 {
        task::yield_now();
    }
    let second = task::spawn("second", || -> u32 { panic!("it does not") });
    assert!(second.join().panicked().is_some() && first.join().panicked().is_some());
    assert_eq!(STAGE.load(Ordering::SeqCst), 2);
    drop(listening);
}

fn a_panic_within_a_cleanup_is_traced_in_full() {
    struct Nests;
    impl Drop for Nests {
        fn drop(&mut self) {
            assert!(catch_unwind(|| panics_deep(1, 2)).is_err());
        }
    }
    let (text, ()) = heard(|| {
        let caught = catch_unwind(|| {
            let _nests = Nests;
            panics_deep(1, 1)
        });
        assert!(caught.is_err());
    });
    let (first, second) = text.split_once("message of 2").unwrap();
    assert!(first.contains("message of 1") && !first.contains(" - "), "short: {first}");
    assert!(second.contains("stack backtrace:") && second.contains(" - "), "full: {second}");
}

fn a_task_has_a_hook_of_its_own() {
    static PROGRAM: AtomicU32 = AtomicU32::new(0);
    static TASK: AtomicU32 = AtomicU32::new(0);
    let counts = |counter: &AtomicU32| counter.swap(0, Ordering::SeqCst);
    let panics = || assert!(catch_unwind(|| panics_deep(0, 0)).is_err());
    set_hook(Box::new(|_| _ = PROGRAM.fetch_add(1, Ordering::SeqCst)));
    set_task_hook(Box::new(|_| _ = TASK.fetch_add(1, Ordering::SeqCst)));
    panics();
    assert_eq!((counts(&PROGRAM), counts(&TASK)), (0, 1));
    task::spawn("another", panics).join().unwrap();
    assert_eq!((counts(&PROGRAM), counts(&TASK)), (1, 0));
    let own = take_task_hook().expect("a hook of its own");
    assert!(take_task_hook().is_none());
    panics();
    assert_eq!((counts(&PROGRAM), counts(&TASK)), (1, 0));
    // It can be called as the program's can.
    set_hook(own);
    panics();
    assert_eq!((counts(&PROGRAM), counts(&TASK)), (0, 1));
    drop(take_hook());
}

fn panics_are_counted_over_all_tasks() {
    struct Counts(usize);
    impl Drop for Counts {
        fn drop(&mut self) {
            assert_eq!(panics_in_flight(), self.0);
        }
    }
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let _counts = Counts(1);
        let _others = OtherPanics;
        resume_unwind(Box::new(()));
    }));
    assert!(caught.is_err());
    /// Has a task panic while this one does.
    struct OtherPanics;
    impl Drop for OtherPanics {
        fn drop(&mut self) {
            let task = task::spawn("another", || {
                let _counts = Counts(2);
                resume_unwind(Box::new(String::new()));
            });
            assert!(task.join().panicked().is_some());
        }
    }
    assert_eq!(panics_in_flight(), 0);
}

/// Writes something, does something, writes something.
struct Does(fn());

impl fmt::Display for Does {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("before;")?;
        (self.0)();
        f.write_str("after;")
    }
}

fn what_was_printed_before_a_display_panics_or_dies_is_written() {
    let print = |does: fn()| {
        heard(|| {
            let task = task::spawn("prints", move || eprintln!("print: {};", Does(does)));
            let outcome = task.join();
            eprintln!("next");
            outcome
        })
    };
    assert_eq!(print(|| ()).0, "print: before;after;;\nnext\n");
    let (text, outcome) = print(|| resume_unwind(Box::new(3_u8)));
    assert!(outcome.panicked().unwrap().is::<u8>());
    assert_eq!(text, "print: before;next\n");
    let (text, outcome) = print(|| {
        task::current().kill();
        task::yield_now();
    });
    assert!(outcome.is_killed());
    assert_eq!(text, "print: before;next\n");
    let (text, outcome) = print(|| panic!("in a Display"));
    assert!(outcome.panicked().is_some());
    let report = text.strip_suffix("print: before;next\n").unwrap_or_else(|| panic!("{text}"));
    assert!(report.contains("in a Display\nstack backtrace:\n"), "{report}");
    let (text, _) = print(|| eprint!("{:300}", "within"));
    assert_eq!(text, format!("{:300}print: before;after;;\nnext\n", "within"));
}
