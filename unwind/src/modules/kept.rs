//! What walks keep from one frame to the next is never what another frame needs.

use core::ptr::NonNull;

use crate::cache::Trail;
use crate::cursor::{Exit, find_out};
use crate::known::Known;
use crate::module::{Module, Section};
use crate::modules::{FindModule, Modules};
use crate::rule::Rule;
use crate::rules::Rules;
use crate::sample::CALL_FRAME;
use crate::variant::REMEMBERS;

/// Bytes of each function's code.
const SIZE: u64 = 0x100;
/// `advance_loc 1; def_cfa_offset 16; offset rbx, 2`
const PUSH: &[u8] = &[0x41, 0x0e, 16, 0x83, 2];
/// `advance_loc 1; def_cfa_offset 24; offset_extended rbx, 3`, which takes a row.
const EXTENDED: &[u8] = &[0x41, 0x0e, 24, 0x05, 3, 3];
/// `val_offset rbx, 2`, which no rule says.
const NO_RULE: &[u8] = &[0x14, 3, 2];

/// Room for sections, which stays as long as this: longer than what is registered.
struct Room(NonNull<[[u8; 0x1000]; 3]>);

impl Room {
    fn new() -> Self {
        Self(NonNull::from(Box::leak(Box::new([[0; 0x1000]; 3]))))
    }

    /// Three sections, to be asked for once, and code not far from them.
    fn sections(&self) -> ([&'static mut [u8]; 3], u64) {
        let start = self.0.as_ptr().expose_provenance() as u64 / SIZE * SIZE + 0x100_0000;
        // SAFETY: each test asks once, and nothing that it registers outlives the room.
        let [a, b, c] = unsafe { &mut *self.0.as_ptr() };
        ([a, b, c], start)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        // SAFETY: it came from a box, and nobody looks at the sections any more.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// Version 1, factors 1 and −8, return address in column 16, addresses `pcrel | sdata4`.
fn cie(letters: &[u8], program: &[u8]) -> Vec<u8> {
    let mut cie = vec![1];
    cie.extend(letters);
    cie.extend([0, 1, 0x78, 16, 1, 0x1b]);
    cie.extend(program);
    cie
}

/// One entry: length, id, body, padding to eight bytes.
fn entry(id: usize, body: &[u8]) -> Vec<u8> {
    let mut bytes = (id as u32).to_le_bytes().to_vec();
    bytes.extend(body);
    bytes.resize((bytes.len() + 4).next_multiple_of(8) - 4, 0);
    let mut whole = (bytes.len() as u32).to_le_bytes().to_vec();
    whole.extend(bytes);
    whole
}

/// A module with functions from `start` on: one for each CIE and program.
fn module(
    section: &'static mut [u8],
    start: u64,
    cies: &[Vec<u8>],
    programs: &[&[u8]],
) -> Module<'static> {
    let end = start + (cies.len() * programs.len()) as u64 * SIZE;
    let (mut at, mut function) = (0, start);
    let address = section.as_ptr().expose_provenance() as u64;
    let mut put = |entry: Vec<u8>| {
        section[at..at + entry.len()].copy_from_slice(&entry);
        at += entry.len();
        at
    };
    let mut place = 0;
    let mut places = Vec::new();
    for cie in cies {
        places.push(place);
        place = put(entry(0, cie));
    }
    for program in programs {
        // Another CIE each time.
        for cie in &places {
            let position = address + place as u64 + 8;
            let mut body = (function.wrapping_sub(position) as u32).to_le_bytes().to_vec();
            body.extend((SIZE as u32).to_le_bytes());
            body.push(0);
            body.extend(*program);
            function += SIZE;
            place = put(entry(place + 4 - cie, &body));
        }
    }
    Module::new(start..end, Section::in_memory(section))
}

/// What a step finds out.
fn found(modules: &Modules, address: u64) -> Option<Rule> {
    let mut known = Known::NOTHING;
    let exit = find_out(modules, address, &mut known, &mut { Trail::START });
    matches!(exit, Ok(Exit::Rule)).then_some(known.rule)
}

#[test]
fn rules_are_those_that_a_step_finds_out_whatever_was_asked_for_before() {
    let room = Room::new();
    let ([a, b, c], start) = room.sections();
    let sixteen: &[u8] = &[0x0c, 7, 16, 0x90, 1];
    let cies = [cie(b"zR", CALL_FRAME), cie(b"zR", sixteen), cie(b"zRS", CALL_FRAME)];
    let others = [cies[2].clone(), cies[0].clone()];
    let bad = [cie(b"zX", CALL_FRAME), cies[0].clone()];
    let samples = [
        module(a, start, &cies, &[PUSH, EXTENDED, NO_RULE]),
        module(b, start + 0x900, &others, &[PUSH, NO_RULE]),
        module(c, start + 0x1000, &bad, &[PUSH, EXTENDED]),
    ];
    let modules = Modules::new();
    // SAFETY: nothing is raised through them.
    let _registrations = samples.map(|module| unsafe { modules.register(module) }.unwrap());
    let (mut rules, mut some, mut none) = (Rules::new(), 0, 0);
    let mut number = 1u64;
    for _ in 0..2000 {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let address = start + (number >> 33) % 0x1800;
        let rule = rules.find(&modules, address, &mut { Trail::START });
        assert_eq!(rule, found(&modules, address), "{:#x} from the start", address - start);
        *if rule.is_some() { &mut some } else { &mut none } += 1;
    }
    assert!(some > 400 && none > 400, "{some}, and {none} without");
}

#[test]
fn of_a_module_that_went_nothing_is_kept() {
    let room = Room::new();
    let (sections, start) = room.sections();
    let modules = Modules::new();
    let mut rules = Rules::new();
    let mut find = || rules.find(&modules, start + 8, &mut { Trail::START });
    let cfa = |rule: Rule| rule.cfa_of(0, 0);
    let programs = [(PUSH, 16), (EXTENDED, 24), (PUSH, 16)];
    for (section, (program, expected)) in sections.into_iter().zip(programs) {
        let module = module(section, start, &[cie(b"zR", CALL_FRAME)], &[program]);
        // SAFETY: nothing is raised through it.
        let registration = unsafe { modules.register(module) }.unwrap();
        assert_eq!(find().map(cfa), Some(expected));
        assert_eq!(find().map(cfa), Some(expected), "the same");
        drop(registration);
        assert_eq!(find(), None);
    }
}

#[test]
fn a_rule_is_remembered_and_the_rest_left_to_a_raise() {
    let room = Room::new();
    let ([section, ..], start) = room.sections();
    let modules = Modules::new();
    let module = module(section, start, &[cie(b"zR", CALL_FRAME)], &[PUSH]);
    // SAFETY: nothing is raised through it.
    let _registration = unsafe { modules.register(module) }.unwrap();
    let rule = Rules::new().find(&modules, start + 8, &mut { Trail::START });
    assert!(rule.is_some());
    let recall = || modules.recall_rule(start + 8, &mut { Trail::START });
    assert_eq!(recall(), rule.filter(|_| REMEMBERS));
    let mut known = Known::NOTHING;
    assert!(!modules.recall(start + 8, &mut { Trail::START }, &mut known));
    assert_eq!(found(&modules, start + 8), rule);
    assert_eq!(modules.recall(start + 8, &mut { Trail::START }, &mut known), REMEMBERS);
    assert_eq!(Some(known.rule), rule.filter(|_| REMEMBERS).or(Some(Rule::END_OF_STACK)));
}
