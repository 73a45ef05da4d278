//! What panics and `eprint!` say, as a string.
//!
//! ```text
//!   heard(body) ─► console::listen ─► each piece appended, by whichever CPU ─► text
//! ```

use alloc::string::String;
use alloc::vec::Vec;
use core::hint::spin_loop;
use core::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

use unspool_kernel::console::listen;
use unspool_kernel::machine::machine;

use crate::support::PATIENCE;

/// Bytes that are kept.
const ROOM: usize = 1 << 20;

static TEXT: [AtomicU8; ROOM] = [const { AtomicU8::new(0) }; ROOM];
static LENGTH: AtomicUsize = AtomicUsize::new(0);

/// When something was heard last, and the longest time in which nothing was (nanoseconds).
static LAST: AtomicU64 = AtomicU64::new(0);
static SILENCE: AtomicU64 = AtomicU64::new(0);

fn keep(piece: &str) {
    let start = LENGTH.fetch_add(piece.len(), Ordering::Relaxed);
    let places = TEXT.get(start..).unwrap_or_default();
    for (place, byte) in places.iter().zip(piece.bytes()) {
        place.store(byte, Ordering::Relaxed);
    }
    let now = machine().now();
    let before = LAST.swap(now, Ordering::Relaxed);
    SILENCE.fetch_max(now.saturating_sub(before), Ordering::Relaxed);
}

/// What was written to the console as errors while `body` ran, and what `body` returned.
pub fn heard<R>(body: impl FnOnce() -> R) -> (String, R) {
    LENGTH.store(0, Ordering::Relaxed);
    SILENCE.store(0, Ordering::Relaxed);
    LAST.store(machine().now(), Ordering::Relaxed);
    let listening = listen(keep);
    let result = body();
    drop(listening);
    let length = LENGTH.load(Ordering::Relaxed);
    assert!(length <= ROOM, "{length} bytes were heard");
    let bytes: Vec<u8> = TEXT[..length].iter().map(|byte| byte.load(Ordering::Relaxed)).collect();
    (String::from_utf8(bytes).unwrap(), result)
}

/// As [`heard`], for reports of several tasks. Whoever has stopped in the middle of one, because its
/// processor is away, may lose its turn to another, as it should: then it is all done again.
pub fn heard_in_turns(mut body: impl FnMut()) -> String {
    let (patience, begin) = (patience_of_reports(), machine().now());
    loop {
        let (text, ()) = heard(&mut body);
        if SILENCE.load(Ordering::Relaxed) < patience || machine().now() - begin > PATIENCE {
            return text;
        }
    }
}

/// How long one who wants to report surely waits for another who says nothing (nanoseconds).
fn patience_of_reports() -> u64 {
    /// Looks, each of which takes longer than here.
    const LOOKS: u64 = 10_000_000;
    const PART: u64 = 1000;
    let time = |_| {
        let begin = machine().now();
        (0..LOOKS / PART).for_each(|_| spin_loop());
        machine().now() - begin
    };
    (0..10).map(time).min().unwrap_or(0) * PART
}
