//! What panics and `eprint!` say, as a string.
//!
//! ```text
//!   heard(body) ─► console::listen ─► each piece appended, by whichever CPU ─► text
//! ```

use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use unspool_kernel::console::listen;

/// Bytes that are kept.
const ROOM: usize = 1 << 20;

static TEXT: [AtomicU8; ROOM] = [const { AtomicU8::new(0) }; ROOM];
static LENGTH: AtomicUsize = AtomicUsize::new(0);

fn keep(piece: &str) {
    let start = LENGTH.fetch_add(piece.len(), Ordering::Relaxed);
    let places = TEXT.get(start..).unwrap_or_default();
    for (place, byte) in places.iter().zip(piece.bytes()) {
        place.store(byte, Ordering::Relaxed);
    }
}

/// What was written to the console as errors while `body` ran, and what `body` returned.
pub fn heard<R>(body: impl FnOnce() -> R) -> (String, R) {
    LENGTH.store(0, Ordering::Relaxed);
    let listening = listen(keep);
    let result = body();
    drop(listening);
    let length = LENGTH.load(Ordering::Relaxed);
    assert!(length <= ROOM, "{length} bytes were heard");
    let bytes: Vec<u8> = TEXT[..length].iter().map(|byte| byte.load(Ordering::Relaxed)).collect();
    (String::from_utf8(bytes).unwrap(), result)
}
