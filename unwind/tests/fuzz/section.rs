//! Builds `.eh_frame` sections out of entries, changed in what they mean and in their bytes.
//!
//! ```text
//!   pairs ─► entries: CIE, FDE, FDE … ─ change what they say ─► lay out ─ change bytes ─► section
//! ```
//!
//! The first kind of change leaves lengths right, so that much of what is made can be read.

use crate::random::Random;
use crate::seeds::Pair;

/// An entry's body, and which entry is its CIE.
struct Entry {
    body: Vec<u8>,
    cie: Option<usize>,
}

/// A section of some entries, changed or (once in eight times) as it was.
pub fn make(pairs: &[Pair], random: &mut Random) -> Vec<u8> {
    let mut entries = Vec::new();
    for _ in 0..1 + random.below(3) {
        let pair = random.choose(pairs).clone();
        entries.push(Entry { body: pair.cie, cie: None });
        entries.push(Entry { body: pair.fde, cie: Some(entries.len() - 1) });
    }
    let change_meaning = random.once_in(2);
    if change_meaning {
        for _ in 0..1 + random.below(4) {
            change_entry(&mut entries, random);
        }
    }
    let mut section = lay_out(&entries, random);
    if !change_meaning || random.once_in(4) {
        for _ in 0..random.below(4) {
            change_bytes(&mut section, random);
        }
    }
    section
}

/// Lengths and CIE pointers, now and then in the 64-bit form, and perhaps a terminator.
fn lay_out(entries: &[Entry], random: &mut Random) -> Vec<u8> {
    let mut section = Vec::new();
    let mut starts = Vec::new();
    for entry in entries {
        starts.push(section.len());
        let length = entry.body.len() + 4;
        if random.once_in(32) {
            section.extend(u32::MAX.to_le_bytes());
            section.extend((length as u64).to_le_bytes());
        } else {
            section.extend((length as u32).to_le_bytes());
        }
        let back = entry.cie.map_or(0, |cie| section.len() - starts[cie]);
        section.extend((back as u32).to_le_bytes());
        section.extend(&entry.body);
    }
    if !random.once_in(4) {
        section.extend([0; 4]);
    }
    section
}

fn change_entry(entries: &mut [Entry], random: &mut Random) {
    let which = random.below(entries.len());
    let Entry { body, cie } = &mut entries[which];
    let is_cie = cie.is_none();
    match random.below(8) {
        // A version, of those there are and were.
        0 if is_cie && !body.is_empty() => body[0] = *random.choose(&[0, 1, 2, 3, 4, 5]),
        // A letter of the augmentation, or a byte of its data.
        1 | 2 if is_cie => {
            let letters = body.iter().skip(1).take_while(|&&byte| byte != 0).count();
            let at = 1 + random.below(letters + 8);
            let byte = match at {
                _ if at <= letters => *random.choose(b"zPLRSBGeh\0X"),
                _ => encoding(random),
            };
            if let Some(place) = body.get_mut(at) {
                *place = byte;
            }
        }
        3 => body.truncate(random.below(body.len() + 1)),
        // More instructions, after those there are.
        4 | 5 => {
            for _ in 0..1 + random.below(12) {
                instruction(body, random);
            }
        }
        // In their midst.
        6 => {
            let at = body.len() - random.below(body.len().min(24) + 1);
            let rest = body.split_off(at);
            instruction(body, random);
            body.extend(rest);
        }
        _ => {
            let more: Vec<_> = (0..random.below(8)).map(|_| random.byte()).collect();
            let at = random.below(body.len() + 1);
            body.splice(at..at, more);
        }
    }
}

/// A pointer encoding, mostly one that means something.
pub fn encoding(random: &mut Random) -> u8 {
    const FORMATS: [u8; 9] = [0x0, 0x1, 0x2, 0x3, 0x4, 0x9, 0xa, 0xb, 0xc];
    match random.below(8) {
        0 => random.byte(),
        1 => 0xff,
        2 => 0x50,
        _ => {
            let indirect = if random.once_in(4) { 0x80 } else { 0 };
            random.choose(&FORMATS) | (random.below(6) as u8) << 4 | indirect
        }
    }
}

/// Some instruction with operands that fit it.
pub fn instruction(to: &mut Vec<u8>, random: &mut Random) {
    let opcode = match random.below(8) {
        // advance_loc, offset, restore, of a column that is tracked or not.
        0 => 0x40 | random.below(20) as u8,
        1 => 0x80 | random.below(20) as u8,
        2 => 0xc0 | random.below(20) as u8,
        3 => *random.choose(&[0x0a, 0x0b, 0x0a, 0x0b, 0x2e, 0x2f, 0x2d, 0x1d]),
        _ => random.below(0x18) as u8,
    };
    to.push(opcode);
    let column = |to: &mut Vec<u8>, random: &mut Random| uleb(to, random.below(19) as u64, 0);
    match opcode {
        0x80..0xc0 => number(to, random),
        // set_loc
        0x01 => (0..4).for_each(|_| to.push(random.byte())),
        0x02 => to.push(random.below(8) as u8),
        0x03 => to.extend([random.below(8) as u8, 0]),
        0x04 => to.extend([random.below(8) as u8, 0, 0, 0]),
        // offset_extended, def_cfa, offset_extended_sf, def_cfa_sf, val_offset, val_offset_sf,
        // GNU_negative_offset_extended
        0x05 | 0x0c | 0x11 | 0x12 | 0x14 | 0x15 | 0x2f => {
            column(to, random);
            number(to, random);
        }
        // restore_extended, undefined, same_value, def_cfa_register
        0x06..=0x08 | 0x0d => column(to, random),
        // register
        0x09 => (0..2).for_each(|_| column(to, random)),
        // def_cfa_offset, def_cfa_offset_sf, GNU_args_size
        0x0e | 0x13 | 0x2e => number(to, random),
        // def_cfa_expression, expression, val_expression
        0x0f | 0x10 | 0x16 => {
            if opcode != 0x0f {
                column(to, random);
            }
            let mut code = Vec::new();
            crate::expressions::make(&mut code, random);
            let length = code.len() as u64 + u64::from(random.once_in(32));
            uleb(to, length, 0);
            to.extend(code);
        }
        _ => {}
    }
}

/// A number in LEB128, rarely longer than it need be.
pub fn number(to: &mut Vec<u8>, random: &mut Random) {
    let padding = if random.once_in(16) { random.below(12) } else { 0 };
    let number = random.number();
    uleb(to, number, padding);
}

/// `number` as unsigned LEB128, with so many bytes more.
fn uleb(to: &mut Vec<u8>, mut number: u64, padding: usize) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    if padding == 0 {
        to.push(number as u8);
    } else {
        to.push(number as u8 | 0x80);
        to.extend(vec![0x80; padding - 1]);
        to.push(0);
    }
}

/// Changes bytes, whatever they are.
pub fn change_bytes(bytes: &mut Vec<u8>, random: &mut Random) {
    if bytes.is_empty() {
        return;
    }
    let at = random.below(bytes.len());
    match random.below(8) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.byte(),
        2 | 3 => {
            let value = random.number().to_le_bytes();
            let width = (1 << random.below(4)).min(bytes.len() - at);
            bytes[at..at + width].copy_from_slice(&value[..width]);
        }
        4 => bytes.truncate(at),
        5 => {
            let length = random.below((bytes.len() - at).min(32)) + 1;
            let to = random.below(bytes.len() - length + 1);
            bytes.copy_within(at..at + length, to);
        }
        6 => drop(bytes.remove(at)),
        _ => bytes.insert(at, random.byte()),
    }
}
