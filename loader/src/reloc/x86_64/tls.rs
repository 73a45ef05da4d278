//! The instructions of the TLS models, and what they become when a variable lies at a fixed
//! distance from TP.
//!
//! ```text
//!   General Dynamic   data16 lea x@tlsgd(%rip), %rdi     ──►  mov %fs:0, %rax
//!                     … call __tls_get_addr                   lea x@tpoff(%rax), %rax
//!   Local Dynamic     lea x@tlsld(%rip), %rdi            ──►  data16… mov %fs:0, %rax
//!                     call __tls_get_addr
//!                     x@dtpoff(%rax)                     ──►  x@tpoff(%rax)
//!   TLS descriptor    lea x@tlsdesc(%rip), %rax          ──►  mov $x@tpoff, %rax
//!                     call *x@tlscall(%rax)              ──►  xchg %ax, %ax
//!   Initial Exec      mov x@gottpoff(%rip), %reg         ──►  mov $x@tpoff, %reg
//!                     add x@gottpoff(%rip), %reg         ──►  add $x@tpoff, %reg
//! ```
//!
//! Promise: nothing changes unless all bytes of the sequence are what the model prescribes and the
//! value fits. References: ELF TLS §5.5 (transitions), psABI x86-64 §11.1 (the same with
//! `-fno-plt` and in the large code model), "Thread-Local Storage Descriptors for IA32 and
//! AMD64/EM64T" §2.3.
#![forbid(unsafe_code)]

use super::{Kind, Operands, field, signed};
use crate::elf::Relocation;
use crate::reloc::{Code, Problem};

/// The function that the dynamic models call.
pub(crate) const TLS_GET_ADDR: &str = "__tls_get_addr";

/// The symbol by which descriptors are asked for the start of the object's own block.
pub(crate) const MODULE_BASE: &str = "_TLS_MODULE_BASE_";

/// How `__tls_get_addr` is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    /// `call __tls_get_addr@PLT`
    Direct,
    /// `call *__tls_get_addr@GOTPCREL(%rip)`, from `-fno-plt`
    Indirect,
    /// `movabs $__tls_get_addr@PLTOFF, %rax; add %rbx, %rax; call *%rax`, from `-mcmodel=large`
    Large,
}

/// How `call`, the relocation after `first`, calls `__tls_get_addr`, if it is where the sequence
/// of `kind` has its call.
pub(crate) fn call_after(kind: Kind, first: &Relocation, call: &Relocation) -> Option<Call> {
    let form = match Kind::decode(call.kind)? {
        Kind::Call32 | Kind::Relative32 => Call::Direct,
        Kind::GotRelative32 | Kind::GotRelaxable32 | Kind::GotRelaxable32Rex => Call::Indirect,
        Kind::PltOffset64 => Call::Large,
        _ => return None,
    };
    let sequence = Sequence::of(kind, form)?;
    let distance = (4 + sequence.call.len()) as u64;
    (call.offset.checked_sub(first.offset)? == distance).then_some(form)
}

const REX_W: u8 = 0x48;
const REX_WR: u8 = 0x4c;
const REX_WB: u8 = 0x49;

/// An instruction with a displacement from `rip` in its last four bytes.
struct RipRelative {
    rex: u8,
    opcode: u8,
    register: u8,
}

impl RipRelative {
    const BEFORE: u64 = 3;

    /// The instruction whose displacement is at `offset`, and its bytes.
    fn at(section: &mut [u8], offset: u64) -> Result<(Self, &mut [u8; 7]), Problem> {
        let outside = Problem::OutsideSection { width: 4, size: section.len() as u64 };
        let start = offset.checked_sub(Self::BEFORE).ok_or(outside)?;
        let code: &mut [u8; 7] = field(section, start)?;
        let [rex, opcode, modrm, ..] = *code;
        // With the register in the r/m field of the new instruction, REX.R becomes REX.B.
        let rex = match rex {
            REX_W => REX_W,
            REX_WR => REX_WB,
            _ => 0,
        };
        if rex == 0 || modrm & 0xc7 != 0x05 {
            return Err(unexpected(code));
        }
        Ok((Self { rex, opcode, register: modrm >> 3 & 7 }, code))
    }
}

fn unexpected(code: &[u8]) -> Problem {
    Problem::UnexpectedCode { found: Code::new(code) }
}

/// Writes `opcode $value, %reg` with a signed 32-bit immediate.
fn immediate(code: &mut [u8; 7], of: &RipRelative, opcode: u8, value: [u8; 4]) {
    code[..3].copy_from_slice(&[of.rex, opcode, 0xc0 | of.register]);
    code[3..].copy_from_slice(&value);
}

const MOV_IMMEDIATE: u8 = 0xc7;
const ADD_IMMEDIATE: u8 = 0x81;

/// What becomes of an instruction that reads from the GOT. The `add` stays an `add`, so that the
/// flags are those the compiler expects.
fn without_got(instruction: &RipRelative) -> Option<u8> {
    match instruction.opcode {
        0x8b => Some(MOV_IMMEDIATE),
        0x03 => Some(ADD_IMMEDIATE),
        _ => None,
    }
}

/// Whether the instruction of an Initial Exec access can do without the GOT.
pub(crate) fn relaxes_initial_exec(section: &[u8], offset: u64) -> bool {
    let start = offset.checked_sub(RipRelative::BEFORE).and_then(|at| usize::try_from(at).ok());
    let code = start.and_then(|start| section.get(start..)?.first_chunk::<7>());
    code.is_some_and(|code| {
        let mut code = *code;
        let instruction = RipRelative::at(&mut code, RipRelative::BEFORE);
        instruction.is_ok_and(|(instruction, _)| without_got(&instruction).is_some())
    })
}

/// `mov` or `add` from the GOT becomes the same with an immediate.
pub(crate) fn relax_initial_exec(
    section: &mut [u8],
    offset: u64,
    operands: &Operands,
) -> Result<(), Problem> {
    let (instruction, code) = RipRelative::at(section, offset)?;
    let opcode = without_got(&instruction).ok_or_else(|| unexpected(code))?;
    immediate(code, &instruction, opcode, tp_offset(operands)?);
    Ok(())
}

/// Both halves of a TLS descriptor access: the `lea` of the descriptor, the call through it.
pub(crate) fn relax_descriptor(
    kind: Kind,
    section: &mut [u8],
    offset: u64,
    operands: &Operands,
) -> Result<(), Problem> {
    const LEA: u8 = 0x8d;
    const CALL: [u8; 2] = [0xff, 0x10]; // call *(%rax)
    const NOTHING: [u8; 2] = [0x66, 0x90]; // xchg %ax, %ax
    if kind == Kind::DescriptorCall {
        operands.tp_offset()?;
        let code: &mut [u8; 2] = field(section, offset)?;
        if *code != CALL {
            return Err(unexpected(code));
        }
        *code = NOTHING;
        return Ok(());
    }
    let (instruction, code) = RipRelative::at(section, offset)?;
    if instruction.opcode != LEA {
        return Err(unexpected(code));
    }
    immediate(code, &instruction, MOV_IMMEDIATE, tp_offset(operands)?);
    Ok(())
}

/// The offset from TP as it stands in instructions. The addend of a displacement accounts for
/// its four bytes; there is no displacement any more.
fn tp_offset(operands: &Operands) -> Result<[u8; 4], Problem> {
    signed(operands.tp_offset()? + 4)
}

/// A call of `__tls_get_addr` with its argument, and what does the same in Local Exec.
struct Sequence {
    /// The `lea` up to its displacement, which is the place of the first relocation.
    lea: &'static [u8],
    /// The call up to the place of the second relocation.
    call: &'static [u8],
    /// Bytes of that place.
    operand: usize,
    /// What may come after it.
    tails: &'static [&'static [u8]],
    /// As many bytes as all have together.
    local_exec: &'static [u8],
    /// Where the offset from TP goes, if anywhere.
    value_at: Option<usize>,
}

impl Sequence {
    const GENERAL_DYNAMIC: Self = Self {
        lea: &[0x66, 0x48, 0x8d, 0x3d],
        call: &[0x66, 0x66, 0x48, 0xe8],
        operand: 4,
        tails: &[&[]],
        local_exec: &[
            0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0, // mov %fs:0, %rax
            0x48, 0x8d, 0x80, 0, 0, 0, 0, // lea x@tpoff(%rax), %rax
        ],
        value_at: Some(12),
    };
    const GENERAL_DYNAMIC_INDIRECT: Self =
        Self { call: &[0x66, 0x48, 0xff, 0x15], ..Self::GENERAL_DYNAMIC };
    const GENERAL_DYNAMIC_LARGE: Self = Self {
        local_exec: &[
            0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0, // mov %fs:0, %rax
            0x48, 0x8d, 0x80, 0, 0, 0, 0, // lea x@tpoff(%rax), %rax
            0x66, 0x0f, 0x1f, 0x44, 0, 0, // nopw 0(%rax,%rax,1)
        ],
        value_at: Some(12),
        ..Self::LOCAL_DYNAMIC_LARGE
    };
    const LOCAL_DYNAMIC: Self = Self {
        lea: &[0x48, 0x8d, 0x3d],
        call: &[0xe8],
        operand: 4,
        tails: &[&[]],
        // data16 ×3; mov %fs:0, %rax
        local_exec: &[0x66, 0x66, 0x66, 0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0],
        value_at: None,
    };
    const LOCAL_DYNAMIC_INDIRECT: Self = Self {
        call: &[0xff, 0x15],
        // data16 ×4; mov %fs:0, %rax
        local_exec: &[0x66, 0x66, 0x66, 0x66, 0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0],
        ..Self::LOCAL_DYNAMIC
    };
    const LOCAL_DYNAMIC_LARGE: Self = Self {
        lea: &[0x48, 0x8d, 0x3d],
        call: &[0x48, 0xb8], // movabs $…, %rax
        operand: 8,
        tails: &[
            &[0x48, 0x01, 0xd8, 0xff, 0xd0], // add %rbx, %rax; call *%rax
            &[0x4c, 0x01, 0xf8, 0xff, 0xd0], // add %r15, %rax; call *%rax
        ],
        local_exec: &[
            0x66, 0x66, 0x66, 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0, // nopw, 13 bytes
            0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0, // mov %fs:0, %rax
        ],
        value_at: None,
    };

    /// ELF TLS §5.5, tables 5.3 (General Dynamic) and 5.4 (Local Dynamic); psABI §11.1.2.
    fn of(kind: Kind, call: Call) -> Option<Self> {
        match (kind, call) {
            (Kind::GeneralDynamic, Call::Direct) => Some(Self::GENERAL_DYNAMIC),
            (Kind::GeneralDynamic, Call::Indirect) => Some(Self::GENERAL_DYNAMIC_INDIRECT),
            (Kind::GeneralDynamic, Call::Large) => Some(Self::GENERAL_DYNAMIC_LARGE),
            (Kind::LocalDynamic, Call::Direct) => Some(Self::LOCAL_DYNAMIC),
            (Kind::LocalDynamic, Call::Indirect) => Some(Self::LOCAL_DYNAMIC_INDIRECT),
            (Kind::LocalDynamic, Call::Large) => Some(Self::LOCAL_DYNAMIC_LARGE),
            _ => None,
        }
    }

    /// Whether `code`, which has the sequence's length, is the sequence.
    fn is(&self, code: &[u8]) -> bool {
        let call_at = self.lea.len() + 4;
        let tail_at = call_at + self.call.len() + self.operand;
        code.starts_with(self.lea)
            && code[call_at..].starts_with(self.call)
            && self.tails.contains(&&code[tail_at..])
    }
}

/// Rewrites a General or Local Dynamic sequence as a whole, the call included.
pub(crate) fn relax_call(
    kind: Kind,
    call: Call,
    section: &mut [u8],
    offset: u64,
    operands: &Operands,
) -> Result<(), Problem> {
    let sequence = Sequence::of(kind, call).ok_or(Problem::MissingTlsCall)?;
    let size = section.len() as u64;
    let width = sequence.local_exec.len();
    let outside = Problem::OutsideSection { width: width as u64, size };
    let code = offset
        .checked_sub(sequence.lea.len() as u64)
        .and_then(|start| usize::try_from(start).ok())
        .and_then(|start| section.get_mut(start..)?.get_mut(..width))
        .ok_or(outside)?;
    if !sequence.is(code) {
        return Err(unexpected(code));
    }
    let value = match sequence.value_at {
        Some(at) => Some((at, tp_offset(operands)?)),
        None => None,
    };
    code.copy_from_slice(sequence.local_exec);
    if let Some((at, value)) = value {
        code[at..at + 4].copy_from_slice(&value);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
