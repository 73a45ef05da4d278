//! An allocator for code that runs on an area: the C library's own needs its thread's variables.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use spin::Mutex;

use crate::arch::on_an_area;

const SIZE: usize = 8 << 20;

/// Memory that is given out once.
#[repr(align(4096))]
struct Arena(UnsafeCell<[u8; SIZE]>);

// SAFETY: `TAKEN` gives every byte to one taker.
unsafe impl Sync for Arena {}

static ARENA: Arena = Arena(UnsafeCell::new([0; SIZE]));
static TAKEN: AtomicUsize = AtomicUsize::new(0);
static EMPTY: AtomicBool = AtomicBool::new(false);
/// What the next allocation on an area does first; see `first`.
static FIRST: Mutex<Option<fn()>> = Mutex::new(None);

struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

fn take(layout: Layout) -> Option<*mut u8> {
    let end = |start: usize| start.next_multiple_of(layout.align()).checked_add(layout.size());
    let start = TAKEN
        .try_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
            end(taken).filter(|end| *end <= SIZE)
        })
        .ok()?;
    Some(ARENA.0.get().cast::<u8>().wrapping_add(start.next_multiple_of(layout.align())))
}

// SAFETY: memory of the arena is given out once; the rest is the system's.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !on_an_area() {
            // SAFETY: the contract is the same.
            return unsafe { System.alloc(layout) };
        }
        let first = FIRST.lock().take();
        if let Some(first) = first {
            first();
        }
        match EMPTY.load(Ordering::Relaxed) {
            true => std::ptr::null_mut(),
            false => take(layout).unwrap_or_default(),
        }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        let arena = ARENA.0.get().cast::<u8>();
        if !(arena..arena.wrapping_add(SIZE)).contains(&start) {
            // SAFETY: the contract is the same.
            unsafe { System.dealloc(start, layout) };
        }
    }
}

/// Has the next allocation on an area do this first, as an allocator does that has thread-local
/// values. One test does so at a time.
pub fn first(act: fn()) {
    *FIRST.lock() = Some(act);
}

/// Calls `act` with no memory left for code on areas. One test does so at a time.
pub fn without_memory(act: impl FnOnce()) {
    EMPTY.store(true, Ordering::Relaxed);
    act();
    EMPTY.store(false, Ordering::Relaxed);
}
