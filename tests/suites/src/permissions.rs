//! No page is writable and executable, at any moment; what is gone cannot be executed.
//!
//! ```text
//!   this task:    load ─ call ─ unload   again and again
//!   another one:  looks at everything that is mapped, as long as that lasts
//! ```

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::transmute;
use core::ops::Range;
use core::ptr::with_exposed_provenance;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use unspool::loader::{Handle, Object};
use unspool_kernel::fault::{FaultKind, PageAccess};
use unspool_kernel::machine::{Mapping, machine};
use unspool_kernel::{loader, task};

use crate::support::{module, unload_soon};

crate::tests![
    no_page_is_ever_writable_and_executable,
    no_memory_is_writable_at_one_address_and_executable_at_another,
    parts_of_an_object_have_their_own_permissions,
    text_of_an_unloaded_object_cannot_be_executed,
    data_of_an_object_cannot_be_executed_nor_its_text_written,
];

const OBJECT: &str = "plain.pic.o";
const ROUNDS: u32 = 200;

fn mappings() -> Vec<Mapping> {
    // In one that is large enough already: the heap must not change what is looked at.
    let mut all = Vec::with_capacity(1 << 14);
    machine().mappings(&mut |mapping| all.push(mapping)).unwrap();
    all
}

/// Looks at all that is mapped; returns how many mappings that are.
fn look() -> usize {
    let mut count = 0;
    let visit = &mut |mapping: Mapping| {
        assert!(!(mapping.writable && mapping.executable), "{mapping:#x?}");
        count += 1;
    };
    machine().mappings(visit).unwrap();
    count
}

fn load() -> Handle<'static> {
    loader().load("permissions.o", module(OBJECT)).unwrap()
}

fn prime(object: &Object) -> extern "C" fn(u32) -> i32 {
    let address = object.symbol("plain_prime").unwrap() as usize;
    // SAFETY: the function of `tests/objects/plain.c`, with its type.
    unsafe { transmute::<*const (), extern "C" fn(u32) -> i32>(with_exposed_provenance(address)) }
}

fn no_page_is_ever_writable_and_executable() {
    assert!(look() > 4);
    let (stop, looks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let watcher = task::spawn("watcher", {
        let (stop, looks) = (Arc::clone(&stop), Arc::clone(&looks));
        move || {
            while !stop.load(Ordering::Relaxed) {
                look();
                looks.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let mut round = 0;
    // Where there is one CPU, loading and looking take turns.
    while round < ROUNDS || looks.load(Ordering::Relaxed) < 20 {
        let object = load();
        assert_eq!(prime(&object)(3), 7);
        look();
        unload_soon(&object);
        task::yield_now();
        round += 1;
    }
    stop.store(true, Ordering::Relaxed);
    watcher.join().unwrap();
    look();
}

fn no_memory_is_writable_at_one_address_and_executable_at_another() {
    let object = load();
    let all = mappings();
    let memory = |mapping: &Mapping| mapping.memory.map(|start| start..start + mapping.size);
    let writable: Vec<_> = all.iter().filter(|one| one.writable).filter_map(memory).collect();
    let executable: Vec<_> = all.iter().filter(|one| one.executable).filter_map(memory).collect();
    // A process is not told.
    assert_eq!(writable.is_empty(), executable.is_empty());
    let overlap =
        |one: &Range<u64>, other: &Range<u64>| one.start < other.end && other.start < one.end;
    for text in &executable {
        let alias = writable.iter().find(|data| overlap(text, data));
        assert!(alias.is_none(), "{text:#x?} and {alias:#x?}");
    }
    unload_soon(&object);
}

/// Whether each page of a range is mapped so.
fn is(all: &[Mapping], range: &Range<u64>, writable: bool, executable: bool) -> bool {
    let has = |address: u64| {
        all.iter()
            .find(|one| (one.start..one.start + one.size).contains(&address))
            .is_some_and(|one| (one.writable, one.executable) == (writable, executable))
    };
    range.clone().step_by(4096).all(has)
}

fn parts_of_an_object_have_their_own_permissions() {
    let object = load();
    let text = object.text();
    let counter = object.symbol("plain_count").unwrap();
    let all = mappings();
    assert!(!text.is_empty() && is(&all, &text, false, true));
    assert!(is(&all, &(counter..counter + 1), true, false));
    unload_soon(&object);
    let mapped = |one: &Mapping| one.start < text.end && text.start < one.start + one.size;
    // The process keeps the addresses, without any access.
    assert!(!mappings().iter().any(|one| mapped(one) && (one.writable || one.executable)));
}

/// The page fault that ends a task which does `body`.
fn fault_of(body: impl FnOnce() + Send + 'static) -> FaultKind {
    task::spawn("trespasser", body).join().faulted().expect("a fault, not a panic").kind
}

fn text_of_an_unloaded_object_cannot_be_executed() {
    let object = load();
    let prime = prime(&object);
    // On several CPUs, so that they have it cached.
    let users: Vec<_> = (0..8).map(|_| task::spawn("user", move || prime(3))).collect();
    users.into_iter().for_each(|user| assert_eq!(user.join().unwrap(), 7));
    unload_soon(&object);
    for _ in 0..8 {
        let kind = fault_of(move || assert_eq!(prime(3), 7));
        let expected = prime as *const () as u64;
        let right = matches!(kind, FaultKind::PageFault { address, access: PageAccess::Execute, .. }
            if address == expected);
        assert!(right, "{kind}");
    }
}

fn data_of_an_object_cannot_be_executed_nor_its_text_written() {
    let object = load();
    let counter = object.symbol("plain_count").unwrap();
    let kind = fault_of(move || {
        // SAFETY: none: this is data, and the fault is what is tested.
        let code = unsafe {
            transmute::<*const (), extern "C" fn()>(with_exposed_provenance(counter as usize))
        };
        code();
    });
    let (address, access, present) = (counter, PageAccess::Execute, true);
    assert_eq!(kind, FaultKind::PageFault { address, access, present });
    let text = object.text().start;
    let kind = fault_of(move || {
        let place = core::ptr::with_exposed_provenance_mut::<u8>(text as usize);
        // SAFETY: none: this is code, and the fault is what is tested.
        unsafe { place.write_volatile(0xc3) };
    });
    let (address, access) = (text, PageAccess::Write);
    assert_eq!(kind, FaultKind::PageFault { address, access, present });
    unload_soon(&object);
}
