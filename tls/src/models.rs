//! Publishing against creating, reusing and ending areas, in every order that the memory model
//! allows: the files under test are compiled once more, with loom's atomic types.
//!
//! ```text
//!  image ─ one word          area ─ one word, which nobody may touch while another does
//! ```

#[path = "idle.rs"]
#[allow(clippy::duplicate_mod, reason = "the same protocol, with other atomic types")]
mod idle;
#[path = "inbox.rs"]
#[allow(clippy::duplicate_mod, reason = "the same protocol, with other atomic types")]
mod inbox;
#[path = "ready.rs"]
#[allow(clippy::duplicate_mod, reason = "the same protocol, with other atomic types")]
mod ready;

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
}

use std::boxed::Box;
use std::ptr::{self, NonNull};
use std::vec::Vec;

use loom::cell::UnsafeCell;
use loom::sync::{Arc, Mutex};
use loom::thread;

use self::idle::Idle;
use self::inbox::{Inbox, Link};
use self::ready::Readiness;
use self::sync::{AtomicPtr, AtomicUsize, Ordering};

/// An area with one block.
struct Area {
    next: AtomicPtr<Area>,
    readiness: Readiness,
    /// Loom fails the model when two use it at once.
    block: UnsafeCell<usize>,
}

impl Link for Area {
    fn next(&self) -> &AtomicPtr<Self> {
        &self.next
    }
}

/// A registry of areas with one block each, and one module at a time.
struct Model {
    inbox: Inbox<Area>,
    idle: Idle<Area, 1>,
    image: AtomicUsize,
    /// Whether a module is published, as the image's extent says it.
    used: AtomicUsize,
    /// The list, under its lock.
    live: Mutex<Vec<NonNull<Area>>>,
}

// SAFETY: The areas are shared as the registry shares them, which is what is checked.
unsafe impl Send for Model {}
// SAFETY: As above.
unsafe impl Sync for Model {}

impl Model {
    fn new() -> Self {
        Self {
            inbox: Inbox { head: AtomicPtr::new(ptr::null_mut()) },
            idle: Idle { slots: [AtomicPtr::new(ptr::null_mut())] },
            image: AtomicUsize::new(0),
            used: AtomicUsize::new(0),
            live: Mutex::new(Vec::new()),
        }
    }

    fn area<'a>(area: NonNull<Area>) -> &'a Area {
        // SAFETY: Areas are freed when the model is dropped.
        unsafe { area.as_ref() }
    }

    /// `Registry::new_area`
    fn create(&self) -> NonNull<Area> {
        let area = self.idle.take().unwrap_or_else(|| {
            let new = Area {
                next: AtomicPtr::new(ptr::null_mut()),
                readiness: Readiness(AtomicUsize::new(0)),
                block: UnsafeCell::new(usize::MAX),
            };
            let new = NonNull::from(Box::leak(Box::new(new)));
            // SAFETY: New, and in place until the model is dropped.
            unsafe { self.inbox.push(new) };
            new
        });
        let this = Self::area(area);
        this.readiness.complete(|| {
            let image = match self.used.load(Ordering::Acquire) {
                0 => 0,
                _ => self.image.load(Ordering::Relaxed),
            };
            // SAFETY: Whether this is exclusive is what loom checks.
            this.block.with_mut(|block| unsafe { block.write(image) });
        });
        area
    }

    fn settle(&self, live: &mut Vec<NonNull<Area>>) {
        self.inbox.drain(|area| live.push(area));
    }

    /// `Reserved::publish`
    fn publish(&self, image: usize) {
        let mut live = self.live.lock().unwrap();
        self.image.store(image, Ordering::Relaxed);
        self.used.store(1, Ordering::Release);
        self.settle(&mut live);
        for area in live.iter().map(|area| Self::area(*area)) {
            if area.readiness.visit() {
                // SAFETY: Whether this is exclusive is what loom checks.
                area.block.with_mut(|block| unsafe { block.write(image) });
            }
        }
    }

    /// `Published::drop`
    fn withdraw(&self) {
        let mut live = self.live.lock().unwrap();
        self.settle(&mut live);
        self.used.store(0, Ordering::Release);
    }

    /// The part of `Area::drop` that the others notice.
    fn end(&self, area: NonNull<Area>) {
        let live = self.live.lock().unwrap();
        Self::area(area).readiness.retire();
        drop(live);
        assert!(self.idle.keep(area), "there is one area at most");
    }

    /// What the module's code finds in an area, when it runs.
    fn read(&self, area: NonNull<Area>) -> usize {
        assert!(Self::area(area).readiness.is_ready());
        // SAFETY: Whether others still write is what loom checks.
        Self::area(area).block.with(|block| unsafe { block.read() })
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        let mut live = self.live.lock().unwrap();
        self.settle(&mut live);
        for area in live.drain(..) {
            // SAFETY: From `Box::leak`; the threads have ended.
            drop(unsafe { Box::from_raw(area.as_ptr()) });
        }
    }
}

/// A thread of the model.
fn spawn<R: Send + 'static>(
    model: &Arc<Model>,
    act: impl FnOnce(&Model) -> R + Send + 'static,
) -> thread::JoinHandle<R> {
    let model = model.clone();
    thread::spawn(move || act(&model))
}

/// With three threads, most of what can go wrong takes few switches; all orders take minutes.
fn with_three_threads(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(check);
}

/// Lets a thread hand an area on.
struct Created(NonNull<Area>);
// SAFETY: As `Model`.
unsafe impl Send for Created {}

#[test]
fn an_area_created_during_a_publish_has_the_block() {
    loom::model(|| {
        let model = Arc::new(Model::new());
        let creator = spawn(&model, |model| Created(model.create()));
        model.publish(7);
        let Created(area) = creator.join().unwrap();
        assert_eq!(model.read(area), 7);
    });
}

#[test]
fn two_areas_created_during_a_publish_have_the_block() {
    with_three_threads(|| {
        let model = Arc::new(Model::new());
        let creators = [(); 2].map(|()| spawn(&model, |model| Created(model.create())));
        model.publish(7);
        for creator in creators {
            let Created(area) = creator.join().unwrap();
            assert_eq!(model.read(area), 7);
        }
    });
}

#[test]
fn an_area_created_while_two_modules_follow_each_other_has_the_second() {
    loom::model(|| {
        let model = Arc::new(Model::new());
        let creator = spawn(&model, |model| Created(model.create()));
        model.publish(7);
        model.withdraw();
        model.publish(8);
        let Created(area) = creator.join().unwrap();
        assert_eq!(model.read(area), 8);
    });
}

#[test]
fn an_idle_area_taken_during_a_publish_has_the_block() {
    loom::model(|| {
        let model = Arc::new(Model::new());
        model.end(model.create());
        let creator = spawn(&model, |model| Created(model.create()));
        model.publish(7);
        let Created(area) = creator.join().unwrap();
        assert_eq!(model.read(area), 7);
    });
}

#[test]
fn an_area_that_ends_and_is_taken_again_during_a_publish_has_the_block() {
    loom::model(|| {
        let model = Arc::new(Model::new());
        let first = Created(model.create());
        let task = spawn(&model, move |model| {
            let Created(area) = { first };
            model.end(area);
            Created(model.create())
        });
        model.publish(7);
        let Created(area) = task.join().unwrap();
        assert_eq!(model.read(area), 7);
    });
}

#[test]
fn an_area_that_ends_on_one_processor_begins_on_another_and_misses_no_publish() {
    with_three_threads(|| {
        let model = Arc::new(Model::new());
        let first = Created(model.create());
        let ending = spawn(&model, move |model| {
            let Created(area) = { first };
            model.end(area);
        });
        let creator = spawn(&model, |model| Created(model.create()));
        model.publish(7);
        let Created(area) = creator.join().unwrap();
        ending.join().unwrap();
        assert_eq!(model.read(area), 7);
    });
}
