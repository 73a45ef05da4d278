//! The deaths of `tests/suites/src/deaths.rs` that std has, too: what it says is what ours must say.
#![feature(panic_always_abort)]

use std::fmt;
use std::hint::black_box;
use std::panic::{always_abort, catch_unwind, panic_any, resume_unwind, set_hook};
use std::thread;

struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        panic!("while dropping");
    }
}

struct Worse;

impl fmt::Display for Worse {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        panic!("while formatting")
    }
}

extern "C" fn wall() {
    panic!("against the wall");
}

thread_local! {
    static BAD: PanicsOnDrop = const { PanicsOnDrop };
}

fn die(name: &str) {
    match name {
        "drop_panics_during_cleanup" => {
            let _ = catch_unwind(|| {
                let _bad = PanicsOnDrop;
                resume_unwind(Box::new(()));
            });
        }
        "panic_leaves_extern_c" => {
            let _ = catch_unwind(|| black_box(wall as extern "C" fn())());
        }
        "thread_local_panics_on_drop" => BAD.with(|_| ()),
        "always_abort" => {
            always_abort();
            let _ = catch_unwind(|| panic!("the last words"));
        }
        "display_panics" => panic!("{Worse}"),
        "hook_panics" => {
            set_hook(Box::new(|_| panic!("in the hook")));
            let _ = catch_unwind(|| panic!("for the hook")).map(|(): ()| ());
        }
        "result_panics_on_drop" => {
            drop(thread::spawn(|| PanicsOnDrop));
            loop {
                thread::yield_now();
            }
        }
        _ => println!("no such death: {name}"),
    }
}

fn main() {
    let name = std::env::args().nth(1).expect("a death");
    if name == "main_payload_panics_on_drop" {
        panic_any(PanicsOnDrop);
    }
    let thread = thread::Builder::new().name("dies".into());
    let _ = thread.spawn(move || die(&name)).unwrap().join();
    println!("survived");
}
