//! A guest book: an ordinary crate, compiled apart and loaded while the kernel runs.
//!
//! ```text
//!   kernel                                plugin.o
//!   loader ── loads ────────────────────► guest_book_*       .text, .rodata, .data
//!   every running task gets ────────────► GREETING, SEEN     .tdata, .tbss
//!   catch_unwind ◄── unwinds, drops ───── a panic three calls deep
//! ```
//!
//! It knows nothing of being loaded: it uses `alloc`, generics, `#[thread_local]`,
//! `thread_local!` and destructors like any crate, and finds the kernel's copies of its
//! dependencies by their symbols.
#![no_std]
#![feature(thread_local)]

extern crate alloc;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt::Display;

/// What the program offers: where to write a line.
pub type Say = fn(&str);

/// In `.tdata`: every task starts with this value.
#[thread_local]
static GREETING: Cell<u64> = Cell::new(0x6865_6c6c_6f21);

/// In `.tbss`: every task starts with zero.
#[thread_local]
static SEEN: Cell<u32> = Cell::new(0);

unspool::thread_local! {
    /// Made on first use, destroyed at the end of the task.
    static BOOK: RefCell<Book> = RefCell::new(Book::default());
}

/// Who has been here, in this task.
#[derive(Default)]
struct Book {
    visits: BTreeMap<String, Vec<u32>>,
    say: Option<Say>,
}

impl Drop for Book {
    fn drop(&mut self) {
        if let Some(say) = self.say {
            let visits: usize = self.visits.values().map(Vec::len).sum();
            say(&format!("its guest book closes after {visits} visits"));
        }
    }
}

/// What the calling task's copy of the `.tdata` variable holds.
#[unsafe(no_mangle)]
pub fn guest_book_greeting() -> u64 {
    GREETING.get()
}

/// Changes the calling task's copy.
#[unsafe(no_mangle)]
pub fn guest_book_set_greeting(value: u64) {
    GREETING.set(value);
}

/// Signs the calling task's book; returns how many have signed in this task.
#[unsafe(no_mangle)]
pub fn guest_book_sign(name: &str, say: Say) -> u32 {
    let visit = SEEN.get() + 1;
    SEEN.set(visit);
    BOOK.with_borrow_mut(|book| {
        book.say = Some(say);
        book.visits.entry(name.into()).or_default().push(visit);
    });
    visit
}

/// Says when it is dropped.
struct Page<T: Display> {
    title: T,
    say: Say,
}

impl<T: Display> Drop for Page<T> {
    fn drop(&mut self) {
        (self.say)(&format!("dropped {} (plugin)", self.title));
    }
}

/// Reads a page that is not there, three calls deep.
///
/// # Panics
///
/// Always: there is no such page.
#[unsafe(no_mangle)]
pub fn guest_book_read(page: usize, say: Say) -> usize {
    let _cover = Page { title: "the cover", say };
    let length = open_chapter(page, say);
    // Keeps the call from being the last thing: a tail call would leave no frame.
    core::hint::black_box(length) + 1
}

#[inline(never)]
fn open_chapter(page: usize, say: Say) -> usize {
    let _chapter = Page { title: format!("chapter {}", page / 10), say };
    let length = turn_to(page, &["one", "two", "three"]);
    core::hint::black_box(length) + 1
}

#[inline(never)]
fn turn_to<T: AsRef<str>>(page: usize, pages: &[T]) -> usize {
    match pages.get(page) {
        Some(text) => text.as_ref().len(),
        None => panic!("the guest book has {} pages, not {page}", pages.len()),
    }
}
