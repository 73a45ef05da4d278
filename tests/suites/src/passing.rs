//! Walks and throws on all CPUs, through functions of objects that come and go.
//!
//! ```text
//!   each team:   load one of three ─► holders walk and throw through it ─► unload ─► the next one
//!   all objects: `passes` is as long in each, its frame is another one: the same return address,
//!                another rule
//! ```
//!
//! Every trace is compared with one that was taken from the same place without an object.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ffi::c_void;
use core::hint::black_box;
use core::mem::transmute;
use core::ptr::{from_mut, with_exposed_provenance};
use core::sync::atomic::{AtomicU32, Ordering};

use unspool::backtrace::{Captured, End, trace};
use unspool::loader::Handle;
use unspool::panic::{AssertUnwindSafe, Thrower, catch_thrown, catch_unwind, resume_unwind};
use unspool_kernel::sync::Mutex;
use unspool_kernel::{loader, task};

use crate::support::{footprint, module, unload_soon};

crate::tests![walks_and_throws_stay_right_while_other_code_takes_the_place_of_what_they_passed];

/// Same length, other frames.
const OBJECTS: [&str; 3] =
    ["passes_narrow.static.o", "passes_wide.static.o", "passes_other.static.o"];
const TEAMS: usize = 3;
/// Tasks of a team that use its object at once, besides the one that loads it.
const HOLDERS: usize = 2;
/// Objects of a team, one after the other.
const ROUNDS: usize = 150;
/// Walks and throws of a holder through one object.
const PASSES: u64 = 6;
/// How often an object's function is on the stack.
const DEPTH: usize = 3;

type Back = unsafe extern "C-unwind" fn(*mut c_void);
type Passes = unsafe extern "C-unwind" fn(Back, *mut c_void);

/// `passes` and where its call returns to.
#[derive(Clone, Copy)]
struct Way {
    passes: Passes,
    returns: u64,
}

impl Way {
    fn of(object: &Handle<'_>) -> Self {
        let symbol = |name| object.symbol(name).expect("passes.h has it");
        let passes = with_exposed_provenance::<()>(symbol("passes") as usize);
        // SAFETY: that function of `tests/objects/passes.h`, with its type.
        let passes = unsafe { transmute::<*const (), Passes>(passes) };
        Self { passes, returns: symbol("passes_returns") }
    }
}

/// Does as `passes` does, and is never unloaded.
unsafe extern "C-unwind" fn straight(back: Back, argument: *mut c_void) {
    // SAFETY: the caller's argument is for this function.
    unsafe { back(argument) };
    black_box(());
}

/// What is to be done at the bottom.
struct Errand<'e> {
    passes: Passes,
    /// How often it is passed before.
    left: usize,
    act: &'e mut dyn FnMut(),
}

/// From here `passes` is called, every time.
#[inline(never)]
fn pass(errand: &mut Errand<'_>) {
    errand.left -= 1;
    let argument = from_mut(errand).cast();
    // SAFETY: `arrive` takes an errand, which lives until this returns.
    unsafe { (errand.passes)(arrive, argument) };
    black_box(());
}

unsafe extern "C-unwind" fn arrive(argument: *mut c_void) {
    // SAFETY: `pass` passes its errand, and waits.
    let errand = unsafe { &mut *argument.cast::<Errand<'_>>() };
    if errand.left > 0 {
        pass(errand);
    } else {
        (errand.act)();
    }
    black_box(());
}

#[inline(never)]
fn down(passes: Passes, depth: usize, act: &mut dyn FnMut()) {
    pass(&mut Errand { passes, left: depth, act });
}

type Seen = Captured<64>;

/// The return addresses into `passes`, innermost first, and all that is above the outermost of them.
fn parts(seen: &Seen, depth: usize, way: Option<Way>) -> (Vec<u64>, Vec<(u64, u64)>) {
    assert_eq!(seen.end(), End::Outermost);
    let frames: Vec<_> = seen.frames().iter().map(|each| (each.pc.address(), each.sp)).collect();
    let Some(way) = way else { return (Vec::new(), frames) };
    let is_passed = |place: &usize| frames[*place].0 == way.returns;
    let passed: Vec<_> = (0..frames.len()).filter(is_passed).collect();
    assert_eq!(passed.len(), depth, "frames of `passes` at {:#x}: {frames:x?}", way.returns);
    let above = frames[passed[depth - 1] + 1..].to_vec();
    (passed.into_iter().map(|place| frames[place].0).collect(), above)
}

/// Walks and throws through the object, from ever the same place.
#[inline(never)]
fn hold(way: Way) {
    let mut above: Option<Vec<(u64, u64)>> = None;
    for number in 0..=PASSES {
        let walked = if number == 0 { straight as Passes } else { way.passes };
        let depth = if number == 0 { 1 } else { 1 + number as usize % DEPTH };
        let mut seen = None;
        // The same call each time, so that all from here on is the same.
        down(black_box(walked), depth, &mut || seen = Some(Seen::take(trace())));
        let seen = seen.expect("it was done");
        match &above {
            None => above = Some(parts(&seen, 0, None).1),
            Some(known) => {
                let (passed, here) = parts(&seen, depth, Some(way));
                assert_eq!(passed.len(), depth);
                // The outermost `pass`, which is there once without an object, and all its callers.
                let start = known.iter().position(|each| each.0 == here[0].0);
                let start = start.unwrap_or_else(|| panic!("{here:x?} and not {known:x?}"));
                assert_eq!(here, known[start..], "above {depth} frames of `passes`");
            }
        }
        throw(way, depth, number);
    }
}

/// Throws as a panic does, and as a value in place, across registers that are in use.
#[inline(never)]
fn throw(way: Way, depth: usize, number: u64) {
    let kept: [u64; 6] = core::array::from_fn(|place| black_box(number * 100 + place as u64));
    let caught = catch_unwind(AssertUnwindSafe(|| {
        down(way.passes, depth, &mut || resume_unwind(Box::new(number)));
    }));
    assert_eq!(caught.unwrap_err().downcast_ref::<u64>(), Some(&number));
    let caught = catch_thrown(|to: &Thrower<u64>| {
        down(way.passes, depth, &mut || to.throw(number + 1));
    });
    assert_eq!(caught, Err(number + 1));
    let sum: u64 = kept.iter().sum();
    assert_eq!(sum, number * 600 + 15);
}

/// Which object was at an address, and how often another one came there.
static PLACES: Mutex<BTreeMap<u64, usize>> = Mutex::new(BTreeMap::new());
static REUSED: AtomicU32 = AtomicU32::new(0);

fn team(number: usize) {
    for round in 0..ROUNDS {
        let which = (number + round) % OBJECTS.len();
        let object = loader().load(OBJECTS[which], module(OBJECTS[which])).unwrap();
        let way = Way::of(&object);
        let before = PLACES.lock().insert(way.returns, which);
        if before.is_some_and(|before| before != which) {
            REUSED.fetch_add(1, Ordering::Relaxed);
        }
        let holders: Vec<_> =
            (0..HOLDERS).map(|_| task::spawn("holder", move || hold(way))).collect();
        hold(way);
        for holder in holders {
            holder.join().unwrap();
        }
        unload_soon(&object);
    }
}

fn walks_and_throws_stay_right_while_other_code_takes_the_place_of_what_they_passed() {
    footprint();
    let teams: Vec<_> =
        (0..TEAMS).map(|number| task::spawn("team", move || team(number))).collect();
    for team in teams {
        team.join().unwrap();
    }
    PLACES.lock().clear();
    // Not by chance: half of all that were loaded came to where another one had been.
    let reused = REUSED.swap(0, Ordering::Relaxed) as usize;
    assert!(reused >= TEAMS * ROUNDS / 2, "only {reused} came to where another one had been");
}
