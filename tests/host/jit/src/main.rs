//! Functions that Cranelift compiles at run time, and panics and walks through their frames.
//!
//! ```text
//!   main ─► nest ─► nest ─► … ─► leaf ─► callback ─ panic! ─► back to main, if they are registered
//!           compiled, with stack slots and values in callee-saved registers
//! ```
//!
//! Promise: what is printed depends only on what the unwinder does.

mod code;

use std::cell::Cell;
use std::ffi::c_void;
use std::panic::catch_unwind;
use std::thread;

use code::Code;

/// `struct _Unwind_Exception`.
#[repr(C, align(16))]
struct Exception([u64; 4]);

type Trace = extern "C" fn(*mut c_void, *mut c_void) -> i32;

unsafe extern "C-unwind" {
    fn _Unwind_RaiseException(exception: *mut Exception) -> i32;
    fn _Unwind_Backtrace(trace: Trace, argument: *mut c_void) -> i32;
    fn _Unwind_GetIP(context: *mut c_void) -> usize;
}

struct Noisy(&'static str);

impl Drop for Noisy {
    fn drop(&mut self) {
        println!("drop {} ({})", self.0, thread::panicking());
    }
}

thread_local! {
    static LOUD: Cell<bool> = const { Cell::new(true) };
}

extern "C-unwind" fn panics(n: i64) -> i64 {
    let _noisy = LOUD.get().then(|| Noisy("below compiled code"));
    panic!("at {n}")
}

extern "C-unwind" fn returns(n: i64) -> i64 {
    n
}

/// Compiled code calls Rust, which calls compiled code, which calls what panics.
extern "C-unwind" fn calls_again(n: i64) -> i64 {
    let _noisy = Noisy("between compiled frames");
    CODE.with(|code| code.get().unwrap().call(panics, n + 2))
}

extern "C-unwind" fn walks(n: i64) -> i64 {
    extern "C" fn show(context: *mut c_void, names: *mut c_void) -> i32 {
        // SAFETY: the context of the frame that is shown, and the list that `walks` gives.
        let (ip, names) = unsafe { (_Unwind_GetIP(context), &mut *names.cast::<Vec<String>>()) };
        let name = CODE.with(|code| code.get().unwrap().name(ip));
        names.push(name.unwrap_or("-").to_owned());
        0
    }
    let mut names = Vec::<String>::new();
    // SAFETY: `show` takes the list.
    let code = unsafe { _Unwind_Backtrace(show, (&raw mut names).cast()) };
    // Frames beyond main are the C library's.
    let last = names.iter().rposition(|name| name != "-").map_or(0, |n| n + 1);
    println!("walk: {code}, {}", names[..last].join(" "));
    n
}

extern "C-unwind" fn raises(n: i64) -> i64 {
    let exception = Box::leak(Box::new(Exception([0x1234, 0, 0, 0])));
    // SAFETY: a fresh exception, never freed. That C++ calls this too, is not its concern.
    println!("raised: {}", unsafe { _Unwind_RaiseException(exception) });
    n
}

thread_local! {
    static CODE: Cell<Option<&'static Code>> = const { Cell::new(None) };
}

fn attempt(code: &Code, callback: extern "C-unwind" fn(i64) -> i64) {
    let caught = catch_unwind(|| {
        let _noisy = LOUD.get().then(|| Noisy("above compiled code"));
        code.call(callback, 5)
    });
    match caught {
        Ok(n) => println!("returned {n}"),
        Err(payload) if LOUD.get() => println!("{:?}", payload.downcast_ref::<String>()),
        Err(_) => {}
    }
}

fn main() {
    std::panic::set_hook(Box::new(|_| ()));
    let code: &'static Code = Box::leak(Box::new(Code::compile()));
    CODE.set(Some(code));
    for _ in 0..3 {
        code.register();
        for callback in [returns, panics, walks, calls_again] {
            attempt(code, callback);
        }
        code.deregister();
    }
    code.register();
    let threads = [0; 4].map(|_| {
        thread::spawn(move || {
            CODE.set(Some(code));
            LOUD.set(false);
            (0..1000).for_each(|_| attempt(code, panics));
        })
    });
    for each in threads {
        println!("thread: {}", each.join().is_ok());
    }
    code.deregister();
    // Nobody gets through now: neither a walk nor an exception.
    attempt(code, walks);
    attempt(code, raises);
    attempt(code, panics);
    println!("never");
}
