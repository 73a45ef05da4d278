// Included by every program that throws: what they throw through, and how that is timed.
//
//   catch ─► frame 0 ─► frame 1 ─► … ─► throw        a value with a destructor in each frame, or none
//
// All programs print the same: time stamps of one operation, the median of some batches.

use core::arch::x86_64::_rdtsc;
use core::hint::black_box;

/// A value with a destructor.
struct Guard(u64);

impl Drop for Guard {
    fn drop(&mut self) {
        black_box(self.0);
    }
}

/// What the last frame does.
type Throw = fn() -> !;

/// A function that calls the next one.
#[derive(Clone, Copy)]
struct Frame(fn(&[Frame], Throw) -> u64);

fn next(rest: &[Frame], throw: Throw) -> u64 {
    match rest.split_first() {
        Some((frame, rest)) => (frame.0)(rest, throw),
        None => throw(),
    }
}

#[inline(never)]
fn with_guard<const N: u64>(rest: &[Frame], throw: Throw) -> u64 {
    let guard = Guard(black_box(N));
    let result = next(rest, throw);
    black_box(result + guard.0)
}

#[inline(never)]
fn without<const N: u64>(rest: &[Frame], throw: Throw) -> u64 {
    black_box(next(rest, throw)) + N
}

macro_rules! frames {
    ($function:ident: $($tens:literal)*) => {
        [$(
            Frame($function::<{ $tens * 10 }>),
            Frame($function::<{ $tens * 10 + 1 }>),
            Frame($function::<{ $tens * 10 + 2 }>),
            Frame($function::<{ $tens * 10 + 3 }>),
            Frame($function::<{ $tens * 10 + 4 }>),
            Frame($function::<{ $tens * 10 + 5 }>),
            Frame($function::<{ $tens * 10 + 6 }>),
            Frame($function::<{ $tens * 10 + 7 }>),
            Frame($function::<{ $tens * 10 + 8 }>),
            Frame($function::<{ $tens * 10 + 9 }>),
        )*]
    };
}

static WITH_GUARD: [Frame; 100] = frames!(with_guard: 0 1 2 3 4 5 6 7 8 9);
static WITHOUT: [Frame; 100] = frames!(without: 0 1 2 3 4 5 6 7 8 9);

/// What is thrown through.
fn stack(depth: usize, guards: bool) -> &'static [Frame] {
    if guards { &WITH_GUARD[..depth] } else { &WITHOUT[..depth] }
}

/// Time stamps now.
fn stamps() -> u64 {
    // SAFETY: every x86-64 CPU has the instruction.
    unsafe { _rdtsc() }
}

/// Time stamps of one `act`: the median of batches of so many.
fn median(batch: u32, mut act: impl FnMut()) -> f64 {
    const BATCHES: usize = 21;
    let mut times = [0u64; BATCHES];
    (0..batch / 2 + 2).for_each(|_| act());
    for time in &mut times {
        let start = stamps();
        (0..batch).for_each(|_| act());
        *time = stamps() - start;
    }
    times.sort_unstable();
    times[BATCHES / 2] as f64 / f64::from(batch)
}
