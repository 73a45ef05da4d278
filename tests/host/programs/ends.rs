//! Rust programs that end in the midst of unwinding, each in a process of its own.

use std::panic::{catch_unwind, panic_any};
use std::process::Command;
use std::thread;

struct Panics(&'static str);

impl Drop for Panics {
    fn drop(&mut self) {
        println!("drop {} ({})", self.0, thread::panicking());
        panic!("in a drop");
    }
}

struct Noisy(&'static str);

impl Drop for Noisy {
    fn drop(&mut self) {
        println!("drop {} ({})", self.0, thread::panicking());
    }
}

extern "C" fn must_not_unwind() {
    let _noisy = Noisy("inside");
    panic!("out of extern \"C\"");
}

fn drops_that_panic() {
    // Fine: nothing else is in flight, and what is left is dropped.
    let caught = catch_unwind(|| {
        let _noisy = Noisy("first");
        let _panics = Panics("alone");
        let _other = Noisy("second");
    });
    println!("caught: {}", caught.is_err());
    let elements = vec![Noisy("element 0"), Noisy("element 1")];
    let caught = catch_unwind(move || {
        let _elements = elements;
        let _panics = Panics("before a vector");
    });
    println!("caught: {}", caught.is_err());
}

fn end(how: &str) {
    match how {
        "in a drop while unwinding" => {
            let _panics = Panics("while unwinding");
            let _noisy = Noisy("before");
            panic!("the first");
        }
        "out of extern C" => must_not_unwind(),
        "in a thread" => {
            let joined = thread::spawn(|| {
                let _panics = Panics("in a thread");
                panic!("the first");
            });
            println!("{}", joined.join().is_err());
        }
        "uncaught" => {
            let _noisy = Noisy("uncaught");
            panic_any(5);
        }
        _ => drops_that_panic(),
    }
    println!("alive");
}

fn main() {
    std::panic::set_hook(Box::new(|info| {
        println!("hook: {}", info.payload_as_str().unwrap_or("not a string"));
    }));
    if let Some(how) = std::env::args().nth(1) {
        return end(&how);
    }
    let program = std::env::current_exe().unwrap();
    let ends = ["out of extern C", "in a drop while unwinding", "in a thread", "uncaught", "not"];
    for how in ends {
        println!("-- {how}");
        println!("{}", Command::new(&program).arg(how).status().unwrap());
    }
}
