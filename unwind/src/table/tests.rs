use super::*;
use crate::address::Pc;
use crate::cache::{Cache, Trail};
use crate::cursor::{Cursor, Step};
use crate::known::Known;
use crate::module::Module;
use crate::modules::FindModule;
use crate::registers::{Register, Registers};
use crate::sample::{self, CALL_FRAME, SECTION, START};
use crate::stack::ReadStack;

/// `def_cfa_offset`, `advance_loc`.
const DEF_CFA_OFFSET: u8 = 0x0e;
const fn advance(bytes: u8) -> u8 {
    0x40 | bytes
}
const ADVANCE_2: u8 = 0x03;

/// Rows at +0 (8), +4 (16), +0x20 (24), +0x80 (8), to +0x100.
const PROGRAM: &[u8] = &[
    advance(4),
    DEF_CFA_OFFSET,
    16,
    advance(0x1c),
    DEF_CFA_OFFSET,
    24,
    ADVANCE_2,
    0x60,
    0,
    DEF_CFA_OFFSET,
    8,
];

fn cfa(rule: Option<Rule>) -> Option<u64> {
    rule.map(|rule| rule.cfa(&Registers::new().with(Register::RSP, 0)))
}

/// The CFA's offset by the table.
fn look_up(table: &[u8], module: &Module<'_>, offset: u64) -> Option<u64> {
    let table = FrameTable::parse(table, &module.eh_frame).unwrap();
    cfa(table.rule(START.wrapping_add(offset), module.eh_frame.address))
}

/// Code that calls nothing but at these offsets.
fn code_with_calls(at: &[usize]) -> Vec<u8> {
    let mut code = vec![0x90; 0x100];
    for &each in at {
        code[each] = 0xe8;
    }
    code
}

#[test]
fn without_the_code_every_address_has_the_rule_of_its_row() {
    let section = sample::section(1, CALL_FRAME, PROGRAM);
    let module = sample::module(&section);
    let table = build(&module, &[]).unwrap();
    for offset in 0..0x100 {
        let row = module.function(START + offset).unwrap().row(START + offset).unwrap();
        let expected = cfa(Rule::from_row(&row));
        assert!(expected.is_some());
        assert_eq!(look_up(&table, &module, offset), expected, "{offset:#x}");
    }
    for offset in [0x100, 0x3ff, 0x400, 0x10_0000, u64::MAX, u64::MAX - 0x400, 1 << 42] {
        assert_eq!(look_up(&table, &module, offset), None, "{offset:#x}");
    }
}

#[test]
fn rows_that_nothing_returns_to_are_left_to_dwarf() {
    let section = sample::section(1, CALL_FRAME, PROGRAM);
    let module = sample::module(&section);
    // The second one is cut off by the end of its row.
    let code = code_with_calls(&[0x40, 0x7e, 0x80]);
    let code = Section { data: &code, address: START };
    let table = build(&module, &[code]).unwrap();
    assert!(table.len() < build(&module, &[]).unwrap().len());
    for offset in 0..0x100 {
        let expected = match offset {
            ..0x20 => None,
            0x20..0x80 => Some(24),
            _ => Some(8),
        };
        assert_eq!(look_up(&table, &module, offset), expected, "{offset:#x}");
    }
}

#[test]
fn a_table_is_of_its_module_wherever_that_is_loaded() {
    let section = sample::section(1, CALL_FRAME, PROGRAM);
    let module = sample::module(&section);
    let table = build(&module, &[]).unwrap();
    let parsed = FrameTable::parse(&table, &module.eh_frame).unwrap();
    let moved = |address: u64| cfa(parsed.rule(address, SECTION + 0x7000_0000));
    assert_eq!(moved(START + 0x7000_0020), Some(24));
    assert_eq!(moved(START + 0x20), None);
    let other = Section { data: &section[1..], address: SECTION };
    let (made_from, module) = (section.len(), section.len() - 1);
    let error = TableError::OtherFrames { made_from, module };
    assert_eq!(FrameTable::parse(&table, &other), Err(error));
}

#[test]
fn rows_that_are_no_rules_and_signal_frames_are_left_to_dwarf() {
    // val_offset of rbx: not a rule.
    let section = sample::section(1, CALL_FRAME, &[advance(4), 0x14, 3, 2, advance(4), 0x07, 3]);
    let module = sample::module(&section);
    let table = build(&module, &[]).unwrap();
    assert_eq!(look_up(&table, &module, 3), Some(8));
    assert_eq!(look_up(&table, &module, 4), None);
    let mut signal = sample::section(1, CALL_FRAME, PROGRAM);
    let letters = signal.windows(3).position(|three| three == b"zR\0").unwrap();
    signal[letters + 1..letters + 3].copy_from_slice(b"RS");
    // One letter more is one byte less of padding.
    signal.insert(letters + 3, 0);
    let padding = u32::from_le_bytes(signal[..4].try_into().unwrap()) as usize + 4;
    assert_eq!(signal.remove(padding), 0);
    let module = sample::module(&signal);
    assert!(module.function(START).unwrap().is_signal_frame());
    assert_eq!(look_up(&build(&module, &[]).unwrap(), &module, 0x20), None);
}

#[test]
fn code_that_is_described_twice_is_left_to_dwarf() {
    let one = sample::section(1, CALL_FRAME, PROGRAM);
    // The same entries again, at twice their place, and 0x80 further.
    let mut both = one[..one.len() - 4].to_vec();
    let mut again = one.clone();
    let start = again.windows(8).position(|eight| eight == START.to_le_bytes()).unwrap();
    again[start..start + 8].copy_from_slice(&(START + 0x80).to_le_bytes());
    both.extend(again);
    let module = sample::module(&both);
    let table = build(&module, &[]).unwrap();
    assert_eq!(look_up(&table, &module, 0x7f), Some(24));
    assert_eq!(look_up(&table, &module, 0x80), None);
    assert_eq!(look_up(&table, &module, 0xff), None);
    assert_eq!(look_up(&table, &module, 0x100), Some(8));
    assert_eq!(look_up(&table, &module, 0x180), None);
}

#[test]
fn more_rules_than_a_byte_has_and_more_code_than_a_block_has() {
    // 600 rows of 60 bytes, each with its own CFA: `def_cfa_offset` with two bytes.
    let mut program = Vec::new();
    for row in 0..600u32 {
        let cfa = 128 + row * 8;
        program.extend([advance(60), DEF_CFA_OFFSET, cfa as u8 | 0x80, (cfa >> 7) as u8]);
    }
    let mut section = sample::section(1, CALL_FRAME, &program);
    let size = 0x100u64.to_le_bytes();
    let size = section.windows(8).position(|eight| eight == size).unwrap();
    section[size..size + 8].copy_from_slice(&36_060u64.to_le_bytes());
    let module = sample::module(&section);
    let table = build(&module, &[]).unwrap();
    assert_eq!(FrameTable::parse(&table, &module.eh_frame).unwrap().rules(), 601);
    for offset in 60..36_060 {
        let expected = 128 + (offset / 60 - 1) * 8;
        assert_eq!(look_up(&table, &module, offset), Some(expected), "{offset}");
    }
    assert_eq!(look_up(&table, &module, 36_060), None);
}

#[test]
fn every_byte_has_its_rule_however_often_rules_change_and_whatever_their_numbers() {
    const SIZE: u64 = 0x4000;
    let mut state = 1u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (state >> 33) % below
    };
    // The shortest row, the longest, and how many CFAs there are: more than 255 take two bytes.
    for (shortest, longest, cfas) in [(8, 10, 2), (8, 63, 20), (13, 16, 4000), (13, 63, 4000)] {
        let (mut program, mut code) = (Vec::new(), vec![0x90; SIZE as usize]);
        let mut expected = Vec::new();
        let mut cfa = 8;
        while expected.len() < SIZE as usize {
            let size = shortest + random(longest - shortest + 1);
            let begin = expected.len();
            let calls = random(2) == 0 && begin + 5 <= SIZE as usize;
            if calls {
                code[begin] = 0xe8;
            }
            expected.resize(begin + size as usize, calls.then_some(cfa));
            cfa = 128 + 8 * random(cfas);
            let offset = [cfa as u8 | 0x80, (cfa >> 7) as u8 | 0x80, (cfa >> 14) as u8];
            program.extend([advance(size as u8), DEF_CFA_OFFSET]);
            program.extend(offset);
        }
        let mut section = sample::section(1, CALL_FRAME, &program);
        let size = section.windows(8).position(|eight| eight == 0x100u64.to_le_bytes()).unwrap();
        section[size..size + 8].copy_from_slice(&SIZE.to_le_bytes());
        let module = sample::module(&section);
        let code = Section { data: &code, address: START };
        let table = build(&module, &[code]).unwrap();
        let whole = build(&module, &[]).unwrap();
        for (offset, expected) in (0..SIZE).zip(expected) {
            assert_eq!(look_up(&table, &module, offset), expected, "{offset:#x}");
            let row = module.function(START + offset).unwrap().row(START + offset).unwrap();
            let expected = self::cfa(Rule::from_row(&row));
            assert_eq!(look_up(&whole, &module, offset), expected, "{offset:#x}");
        }
    }
}

#[test]
fn a_block_whose_rules_change_too_often_is_left_to_dwarf_and_others_are_not() {
    // Rows of so many bytes, of another CFA than the one before each: three times as many boundaries as a
    // block has bytes; and more than half a block may have. Then rows of 300 other CFAs.
    for (count, size) in [(1536u32, 1), (80, 3)] {
        let mut program = Vec::new();
        for row in 0..count {
            program.extend([advance(size), DEF_CFA_OFFSET, 16 + row as u8 % 2 * 8]);
        }
        for row in 0..300 {
            let cfa = 128 + row * 8;
            program.extend([advance(60), DEF_CFA_OFFSET, cfa as u8 | 0x80, (cfa >> 7) as u8]);
        }
        let mut section = sample::section(1, CALL_FRAME, &program);
        let length = 0x100u64.to_le_bytes();
        let length = section.windows(8).position(|eight| eight == length).unwrap();
        section[length..length + 8].copy_from_slice(&0x5000u64.to_le_bytes());
        let module = sample::module(&section);
        let table = build(&module, &[]).unwrap();
        let asks = u64::from((count * u32::from(size)).next_multiple_of(BLOCK));
        for offset in (0..0x5000).step_by(7) {
            let row = module.function(START + offset).unwrap().row(START + offset).unwrap();
            let expected = cfa(Rule::from_row(&row)).filter(|_| offset >= asks);
            assert_eq!(look_up(&table, &module, offset), expected, "{offset}");
        }
    }
}

/// A stack that is everywhere.
struct Slots;

impl ReadStack for Slots {
    fn read(&self, address: u64) -> Option<u64> {
        Some(address)
    }
}

/// A module, and what is remembered of it.
struct Remembering<'m>(Module<'m>, Cache);

impl FindModule for Remembering<'_> {
    fn find(&self, _address: u64) -> Option<Module<'_>> {
        Some(self.0)
    }

    fn recall(&self, address: u64, trail: &mut Trail, known: &mut Known) -> bool {
        self.1.recall(address, 2, trail, known)
    }

    fn recall_rule(&self, address: u64, trail: &mut Trail) -> Option<Rule> {
        self.1.recall_rule(address, 2, trail)
    }

    fn memorize(&self, address: u64, _generation: u32, known: &Known, trail: &mut Trail) {
        self.1.memorize(address, 2, known, trail);
    }

    fn memorize_rule(&self, address: u64, _generation: u32, rule: Rule, trail: &mut Trail) {
        self.1.memorize_rule(address, 2, rule, trail);
    }
}

#[test]
fn a_walk_takes_rules_from_the_table_and_a_raise_finds_out_the_rest_once() {
    let section = sample::section(1, CALL_FRAME, PROGRAM);
    let module = sample::module(&section);
    let mut table = build(&module, &[]).unwrap();
    // Rules that DWARF does not give tell where they come from.
    for rule in table[HEADER..].chunks_mut(RULE).take(3) {
        rule[2] = 1;
    }
    let table = FrameTable::parse(&table, &module.eh_frame).unwrap();
    let modules = Remembering(module.with_table(table), Cache::new());
    let start = Registers::new().with(Register::RSP, 0x1000);
    let cursor = || Cursor::new(start, Pc::Exact(START + 0x20), Slots, &modules);
    let step = |cfa| Ok(Step::Caller { cfa });
    assert_eq!(cursor().step(), step(0x1_1000 + 24), "by the table");
    assert_eq!(cursor().step(), step(0x1_1000 + 24), "remembered");
    let mut known = Known::NOTHING;
    assert!(!cursor().recall(&mut known));
    assert!(cursor().find_out(&mut known).is_ok());
    assert!(cursor().recall(&mut known));
    assert_eq!(known.start, START);
    assert_eq!(cursor().step(), step(0x1000 + 24), "by DWARF");
}

#[test]
fn a_module_without_functions_has_an_empty_table() {
    let module = Module::new(START..START + 1, Section { data: &[0; 4], address: SECTION });
    let table = build(&module, &[]).unwrap();
    assert_eq!(look_up(&table, &module, 0), None);
    assert_eq!(FrameTable::NONE.rule(START, SECTION), None);
}

#[test]
fn what_is_no_table_is_refused() {
    let section = sample::section(1, CALL_FRAME, PROGRAM);
    let module = sample::module(&section);
    let table = build(&module, &[]).unwrap();
    let parse = |bytes: &[u8]| FrameTable::parse(bytes, &module.eh_frame).err();
    assert_eq!(parse(&[0; HEADER]), Some(TableError::Absent));
    assert_eq!(parse(b"UNSPSYM2 and so on, 32 bytes and more"), Some(TableError::BadMagic));
    for available in 0..table.len() {
        let needed = if available < HEADER { HEADER } else { table.len() };
        let error = TableError::Truncated { needed, available };
        assert_eq!(parse(&table[..available]), Some(error));
    }
    let longer = [&table[..], &[1; 9]].concat();
    assert_eq!(parse(&longer), None);
    for (at, counts) in [(BLOCKS, u32::MAX), (RULES, u32::MAX), (LENGTH, 40), (RULES, 1 << 20)] {
        let mut bad = table.clone();
        bad[at..at + 4].copy_from_slice(&counts.to_le_bytes());
        assert_eq!(parse(&bad), Some(TableError::Inconsistent));
    }
}

#[test]
fn a_damaged_table_gives_rules_or_none() {
    let section = sample::section(1, CALL_FRAME, PROGRAM);
    let module = sample::module(&section);
    let table = build(&module, &[]).unwrap();
    for at in LENGTH..table.len() {
        for value in [0, 1, 0x7f, 0x80, 0xef, 0xf0, 0xff] {
            let mut bad = table.clone();
            bad[at] = value;
            let Ok(parsed) = FrameTable::parse(&bad, &module.eh_frame) else { continue };
            for offset in (0..0x500).step_by(7) {
                let _ = parsed.rule(START + offset, SECTION);
            }
        }
    }
    // Rules that no row can have.
    for (at, value) in [(8, 4), (15, 0xff)] {
        let mut bad = table.clone();
        bad[HEADER + at] = value;
        let rules = FrameTable::parse(&bad, &module.eh_frame).unwrap();
        assert!((0..0x100).any(|offset| rules.rule(START + offset, SECTION).is_none()));
    }
}
