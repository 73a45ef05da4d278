//! Finds the parts of a file that changes are made to, as far as the file still has them.

use std::ops::Range;

pub const SHDR: usize = 64;
pub const SYM: usize = 24;
pub const RELA: usize = 24;
/// Bytes of a member's header in an archive.
pub const AR: usize = 60;
pub const AR_MAGIC: &[u8] = b"!<arch>\n";

/// Section types (gABI).
pub mod kind {
    pub const SYMTAB: u32 = 2;
    pub const STRTAB: u32 = 3;
    pub const RELA: u32 = 4;
    pub const GROUP: u32 = 17;
}

/// The little-endian number in these bytes of a file, if they are there.
pub fn number(file: &[u8], at: usize, width: usize) -> Option<u64> {
    let bytes = file.get(at..at.checked_add(width)?)?;
    Some(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

/// Writes a number into these bytes of a file, as many as are there.
pub fn put(file: &mut [u8], at: usize, width: usize, value: u64) {
    for (to, byte) in file.iter_mut().skip(at).take(width).zip(value.to_le_bytes()) {
        *to = byte;
    }
}

/// An object inside a file.
#[derive(Clone, Copy)]
pub struct View {
    /// Where it starts in the file.
    pub base: usize,
    /// Where its section headers start in the file.
    pub headers: usize,
    pub count: usize,
}

/// A section header, as far as changes and checks want to know it.
#[derive(Clone, Copy)]
pub struct Header {
    /// Where it lies in the file.
    pub at: usize,
    pub kind: u32,
    pub name: usize,
    pub offset: usize,
    pub size: usize,
}

impl View {
    /// The object at `base`.
    pub fn of(file: &[u8], base: usize) -> Option<Self> {
        let headers = base.checked_add(number(file, base + 40, 8)? as usize)?;
        let count = match number(file, base + 60, 2)? {
            0 => number(file, headers.checked_add(32)?, 8)?,
            count => count,
        };
        let room = file.len().checked_sub(headers)? / SHDR;
        Some(Self { base, headers, count: (count as usize).min(room) })
    }

    pub fn header(&self, file: &[u8], index: usize) -> Option<Header> {
        let at = self.headers.checked_add(index.checked_mul(SHDR)?)?;
        let field = |offset, width| number(file, at + offset, width);
        Some(Header {
            at,
            kind: field(4, 4)? as u32,
            name: field(0, 4)? as usize,
            offset: self.base.checked_add(field(24, 8)? as usize)?,
            size: field(32, 8)? as usize,
        })
    }

    pub fn sections(&self, file: &[u8]) -> impl Iterator<Item = Header> {
        (0..self.count).filter_map(|index| self.header(file, index))
    }

    /// The number of the string table with the sections' names.
    fn names(&self, file: &[u8]) -> Option<usize> {
        Some(match number(file, self.base + 62, 2)? {
            0xffff => number(file, self.headers + 40, 4)?,
            index => index,
        } as usize)
    }

    /// The name of a section, and what follows it in its table.
    pub fn name<'f>(&self, file: &'f [u8], header: &Header) -> Option<&'f [u8]> {
        let table = self.header(file, self.names(file)?)?;
        file.get(table.offset.checked_add(header.name)?..)
    }
}

impl Header {
    /// The contents, as far as the file has them.
    pub fn contents(&self, file: &[u8]) -> Range<usize> {
        let start = self.offset.min(file.len());
        start..start.saturating_add(self.size).min(file.len())
    }
}

/// Where objects start in a file: at its start, or anywhere in an archive.
pub fn objects(file: &[u8]) -> Vec<usize> {
    let magic = |at: &usize| file[*at..].starts_with(b"\x7fELF");
    if file.starts_with(b"!<arch") {
        return (0..file.len()).filter(magic).collect();
    }
    (0..1.min(file.len())).collect()
}

/// Where the headers of an archive's members lie.
pub fn members(file: &[u8]) -> Vec<usize> {
    let mut all = Vec::new();
    let mut at = AR_MAGIC.len();
    while let Some(header) = file.get(at..at + AR) {
        all.push(at);
        let size = str::from_utf8(&header[48..58]).ok().and_then(|text| text.trim().parse().ok());
        let next = size.and_then(|size: usize| (at + AR).checked_add(size));
        match next {
            Some(next) => at = next + next % 2,
            None => break,
        }
    }
    all
}

/// The names of the symbols that an object has for others.
pub fn defined(file: &[u8]) -> Vec<&[u8]> {
    let Some(view) = View::of(file, 0) else { return Vec::new() };
    let Some(table) = view.sections(file).find(|header| header.kind == kind::SYMTAB) else {
        return Vec::new();
    };
    let names = number(file, table.at + 40, 4).and_then(|at| view.header(file, at as usize));
    let Some(names) = names else { return Vec::new() };
    let names = &file[names.contents(file)];
    let symbols = file[table.contents(file)].chunks_exact(SYM);
    let global = symbols.filter(|symbol| symbol[4] >> 4 != 0 && symbol[6..8] != [0; 2]);
    let name = |symbol: &[u8]| {
        let name = &names[number(symbol, 0, 4).unwrap_or(0) as usize..];
        &name[..name.iter().position(|&byte| byte == 0).unwrap_or(0)]
    };
    global.map(name).collect()
}
