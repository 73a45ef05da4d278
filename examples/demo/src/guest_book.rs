//! Steps 2 and 3: the crate `unspool-plugin`, which this kernel is not linked with.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::mem::transmute;
use core::ptr::with_exposed_provenance;
use core::sync::atomic::{AtomicBool, Ordering};

use spin::Once;
use unspool::loader::{Handle, Object};
use unspool::panic::{catch_unwind, resume_unwind};
use unspool_kernel::{loader, println, task};

use crate::say;

/// What the build calls the crate's object.
pub const OBJECT: &str = "unspool_plugin.o";

/// What `.tdata` of the crate holds at first.
const GREETING: u64 = 0x6865_6c6c_6f21;

type Say = fn(&str);

/// The functions of the crate.
#[derive(Clone, Copy)]
pub struct GuestBook {
    greeting: fn() -> u64,
    set_greeting: fn(u64),
    sign: fn(&str, Say) -> u32,
    read: fn(usize, Say) -> usize,
}

impl GuestBook {
    fn find(object: &Object) -> Option<Self> {
        let function =
            |name| object.symbol(name).map(|a| with_exposed_provenance::<()>(a as usize));
        let greeting = function("guest_book_greeting")?;
        let set_greeting = function("guest_book_set_greeting")?;
        let sign = function("guest_book_sign")?;
        let read = function("guest_book_read")?;
        // SAFETY: the crate is compiled by the compiler that compiles this kernel, and declares
        // the functions of these names with these types.
        Some(unsafe {
            Self {
                greeting: transmute::<*const (), fn() -> u64>(greeting),
                set_greeting: transmute::<*const (), fn(u64)>(set_greeting),
                sign: transmute::<*const (), fn(&str, Say) -> u32>(sign),
                read: transmute::<*const (), fn(usize, Say) -> usize>(read),
            }
        })
    }
}

/// Loads the crate while a task runs that was there before; that task then uses it.
pub fn load(bytes: &[u8]) -> Option<GuestBook> {
    static LOADED: Once<GuestBook> = Once::new();
    let waiting = Arc::new(AtomicBool::new(false));
    let early = task::spawn("early bird", {
        let waiting = Arc::clone(&waiting);
        move || {
            waiting.store(true, Ordering::Relaxed);
            say("runs, and waits for the crate");
            let book = loop {
                match LOADED.get() {
                    Some(book) => break *book,
                    None => task::yield_now(),
                }
            };
            let greeting = (book.greeting)();
            say(&format!("the crate's thread-local in this task is {greeting:#x}"));
            (book.set_greeting)(1);
            (book.sign)("early bird", say);
            greeting
        }
    });
    while !waiting.load(Ordering::Relaxed) {
        task::yield_now();
    }
    let object = match loader().load(OBJECT, bytes) {
        Ok(object) => object,
        Err(error) => {
            println!("  main: {error}");
            return None;
        }
    };
    println!("  main: loaded {} at {:#x?}", object.name(), object.text());
    let book = GuestBook::find(&object)?;
    LOADED.call_once(|| book);
    let seen = early.join().ok()?;
    let late = task::spawn("late riser", move || {
        (book.sign)("late riser", say) + (book.sign)("late riser", say)
    });
    let visits = late.join().ok()?;
    let mine = (book.greeting)();
    println!("  main: its own copy is still {mine:#x}");
    (seen == GREETING && mine == GREETING && visits == 3).then_some(book)
}

/// Loads the crate for a while: without a word, and without tasks of its own.
pub fn load_again(bytes: &[u8]) -> Option<(Handle<'static>, GuestBook)> {
    let object = loader().load(OBJECT, bytes).ok()?;
    let book = GuestBook::find(&object)?;
    Some((object, book))
}

impl GuestBook {
    /// Signs it, and lets the crate panic; whether the panic arrived.
    pub fn sign_and_panic(self) -> bool {
        (self.sign)("nobody", |_| ());
        catch_unwind(|| (self.read)(12, |_| ())).is_err()
    }
}

/// Says when it is dropped.
struct Guard(&'static str);

impl Drop for Guard {
    fn drop(&mut self) {
        say(&format!("dropped {} (kernel)", self.0));
    }
}

/// Lets the crate panic; catches, passes on, and catches again.
pub fn panic_in(book: GuestBook) -> bool {
    let outer = catch_unwind(|| {
        let inner = catch_unwind(|| {
            let _guard = Guard("the reader's glasses");
            read_aloud(book, 12)
        });
        let payload = inner.unwrap_err();
        println!("  inner catch_unwind: {:?}; passes it on", payload.downcast_ref::<String>());
        let _guard = Guard("the reader's chair");
        resume_unwind(payload)
    });
    let payload = outer.map(|(): ()| ()).unwrap_err();
    let message = payload.downcast_ref::<String>();
    println!("  outer catch_unwind: {message:?}");
    message.is_some_and(|message| message == "the guest book has 3 pages, not 12")
}

#[inline(never)]
fn read_aloud(book: GuestBook, page: usize) -> usize {
    let _guard = Guard("the reader's candle");
    core::hint::black_box((book.read)(page, say))
}
