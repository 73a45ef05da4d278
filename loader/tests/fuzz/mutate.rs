//! Changes files as someone would who knows the formats and means harm.
//!
//! ```text
//!   bytes │ ELF header │ section headers │ symbols │ relocations │ string tables │ any contents
//!   archives: headers, index, long names │ pieces of the file elsewhere, or of another file │ length
//! ```

use crate::random::Random;
use crate::seeds::Seed;
use crate::view::{self, AR, Header, RELA, SHDR, SYM, View, kind};

/// Offset and width of the fields of the file header (gABI, `Elf64_Ehdr`).
const FILE_FIELDS: [(usize, usize); 15] = [
    (4, 1),
    (5, 1),
    (6, 1),
    (7, 1),
    (16, 2),
    (18, 2),
    (20, 4),
    (32, 8),
    (40, 8),
    (48, 4),
    (54, 2),
    (56, 2),
    (58, 2),
    (60, 2),
    (62, 2),
];
/// Of a section header (`Elf64_Shdr`).
const SECTION_FIELDS: [(usize, usize); 10] =
    [(0, 4), (4, 4), (8, 8), (16, 8), (24, 8), (32, 8), (40, 4), (44, 4), (48, 8), (56, 8)];
/// Of a symbol (`Elf64_Sym`).
const SYMBOL_FIELDS: [(usize, usize); 6] = [(0, 4), (4, 1), (5, 1), (6, 2), (8, 8), (16, 8)];
/// Of a relocation (`Elf64_Rela`), its symbol and type apart.
const RELA_FIELDS: [(usize, usize); 4] = [(0, 8), (8, 4), (12, 4), (16, 8)];
/// Of a member's header (`ar(5)`).
const MEMBER_FIELDS: [(usize, usize); 7] =
    [(0, 16), (16, 12), (28, 6), (34, 6), (40, 8), (48, 10), (58, 2)];

/// Changes `file` in one way or in several.
pub fn mutate(file: &mut Vec<u8>, others: &[Seed], random: &mut Random) {
    for _ in 0..=random.below(5) {
        if file.is_empty() {
            return;
        }
        match random.below(16) {
            0 | 1 => bytes(file, random),
            2 => splice(file, &random.choose(others).file, random),
            3 => resize(file, random),
            4 => move_piece(file, random),
            5 | 6 if file.starts_with(view::AR_MAGIC) => archive(file, random),
            _ => object(file, random),
        }
    }
}

fn change(file: &mut [u8], at: usize, width: usize, random: &mut Random) {
    if let Some(now) = view::number(file, at, width) {
        view::put(file, at, width, random.number(now));
    }
}

fn bytes(file: &mut [u8], random: &mut Random) {
    let (at, width) = (random.below(file.len()), 1 << random.below(4));
    change(file, at, width, random);
}

/// Bytes of `other` over those of `file`, or instead of the rest of it.
fn splice(file: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let from = random.below(other.len());
    let len = random.below((other.len() - from).min(4096) + 1);
    let at = random.below(file.len());
    if random.once_in(4) {
        file.truncate(at);
        file.extend_from_slice(&other[from..]);
        return;
    }
    let end = (at + len).min(file.len());
    file[at..end].copy_from_slice(&other[from..from + end - at]);
}

fn resize(file: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(file.len());
    let count = random.below(64);
    match random.below(4) {
        0 => file.truncate(at),
        1 => file.extend((0..count).map(|_| 0xaa)),
        2 => drop(file.drain(at..(at + count).min(file.len()))),
        _ => drop(file.splice(at..at, (0..count).map(|n| n as u8))),
    }
}

/// A piece of the file over another one.
fn move_piece(file: &mut [u8], random: &mut Random) {
    let from = random.below(file.len());
    let len = random.below((file.len() - from).min(512) + 1);
    let to = random.below(file.len() - len + 1);
    file.copy_within(from..from + len, to);
}

fn archive(file: &mut [u8], random: &mut Random) {
    let members = view::members(file);
    if members.is_empty() {
        return;
    }
    let (member, (field, width)) = (*random.choose(&members), *random.choose(&MEMBER_FIELDS));
    match random.below(6) {
        // The index of symbols, or the long names, where they are.
        0 | 1 => {
            let table = random.below(members.len().min(2));
            let end = members.get(table + 1).copied().unwrap_or(file.len());
            let (start, width) = (members[table] + AR, 1 << random.below(4));
            let at = start + random.below(end.saturating_sub(start).min(1024)) / width * width;
            change(file, at, width, random);
            // Numbers are big-endian in some.
            if let Some(word) = file.get_mut(at..at + width).filter(|_| random.once_in(2)) {
                word.reverse();
            }
        }
        // Decimal text, as sizes and offsets of names are.
        2 | 3 => {
            let text = format!("{:<width$}", random.number(file.len() as u64));
            let text = &text.as_bytes()[..width];
            let to = file.iter_mut().skip(member + field);
            to.zip(text).for_each(|(to, &byte)| *to = byte);
        }
        4 => change(file, member + random.below(AR), 1, random),
        _ => {
            let other = *random.choose(&members);
            if member.max(other) + AR <= file.len() {
                file.copy_within(other..other + AR, member);
            }
        }
    }
}

/// Changes something that the format gives a meaning.
fn object(file: &mut [u8], random: &mut Random) {
    let bases = view::objects(file);
    if bases.is_empty() {
        return;
    }
    let base = *random.choose(&bases);
    let Some(view) = View::of(file, base).filter(|view| view.count != 0) else {
        return bytes(file, random);
    };
    let of_kind = |wanted: u32| -> Vec<Header> {
        view.sections(file).filter(|header| header.kind == wanted).collect()
    };
    let index = random.below(view.count);
    match random.below(12) {
        0 => {
            let (field, width) = *random.choose(&FILE_FIELDS);
            change(file, base + field, width, random);
        }
        1..=3 => section(file, &view, index, random),
        4 | 5 => table(file, &of_kind(kind::SYMTAB), SYM, &SYMBOL_FIELDS, random),
        6 | 7 => table(file, &of_kind(kind::RELA), RELA, &RELA_FIELDS, random),
        8 => table(file, &of_kind(kind::GROUP), 4, &[(0, 4)], random),
        9 => table(file, &of_kind(kind::STRTAB), 1, &[(0, 1)], random),
        10 => unwind_table(file, &view, random),
        _ => {
            let all: Vec<_> = view.header(file, index).into_iter().collect();
            table(file, &all, 4, &[(0, 4), (0, 1), (0, 8)], random);
        }
    }
}

fn section(file: &mut [u8], view: &View, index: usize, random: &mut Random) {
    let at = view.headers + index * SHDR;
    let other = view.headers + random.below(view.count) * SHDR;
    match random.below(8) {
        0 if at.max(other) + SHDR <= file.len() => file.copy_within(other..other + SHDR, at),
        1 => {
            let (field, width) = *random.choose(&SECTION_FIELDS);
            let value = view::number(file, other + field, width).unwrap_or(0);
            view::put(file, at + field, width, value);
        }
        // Flags and types, one bit more or less.
        2 => {
            let flags = view::number(file, at + 8, 8).unwrap_or(0);
            view::put(file, at + 8, 8, flags ^ 1 << random.below(12));
        }
        3 => view::put(file, at + 4, 4, random.below(20) as u64),
        _ => {
            let (field, width) = *random.choose(&SECTION_FIELDS);
            change(file, at + field, width, random);
        }
    }
}

/// Changes a field of an entry in one of these sections, or copies an entry over another.
fn table(
    file: &mut [u8],
    sections: &[Header],
    entry: usize,
    fields: &[(usize, usize)],
    random: &mut Random,
) {
    if sections.is_empty() {
        return;
    }
    let contents = random.choose(sections).contents(file);
    let count = contents.len() / entry;
    if count == 0 {
        return;
    }
    let at = contents.start + random.below(count) * entry;
    match random.below(6) {
        0 => {
            let other = contents.start + random.below(count) * entry;
            file.copy_within(other..other + entry, at);
        }
        // Among them the types of relocations and the numbers of symbols and sections.
        1 => {
            let (field, width) = *random.choose(fields);
            view::put(file, at + field, width, random.below(48) as u64);
        }
        _ => {
            let (field, width) = *random.choose(fields);
            change(file, at + field, width, random);
        }
    }
}

/// Changes the start of an entry of `.eh_frame`: length, kind, version, augmentation, encodings.
fn unwind_table(file: &mut [u8], view: &View, random: &mut Random) {
    let is_it = |header: &Header| {
        view.name(file, header).is_some_and(|name| name.starts_with(b".eh_frame\0"))
    };
    let Some(table) = view.sections(file).find(is_it) else { return };
    let contents = table.contents(file);
    let mut entries = Vec::new();
    let mut at = contents.start;
    while let Some(length) = view::number(file, at, 4).filter(|_| at < contents.end) {
        entries.push(at);
        at += 4 + length as usize;
    }
    if entries.is_empty() {
        return;
    }
    let at = *random.choose(&entries);
    match random.below(3) {
        0 => change(file, at, 4, random),
        1 => change(file, at + 4, 4, random),
        _ => change(file, at + 8 + random.below(24), 1 << random.below(4), random),
    }
}
