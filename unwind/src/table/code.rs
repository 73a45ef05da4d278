//! Tells code that can be returned to from code that cannot.
//!
//! ```text
//!   push %rbp │ mov %rsp,%rbp      no byte of it can begin a call: nothing returns here
//!   … e8 xx xx xx xx …             may be one
//! ```
//!
//! Bytes are looked at without regard to where instructions begin, so this errs to the side of
//! "maybe"; if it ever erred to the other, DWARF would be asked.
#![forbid(unsafe_code)]

/// `CALL rel32` (Intel SDM volume 2, CALL), and its length.
const NEAR: u8 = 0xe8;
const NEAR_LENGTH: usize = 5;
/// The opcode that has the indirect calls in its ModR/M byte.
const GROUP_5: u8 = 0xff;
/// `/2`: near, `/3`: far.
const CALLS: [u8; 2] = [2, 3];

/// Whether a call may lie wholly in these bytes.
pub(super) fn may_call(code: &[u8]) -> bool {
    (0..code.len()).any(|at| match code[at..] {
        [NEAR, ref operand @ ..] => operand.len() >= NEAR_LENGTH - 1,
        [GROUP_5, modrm, ..] => CALLS.contains(&(modrm >> 3 & 7)),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_seen_wherever_they_stand_and_only_if_they_are_whole() {
        // push %rbp; mov %rsp,%rbp; push %rbx; sub $8,%rsp
        assert!(!may_call(&[0x55, 0x48, 0x89, 0xe5, 0x53, 0x48, 0x83, 0xec, 0x08]));
        // pop %rbx; pop %rbp; ret
        assert!(!may_call(&[0x5b, 0x5d, 0xc3]));
        assert!(may_call(&[0x90, 0xe8, 1, 2, 3, 4]));
        assert!(!may_call(&[0x90, 0xe8, 1, 2, 3]));
        // call *%rax; call *8(%rax); call *0x100(%r15)
        for code in [&[0xff, 0xd0][..], &[0xff, 0x50, 8], &[0x41, 0xff, 0x97, 0, 1, 0, 0]] {
            assert!(may_call(code));
            assert!(!may_call(&code[..code.len().min(2) - 1]));
        }
        // jmp *%rax; push (%rax)
        assert!(!may_call(&[0xff, 0xe0, 0xff, 0x30]));
    }
}
