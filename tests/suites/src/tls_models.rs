//! Every TLS model of every compiler, reached from every kind of task.
//!
//! ```text
//!   early task ─ waits ─────────────────────────► uses its copy
//!   this task  ─ loads ─► uses its own first ───► uses its own
//!   late task                        spawned ───► uses its copy
//! ```

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::transmute;
use core::ptr::with_exposed_provenance;

use spin::Once;
use unspool_kernel::boot::boot;
use unspool_kernel::platform::tls_registry;
use unspool_kernel::{loader, task};

use crate::support::module;

crate::tests![
    every_model_works_in_tasks_older_and_younger_than_the_object,
    without_static_space_dynamic_models_still_work,
    without_static_space_static_models_are_refused_with_numbers,
];

/// The functions of `tests/objects/models/access.*`.
#[derive(Clone, Copy)]
struct Access {
    start: extern "C" fn() -> i64,
    set_start: extern "C" fn(i64),
    zero_sum: extern "C" fn() -> i64,
    shared: extern "C" fn(i32) -> i32,
    wide_address: extern "C" fn() -> usize,
    wide_first: extern "C" fn() -> i32,
}

impl Access {
    fn find(symbol: impl Fn(&str) -> Option<u64>) -> Self {
        let function = |name: &str| {
            let address = symbol(name).unwrap_or_else(|| panic!("no {name}"));
            with_exposed_provenance::<()>(address as usize)
        };
        // SAFETY: the functions of these names have these types in both sources.
        unsafe {
            Self {
                start: transmute::<*const (), extern "C" fn() -> i64>(function("access_start")),
                set_start: transmute::<*const (), extern "C" fn(i64)>(function("access_set_start")),
                zero_sum: transmute::<*const (), extern "C" fn() -> i64>(function(
                    "access_zero_sum",
                )),
                shared: transmute::<*const (), extern "C" fn(i32) -> i32>(function(
                    "access_shared",
                )),
                wide_address: transmute::<*const (), extern "C" fn() -> usize>(function(
                    "access_wide_address",
                )),
                wide_first: transmute::<*const (), extern "C" fn() -> i32>(function(
                    "access_wide_first",
                )),
            }
        }
    }

    /// A task's first and second use of its own copies.
    fn check(self, name: &str, task: &str) {
        let context = format!("{name}, {task} task");
        assert_eq!((self.start)(), 0x1122_3344_5566_7788, "{context}");
        assert_eq!((self.zero_sum)(), 0, "{context}");
        assert_eq!((self.shared)(2), 42, "{context}");
        assert_eq!((self.wide_first)(), 5, "{context}");
        assert!((self.wide_address)().is_multiple_of(128), "{context}");
        let mine = unspool::tls::current().address() as i64;
        (self.set_start)(mine);
        task::yield_now();
        assert_eq!((self.start)(), mine, "{context}: another task changed it");
        assert_eq!((self.zero_sum)(), 9, "{context}");
        assert_eq!((self.shared)(-2), 40, "{context}");
    }
}

/// The objects whose names contain one of `models`.
fn objects(models: &'static [&str]) -> impl Iterator<Item = &'static str> {
    let access = boot().modules().map(|module| module.name).filter(|n| n.starts_with("access."));
    access.filter(|name| models.iter().any(|model| name.contains(model)))
}

fn check(name: &'static str) {
    let loaded = Arc::new(Once::<Access>::new());
    let early = task::spawn("early", {
        let loaded = Arc::clone(&loaded);
        move || {
            while !loaded.is_completed() {
                task::yield_now();
            }
            loaded.get().expect("completed").check(name, "early");
        }
    });
    task::yield_now();
    let object = loader().load(name, module(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let access = Access::find(|symbol| object.symbol(symbol));
    access.check(name, "loading");
    loaded.call_once(|| access);
    let late = task::spawn("late", move || access.check(name, "late"));
    early.join().unwrap();
    late.join().unwrap();
}

fn every_model_works_in_tasks_older_and_younger_than_the_object() {
    let names: Vec<_> = objects(&["-le-", "-ie-", "-gd-", "-ld-", "-desc-"]).collect();
    assert_eq!(names.len(), 26, "{names:?}");
    names.into_iter().for_each(check);
}

fn without_static_space_dynamic_models_still_work() {
    let rest = take_surplus();
    let names: Vec<_> = objects(&["-gd-", "-ld-", "-desc-"]).collect();
    assert_eq!(names.len(), 14, "{names:?}");
    names.into_iter().for_each(check);
    drop(rest);
}

fn without_static_space_static_models_are_refused_with_numbers() {
    let rest = take_surplus();
    for name in objects(&["-le-", "-ie-"]) {
        let error = match loader().load(name, module(name)) {
            Ok(_) => panic!("{name} was loaded"),
            Err(error) => format!("{error}"),
        };
        let free = tls_registry().surplus_free();
        assert!(error.contains(&format!("{free}")), "{name}: {error}");
    }
    drop(rest);
}

/// Takes all of the surplus that can be taken in one piece, until the result is dropped.
fn take_surplus() -> impl Sized {
    let mut taken = Vec::new();
    let mut size = tls_registry().surplus_free();
    while size > 0 {
        match tls_registry().reserve(size, 1) {
            Ok(reserved) => taken.push(reserved),
            Err(_) => size /= 2,
        }
        size = size.min(tls_registry().surplus_free());
    }
    taken
}
