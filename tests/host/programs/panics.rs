//! Rust on std: panics caught, in threads, in drops; backtraces; foreign frames.

use std::backtrace::Backtrace;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread;

struct Noisy(&'static str);

impl Drop for Noisy {
    fn drop(&mut self) {
        println!("drop {} ({})", self.0, thread::panicking());
    }
}

#[inline(never)]
fn deep(n: usize) -> usize {
    let _guard = std::hint::black_box(Some(Box::new(n)));
    if n == 0 {
        panic!("at the bottom");
    }
    deep(n - 1) + 1
}

struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        let inner = catch_unwind(|| {
            let _noisy = Noisy("inner");
            panic!("in a drop");
        });
        println!("inner: {}", inner.is_err());
    }
}

fn main() {
    std::panic::set_hook(Box::new(|info| println!("hook: {info}")));
    for n in [0, 10, 10_000] {
        let result = catch_unwind(|| {
            let _noisy = Noisy("outer");
            deep(n)
        });
        println!("{:?}", result.unwrap_err().downcast_ref::<&str>());
    }
    let result = catch_unwind(|| {
        let _drops = PanicsInDrop;
        panic!("first {}", 1);
    });
    println!("{:?}", result.unwrap_err().downcast_ref::<String>());
    let again = catch_unwind(|| {
        let payload = catch_unwind(|| panic!("once")).unwrap_err();
        let _noisy = Noisy("between");
        resume_unwind(payload)
    });
    println!("{:?}", again.unwrap_err().downcast_ref::<&str>());
    let joined = thread::Builder::new().stack_size(64 << 10).spawn(|| {
        let _noisy = Noisy("thread");
        deep(20)
    });
    println!("{}", joined.unwrap().join().is_err());
    let counter = Cell::new(0);
    for n in 0..1000 {
        let caught = catch_unwind(AssertUnwindSafe(|| {
            counter.set(counter.get() + n);
            if n % 2 == 0 {
                resume_unwind(Box::new(n));
            }
        }));
        assert_eq!(caught.is_err(), n % 2 == 0);
    }
    println!("{}", counter.get());
    let trace = Backtrace::force_capture().to_string();
    println!("{}", trace.lines().filter(|line| line.contains("main")).count() > 0);
    println!("{}", trace.lines().count());
    abort_in_extern();
}

extern "C" fn abort_in_extern() {
    let _noisy = Noisy("never unwound");
    let _ = catch_unwind(|| println!("before the end"));
}
