//! Archives of objects, in every form that `ar(5)` has.
//!
//! ```text
//!   plain   o0.o/ …                                       no index: symbols are read from members
//!   GNU     /  offsets, names │ // long names │ /0 …      big-endian
//!   BSD     #1/20 __.SYMDEF │ #1/16 name, object …        little-endian
//! ```

use crate::view::{self, AR_MAGIC};

/// How an archive is written.
#[derive(Clone, Copy, PartialEq)]
pub enum Form {
    Plain,
    Gnu,
    Gnu64,
    Bsd,
}

/// A name that does not fit into a header.
fn long_name(number: usize) -> String {
    format!("a_name_of_some_length_{number}.o")
}

/// An archive of these objects.
pub fn archive(objects: &[&Vec<u8>], form: Form) -> Vec<u8> {
    let symbols: Vec<Vec<&[u8]>> = objects.iter().map(|object| view::defined(object)).collect();
    let mut file = AR_MAGIC.to_vec();
    // Twice: the offsets do not change the size of what they stand in.
    for _ in 0..2 {
        let starts = view::members(&file);
        let first = starts.len().saturating_sub(objects.len());
        let starts: Vec<_> = (0..objects.len())
            .map(|number| starts.get(first + number).copied().unwrap_or_default())
            .collect();
        file = written(objects, form, &symbols, &starts);
    }
    file
}

fn written(objects: &[&Vec<u8>], form: Form, symbols: &[Vec<&[u8]>], starts: &[usize]) -> Vec<u8> {
    let mut file = AR_MAGIC.to_vec();
    match form {
        Form::Plain => {}
        Form::Gnu | Form::Gnu64 => {
            let (name, width) = if form == Form::Gnu { ("/", 4) } else { ("/SYM64/", 8) };
            member(&mut file, name, &gnu_index(symbols, starts, width));
            let names: String =
                (0..objects.len()).map(|number| long_name(number) + "/\n").collect();
            member(&mut file, "//", names.as_bytes());
        }
        Form::Bsd => {
            let index = [b"__.SYMDEF\0\0\0".as_slice(), &bsd_index(symbols, starts)].concat();
            member(&mut file, "#1/12", &index);
        }
    }
    let mut at = 0;
    for (number, object) in objects.iter().enumerate() {
        let name = long_name(number);
        match form {
            Form::Plain => member(&mut file, &format!("o{number}.o/"), object),
            Form::Gnu | Form::Gnu64 => member(&mut file, &format!("/{at}"), object),
            Form::Bsd => {
                let bytes = [name.as_bytes(), object.as_slice()].concat();
                member(&mut file, &format!("#1/{}", name.len()), &bytes);
            }
        }
        at += name.len() + 2;
    }
    file
}

fn member(file: &mut Vec<u8>, name: &str, bytes: &[u8]) {
    let header = format!("{name:16}{:12}{:6}{:6}{:8}{:<10}`\n", 0, 0, 0, 644, bytes.len());
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(bytes);
    file.resize(file.len().next_multiple_of(2), b'\n');
}

fn gnu_index(symbols: &[Vec<&[u8]>], starts: &[usize], width: usize) -> Vec<u8> {
    let word = |number: usize| (number as u64).to_be_bytes()[8 - width..].to_vec();
    let mut index = word(symbols.iter().flatten().count());
    for (defined, &start) in symbols.iter().zip(starts) {
        index.extend(defined.iter().flat_map(|_| word(start)));
    }
    index.extend(symbols.iter().flatten().flat_map(|name| [*name, b"\0"].concat()));
    index
}

fn bsd_index(symbols: &[Vec<&[u8]>], starts: &[usize]) -> Vec<u8> {
    let (mut entries, mut names) = (Vec::new(), Vec::new());
    for (defined, &start) in symbols.iter().zip(starts) {
        for name in defined {
            entries.extend((names.len() as u32).to_le_bytes());
            entries.extend((start as u32).to_le_bytes());
            names.extend([*name, b"\0"].concat());
        }
    }
    let length = |bytes: &[u8]| (bytes.len() as u32).to_le_bytes();
    [&length(&entries)[..], &entries, &length(&names), &names].concat()
}
