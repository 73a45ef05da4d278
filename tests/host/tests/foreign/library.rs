//! The library as a file: its names and their versions, and programs that are linked against it.
//!
//! ```text
//!   libgcc_s.so.1 ─ names @ versions ─┐        linked.c ─ ld.bfd, ld.lld ─┬─ libgcc_s.so.1 ─┐
//!   ours ────────── names @ versions ─┴─ same?                            └─ ours ──────────┴─ same?
//! ```

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::Endianness;
use object::elf::{
    FileHeader64, GNU_PROPERTY_X86_FEATURE_1_AND, GNU_PROPERTY_X86_FEATURE_1_SHSTK, SHT_DYNSYM,
};
use object::read::elf::{FileHeader as _, ProgramHeader as _, Sym as _};

use crate::harness::{compare, compile, ours};

/// A dynamic symbol: name, version, whether it is the one that is meant without a version.
type Versioned = (String, String, bool);

/// The dynamic symbols that a file defines, or those that it needs; the version may be empty.
pub fn symbols(file: &Path, defined: bool) -> BTreeSet<Versioned> {
    let data = std::fs::read(file).unwrap();
    let header = FileHeader64::<Endianness>::parse(&*data).unwrap();
    let endian = header.endian().unwrap();
    let sections = header.sections(endian, &*data).unwrap();
    let symbols = sections.symbols(endian, &*data, SHT_DYNSYM).unwrap();
    let versions = sections.versions(endian, &*data).unwrap().expect("versions");
    let mut found = BTreeSet::new();
    for (index, symbol) in symbols.enumerate() {
        let number = versions.version_index(endian, index);
        let version = versions.version(number.into()).unwrap().map_or(&b""[..], |each| each.name());
        let name = String::from_utf8_lossy(symbol.name(endian, symbols.strings()).unwrap());
        let version = String::from_utf8_lossy(version).into_owned();
        // GNU ld also defines a symbol for each version.
        if symbol.is_undefined(endian) != defined && name != version {
            found.insert((name.into_owned(), version, !number.is_hidden()));
        }
    }
    found
}

/// What gcc links with.
fn libgcc() -> PathBuf {
    let output = Command::new("gcc").arg("-print-file-name=libgcc_s.so.1").output().unwrap();
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}

fn is_of_unwinding(name: &str) -> bool {
    ["_Unwind_", "__register_frame", "__deregister_frame", "__gcc_personality"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

#[test]
fn names_of_unwinding_have_the_versions_of_libgcc() {
    let of_unwinding = |file: &Path| {
        let mut all = symbols(file, true);
        all.retain(|(name, ..)| is_of_unwinding(name));
        all
    };
    let theirs = of_unwinding(&libgcc());
    assert!(theirs.len() >= 28, "{theirs:?}");
    assert_eq!(of_unwinding(&ours().library), theirs);
}

#[test]
fn arithmetic_has_the_versions_of_libgcc() {
    // Thread-local storage without the linker's help, and CPUs: x86-64 compilers ask for neither.
    let left_out = ["__emutls_get_address", "__emutls_register_common", "__cpu_"];
    let names = |file: &Path| -> BTreeSet<_> {
        let all = symbols(file, true).into_iter();
        all.map(|(name, version, _)| (name, version)).collect()
    };
    let ours = names(&ours().library);
    let known: BTreeSet<_> = ours.iter().map(|(_, version)| version.clone()).collect();
    let missing: Vec<_> = names(&libgcc())
        .difference(&ours)
        // Later versions than those that the library knows are a later libgcc's.
        .filter(|(_, version)| known.contains(version))
        .filter(|(name, _)| !left_out.iter().any(|each| name.starts_with(each)))
        .cloned()
        .collect();
    assert_eq!(missing, []);
}

/// Where rustc has its lld for gcc.
fn folder_with_lld() -> PathBuf {
    let output = Command::new("rustc").args(["--print", "sysroot"]).output().unwrap();
    let sysroot = PathBuf::from(String::from_utf8(output.stdout).unwrap().trim());
    sysroot.join("lib/rustlib/x86_64-unknown-linux-gnu/bin/gcc-ld")
}

#[test]
fn programs_can_be_linked_against_it_by_either_linker() {
    let lld = format!("-B{}", folder_with_lld().display());
    let mut needs = BTreeSet::new();
    for (name, library) in [("libgcc", libgcc()), ("ours", ours().place.join("libgcc_s.so.1"))] {
        for linker in [["-fuse-ld=bfd", "-B."], ["-fuse-ld=lld", &lld]] {
            let name = format!("linked-{name}-{}", &linker[0][9..]);
            let library = library.to_str().unwrap();
            let common = [
                "gcc",
                "-O1",
                "-fexceptions",
                "-nodefaultlibs",
                "-Wl,--no-as-needed",
                "-lc",
                library,
            ];
            let program = compile(&name, &[&common[..], &linker].concat(), &["linked.c"]);
            compare(&program, "1\n1\nraised: 5\ncleanup on the way\nstopped\n");
            let mut all = symbols(&program, false);
            all.retain(|(name, ..)| is_of_unwinding(name));
            needs.insert(all.into_iter().map(|(name, version, _)| (name, version)).collect());
        }
    }
    let needs: Vec<BTreeSet<(String, String)>> = needs.into_iter().collect();
    assert_eq!(needs.len(), 1, "{needs:?}");
    assert!(needs[0].len() >= 12, "{needs:?}");
}

/// A landing leaves frames that a shadow stack still has; whoever loads the library must not have one.
#[test]
fn the_library_does_not_claim_to_know_shadow_stacks() {
    let data = std::fs::read(&ours().library).unwrap();
    let header = FileHeader64::<Endianness>::parse(&*data).unwrap();
    let endian = header.endian().unwrap();
    let mut properties = Vec::new();
    for segment in header.program_headers(endian, &*data).unwrap() {
        let Some(mut notes) = segment.notes(endian, &*data).unwrap() else { continue };
        while let Some(note) = notes.next().unwrap() {
            properties
                .extend(note.gnu_properties(endian).into_iter().flatten().map(Result::unwrap));
        }
    }
    let claims = properties.iter().filter(|each| each.pr_type() == GNU_PROPERTY_X86_FEATURE_1_AND);
    let features: u32 = claims.map(|each| each.data_u32(endian).unwrap()).sum();
    assert_eq!(features & GNU_PROPERTY_X86_FEATURE_1_SHSTK, 0, "{features:#x}");
}
