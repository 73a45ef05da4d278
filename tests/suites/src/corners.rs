//! Catches where the compiler or another runtime makes it hard.
//!
//! ```text
//!   closures and results: no bytes │ padding │ across two words │ more, aligned to 64 ─► there and back
//!   a forced unwinding of C's, whose argument is where catch_all begins ─► goes past
//! ```

use alloc::boxed::Box;
use core::cell::Cell;
use core::convert::Infallible;
use core::ffi::c_void;
use core::fmt::Debug;
use core::hint::black_box;
use core::mem::MaybeUninit;
use core::num::NonZeroU64;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use unspool::panic::{AssertUnwindSafe, catch_all, catch_unwind, panicking, resume_unwind};
use unspool::unwind::{Actions, Context, Exception, RaiseError, Reason, Registers, forced_unwind};

crate::tests![
    closures_and_results_of_odd_shapes_are_moved_once,
    a_body_that_never_returns_is_caught,
    a_forced_unwinding_of_others_goes_past_catch_all,
];

static DROPS: AtomicU32 = AtomicU32::new(0);
static PANICS: AtomicBool = AtomicBool::new(false);

/// The same bytes, and a drop that is counted.
#[repr(transparent)]
struct Counted<T>(T);

impl<T> Drop for Counted<T> {
    fn drop(&mut self) {
        DROPS.fetch_add(1, Ordering::Relaxed);
    }
}

/// Moves a value in, and out again unless it panics.
#[inline(never)]
fn passes<T: Copy + PartialEq + Debug + 'static>(value: T) {
    let outcome = |panics| {
        let inside = Counted(black_box(value));
        PANICS.store(panics, Ordering::Relaxed);
        DROPS.store(0, Ordering::Relaxed);
        let body = move || {
            if PANICS.load(Ordering::Relaxed) {
                resume_unwind(Box::new(3_u8));
            }
            inside
        };
        assert_eq!(size_of_val(&body), size_of::<T>());
        let outcome = catch_unwind(AssertUnwindSafe(black_box(body)));
        (outcome, DROPS.load(Ordering::Relaxed))
    };
    let (returned, drops) = outcome(false);
    assert_eq!((returned.unwrap().0, drops), (value, 0));
    let (panicked, drops) = outcome(true);
    let payload = panicked.map(|_| ()).unwrap_err();
    assert_eq!((payload.downcast_ref(), drops), (Some(&3_u8), 1));
    assert!(!panicking());
}

#[derive(Clone, Copy, PartialEq, Debug)]
#[repr(align(64))]
struct Nothing64;

#[derive(Clone, Copy, PartialEq, Debug)]
#[repr(align(32))]
struct Wide(u8);

#[derive(Clone, Copy, PartialEq, Debug)]
#[repr(align(16))]
struct Sixteen(u8);

#[derive(Clone, Copy, PartialEq, Debug)]
#[repr(C, packed)]
struct Crossed(u8, &'static u32, u8);

#[derive(Clone, Copy, PartialEq, Debug)]
#[repr(C)]
struct Padded(u8, u64);

#[derive(Clone, Copy)]
struct Some7Bytes(MaybeUninit<u64>);

impl PartialEq for Some7Bytes {
    fn eq(&self, other: &Self) -> bool {
        let first = |bytes: &Self| {
            // SAFETY: the first byte is always written.
            unsafe { bytes.0.as_ptr().cast::<u8>().read() }
        };
        first(self) == first(other)
    }
}

impl Debug for Some7Bytes {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("one byte")
    }
}

fn closures_and_results_of_odd_shapes_are_moved_once() {
    static PLACE: u32 = 77;
    passes(());
    passes(Nothing64);
    passes([Wide(0); 0]);
    passes(true);
    passes(Wide(1));
    passes(Sixteen(2));
    passes([Sixteen(2), Sixteen(3)]);
    passes(3_u128);
    passes([4_u128; 2]);
    passes([5_u8; 8]);
    passes([5_u8; 15]);
    passes([5_u8; 16]);
    passes(Crossed(6, &PLACE, 7));
    passes(Padded(8, 9));
    passes((10_u64, 11_u8));
    passes(1.5_f32);
    passes((1.5_f32, 2.5_f64));
    passes(NonZeroU64::new(12));
    passes(Some(&PLACE));
    passes(Some((&PLACE, 'x')));
    passes(['y'; 4]);
    let mut one = Some7Bytes(MaybeUninit::uninit());
    // SAFETY: the first of its bytes.
    unsafe { one.0.as_mut_ptr().cast::<u8>().write(13) };
    passes(one);
}

fn a_body_that_never_returns_is_caught() {
    let caught = catch_unwind(|| -> Infallible { resume_unwind(Box::new(5_u8)) });
    assert_eq!(caught.unwrap_err().downcast_ref(), Some(&5_u8));
    let place = Cell::new(0_u32);
    let caught = catch_all(AssertUnwindSafe(|| -> Infallible {
        place.set(9);
        resume_unwind(Box::new(()))
    }));
    assert_eq!((caught.is_err(), place.get()), (true, 9));
}

/// Stops a forced unwinding, where nothing has been unwound yet.
static LIMIT: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" fn stop(
    _version: i32,
    _actions: Actions,
    _class: u64,
    _exception: *mut Exception,
    context: &mut Context,
    _argument: *mut c_void,
) -> Reason {
    if context.cfa() > LIMIT.load(Ordering::Relaxed) {
        Reason::NORMAL_STOP
    } else {
        Reason::NO_REASON
    }
}

/// The argument is any address near here; one of them is that of the frame that catches.
fn a_forced_unwinding_of_others_goes_past_catch_all() {
    let room = [0_u8; 4096];
    let low = black_box(&room).as_ptr().addr();
    let here = Registers::here().sp() as usize;
    LIMIT.store(low as u64 + 2048, Ordering::Relaxed);
    for argument in (here - 512..low + 1024).step_by(8) {
        let argument = core::ptr::without_provenance_mut::<c_void>(argument);
        let error = catch_all(|| {
            let mut exception = Exception::new(u64::from_be_bytes(*b"ELSEELSE"), None);
            // SAFETY: the frame lives on; the stop function takes any argument, and has it stop
            // before any cleanup.
            unsafe { forced_unwind(&mut exception, stop, argument, &Registers::here()) }
        });
        assert!(matches!(error, Ok(RaiseError::Forced { .. })), "{error:?}");
    }
    black_box(&room);
}
