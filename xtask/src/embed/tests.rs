//! On programs that the linker makes here and Linux runs.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use super::*;
use crate::scratch::Scratch;

/// Exits with the first byte of its symbol table.
const PROGRAM: &str = "
    .globl _start
    .type _start, @function
    _start: movzbl __unspool_symbols, %edi
            movl $231, %eax
    inner:
            syscall
    .size _start, . - _start
    .section .data
    .globl counter
    .type counter, @object
    counter: .quad 1
    .size counter, 8
    .globl absolute
    .set absolute, 64
    .section .note.GNU-stack, \"\", @progbits
";

/// `before` and `after` surround the section, `inside` shares it with the placeholder.
fn script(before: &str, section: &str, after: &str) -> String {
    format!(
        "ENTRY(_start)
        PHDRS {{ text PT_LOAD; data PT_LOAD; last PT_LOAD FLAGS(4); above PT_LOAD; }}
        SECTIONS {{
            . = 0x400000;
            .text : {{ *(.text) }} :text
            . = 0x500000;
            .data : {{ *(.data) *(.bss) }} :data
            . = 0x600000;
            {before}
            {section}
            {after}
            /DISCARD/ : {{ *(.note*) *(.comment) }}
        }}"
    )
}

/// The placeholder as kernels have it.
const PLACEHOLDER: &str = ".unspool.symbols : { __unspool_symbols = .; QUAD(0) QUAD(0) } :last";

/// Links [`PROGRAM`] by `script`; gives the directory to keep and the file.
fn link(name: &str, script: &str) -> (Scratch, PathBuf) {
    let scratch = Scratch::new(name);
    let (source, ld, elf) = (
        scratch.path().join("program.s"),
        scratch.path().join("program.ld"),
        scratch.path().join("program"),
    );
    fs::write(&source, PROGRAM).unwrap();
    fs::write(&ld, script).unwrap();
    let output = Command::new("cc")
        .args(["-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none", "-Wl,-T"])
        .arg(&ld)
        .arg("-o")
        .args([&elf, &source])
        .output()
        .expect("cc, which linking Rust needs anyway");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (scratch, elf)
}

fn exit_code(elf: &PathBuf) -> Option<i32> {
    loop {
        match Command::new(elf).status() {
            // Another test's child inherited the descriptor we wrote through; it closes it soon.
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => thread::yield_now(),
            status => return status.unwrap().code(),
        }
    }
}

#[test]
fn a_running_program_finds_its_table() {
    let (_scratch, path) = link("running", &script("", PLACEHOLDER, ""));
    assert_eq!(exit_code(&path), Some(0));

    let embedded = embed(&fs::read(&path).unwrap()).unwrap();
    let names: Vec<_> = symbols(&embedded.elf).unwrap().into_iter().map(|each| each.name).collect();
    let expected = table::build(&symbols(&fs::read(&path).unwrap()).unwrap())[0];
    assert!(names.contains(&"_start") && names.contains(&"counter"), "{names:?}");
    assert_ne!(expected, 0);

    // A new file: the old one may still be open for execution.
    let after = path.with_extension("embedded");
    fs::write(&after, &embedded.elf).unwrap();
    fs::set_permissions(&after, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(exit_code(&after), Some(expected.into()));
}

#[test]
fn the_section_and_its_segment_hold_the_blob() {
    let (_scratch, path) = link("headers", &script("", PLACEHOLDER, ""));
    let elf = fs::read(&path).unwrap();
    let blob: Vec<u8> = (0..10_000u32).map(|n| n as u8).collect();
    let grafted = graft(&elf, &blob).unwrap();

    let header = FileHeader64::<LE>::parse(&*grafted).unwrap();
    let sections = header.sections(LE, &*grafted).unwrap();
    let (_, section) = sections.section_by_name(LE, SECTION.as_bytes()).unwrap();
    assert_eq!(section.data(LE, &*grafted).unwrap(), blob);
    let segments = header.program_headers(LE, &*grafted).unwrap();
    let segment = segments.iter().find(|each| each.p_vaddr(LE) == 0x60_0000).unwrap();
    assert_eq!(segment.data(LE, &*grafted).unwrap(), blob);
    assert_eq!(segment.p_memsz(LE), 10_000);
    assert_eq!(segment.p_offset(LE) % segment.p_align(LE).max(1), 0);
}

#[test]
fn only_what_lies_in_memory_is_a_symbol() {
    let (_scratch, path) = link("symbols", &script("", PLACEHOLDER, ""));
    let elf = fs::read(&path).unwrap();
    let symbols = symbols(&elf).unwrap();
    let find = |wanted: &str| symbols.iter().find(|each| each.name == wanted).copied();
    let entry = |name, address, size, code| Entry { name, address, size, code, global: true };
    assert_eq!(find("counter"), Some(entry("counter", 0x50_0000, 8, false)));
    assert_eq!(find("__unspool_symbols"), Some(entry("__unspool_symbols", 0x60_0000, 0, false)));
    assert!(find("_start").is_some_and(|start| start.code && start.size > 0));
    let inner = find("inner").unwrap();
    assert!(inner.code && !inner.global);
    let start = find("_start").unwrap();
    let end = start.address + start.size;
    assert_eq!(inner.address + inner.size, end, "a label without a size reaches to the end");
    assert_eq!(find("absolute"), None);
}

#[test]
fn a_program_without_the_section_is_refused() {
    let (_scratch, path) = link("none", &script("__unspool_symbols = 0x400000;", "", ""));
    assert_eq!(embed(&fs::read(path).unwrap()).err(), Some(EmbedError::NoSection));
}

#[test]
fn a_segment_within_the_blobs_reach_is_refused() {
    let above = ". = 0x601000; .above : { QUAD(1) } :above";
    let (_scratch, path) = link("above", &script("", PLACEHOLDER, above));
    let elf = fs::read(path).unwrap();
    assert!(graft(&elf, &[1; 4096]).is_ok());
    let error = graft(&elf, &[1; 4097]).unwrap_err();
    let segment = 0x60_1000..0x60_1008;
    assert_eq!(error, EmbedError::Overlap { table: 0x60_0000..0x60_1001, segment });
}

#[test]
fn a_section_that_shares_its_segment_is_refused() {
    let other = ".other : { QUAD(1) } :last";
    let (_scratch, path) = link("shared", &script("", PLACEHOLDER, other));
    let error = embed(&fs::read(path).unwrap()).err();
    assert_eq!(error, Some(EmbedError::NotAlone { segment: 24, section: 16 }));

    let (_scratch, path) = link("second", &script(other, PLACEHOLDER, ""));
    let error = embed(&fs::read(path).unwrap()).err();
    assert_eq!(error, Some(EmbedError::NotPageAligned(0x60_0008)));
}

#[test]
fn what_is_no_elf_is_refused() {
    assert!(matches!(embed(b"#!/bin/sh"), Err(EmbedError::NotElf(_))));
    assert!(matches!(embed(&[]), Err(EmbedError::NotElf(_))));
}
