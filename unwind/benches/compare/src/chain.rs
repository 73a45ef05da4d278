//! Stacks to walk (`frames.c`), with something to do at their bottom.

use std::ffi::{c_long, c_ulong, c_void};
use std::ptr::{null, null_mut};

/// Of many functions, or of one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Distinct,
    Recursive,
}

/// What the functions are compiled with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Plain,
    FramePointers,
}

/// `struct walk`.
#[repr(C)]
struct Walk {
    act: extern "C" fn(*mut c_void),
    argument: *mut c_void,
    value: c_long,
    frame: *const c_void,
}

type Chain = unsafe extern "C" fn(*mut Walk, c_long) -> c_long;

unsafe extern "C" {
    fn distinct_plain(walk: *mut Walk, depth: c_long) -> c_long;
    fn recursive_plain(walk: *mut Walk, depth: c_long) -> c_long;
    fn distinct_pointers(walk: *mut Walk, depth: c_long) -> c_long;
    fn recursive_pointers(walk: *mut Walk, depth: c_long) -> c_long;
    fn walk_pointers(frame: *const c_void, count: c_ulong) -> c_ulong;
}

/// The lowest frame of a chain.
#[derive(Clone, Copy)]
pub struct Bottom(*const c_void);

impl Bottom {
    /// The sum of so many return addresses, by frame pointers.
    pub fn walk(self, count: usize) -> u64 {
        // SAFETY: the chain has frame pointers and more frames than that (who asks sees to it).
        unsafe { walk_pointers(self.0, count as c_ulong) }
    }
}

/// Frames of a chain besides those that are walked: a walk ends before the program's own.
pub const SLACK: usize = 4;

/// Calls `act` at the bottom of a stack.
pub fn descend<F: FnOnce(Bottom) -> T, T>(shape: Shape, code: Code, frames: usize, act: F) -> T {
    struct Call<F, T> {
        walk: Walk,
        act: Option<F>,
        result: Option<T>,
    }
    extern "C" fn call<F: FnOnce(Bottom) -> T, T>(call: *mut c_void) {
        let call = call.cast::<Call<F, T>>();
        // SAFETY: `descend` passes its call, and touches it again when this has returned.
        let (act, frame) = unsafe { ((*call).act.take(), (*call).walk.frame) };
        let result = act.map(|act| act(Bottom(frame)));
        // SAFETY: as above.
        unsafe { (*call).result = result };
    }
    let chain: Chain = match (shape, code) {
        (Shape::Distinct, Code::Plain) => distinct_plain,
        (Shape::Recursive, Code::Plain) => recursive_plain,
        (Shape::Distinct, Code::FramePointers) => distinct_pointers,
        (Shape::Recursive, Code::FramePointers) => recursive_pointers,
    };
    let walk = Walk { act: call::<F, T>, argument: null_mut(), value: 1, frame: null() };
    let mut all = Call { walk, act: Some(act), result: None };
    let raw = &raw mut all;
    // SAFETY: `all` lives until the end of this function.
    unsafe { (*raw).walk.argument = raw.cast() };
    // SAFETY: a chain takes a walk, and calls its function with its argument once.
    unsafe { chain(&raw mut (*raw).walk, (frames + SLACK) as c_long) };
    all.result.expect("the chain acts once")
}
