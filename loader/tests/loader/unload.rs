//! Objects go when nobody needs them, and stay with a reason when somebody does.

use crate::compile::{self, RUST_FLAGS};
use crate::memory::HostMemory;
use crate::program::{Program, SURPLUS, registry};
use crate::stacks::Frames;
use std::sync::atomic::{AtomicBool, Ordering};
use unspool_loader::{Loader, UnloadError};
use unspool_stack_trace::Symbolize as _;
use unspool_unwind::FindModule as _;

const SOURCE: &str = r#"
use core::cell::Cell;
#[thread_local] #[unsafe(no_mangle)] pub static LOCAL: Cell<u64> = Cell::new(7);
#[unsafe(no_mangle)] pub extern "C" fn base() -> u64 { core::hint::black_box(40) }
pub struct Guard; impl Drop for Guard { fn drop(&mut self) { base(); } }
#[unsafe(no_mangle)] pub extern "C-unwind" fn one(call: extern "C-unwind" fn()) -> u64 {
    let _guard = Guard; call(); LOCAL.get()
}
"#;

const USER: &str = r#"
unsafe extern "C" { fn base() -> u64; }
#[unsafe(no_mangle)] pub extern "C" fn user() -> u64 { unsafe { base() + 2 } }
"#;

const PIC: &[&str] = RUST_FLAGS[3];

fn frame_at(address: u64) -> Frames {
    Frames { at: vec![address], ..Frames::default() }
}

#[test]
fn an_unloaded_object_leaves_nothing_but_its_last_handle() {
    let (memory, program, tls) = (HostMemory::default(), Program::full(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    let file = compile::rust(SOURCE, PIC);
    for _ in 0..3 {
        let object = loader.load("guest", &file).unwrap();
        let (base, text) = (object.symbol("base").unwrap(), object.text());
        assert_eq!(function!(object, "base", fn() -> u64)(), 40);
        let stacks = Frames::none();
        assert_eq!(loader.unload(&object, &stacks), Ok(()));
        assert_eq!(stacks.asked.lock().unwrap().first(), Some(&text));

        assert_eq!((memory.live(), tls.surplus_free()), (0, SURPLUS));
        let found = unspool_unwind::global().find(text.start);
        assert!(found.is_none_or(|module| module.text != (text.start, text.end)));
        assert!(loader.symbolize(base).is_none());
        assert_eq!((loader.symbol("base"), loader.objects().count()), (None, 0));
        assert!(loader.object("guest").is_none());
        assert_eq!((object.name(), object.symbol("base")), ("guest", Some(base)));
        assert_eq!(loader.unload(&object, &stacks), Err(UnloadError::NotLoaded));
        assert_eq!(loader.unload(&object.clone(), &stacks), Err(UnloadError::NotLoaded));
    }
}

#[test]
fn an_object_stays_while_somebody_else_holds_it() {
    let (memory, program, tls) = (HostMemory::default(), Program::full(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    let object = loader.load("guest", &compile::rust(SOURCE, PIC)).unwrap();
    let others = [loader.object("guest").unwrap(), object.clone()];
    let stacks = Frames::none();
    let held = loader.unload(&object, &stacks);
    assert_eq!(held, Err(UnloadError::Held { handles: 2 }));
    assert_eq!(held.unwrap_err().to_string(), "other handles of it exist (2)");
    assert_eq!(stacks.asked.lock().unwrap().len(), 0);
    assert_eq!(function!(object, "base", fn() -> u64)(), 40);
    drop(others);
    assert_eq!(loader.unload(&object, &stacks), Ok(()));
}

#[test]
fn an_object_stays_while_another_is_bound_to_it() {
    let (memory, program, tls) = (HostMemory::default(), Program::full(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    let stacks = Frames::none();
    let first = loader.load("first", &compile::rust(SOURCE, PIC)).unwrap();
    let other = loader.load("other", &compile::rust("", PIC)).unwrap();
    let user = loader.load("user", &compile::rust(USER, PIC)).unwrap();
    let bound = || Err(UnloadError::BoundBy { object: "user".into() });
    assert_eq!(loader.unload(&first, &stacks), bound());
    assert_eq!(bound().unwrap_err().to_string(), "`user` uses symbols of it");
    assert_eq!(function!(user, "user", fn() -> u64)(), 42);
    // Refused, it is there for everyone as before.
    assert_eq!(loader.object("first").unwrap().text(), first.text());
    assert_eq!(loader.unload(&other, &stacks), Ok(()));
    assert_eq!(loader.unload(&first, &stacks), bound());
    assert_eq!(loader.unload(&user, &stacks), Ok(()));
    assert_eq!(loader.unload(&first, &stacks), Ok(()));
    assert_eq!((memory.live(), tls.surplus_free()), (0, SURPLUS));
}

#[test]
fn objects_are_not_bound_to_each_other_by_what_is_hidden() {
    let (memory, program, tls) = (HostMemory::default(), Program::full(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    for flags in RUST_FLAGS {
        // Both bring the hidden weak `DW.ref.rust_eh_personality`, if they are `pic`.
        let first = loader.load("first", &compile::rust(SOURCE, flags)).unwrap();
        let second = loader.load("second", &compile::rust(SOURCE, flags)).unwrap();
        assert_eq!(loader.unload(&first, &Frames::none()), Ok(()));
        assert_eq!(function!(second, "base", fn() -> u64)(), 40);
        assert_eq!(loader.unload(&second, &Frames::none()), Ok(()));
    }
}

#[test]
fn objects_that_share_a_weak_definition_go_in_reverse_order() {
    let source = "__attribute__((weak, noinline)) int shared(void) { return 1; }
        int call(void) { return shared(); }";
    let Some(file) = compile::c(source, &["-fPIC"]) else { return };
    let (memory, program, tls) = (HostMemory::default(), Program::bare(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    let first = loader.load("first", &file).unwrap();
    let second = loader.load("second", &file).unwrap();
    let bound = UnloadError::BoundBy { object: "second".into() };
    assert_eq!(loader.unload(&first, &Frames::none()), Err(bound));
    assert_eq!(loader.unload(&second, &Frames::none()), Ok(()));
    assert_eq!(loader.unload(&first, &Frames::none()), Ok(()));
}

#[test]
fn an_object_stays_while_a_frame_of_it_is_on_a_stack() {
    let (memory, program, tls) = (HostMemory::default(), Program::full(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    let object = loader.load("guest", &compile::rust(SOURCE, PIC)).unwrap();
    let text = object.text();
    for address in [text.start, text.end - 1] {
        let refused = loader.unload(&object, &frame_at(address));
        assert_eq!(refused, Err(UnloadError::OnStack));
    }
    assert_eq!(memory.live(), 1);
    assert_eq!(loader.unload(&object, &frame_at(text.end)), Ok(()));
}

#[test]
fn a_handle_of_another_loader_is_not_loaded_here() {
    let (memory, program, tls) = (HostMemory::default(), Program::full(), registry());
    let (one, two) = (Loader::new(&memory, &program, &tls), Loader::new(&memory, &program, &tls));
    let object = one.load("guest", &compile::rust(USER, PIC)).unwrap();
    assert_eq!(two.unload(&object, &Frames::none()), Err(UnloadError::NotLoaded));
    assert_eq!(one.unload(&object, &Frames::none()), Ok(()));
}

#[test]
fn objects_can_be_unloaded_while_they_are_listed() {
    let (memory, program, tls) = (HostMemory::default(), Program::full(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    let file = compile::rust(SOURCE, PIC);
    for name in ["a", "b", "c", "d"] {
        loader.load(name, &file).unwrap();
    }
    let mut seen = String::new();
    for object in loader.objects() {
        seen += object.name();
        if seen.len().is_multiple_of(2) {
            assert_eq!(loader.unload(&object, &Frames::none()), Ok(()));
        }
    }
    assert_eq!((&*seen, memory.live()), ("abcd", 2));
    let left: Vec<_> = loader.objects().map(|object| object.name().to_owned()).collect();
    assert_eq!(left, ["a", "c"]);
}

#[test]
fn a_name_that_was_handed_out_outlives_its_object() {
    let (memory, program, tls) = (HostMemory::default(), Program::full(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    let file = compile::rust(SOURCE, PIC);
    let mut names = Vec::new();
    for _ in 0..3 {
        let object = loader.load("guest", &file).unwrap();
        let symbol = loader.symbolize(object.symbol("base").unwrap() + 1).unwrap();
        loader.unload(&object, &Frames::none()).unwrap();
        names.push(symbol.name);
    }
    assert_eq!(names, ["base"; 3]);
    // Loaded again, it uses the names that are there.
    assert!(
        names.iter().all(|name| core::ptr::eq(name.whole().unwrap(), names[0].whole().unwrap()))
    );
}

#[test]
fn readers_take_no_lock_and_see_whole_objects_while_others_come_and_go() {
    const ROUNDS: usize = 1500;
    let (memory, program, tls) = (HostMemory::default(), Program::full(), registry());
    let loader = Loader::new(&memory, &program, &tls);
    let stays = loader.load("stays", &compile::rust(USER, PIC)).unwrap().symbol("user").unwrap();
    let file = compile::rust(SOURCE, PIC);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut seen = 0u32;
                while !done.load(Ordering::Relaxed) || seen == 0 {
                    assert_eq!(loader.symbolize(stays).unwrap().name, "user");
                    for object in loader.objects() {
                        let name = object.name();
                        assert!(["stays", "guest"].contains(&name));
                        if let Some(base) = object.symbol("base") {
                            // Held, so it is still there to be named.
                            assert_eq!(loader.symbolize(base).unwrap().name, "base");
                            seen += 1;
                        }
                    }
                }
            });
        }
        let mut unloaded = 0;
        while unloaded < ROUNDS {
            let object = loader.load("guest", &file).unwrap();
            loop {
                match loader.unload(&object, &Frames::none()) {
                    Ok(()) => break,
                    Err(UnloadError::Held { .. }) => std::thread::yield_now(),
                    Err(error) => panic!("{error}"),
                }
            }
            unloaded += 1;
        }
        // The readers end with one that stays.
        loader.load("guest", &file).unwrap();
        done.store(true, Ordering::Relaxed);
    });
    assert_eq!((memory.live(), loader.objects().count()), (2, 2));
}
