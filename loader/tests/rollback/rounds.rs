//! What came and went ten thousand times is as if it had never been.

use crate::compile::{self, RUST_FLAGS};
use crate::memory::HostMemory;
use crate::program::{Program, SURPLUS, registry};
use crate::stacks::Frames;
use crate::{SOURCE, alone, heap, nothing_is_left};
use unspool_loader::{Handle, Loader};
use unspool_stack_trace::Symbolize as _;
use unspool_unwind::global;

const ROUNDS: usize = 10_000;

/// `object_name(index)`, called in the object.
fn call(object: &Handle<'_>) -> u8 {
    let address = object.symbol("name").unwrap();
    let address = std::ptr::with_exposed_provenance::<()>(address as usize);
    // SAFETY: the source defines a function of this name and type, and the object is held.
    let name = unsafe { std::mem::transmute::<*const (), extern "C" fn(usize) -> u8>(address) };
    name(1)
}

#[test]
fn ten_thousand_objects_come_and_go_and_leave_nothing() {
    let _alone = alone();
    let files = [RUST_FLAGS[1], RUST_FLAGS[3]].map(|flags| compile::rust(SOURCE, flags));
    let (memory, program, tls) = (HostMemory::default(), Program::full(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    let area = tls.new_area(0).unwrap();
    let stacks = Frames::none();
    let mut start = None;
    for round in 0..ROUNDS {
        // Two at a time, so that they go in another order than they came.
        let first = loader.load("first", &files[round % 2]).unwrap();
        let second = loader.load("second", &files[(round + 1) % 2]).unwrap();
        assert_eq!([call(&first), call(&second)], [b'b'; 2]);
        assert_eq!(global().len(), 2);
        loader.unload(&first, &stacks).unwrap();
        assert_eq!(call(&second), b'b');
        loader.unload(&second, &stacks).unwrap();
        drop((first, second));
        stacks.asked.lock().unwrap().clear();
        // What grows once with the first objects stays as it is.
        assert_eq!(*start.get_or_insert_with(heap::used), heap::used(), "round {round}");
    }
    drop(area);
    nothing_is_left(&memory, &tls);
    assert_eq!(loader.objects().count(), 0);
}

#[test]
fn names_that_were_handed_out_stay_once_however_often_their_object_comes() {
    let _alone = alone();
    let file = compile::rust(SOURCE, RUST_FLAGS[3]);
    let (memory, program, tls) = (HostMemory::default(), Program::full(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    let mut start = None;
    for _ in 0..100 {
        let object = loader.load("guest", &file).unwrap();
        assert_eq!(loader.symbolize(object.symbol("name").unwrap()).unwrap().name, "name");
        loader.unload(&object, &Frames::none()).unwrap();
        drop(object);
        assert_eq!(*start.get_or_insert_with(heap::used), heap::used());
    }
    drop(loader);
    assert_eq!((memory.live(), tls.surplus_free()), (0, SURPLUS));
}
