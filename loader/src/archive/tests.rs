use super::*;
use alloc::vec::Vec;
use proptest::prelude::*;

/// An archive of entries as they are: raw name, bytes.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut file = MAGIC.to_vec();
    for (name, bytes) in entries {
        let size = bytes.len();
        let header = format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{size:<10}`\n", 0, 0, 0, 644);
        file.extend(header.as_bytes());
        file.extend(*bytes);
        file.extend((size % 2 == 1).then_some(b'\n'));
    }
    file
}

fn members(file: &[u8]) -> Result<Vec<(&str, &[u8])>, Cause> {
    let archive = Archive::parse(file)?;
    archive.members().map(|member| member.map(|member| (member.name, member.bytes))).collect()
}

fn symbols(file: &[u8]) -> Vec<(&str, &str)> {
    let archive = Archive::parse(file).unwrap();
    let symbols = archive.symbols().unwrap().unwrap();
    let named = |symbol: Result<(_, _), Cause>| {
        let (name, member) = symbol.unwrap();
        (name, archive.member_at(member).unwrap().name)
    };
    symbols.map(named).collect()
}

fn problem(file: &[u8]) -> (u64, ArchiveProblem) {
    match members(file) {
        Err(Cause::Archive { offset, problem }) => (offset, problem),
        other => panic!("{other:?}"),
    }
}

#[test]
fn members_of_gnu_archives_have_short_and_long_names() {
    let names = b"a_rather_long_name.o/\nlib/x y.o/\n";
    let entries: [(&str, &[u8]); 5] =
        [("/", b"\0\0\0\0"), ("//", names), ("short.o/", b"odd"), ("/0", b"long"), ("/22", b"")];
    let expected: [(&str, &[u8]); 3] =
        [("short.o", b"odd"), ("a_rather_long_name.o", b"long"), ("lib/x y.o", b"")];
    assert_eq!(members(&archive(&entries)).unwrap(), expected);
    assert_eq!(members(MAGIC).unwrap(), []);
}

#[test]
fn members_of_bsd_archives_have_their_names_with_them() {
    let entries: [(&str, &[u8]); 3] = [
        ("#1/12", b"__.SYMDEF\0\0\0\0\0\0\0\0\0\0\0"),
        ("plain.o", b"1"),
        ("#1/8", b"name.o\0\x00bytes"),
    ];
    let file = archive(&entries);
    let expected: [(&str, &[u8]); 2] = [("plain.o", b"1"), ("name.o", b"bytes")];
    assert_eq!(members(&file).unwrap(), expected);
    assert_eq!(symbols(&file), []);
}

#[test]
fn the_index_names_the_members_that_define_symbols() {
    let (first, second) = (8 + 60 + 24, 8 + 60 + 24 + 60 + 2);
    let numbers = [3, second, first, first].map(|n: u32| n.to_be_bytes()).concat();
    let table = [&numbers[..], b"b\0a\0ab\0\0"].concat();
    let expected = [("b", "two.o"), ("a", "one.o"), ("ab", "one.o")];
    let entries: [(&str, &[u8]); 3] = [("/", &table), ("one.o/", b"1\n"), ("two.o/", b"2")];
    assert_eq!(symbols(&archive(&entries)), expected);

    let (first, second) = (8 + 60 + 40, 8 + 60 + 40 + 60 + 2);
    let numbers = [3, second, first, first].map(|n: u64| n.to_be_bytes()).concat();
    let table = [&numbers[..], b"b\0a\0ab\0\0"].concat();
    let entries: [(&str, &[u8]); 3] = [("/SYM64/", &table), ("one.o/", b"1\n"), ("two.o/", b"2")];
    assert_eq!(symbols(&archive(&entries)), expected);
}

#[test]
fn the_index_of_a_bsd_archive_has_its_names_in_any_order() {
    for word in [4, 8] {
        let size = word * 6 + 6;
        let (first, second) = (8 + 60 + size, 8 + 60 + size + 60 + 2);
        let number = |n: usize| n.to_le_bytes()[..word].to_vec();
        let numbers = [4 * word, 2, second, 0, first, 6].map(number);
        let table = [&numbers.concat()[..], b"a\0bb\0\0"].concat();
        let name = if word == 4 { "__.SYMDEF" } else { "__.SYMDEF_64" };
        let entries: [(&str, &[u8]); 3] = [(name, &table), ("one.o", b"1\n"), ("two.o", b"2")];
        assert_eq!(symbols(&archive(&entries)), [("bb", "two.o"), ("a", "one.o")]);
    }
}

#[test]
fn what_is_wrong_is_told_with_the_offset_of_the_header() {
    let good = archive(&[("a.o/", b"12"), ("b.o/", b"34")]);
    assert_eq!(problem(b"!<thin>\n"), (0, ArchiveProblem::Thin));
    let (end, len) = (8 + 62 + 62, 8 + 62 + 61);
    assert_eq!(problem(&good[..131]), (70, ArchiveProblem::Truncated { end, len }));
    let (end, len) = (8 + 62 + 60, 8 + 62 + 59);
    assert_eq!(problem(&good[..129]), (70, ArchiveProblem::Truncated { end, len }));
    let with = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    assert_eq!(problem(&with(70 + 58, b"?")), (70, ArchiveProblem::NoHeader));
    assert_eq!(problem(&with(70 + 48, b"-")), (70, ArchiveProblem::BadSize));
    assert_eq!(problem(&with(70 + 48, b"99999999999")[..]).0, 70);
    for name in [&b"/7              "[..], b"#1/3            ", b"/x", b"\xff", b"                "]
    {
        assert_eq!(problem(&with(70, name)), (70, ArchiveProblem::BadName), "{name:?}");
    }
    let archive = Archive::parse(&good).unwrap();
    for offset in [0, 132, u64::MAX] {
        let error = archive.member_at(offset).unwrap_err();
        assert!(matches!(error, Cause::Archive { offset: at, .. } if at == offset));
    }
}

#[test]
fn an_index_that_names_more_than_it_has_is_refused() {
    let tables: [(&str, &[u8]); 5] = [
        ("/", b"\0\0"),
        ("/", b"\0\0\0\x02\0\0\0\0"),
        ("/SYM64/", b"\xff\xff\xff\xff\xff\xff\xff\xff"),
        ("__.SYMDEF", b"\x08\0\0\0\0\0\0\0"),
        ("__.SYMDEF", b"\x08\0\0\0\0\0\0\0\0\0\0\0\x09\0\0\0"),
    ];
    let bad = Cause::Archive { offset: 8, problem: ArchiveProblem::BadIndex };
    for (name, table) in tables {
        let file = archive(&[(name, table), ("a.o/", b"")]);
        let result = Archive::parse(&file).unwrap().symbols().map(|symbols| symbols.is_some());
        assert_eq!(result, Err(bad.clone()), "{table:?}");
    }
    let file = archive(&[("/", b"\0\0\0\x01\0\0\0\x08name"), ("a.o/", b"")]);
    let archive = Archive::parse(&file).unwrap();
    assert_eq!(archive.symbols().unwrap().unwrap().next(), Some(Err(bad)));
}

#[test]
fn archives_without_an_index_have_members_all_the_same() {
    let file = archive(&[("lib.rmeta/", b"rust"), ("x.rmeta/", b""), ("a.rmeta.o/", b"")]);
    let archive = Archive::parse(&file).unwrap();
    assert!(is_archive(&file) && archive.symbols().unwrap().is_none());
    let metadata = archive.members().map(|member| member.unwrap().is_metadata());
    assert_eq!(metadata.collect::<Vec<_>>(), [true, true, false]);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(
        name in "(/|//|/SYM64/|__.SYMDEF|#1/[0-9]|/[0-9]|[ -~]{0,16})",
        table in prop::collection::vec(0u8..20, 0..80),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut file = archive(&[(&name, &table), ("a.o/", b"1"), ("/3", b"2")]);
        let at = at.index(file.len());
        file[at] = byte;
        let Ok(archive) = Archive::parse(&file) else { return Ok(()) };
        let mut last = 0;
        for member in archive.members().map_while(Result::ok) {
            prop_assert!(member.offset > last && !member.name.is_empty());
            prop_assert_eq!(archive.member_at(member.offset).unwrap(), member);
            last = member.offset;
        }
        if let Ok(Some(symbols)) = archive.symbols() {
            for (_, offset) in symbols.map_while(Result::ok) {
                let _ = archive.member_at(offset);
            }
        }
    }
}
