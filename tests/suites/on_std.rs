//! The scenarios on std: what this says is what the kernel must say.
//!
//! `RUST_BACKTRACE` says how much of a trace, as for every program. Compiled by `cargo xtask test said`,
//! with the suites' name.
#![feature(panic_always_abort, panic_update_hook)]

extern crate alloc;

#[path = "src/scenarios.rs"]
mod scenarios;

mod on {
    pub use std::panic::{
        always_abort, catch_unwind, panic_any, resume_unwind, set_hook, take_hook, update_hook,
    };
    pub use std::thread::panicking;
    pub use std::{eprint, eprintln, thread_local};

    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread::{Builder, yield_now};

    pub fn thread(name: Option<&str>, body: fn()) {
        let builder = match name {
            Some(name) => Builder::new().name(name.into()),
            None => Builder::new(),
        };
        let _ = builder.spawn(body).unwrap().join();
    }

    pub fn leave<T: Send + 'static>(body: fn() -> T) {
        static LEFT: AtomicBool = AtomicBool::new(false);
        let started = Builder::new().name("left".into()).spawn(move || {
            while !LEFT.load(Ordering::Acquire) {
                yield_now();
            }
            body()
        });
        drop(started.unwrap());
        LEFT.store(true, Ordering::Release);
        loop {
            yield_now();
        }
    }
}

fn main() {
    scenarios::run(&std::env::args().nth(1).expect("a scenario"));
}
