use crate::address::Pc;
use crate::cursor::{Cursor, Step};
use crate::error::UnwindError;
use crate::module::Module;
use crate::modules::FindModule;
use crate::registers::{Register, Registers};
use crate::sample::{self, CALL_FRAME, START};
use crate::stack::ReadStack;

/// Words at addresses.
#[derive(Clone)]
struct Words(Vec<(u64, u64)>);

impl ReadStack for Words {
    fn read(&self, address: u64) -> Option<u64> {
        self.0.iter().find(|(at, _)| *at == address).map(|(_, word)| *word)
    }
}

struct One<'m>(Module<'m>);

impl FindModule for One<'_> {
    fn find(&self, address: u64) -> Option<Module<'_>> {
        self.0.contains(address).then_some(self.0)
    }
}

/// Whose CFA is the word at its stack pointer, as in the C library's trampoline.
const SAVED_CFA: &[u8] = &[0x0f, 3, 0x77, 0, 0x06];

fn section(signal: bool, program: &[u8]) -> Vec<u8> {
    let mut section = sample::section(1, CALL_FRAME, program);
    if signal {
        let letters = section.windows(3).position(|three| three == b"zR\0").unwrap();
        section[letters + 1..letters + 3].copy_from_slice(b"RS");
        // One letter more is one byte less of padding.
        section.insert(letters + 3, 0);
        let padding = u32::from_le_bytes(section[..4].try_into().unwrap()) as usize + 4;
        assert_eq!(section.remove(padding), 0);
    }
    section
}

const SP: u64 = 0x9000;

fn at(sp: u64) -> Registers {
    let mut registers = Registers::new();
    registers.set(Register::RSP, sp);
    registers.set(Register::RA, START);
    registers
}

/// The words of a frame at `sp` that was called, or interrupted, where the stack pointer was `caller`.
fn frame(sp: u64, caller: u64, ip: u64) -> [(u64, u64); 2] {
    [(sp, caller), (caller - 8, ip)]
}

#[test]
fn a_handler_runs_on_a_stack_below_or_above_the_one_that_was_interrupted() {
    let (handler, other) = (section(true, SAVED_CFA), section(false, SAVED_CFA));
    for caller in [0xf000, 0x3000] {
        let words = Words(frame(SP, caller, START + 5).into());
        let modules = One(sample::module(&handler));
        let mut cursor = Cursor::new(at(SP), Pc::Exact(START), words.clone(), &modules);
        assert_eq!(cursor.step(), Ok(Step::Caller { cfa: caller }));
        assert_eq!((cursor.registers().sp(), cursor.pc()), (caller, Pc::Exact(START + 5)));
        // What was called is below its caller.
        let modules = One(sample::module(&other));
        let mut cursor = Cursor::new(at(SP), Pc::Exact(START), words, &modules);
        let called = cursor.step();
        let refused = UnwindError::CfaNotAbove { pc: START, cfa: caller, sp: SP };
        assert_eq!(
            called,
            if caller > SP { Ok(Step::Caller { cfa: caller }) } else { Err(refused) }
        );
    }
}

#[test]
fn an_interrupted_stack_that_cannot_be_read_ends_the_walk() {
    let handler = section(true, SAVED_CFA);
    let modules = One(sample::module(&handler));
    let mut cursor = Cursor::new(at(SP), Pc::Exact(START), Words(vec![(SP, 0x3000)]), &modules);
    assert_eq!(cursor.step(), Err(UnwindError::StackRead { pc: START, address: 0x2ff8 }));
}

/// Steps until that cannot go on: how often, and why.
fn walk(section: &[u8], words: Vec<(u64, u64)>) -> (usize, UnwindError) {
    let modules = One(sample::module(section));
    let mut cursor = Cursor::new(at(SP), Pc::Exact(START), Words(words), &modules);
    let mut steps = 0;
    loop {
        match cursor.step() {
            Ok(_) => steps += 1,
            Err(error) => return (steps, error),
        }
        assert!(steps < 100, "it does not end");
    }
}

#[test]
fn smashed_frames_that_lead_to_each_other_end_the_walk() {
    let handler = section(true, SAVED_CFA);
    let refused = |cfa, sp| UnwindError::CfaNotAbove { pc: START, cfa, sp };
    // It interrupted itself.
    assert_eq!(walk(&handler, frame(SP, SP, START).into()), (4, refused(SP, SP)));
    // Two stacks in turn: each second time down.
    let both = [frame(SP, 0x3000, START), frame(0x3000, SP, START)].concat();
    assert_eq!(walk(&handler, both), (8, refused(0x3000, SP)));
    // No handler, but the caller's stack pointer is below its frame, where it says (offset rsp, 2).
    let other = section(false, &[0x87, 2]);
    let words = vec![(SP, START + 1), (SP - 8, SP)];
    let (steps, error) = walk(&other, words);
    assert_eq!(steps, 4);
    assert!(matches!(error, UnwindError::CfaNotAbove { cfa: SP, sp: SP, .. }), "{error}");
}
