//! Step 1: two tasks, one declaration, two values; destructors at the end, in order.

use alloc::string::String;
use core::cell::{Cell, RefCell};

use unspool::thread_local;
use unspool_kernel::{println, task};

thread_local! {
    static COUNT: Cell<u32> = const { Cell::new(0) };
    static DIARY: RefCell<Diary> = RefCell::new(Diary::new("diary"));
    static LETTERS: RefCell<Diary> = RefCell::new(Diary::new("letters"));
}

struct Diary {
    title: &'static str,
    text: String,
}

impl Diary {
    fn new(title: &'static str) -> Self {
        println!("  {}: opens the {title}", task::current().name());
        Self { title, text: String::new() }
    }
}

impl Drop for Diary {
    fn drop(&mut self) {
        println!("  {}: closes the {}:{}", task::current().name(), self.title, self.text);
    }
}

pub fn run() -> bool {
    let counter = |step: u32| {
        move || {
            for _ in 0..3 {
                COUNT.set(COUNT.get() + step);
                DIARY.with_borrow_mut(|diary| {
                    diary.text.push(' ');
                    diary.text.push_str(number(COUNT.get()));
                });
                task::yield_now();
            }
            LETTERS.with_borrow_mut(|letters| letters.text.push_str(" none"));
            COUNT.get()
        }
    };
    let anna = task::spawn("anna", counter(1));
    let otto = task::spawn("otto", counter(2));
    let (anna, otto) = (anna.join(), otto.join());
    println!("  main: joined both; anna counted {anna:?}, otto {otto:?}, main {}", COUNT.get());
    (anna.ok(), otto.ok(), COUNT.get()) == (Some(3), Some(6), 0)
}

fn number(count: u32) -> &'static str {
    ["zero", "one", "two", "three", "four", "five", "six"][count as usize]
}
