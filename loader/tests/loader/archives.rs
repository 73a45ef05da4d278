//! Of an archive the members are taken that are needed, whoever needs them.

use crate::compile;
use crate::memory::HostMemory;
use crate::program::{Program, registry};
use unspool_loader::{ArchiveProblem, Cause, Handle, Input, LoadError, Loader, Set};

const FLAGS: &[&str] = &["-fPIC", "-fcommon"];

fn c(source: &str) -> Option<Vec<u8>> {
    compile::c(source, FLAGS)
}

/// A library: `first` and `third` need each other, `second` needs `fourth` weakly.
fn library() -> Option<Vec<u8>> {
    let first = c("extern int third(int); int first(int n) { return n ? third(n - 1) + 1 : 0; }")?;
    let second = c("extern int fourth(void) __attribute__((weak)); int second(void) {
        return fourth ? fourth() : -1; }")?;
    let third = c("extern int first(int); int third(int n) { return first(n) + 10; }
        int third_too;")?;
    let fourth = c("int fourth(void) { return 4; }")?;
    let members: [(&str, &[u8]); 5] = [
        ("first.o", &first),
        ("a_member_with_a_long_name.o", &second),
        ("third.o", &third),
        ("fourth.o", &fourth),
        ("notes.txt", b"not an object"),
    ];
    compile::archive(&members)
}

fn files(object: &Handle<'_>) -> Vec<String> {
    object.files().map(str::to_owned).collect()
}

/// Loads a set of these inputs, with symbols that count as referred to, and gives it to `check`.
fn with(
    inputs: &[Input<'_>],
    roots: &[&str],
    check: impl FnOnce(Result<Handle<'_>, LoadError>, &Loader<'_>),
) {
    let (memory, tls) = (HostMemory::default(), registry());
    let program = Program::bare();
    let loader = Loader::new(&memory, &program, &tls);
    check(loader.load_set(&Set::new("set", inputs).roots(roots)), &loader);
}

#[test]
fn members_are_taken_for_what_is_undefined_in_any_order() {
    let main = "extern int first(int); int main(void) { return first(3); }";
    let Some((main, library)) = c(main).zip(library()) else { return };
    let (main, library) = (Input::new("main.o", &main), Input::new("lib.a", &library));
    for inputs in [[main, library], [library, main]] {
        with(&inputs, &[], |object, _| {
            let object = object.unwrap();
            assert_eq!(files(&object), ["main.o", "lib.a(first.o)", "lib.a(third.o)"]);
            assert_eq!(function!(object, "main", fn() -> i32)(), 33);
        });
    }
}

#[test]
fn weak_references_take_nothing() {
    let main = "extern int second(void); int main(void) { return second(); }";
    let Some((main, library)) = c(main).zip(library()) else { return };
    let (main, library) = (Input::new("main.o", &main), Input::new("lib.a", &library));
    with(&[main, library], &[], |object, _| {
        let object = object.unwrap();
        assert_eq!(files(&object), ["main.o", "lib.a(a_member_with_a_long_name.o)"]);
        assert_eq!(function!(object, "main", fn() -> i32)(), -1);
    });
    with(&[main, library], &["fourth", "nobody_has_it"], |object, _| {
        assert_eq!(function!(object.unwrap(), "main", fn() -> i32)(), 4);
    });
}

#[test]
fn a_whole_archive_is_all_of_its_objects() {
    let Some(library) = library() else { return };
    with(&[Input::new("lib.a", &library).whole()], &[], |object, _| {
        let object = object.unwrap();
        assert_eq!(object.files().count(), 4);
        assert_eq!(function!(object, "second", fn() -> i32)(), 4);
        assert_eq!(function!(object, "first", fn(i32) -> i32)(1), 11);
    });
}

#[test]
fn roots_alone_take_members() {
    let Some(library) = library() else { return };
    let library = Input::new("lib.a", &library);
    with(&[library], &[], |object, _| assert_eq!(files(&object.unwrap()), [""; 0]));
    with(&[library], &["third_too"], |object, _| {
        assert_eq!(files(&object.unwrap()), ["lib.a(third.o)", "lib.a(first.o)"]);
    });
}

#[test]
fn what_others_define_is_not_taken() {
    let main =
        "extern int fourth(void), first(int); int main(void) { return fourth() + first(1); }";
    let here = "int fourth(void) { return 40; }";
    let Some((main, library)) = c(main).zip(library()) else { return };
    let here = c(here).unwrap();
    extern "C" fn first(n: i32) -> i32 {
        n + 1000
    }
    let (memory, tls) = (HostMemory::default(), registry());
    let program = Program::bare().with("first", first as *const () as u64);
    let loader = Loader::new(&memory, &program, &tls);
    let earlier = loader.load("earlier", &here).unwrap();
    let inputs = [Input::new("lib.a", &library), Input::new("main.o", &main)];
    let object = loader.load_set(&Set::new("set", &inputs)).unwrap();
    assert_eq!(files(&object), ["main.o"]);
    assert_eq!(function!(object, "main", fn() -> i32)(), 1041);
    let bound = loader.unload(&earlier, &crate::stacks::Frames::none()).unwrap_err();
    assert_eq!(bound.to_string(), "`set` uses symbols of it");
}

#[test]
fn the_first_archive_with_a_definition_is_asked() {
    let library = |value| {
        let file = c(&format!("int f(void) {{ return {value}; }}"))?;
        compile::archive(&[("f.o", &file)])
    };
    let Some((one, two)) = library(1).zip(library(2)) else { return };
    let (one, two) = (Input::new("one.a", &one), Input::new("two.a", &two));
    for (inputs, value) in [([one, two], 1), ([two, one], 2)] {
        with(&inputs, &["f"], |object, _| {
            assert_eq!(function!(object.unwrap(), "f", fn() -> i32)(), value);
        });
    }
    // Whole, both are taken.
    with(&[one.whole(), two.whole()], &[], |error, _| {
        let error = error.unwrap_err();
        assert_eq!(error.object(), "two.a(f.o)");
        let first = "one.a(f.o)".into();
        assert_eq!(*error.cause(), Cause::Duplicate { symbol: "f".into(), first });
    });
}

#[test]
fn an_archive_without_an_index_is_searched() {
    let Some(library) = library() else { return };
    // The index is the first member; its size is at 48 of its header, which is at 8.
    let size: usize = str::from_utf8(&library[56..66]).unwrap().trim().parse().unwrap();
    let rest = 8 + 60 + size.next_multiple_of(2);
    let library = [&library[..8], &library[rest..]].concat();
    with(&[Input::new("lib.a", &library)], &["fourth"], |object, _| {
        assert_eq!(files(&object.unwrap()), ["lib.a(fourth.o)"]);
    });
}

#[test]
fn what_is_wrong_with_an_archive_is_told_with_its_name() {
    let Some(library) = library() else { return };
    for input in
        [Input::new("lib.a", &library[..200]), Input::new("lib.a", &library[..200]).whole()]
    {
        with(&[input], &[], |error, loader| {
            let error = error.unwrap_err();
            assert_eq!(error.object(), "lib.a");
            let Cause::Archive { problem, .. } = error.cause() else { panic!("{error}") };
            assert!(matches!(problem, ArchiveProblem::Truncated { len: 200, .. }), "{error}");
            assert_eq!(loader.objects().count(), 0);
        });
    }
    let mut bad = library.clone();
    let at = bad.windows(4).position(|bytes| bytes == b"\x7fELF").unwrap();
    bad[at + 4] = 1;
    with(&[Input::new("lib.a", &bad)], &["first"], |error, _| {
        assert_eq!(
            error.unwrap_err().to_string(),
            "lib.a(first.o): ELF class 1, expected 2 (64-bit)"
        );
    });
}
