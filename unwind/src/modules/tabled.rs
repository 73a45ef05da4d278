//! Walks by the tables of registered modules.

use core::ops::ControlFlow;

use crate::address::Pc;
use crate::cursor::Cursor;
use crate::module::{Module, Section};
use crate::modules::Modules;
use crate::registers::{Register, Registers};
use crate::sample::{self, CALL_FRAME, START};
use crate::stack::StackBounds;
use crate::table::{FrameTable, PLACEHOLDER, build};

/// Rows at +0 (8) and +4 (24).
const PROGRAM: &[u8] = &[0x44, 0x0e, 24];

/// A module at `start` whose table says that CFAs are two words higher than they are by DWARF.
fn tabled(start: u64) -> Module<'static> {
    let mut section = sample::section(1, CALL_FRAME, PROGRAM);
    let place = section.windows(8).position(|eight| eight == START.to_le_bytes()).unwrap();
    section[place..place + 8].copy_from_slice(&start.to_le_bytes());
    let module = Module::new(start..start + 0x100, Section::in_memory(section.leak()));
    let mut table = build(&module, &[]).unwrap();
    for rule in table[PLACEHOLDER..].chunks_mut(16).take(2) {
        rule[0] += 16;
    }
    module.with_table(FrameTable::parse(table.leak(), &module.eh_frame).unwrap())
}

#[test]
fn a_walk_asks_the_table_of_each_module_and_dwarf_where_there_is_none() {
    const OTHER: u64 = START + 0x1_0000;
    let modules = Modules::new();
    let others = [tabled(START), tabled(OTHER), tabled(OTHER + 0x100).with_table(FrameTable::NONE)];
    // SAFETY: nothing is raised through them.
    let _registrations = others.map(|module| unsafe { modules.register(module) }.unwrap());
    // Callers, each with the words from its callee's stack pointer to its return address.
    let callers = [
        (5, START + 0x31),
        (5, OTHER + 0x41),
        (5, OTHER + 0x42),
        (5, OTHER + 0x141),
        (3, START + 0x32),
        (5, 0),
    ];
    let mut words = Vec::new();
    for (count, address) in callers {
        words.resize(words.len() + count - 1, 0);
        words.push(address);
    }
    words.push(0);
    let low = words.as_ptr().expose_provenance() as u64;
    // SAFETY: the words live until the end of the test, and nobody writes them.
    let stack = unsafe { StackBounds::new(low, low + 8 * words.len() as u64) };
    let start = Registers::new().with(Register::RSP, low);
    for _ in 0..2 {
        let mut cursor = Cursor::new(start, Pc::Exact(START + 0x20), stack, &modules);
        let mut seen = Vec::new();
        let end = cursor.walk(|frame| {
            seen.push(frame.pc().address());
            ControlFlow::<()>::Continue(())
        });
        assert_eq!(end, Ok(None));
        assert_eq!(seen, callers[..5].iter().map(|&(_, address)| address).collect::<Vec<_>>());
    }
}
