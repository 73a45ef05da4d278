//! Panics without memory: they print, trace, unwind and are caught, with their message.
//!
//! ```text
//!   0, 1, 2, … allocations succeed ─► one fails, or all from there on ─► the whole panic, every time
//! ```

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::any::Any;
use core::hint::black_box;
use core::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use unspool::panic::{
    AssertUnwindSafe, MessageLost, catch_unwind, panicking, panics_in_flight, resume_unwind,
    set_hook, take_hook,
};
use unspool_kernel::{heap, task};

use crate::heard::heard;
use crate::support::footprint;

crate::tests![
    a_panic_needs_no_memory,
    a_panic_needs_no_memory_for_its_hook,
    a_panic_within_a_cleanup_needs_no_memory,
    code_that_finds_no_memory_panics_without_any,
    a_message_that_is_too_long_is_cut,
    a_second_message_is_lost_unless_memory_comes_back_in_between,
    many_tasks_can_panic_at_once_without_memory,
];

/// Allocations that a panic may make; more is a loop.
const MANY: usize = 100;

static DROPS: AtomicU32 = AtomicU32::new(0);

struct CountsDrop;

impl Drop for CountsDrop {
    fn drop(&mut self) {
        assert!(panicking());
        DROPS.fetch_add(1, Ordering::Relaxed);
    }
}

/// Catches something while there is memory: the task puts by for the next time.
fn puts_by() {
    assert!(catch_unwind(|| resume_unwind(Box::new(()))).map(|(): ()| ()).is_err());
}

fn text(payload: &(dyn Any + Send)) -> &str {
    match payload.downcast_ref::<&'static str>() {
        Some(literal) => literal,
        None => payload.downcast_ref::<String>().expect("a message"),
    }
}

/// Panics again and again, with each allocation failing in turn, alone and with all after it. Each
/// time, `panics` must say `said`, drop `drops` values, and leave nothing behind; what it was caught
/// with is given to `caught`.
fn each_allocation_fails(
    said: &[&str],
    drops: u32,
    panics: fn(),
    caught: impl Fn(Box<dyn Any + Send>),
) {
    let once = |after, count| {
        DROPS.store(0, Ordering::Relaxed);
        let (report, (payload, failed)) = heard(|| {
            let failing = heap::fail(after, count);
            let payload = catch_unwind(|| {
                let _counts = CountsDrop;
                panics();
            });
            let failed = failing.failed();
            drop(failing);
            (payload.unwrap_err(), failed)
        });
        assert_eq!(DROPS.load(Ordering::Relaxed), drops, "after {after} allocations");
        let mut rest = report.as_str();
        for words in said {
            rest = rest.split_once(words).unwrap_or_else(|| panic!("no {words} in {report}")).1;
        }
        caught(payload);
        puts_by();
        failed
    };
    // What grows on first use has grown after this.
    once(usize::MAX, 0);
    for count in [1, usize::MAX] {
        let mut after = 0;
        loop {
            let before = footprint();
            let failed = once(after, count);
            assert_eq!(footprint(), before, "after {after} allocations");
            if failed == 0 {
                break;
            }
            after += 1;
            assert!(after < MANY);
        }
        assert!(after >= 1, "a payload is an allocation");
    }
    assert_eq!((panicking(), panics_in_flight()), (false, 0));
}

fn panics_in_words() {
    panic!("the number is {}", black_box(42));
}

fn a_panic_needs_no_memory() {
    let said = ["panicked at", "the number is 42", "stack backtrace:", "panics_in_words"];
    each_allocation_fails(&said, 1, panics_in_words, |payload| {
        assert_eq!(payload.downcast_ref::<String>().map(String::as_str), Some("the number is 42"));
    });
    let literal = || panic!("a literal");
    each_allocation_fails(&["a literal", "stack backtrace:"], 1, literal, |payload| {
        assert_eq!(payload.downcast_ref::<&'static str>(), Some(&"a literal"));
    });
}

fn a_panic_needs_no_memory_for_its_hook() {
    static HEARD: AtomicUsize = AtomicUsize::new(0);
    set_hook(Box::new(|info| {
        let text = info.payload_as_str().expect("a message");
        assert!(matches!(text, "the number is 42"));
        HEARD.fetch_add(1, Ordering::Relaxed);
    }));
    each_allocation_fails(&[], 1, panics_in_words, |payload| {
        assert_eq!(text(&*payload), "the number is 42");
        assert_eq!(HEARD.swap(0, Ordering::Relaxed), 1);
    });
    drop(take_hook());
}

/// The inner one takes the message that the task has put by; the outer one's is made already.
fn a_panic_within_a_cleanup_needs_no_memory() {
    struct Nests;
    impl Drop for Nests {
        fn drop(&mut self) {
            let caught = catch_unwind(|| {
                let _counts = CountsDrop;
                panic!("inner");
            });
            assert_eq!(text(&*caught.map(|(): ()| ()).unwrap_err()), "inner");
        }
    }
    let panics = || {
        let _nests = Nests;
        panics_in_words();
    };
    each_allocation_fails(&["the number is 42", "inner"], 2, panics, |payload| {
        assert_eq!(text(&*payload), "the number is 42");
    });
}

fn code_that_finds_no_memory_panics_without_any() {
    let caught = catch_unwind(|| {
        let _counts = CountsDrop;
        let _failing = heap::fail(0, usize::MAX);
        black_box(Box::new(black_box([7u64; 8])));
    });
    let payload = caught.unwrap_err();
    assert_eq!(text(&*payload), "memory allocation of 64 bytes failed");
    let caught = catch_unwind(|| {
        let mut numbers = Vec::from([0u64; 4]);
        let _failing = heap::fail(0, usize::MAX);
        (0..4).for_each(|n| numbers.push(n));
    });
    assert_eq!(text(&*caught.unwrap_err()), "memory allocation of 64 bytes failed");
}

fn a_message_that_is_too_long_is_cut() {
    let long = "é".repeat(1000);
    let caught = catch_unwind(AssertUnwindSafe(|| {
        let _failing = heap::fail(0, usize::MAX);
        panic!("x{long}");
    }));
    let payload = caught.map(|(): ()| ()).unwrap_err();
    let text = payload.downcast_ref::<String>().expect("cut, but there");
    assert!(text.starts_with("xé") && text.ends_with("é…"), "{text}");
    assert!((250..=256).contains(&text.len()), "{} bytes", text.len());
}

fn a_second_message_is_lost_unless_memory_comes_back_in_between() {
    let (first, second) = {
        let _failing = heap::fail(0, usize::MAX);
        let first = catch_unwind(panics_in_words).unwrap_err();
        (first, catch_unwind(panics_in_words).unwrap_err())
    };
    assert_eq!(text(&*first), "the number is 42");
    assert_eq!(second.downcast_ref(), Some(&MessageLost));
    puts_by();
    let _failing = heap::fail(0, usize::MAX);
    let third = catch_unwind(panics_in_words).unwrap_err();
    assert_eq!(text(&*third), "the number is 42");
}

/// The exceptions of all of them are in flight at once: none has room on the heap, and there are more
/// than any common reserve would hold.
fn many_tasks_can_panic_at_once_without_memory() {
    const TASKS: usize = 40;
    static UNWINDING: AtomicUsize = AtomicUsize::new(0);
    static STAGE: AtomicU32 = AtomicU32::new(0);
    let wait_for = |stage| {
        while STAGE.load(Ordering::SeqCst) < stage {
            task::yield_now();
        }
    };
    struct Waits<F: Fn(u32)>(F);
    impl<F: Fn(u32)> Drop for Waits<F> {
        fn drop(&mut self) {
            UNWINDING.fetch_add(1, Ordering::SeqCst);
            self.0(2);
        }
    }
    UNWINDING.store(0, Ordering::SeqCst);
    STAGE.store(0, Ordering::SeqCst);
    let tasks: Vec<_> = (0..TASKS)
        .map(|n| {
            task::spawn("short of memory", move || {
                wait_for(1);
                let caught = catch_unwind(|| {
                    let _waits = Waits(wait_for);
                    panic!("number {n}");
                });
                text(&*caught.map(|(): ()| ()).unwrap_err()) == alloc::format!("number {n}")
            })
        })
        .collect();
    let exhausted = heap::exhaust();
    STAGE.store(1, Ordering::SeqCst);
    while UNWINDING.load(Ordering::SeqCst) < TASKS {
        task::yield_now();
    }
    assert!(exhausted.failed() >= TASKS);
    drop(exhausted);
    STAGE.store(2, Ordering::SeqCst);
    for task in tasks {
        assert!(task.join().unwrap());
    }
}
