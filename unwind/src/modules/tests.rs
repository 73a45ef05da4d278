use std::sync::LazyLock;

use gimli::constants;

use super::*;
use crate::address::Pc;
use crate::cursor::Cursor;
use crate::registers::{Register, Registers};
use crate::sample::{self, START};
use crate::stack::StackBounds;

const DEF_CFA: u8 = constants::DW_CFA_def_cfa.0;
const OFFSET_RA: u8 = constants::DW_CFA_offset.0 | 16;
/// Its column.
const RSP: u8 = 7;

fn module(start: u64) -> Module<'static> {
    Module::new(start..start + 0x10, Section::EMPTY)
}

#[test]
fn an_address_finds_its_module_and_no_other() {
    let modules = Modules::new();
    let _registrations: Vec<_> = [0x300, 0x100, 0x200]
        // SAFETY: the modules have no tables.
        .map(|start| unsafe { modules.register(module(start)) }.unwrap())
        .into();
    for start in [0x100, 0x200, 0x300] {
        assert_eq!(modules.find(start).unwrap().text.0, start);
        assert_eq!(modules.find(start + 0xf).unwrap().text.0, start);
        assert!(modules.find(start + 0x10).is_none());
        assert!(modules.find(start - 1).is_none());
    }
}

#[test]
fn a_registered_module_keeps_all_that_it_has() {
    let slice: &'static [u8] = &[1, 2, 3, 4, 5, 6];
    let section = |length| Section::in_memory(&slice[..length]);
    let module = Module::new(0x700..0x800, section(6))
        .with_index(FdeIndex::Header(section(5)))
        .with_lsda(section(4))
        .with_bases(7, 8)
        .with_table(FrameTable::from_bytes(&slice[..3]));
    let modules = Modules::new();
    // SAFETY: nothing is raised through it.
    let _registration = unsafe { modules.register(module) }.unwrap();
    assert_eq!(modules.find(0x700), Some(module));
    let table = pointer(module.table.bytes());
    let words = [0x700, 0x800, module.eh_frame.address, table[0], table[1]];
    assert_eq!(modules.copies[0].table(0x7ff), Some(words));
    assert_eq!(modules.copies[0].table(0x800), None);
}

#[test]
fn a_dropped_registration_is_not_found_and_its_place_is_free() {
    let modules = Modules::new();
    // SAFETY: the module has no tables.
    let first = unsafe { modules.register(module(0x100)) }.unwrap();
    // SAFETY: as above.
    let overlap = unsafe { modules.register(module(0x10f)) };
    assert_eq!(overlap.err(), Some(RegisterError::Overlap { start: 0x10f, existing: 0x100 }));
    drop(first);
    assert!(modules.find(0x100).is_none());
    // SAFETY: as above.
    assert!(unsafe { modules.register(module(0x10f)) }.is_ok());
}

#[test]
fn the_last_module_fits_and_one_more_is_an_error() {
    let modules = Modules::new();
    let mut kept = Vec::new();
    for n in 1..=CAPACITY as u64 {
        // SAFETY: the modules have no tables.
        kept.push(unsafe { modules.register(module(n * 0x100)) }.unwrap());
    }
    // SAFETY: as above.
    let more = unsafe { modules.register(module(0x10)) };
    assert_eq!(more.err(), Some(RegisterError::Full { capacity: CAPACITY }));
}

#[test]
fn what_was_memorized_is_forgotten_when_a_module_comes_or_goes() {
    let modules = Modules::new();
    let recall = || modules.recall_rule(0x108, &mut { Trail::START });
    let remember = || {
        let generation = modules.generation();
        modules.memorize(0x108, generation, &Known::NOTHING, &mut { Trail::START });
        assert_eq!(recall(), REMEMBERS.then_some(Known::NOTHING.rule));
    };
    remember();
    let stale = modules.generation();
    // SAFETY: the module has no tables.
    let registration = unsafe { modules.register(module(0x100)) }.unwrap();
    assert_eq!(recall(), None);
    remember();
    drop(registration);
    assert_eq!(recall(), None);
    modules.memorize(0x108, stale, &Known::NOTHING, &mut { Trail::START });
    assert_eq!(recall(), None, "found out before the changes");
}

#[test]
fn what_was_memorized_is_forgotten_before_generations_come_again() {
    let modules = Modules::new();
    // SAFETY: the module has no tables.
    let change = || drop(unsafe { modules.register(module(0x100)) }.unwrap());
    let recall = || modules.recall_rule(0x108, &mut { Trail::START });
    let generation = modules.generation();
    modules.memorize(0x108, generation, &Known::NOTHING, &mut { Trail::START });
    assert_eq!(recall().is_some(), REMEMBERS);
    // As if so many changes had been but for the last.
    modules.version.fetch_add((1 << GENERATION_BITS) - 4, Ordering::Relaxed);
    assert_ne!(modules.generation(), generation);
    change();
    assert_eq!(modules.generation(), generation);
    assert_eq!(recall(), None);
}

#[test]
fn nothing_is_known_of_address_0_in_fresh_memory() {
    let modules = Modules::new();
    assert_eq!(modules.recall_rule(0, &mut { Trail::START }), None);
    assert!(!modules.recall(0, &mut { Trail::START }, &mut { Known::NOTHING }));
}

#[test]
fn readers_see_whole_modules_while_others_come_and_go() {
    static MODULES: Modules = Modules::new();
    // SAFETY: the modules have no tables.
    let _stays = unsafe { MODULES.register(module(0x5000)) }.unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for n in 0..20_000u64 {
                let start = 0x1000 + (n % 7) * 0x1000;
                if start != 0x5000 {
                    // SAFETY: as above.
                    drop(unsafe { MODULES.register(module(start)) }.unwrap());
                }
            }
        });
        let mut rounds = 0u32;
        while !writer.is_finished() || rounds == 0 {
            assert_eq!(MODULES.find(0x5008).unwrap().text, (0x5000, 0x5010));
            if let Some(other) = MODULES.find(0x3008) {
                assert_eq!(other.text, (0x3000, 0x3010));
            }
            rounds += 1;
        }
    });
    assert_eq!(MODULES.len(), 1);
}

/// Walks one frame at the start of the sample function, whose caller is at 1; its CFA's distance
/// from the stack pointer, if it is found there.
fn walk(modules: &Modules, stack: &[u64]) -> Option<u64> {
    let low = stack.as_ptr().expose_provenance() as u64;
    // SAFETY: words that nobody writes.
    let bounds = unsafe { StackBounds::new(low, low + size_of_val(stack) as u64) };
    let registers = Registers::default().with(Register::RSP, low);
    let mut cursor = Cursor::new(registers, Pc::Exact(START), bounds, modules);
    cursor.step().ok()?;
    (cursor.pc() == Pc::Return(1)).then(|| cursor.registers().sp() - low)
}

#[test]
fn walkers_of_a_module_follow_its_rules_and_not_those_of_what_was_there_before() {
    const ROUNDS: u64 = 3000;
    const WALKERS: u64 = 3;
    const WALKS: u64 = 4;
    // The same function in the same place, with frames of 16, 24, … bytes.
    static SECTIONS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
        let program = |words| [DEF_CFA, RSP, words * 8, OFFSET_RA, 1];
        (2..9u8).map(|words| sample::section(1, &program(words), &[])).collect()
    });
    let module_of = |section| Module::new(START..START + 0x100, Section::in_memory(section));
    let modules: Vec<_> = SECTIONS.iter().map(|section| module_of(section)).collect();
    static MODULES: Modules = Modules::new();
    let round = AtomicU64::new(0);
    let done = AtomicU64::new(0);
    let right = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..WALKERS {
            scope.spawn(|| {
                let stack = [1u64; 16];
                for number in 1..=ROUNDS {
                    while round.load(Ordering::Acquire) < number {
                        std::thread::yield_now();
                    }
                    let words = 2 + number % 7;
                    let walks = (0..WALKS).filter(|_| walk(&MODULES, &stack) == Some(words * 8));
                    right.fetch_add(walks.count() as u64, Ordering::Relaxed);
                    done.fetch_add(1, Ordering::Release);
                }
            });
        }
        // Others come and go all the time.
        scope.spawn(|| {
            while round.load(Ordering::Relaxed) < ROUNDS {
                // SAFETY: the module has no tables.
                drop(unsafe { MODULES.register(module(0x100)) }.unwrap());
                std::thread::yield_now();
            }
        });
        for number in 1..=ROUNDS {
            let module = modules[(number % 7) as usize];
            // SAFETY: nothing is raised through it.
            let registration = unsafe { MODULES.register(module) }.unwrap();
            round.store(number, Ordering::Release);
            while done.load(Ordering::Acquire) < WALKERS * number {
                std::thread::yield_now();
            }
            drop(registration);
        }
    });
    assert_eq!(right.into_inner(), ROUNDS * WALKERS * WALKS);
    assert!(MODULES.is_empty());
}
