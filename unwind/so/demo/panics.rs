//! Panics through sixteen frames, four of them with something to drop; says who unwound, and how
//! long it took.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::hint::black_box;
use std::panic::{catch_unwind, resume_unwind};
use std::ptr::null;
use std::time::Instant;

thread_local! {
    static DROPPED: Cell<u32> = const { Cell::new(0) };
}

struct Counts;

impl Drop for Counts {
    fn drop(&mut self) {
        DROPPED.set(DROPPED.get() + 1);
    }
}

#[inline(never)]
fn nest(n: u32) -> u32 {
    if n == 0 {
        // As `panic!`, without a message on the console.
        resume_unwind(Box::new("from the bottom"));
    }
    let _counts = n.is_multiple_of(4).then(|| Counts);
    nest(black_box(n - 1)) + 1
}

/// `Dl_info` (<dlfcn.h>).
#[repr(C)]
struct Symbol {
    file: *const c_char,
    base: *const c_void,
    name: *const c_char,
    address: *const c_void,
}

unsafe extern "C" {
    fn dladdr(address: *const c_void, symbol: *mut Symbol) -> c_int;
    fn _Unwind_RaiseException();
}

fn unwinder() -> String {
    let mut symbol = Symbol { file: null(), base: null(), name: null(), address: null() };
    // SAFETY: any address may be asked for; the type is glibc's.
    unsafe { dladdr(_Unwind_RaiseException as *const c_void, &mut symbol) };
    // SAFETY: the function is in a loaded file, which has a name.
    unsafe { CStr::from_ptr(symbol.file) }.to_string_lossy().into_owned()
}

fn microseconds() -> f64 {
    const COUNT: u32 = 2000;
    let begin = Instant::now();
    for _ in 0..COUNT {
        drop(catch_unwind(|| nest(16)));
    }
    begin.elapsed().as_secs_f64() * 1e6 / f64::from(COUNT)
}

fn main() {
    let payload = catch_unwind(|| nest(16)).unwrap_err();
    let text = payload.downcast_ref::<&str>();
    println!("caught {text:?}, dropped {}", DROPPED.get());
    println!("unwinder: {}", unwinder());
    let best = (0..20).map(|_| microseconds()).fold(f64::INFINITY, f64::min);
    println!("microseconds: {best:.2}");
}
