//! How modules are found: by the dynamic linker's table, by its list, or as they were registered.
//!
//! ```text
//!   _dl_find_object ─────┐
//!   dl_iterate_phdr ─────┼─► the same answers, while libraries come and go
//!   __register_frame … ──┘
//! ```

use std::process::Command;

use crate::harness::{
    OK, Ours, compare, compile, ours, output, scratch, with_ours, without_dl_find_object,
};
use crate::library::symbols;

/// Two libraries that differ in the size of a frame.
fn plugins() {
    for (name, size) in [("plugin_a.so", "-DSIZE=64"), ("plugin_b.so", "-DSIZE=96")] {
        // Other tests may have it loaded: it is not written to but replaced.
        let new = format!("{name}.{:?}", std::thread::current().id());
        let new = compile(&new, &["g++", "-O2", "-shared", "-fPIC", size], &["plugin.cpp"]);
        std::fs::rename(new, scratch().join(name)).unwrap();
    }
}

fn asks_for_find_object(ours: &Ours) -> bool {
    symbols(&ours.library, false).iter().any(|(name, ..)| name == "_dl_find_object")
}

#[test]
fn libraries_in_the_place_of_others_are_not_taken_for_them() {
    plugins();
    let program = compile("unloading", &["g++", "-O2"], &["unloading.cpp"]);
    compare(&program, "plugin_b.so threw 96");
}

#[test]
fn threads_throw_while_libraries_come_and_go() {
    plugins();
    let program = compile("churn", &["g++", "-O2", "-pthread"], &["churn.cpp"]);
    compare(&program, "0\n0\n76725600\n115087200\nexit status: 0\n");
}

#[test]
fn a_c_library_without_find_object_is_asked_for_its_list() {
    assert!(asks_for_find_object(ours()));
    assert!(!asks_for_find_object(without_dl_find_object()));
    plugins();
    let programs = [
        compile("unloading-by-list", &["g++", "-O2"], &["unloading.cpp"]),
        compile("churn-by-list", &["g++", "-O2", "-pthread"], &["churn.cpp"]),
        compile("exceptions-by-list", &["g++", "-O2"], &["exceptions.cpp"]),
        compile("backtrace-by-list", &["gcc", "-O1"], &["backtrace.c"]),
    ];
    for program in programs {
        let place = &without_dl_find_object().place;
        let by_list = output(Command::new(&program).env("LD_LIBRARY_PATH", place));
        assert_eq!(by_list, with_ours(&program), "{}", program.display());
    }
}

#[test]
fn tables_are_relative_to_what_they_were_registered_with() {
    let program = compile("bases", &["g++", "-O1"], &["bases.cpp"]);
    compare(&program, "relative to data\nfound: 1, text+data, 1\n");
    compare(&program, OK);
}
