use super::*;
use crate::address::Pc;
use crate::cursor::{Cursor, Step};
use crate::error::UnwindError;
use crate::module::Module;
use crate::modules::FindModule;
use crate::sample::{CALL_FRAME, START, module, section};

/// Code of the module that has no FDE.
const BARE: u64 = START + 0x200;
/// Code of no module.
const ELSEWHERE: u64 = 0x7777_0000;
/// Where the made-up stack begins.
const STACK: u64 = 0x9000;

struct Only<'m>(Module<'m>);

impl FindModule for Only<'_> {
    fn find(&self, address: u64) -> Option<Module<'_>> {
        self.0.contains(address).then_some(self.0)
    }
}

struct Words<'a>(&'a [u64]);

impl ReadStack for Words<'_> {
    fn read(&self, address: u64) -> Option<u64> {
        let offset = address.checked_sub(STACK).filter(|offset| offset.is_multiple_of(8))?;
        self.0.get(usize::try_from(offset / 8).ok()?).copied()
    }
}

fn registers(ip: u64, sp: u64, rbp: u64) -> Registers {
    Registers::new().with(Register::RA, ip).with(Register::RSP, sp).with(Register::RBP, rbp)
}

/// One step from `ip` by guessing: the caller's ip, sp, rbp, and how it was found.
fn step(
    ip: u64,
    sp: u64,
    rbp: u64,
    words: &[u64],
) -> Result<(u64, u64, u64, FrameKind), UnwindError> {
    let section = section(1, CALL_FRAME, &[]);
    let modules = Only(module(&section));
    let cursor = Cursor::new(registers(ip, sp, rbp), Pc::Return(ip), Words(words), &modules);
    let mut cursor = cursor.with_guesses();
    cursor.step()?;
    let found = cursor.registers();
    Ok((found.ip(), found.sp(), found.get(Register::RBP), cursor.kind()))
}

#[test]
fn a_frame_without_tables_is_left_by_its_frame_pointer_and_the_next_by_tables() {
    // The bare frame's rbp and return address; then a frame with CFA = rsp + 8.
    let words = [1, 2, 0x1234, START + 0x10, START + 0x20, 3];
    let guessed = step(BARE, STACK, STACK + 16, &words);
    assert_eq!(guessed, Ok((START + 0x10, STACK + 32, 0x1234, FrameKind::Guess)));
    let known = step(START + 0x10, STACK + 32, 0x1234, &words);
    assert_eq!(known, Ok((START + 0x20, STACK + 40, 0x1234, FrameKind::Known)));
}

#[test]
fn nobody_guesses_unless_asked() {
    let section = section(1, CALL_FRAME, &[]);
    let modules = Only(module(&section));
    let words = [STACK, START + 0x10];
    for (ip, error) in
        [(BARE, UnwindError::NoFde(BARE - 1)), (ELSEWHERE, UnwindError::NoModule(ELSEWHERE - 1))]
    {
        let registers = registers(ip, STACK, STACK);
        let mut cursor = Cursor::new(registers, Pc::Return(ip), Words(&words), &modules);
        assert_eq!(cursor.step(), Err(error));
    }
}

#[test]
fn what_cannot_be_a_frame_pointer_is_not_believed() {
    let words = [0, START + 0x10, 0, ELSEWHERE, 0];
    let error = Err(UnwindError::NoFde(BARE - 1));
    // Below the stack pointer, misaligned, beyond the stack, half of it beyond, no code behind.
    for (sp, rbp) in [
        (STACK + 8, STACK),
        (STACK, STACK + 4),
        (STACK, STACK + 40),
        (STACK, STACK + 32),
        (STACK, u64::MAX - 7),
        (STACK, STACK + 16),
    ] {
        assert_eq!(step(BARE, sp, rbp, &words), error, "rsp {sp:#x}, rbp {rbp:#x}");
    }
    assert!(step(BARE, STACK, STACK, &words).is_ok());
}

#[test]
fn beyond_code_that_nobody_knows_the_return_address_may_be_anywhere() {
    let words = [STACK + 16, ELSEWHERE + 0x40, STACK + 32, START + 0x10];
    let first = step(ELSEWHERE, STACK, STACK, &words);
    assert_eq!(first, Ok((ELSEWHERE + 0x40, STACK + 16, STACK + 16, FrameKind::Guess)));
    let second = step(ELSEWHERE + 0x40, STACK + 16, STACK + 16, &words);
    assert_eq!(second, Ok((START + 0x10, STACK + 32, STACK + 32, FrameKind::Guess)));
}

#[test]
fn a_chain_of_frame_pointers_ends_at_a_return_address_of_zero() {
    let section = section(1, CALL_FRAME, &[]);
    let modules = Only(module(&section));
    let start = registers(BARE, STACK, STACK);
    let cursor = Cursor::new(start, Pc::Return(BARE), Words(&[0, 0]), &modules);
    assert_eq!(cursor.with_guesses().step(), Ok(Step::End));
}

/// Words that look like addresses of this stack and of all kinds of code.
fn nonsense(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    let number = *state >> 20;
    match number % 8 {
        0 => 0,
        1 => number,
        2 => START + number % 0x100,
        3 => BARE + number % 0x100,
        4 => ELSEWHERE + number % 0x100,
        _ => STACK + number % 512 / 8 * 8,
    }
}

#[test]
fn a_smashed_stack_ends_every_walk_and_every_frame_is_above_the_one_before() {
    let section = section(1, CALL_FRAME, &[]);
    let modules = Only(module(&section));
    let (mut state, mut guesses, mut after) = (0x9e37_79b9_7f4a_7c15, 0, 0);
    for _ in 0..50_000 {
        let words: [u64; 64] = core::array::from_fn(|_| nonsense(&mut state));
        let start = registers(nonsense(&mut state), STACK, nonsense(&mut state));
        let cursor = Cursor::new(start, Pc::Return(start.ip()), Words(&words), &modules);
        let (mut cursor, mut sp) = (cursor.with_guesses(), STACK);
        let mut before = FrameKind::Known;
        for frames in 0.. {
            assert!(frames <= words.len(), "a walk without end");
            let Ok(Step::Caller { cfa }) = cursor.step() else { break };
            assert!(cfa > sp && cfa == cursor.registers().sp());
            sp = cfa;
            guesses += u32::from(cursor.kind() == FrameKind::Guess);
            after += u32::from(before == FrameKind::Guess && cursor.kind() == FrameKind::Known);
            before = cursor.kind();
        }
    }
    assert!(guesses > 5000 && after > 500, "{guesses} guesses, {after} frames known after one");
}
