//! Knows which modules the exceptions in flight lead through.
//!
//! ```text
//!   phase 1 ends ──► place: exception │ path (a bit for each module) │ cleanup ──► phase 2
//!                      ▲                                                            │
//!                      └──────────────── taken off when the handler is entered ◄────┘
//! ```
//!
//! Frames that phase 2 has unwound are on no stack any more, but the exception may still need
//! their module. Bits may collide, so an answer may be yes where it should be no; never the other
//! way. Nothing is locked; when all places are taken, the answer is yes for every module.
#![forbid(unsafe_code)]

use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::exception::Exception;

/// How many exceptions can be told apart: so many that those of a few CPUs rarely want the same place.
const PLACES: usize = 64;

/// A number below 64 for an address. Twice, because after one multiplication addresses at some distances
/// from each other are still neighbours, wherever they are.
const fn hash(address: u64) -> u8 {
    let once = address.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((once ^ once >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 58) as u8
}

/// The modules that an exception leads through, as a set that may have more in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Path(u64);

impl Path {
    /// Every module there may be.
    const ALL: u64 = u64::MAX;

    /// Adds the module of a frame.
    pub(crate) fn add(&mut self, module: ModuleTag) {
        self.0 |= module.bit();
    }
}

/// One of 64 numbers that a module has; others may have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ModuleTag(u8);

impl ModuleTag {
    /// The tag of the module whose text starts there.
    pub(crate) const fn of(text_start: u64) -> Self {
        // Modules start at pages, often one after the other.
        Self(hash(text_start >> 12))
    }

    pub(crate) const fn number(self) -> u8 {
        self.0
    }

    /// The tag with this number, of which the low six bits count.
    pub(crate) const fn from_number(number: u8) -> Self {
        Self(number & 63)
    }

    const fn bit(self) -> u64 {
        1 << self.0
    }
}

/// One exception in flight. Alone in its cache line: CPUs that raise at the same time do not
/// disturb each other.
#[repr(align(64))]
struct Place {
    /// The exception's address; 0 if the place is free.
    exception: AtomicUsize,
    /// While the place is free, and until it is known: every module.
    path: AtomicU64,
    cleanup: AtomicU64,
}

impl Place {
    const fn new() -> Self {
        Self {
            exception: AtomicUsize::new(0),
            path: AtomicU64::new(Path::ALL),
            cleanup: AtomicU64::new(0),
        }
    }
}

/// Exceptions in flight.
pub(crate) struct InFlight {
    places: [Place; PLACES],
    /// Those that found no place.
    others: AtomicUsize,
    /// Nobody asks, so that nothing is counted.
    is_off: AtomicBool,
}

impl InFlight {
    pub(crate) const fn new() -> Self {
        Self {
            places: [const { Place::new() }; PLACES],
            others: AtomicUsize::new(0),
            is_off: AtomicBool::new(false),
        }
    }

    /// All places, beginning where this exception is most likely to be.
    fn places(&self, exception: usize) -> impl Iterator<Item = &Place> {
        let (before, from) = self.places.split_at(hash(exception as u64 >> 4).into());
        from.iter().chain(before)
    }

    /// From now on nothing is counted, and the answer is yes. Before anything is in flight.
    pub(crate) fn stop_counting(&self) {
        self.is_off.store(true, Ordering::Relaxed);
    }

    #[inline(always)]
    fn is_off(&self) -> bool {
        self.is_off.load(Ordering::Relaxed)
    }

    /// Phase 2 begins; all frames are still there.
    #[inline(always)]
    pub(crate) fn begin(&self, exception: *mut Exception, path: Path, cleanup: u64) {
        if !self.is_off() {
            self.count(exception, path, cleanup);
        }
    }

    /// The exception has arrived, or got lost.
    #[inline(always)]
    pub(crate) fn end(&self, exception: *mut Exception) {
        if !self.is_off() {
            self.count_no_more(exception);
        }
    }

    fn count(&self, exception: *mut Exception, path: Path, cleanup: u64) {
        let address = exception.addr();
        let free = |place: &&Place| {
            let exchange =
                place.exception.compare_exchange(0, address, Ordering::Acquire, Ordering::Relaxed);
            exchange.is_ok()
        };
        match self.places(address).find(free) {
            Some(place) => {
                place.cleanup.store(cleanup, Ordering::Relaxed);
                place.path.store(path.0, Ordering::Release);
            }
            None => _ = self.others.fetch_add(1, Ordering::Relaxed),
        }
    }

    fn count_no_more(&self, exception: *mut Exception) {
        let address = exception.addr();
        let mine = |place: &&Place| place.exception.load(Ordering::Relaxed) == address;
        match self.places(address).find(mine) {
            Some(place) => {
                place.path.store(Path::ALL, Ordering::Relaxed);
                place.cleanup.store(0, Ordering::Relaxed);
                place.exception.store(0, Ordering::Release);
            }
            None => _ = self.others.fetch_sub(1, Ordering::Relaxed),
        }
    }

    /// See [`in_flight_in`].
    pub(crate) fn any_in(&self, text: &Range<u64>) -> bool {
        self.is_off()
            || self.others.load(Ordering::Acquire) != 0
            || self.places.iter().any(|place| {
                place.exception.load(Ordering::Acquire) != 0
                    && (place.path.load(Ordering::Acquire) & ModuleTag::of(text.start).bit() != 0
                        || text.contains(&place.cleanup.load(Ordering::Relaxed)))
            })
    }
}

/// The exceptions that [`raise`](crate::raise) is delivering.
pub(crate) static IN_FLIGHT: InFlight = InFlight::new();

/// Whether an exception may be in flight, of any task, that had or has frames of the registered
/// module with this text on its way, or whose cleanup function lies in it.
///
/// In flight is what has been raised, found a handler, and not entered it yet. An exception that
/// is thrown while this is asked is found if a frame of the module was already gone from its
/// stack before. One whose task never gets to the handler stays in flight. A forced unwinding
/// counts for the module of its stop function only: nobody looks at its exception on the way, and
/// frames that it has not come to are on their stack. Takes no lock.
pub fn in_flight_in(text: Range<u64>) -> bool {
    IN_FLIGHT.any_in(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr::without_provenance_mut;

    const TEXT: Range<u64> = 0x5000..0x7000;

    fn through(text: Range<u64>) -> Path {
        let mut path = Path::default();
        path.add(ModuleTag::of(text.start));
        path
    }

    #[test]
    fn an_exception_counts_for_the_modules_on_its_way_until_it_arrives() {
        let (flying, exception) = (InFlight::new(), without_provenance_mut(0x1000));
        assert!(!flying.any_in(&TEXT));
        flying.begin(exception, through(TEXT), 0);
        assert!(flying.any_in(&TEXT));
        assert!(!flying.any_in(&(0x8000..0x9000)));
        flying.end(exception);
        assert!(!flying.any_in(&TEXT));
    }

    #[test]
    fn an_exception_counts_for_the_module_that_frees_it() {
        let (flying, exception) = (InFlight::new(), without_provenance_mut(0x1000));
        flying.begin(exception, Path::default(), TEXT.end - 1);
        assert!(flying.any_in(&TEXT));
        assert!(!flying.any_in(&(TEXT.end..TEXT.end + 1)));
        flying.end(exception);
        assert!(!flying.any_in(&TEXT));
    }

    #[test]
    fn if_nothing_is_counted_everything_is_in_flight() {
        let (flying, exception) = (InFlight::new(), without_provenance_mut(0x1000));
        flying.stop_counting();
        flying.begin(exception, Path::default(), 0);
        assert!(flying.places.iter().all(|place| place.exception.load(Ordering::Relaxed) == 0));
        assert!(flying.any_in(&TEXT));
        flying.end(exception);
        assert!(flying.any_in(&TEXT));
    }

    #[test]
    fn more_exceptions_than_places_count_for_every_module() {
        let flying = InFlight::new();
        let exceptions: Vec<_> =
            (1..=PLACES + 2).map(|n| without_provenance_mut(n * 0x40)).collect();
        for &exception in &exceptions {
            flying.begin(exception, Path::default(), 0);
        }
        assert!(flying.any_in(&TEXT));
        for &exception in &exceptions {
            flying.end(exception);
        }
        assert!(!flying.any_in(&TEXT));
        flying.begin(exceptions[0], Path::default(), 0);
        assert!(!flying.any_in(&TEXT));
    }
}
