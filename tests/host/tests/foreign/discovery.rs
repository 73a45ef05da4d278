//! How modules are found: by the dynamic linker's table, by its list, or as they were registered.
//!
//! ```text
//!   _dl_find_object ─────┐
//!   dl_iterate_phdr ─────┼─► the same answers, while libraries come and go
//!   __register_frame … ──┘
//! ```

use std::path::PathBuf;
use std::process::Command;

use crate::harness::{
    OK, Ours, compare, compile, ours, output, scratch, with_ours, without_dl_find_object,
};
use crate::library::symbols;

/// Two libraries that differ in the size of a frame, in a folder, and programs for them; an argument
/// for the linker.
fn plugins(folder: &str, linker: &str, programs: &[&str]) -> Vec<PathBuf> {
    std::fs::create_dir_all(scratch().join(folder)).unwrap();
    for (name, size) in [("plugin_a.so", "-DSIZE=64"), ("plugin_b.so", "-DSIZE=96")] {
        let compiler = ["g++", "-O2", "-shared", "-fPIC", size, linker];
        compile(&format!("{folder}/{name}"), &compiler, &["plugin.cpp"]);
    }
    let compile = |name: &&str| {
        let source = format!("{name}.cpp");
        compile(&format!("{folder}/{name}"), &["g++", "-O2", "-pthread"], &[&source])
    };
    programs.iter().map(compile).collect()
}

fn asks_for_find_object(ours: &Ours) -> bool {
    symbols(&ours.library, false).iter().any(|(name, ..)| name == "_dl_find_object")
}

const ID: &str = "-Wl,--build-id";
const NO_ID: &str = "-Wl,--build-id=none";

#[test]
fn libraries_in_the_place_of_others_are_not_taken_for_them() {
    // Too short to be a hash: the same for both.
    for (folder, id) in [("ids", ID), ("no-ids", NO_ID), ("short-ids", "-Wl,--build-id=0x1234")] {
        let programs = plugins(&format!("unloading-{folder}"), id, &["unloading"]);
        compare(&programs[0], "plugin_b.so threw 96");
    }
}

#[test]
fn threads_throw_through_libraries_that_come_and_go() {
    for (folder, id) in [("ids", ID), ("no-ids", NO_ID)] {
        let programs = plugins(&format!("churn-{folder}"), id, &["churn"]);
        let sums = "0\n0\n76725600\n115087200\n95906400\n95906400\n1918128\n";
        compare(&programs[0], &format!("{sums}one has been in the other's place\n{OK}\n"));
    }
}

#[test]
fn a_throw_waits_for_no_lock_of_the_dynamic_linker() {
    for (folder, id) in [("ids", ID), ("no-ids", NO_ID)] {
        let programs = plugins(&format!("locked-{folder}"), id, &["locked"]);
        compare(&programs[0], &format!("the lock was not needed\ncaught 6, destroyed 20\n{OK}\n"));
        // What the program sees if it is needed.
        let mut command = Command::new(&programs[0]);
        command.arg("1").env("LD_LIBRARY_PATH", &without_dl_find_object().place);
        assert!(output(&mut command).starts_with("somebody waits for the lock\n"));
    }
}

#[test]
fn a_c_library_without_find_object_is_asked_for_its_list() {
    assert!(asks_for_find_object(ours()));
    assert!(!asks_for_find_object(without_dl_find_object()));
    let mut programs = plugins("by-list", ID, &["unloading", "churn", "exceptions"]);
    programs.push(compile("backtrace-by-list", &["gcc", "-O1"], &["backtrace.c"]));
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

#[test]
fn tables_hide_nothing_that_lies_between_their_functions() {
    let program = compile("sparse", &["g++", "-O1"], &["sparse.cpp"]);
    compare(&program, "caught 1 before\ncaught 1 between\ncaught 1 after\n");
}

#[test]
fn libraries_come_and_go_in_the_midst_of_what_is_registered() {
    std::fs::create_dir_all(scratch().join("between")).unwrap();
    for (name, size) in [("between_a.so", "-DSIZE=64"), ("between_b.so", "-DSIZE=100")] {
        let compiler = ["g++", "-O2", "-shared", "-fPIC", size, ID];
        compile(&format!("between/{name}"), &compiler, &["between.cpp"]);
    }
    let program = compile("between/between", &["g++", "-O2"], &["between.cpp"]);
    compare(&program, "~64\ncaught 1\n~64\ncaught 1\n~100\ncaught 1\n~100\ncaught 1\n~64\n");
}
