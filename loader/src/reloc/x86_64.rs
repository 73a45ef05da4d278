//! The arithmetic and the instruction patterns of x86-64 relocations, on plain bytes.
//!
//! ```text
//!   General Dynamic   data16 lea x@tlsgd(%rip), %rdi     ──►  mov %fs:0, %rax
//!                     … call __tls_get_addr                   lea x@tpoff(%rax), %rax
//!   Local Dynamic     lea x@tlsld(%rip), %rdi            ──►  data16… mov %fs:0, %rax
//!                     call __tls_get_addr
//!                     x@dtpoff(%rax)                     ──►  x@tpoff(%rax)
//!   Initial Exec      mov x@gottpoff(%rip), %reg         ──►  mov $x@tpoff, %reg
//!                     add x@gottpoff(%rip), %reg         ──►  add $x@tpoff, %reg
//! ```
//!
//! A loaded object's thread-local variables always lie at a fixed distance from TP, so the longer
//! models become Local Exec here. Promise: bytes change only if they are what the model prescribes
//! and the value fits. References: psABI x86-64 §4.4 (types), ELF TLS §5.5 (transitions), psABI
//! §11.1 (the same with `-fno-plt`).
#![forbid(unsafe_code)]

use alloc::boxed::Box;
use core::fmt;

use object::elf;

use super::{Problem, RelocationType};
use crate::elf::Relocation;
use crate::symbols::Value;

/// Bytes of a GOT slot: an address.
pub(crate) const GOT_SLOT: usize = 8;

/// Bytes of a PLT stub.
pub(crate) const PLT_STUB: usize = 8;

/// The function whose calls the TLS transitions remove.
pub(crate) const TLS_GET_ADDR: &str = "__tls_get_addr";

/// What a relocation computes. S is the symbol, A the addend, P the place, G the GOT slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// Nothing.
    None,
    /// S + A, 64 bits.
    Absolute64,
    /// S + A, 32 bits that the CPU extends with zeros.
    Absolute32,
    /// S + A, 32 bits that the CPU extends with the sign.
    Absolute32Signed,
    /// S + A − P, 32 bits.
    Relative32,
    /// S + A − P, 64 bits.
    Relative64,
    /// The same as `Relative32` for a callee, through a PLT stub if need be.
    Call32,
    /// G + A − P, 32 bits.
    GotRelative32,
    /// TPOFF(S) + A, 32 bits.
    TpOffset32,
    /// Initial Exec; becomes Local Exec.
    InitialExec,
    /// General Dynamic; becomes Local Exec.
    GeneralDynamic,
    /// Local Dynamic; becomes Local Exec.
    LocalDynamic,
    /// Follows `LocalDynamic`, so it is TPOFF(S) + A, 32 bits.
    DtpOffset32,
    /// The same in 64 bits.
    DtpOffset64,
}

/// What a relocation wants to know of its symbol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wants {
    Nothing,
    Address,
    TpOffset,
}

/// How `__tls_get_addr` is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Call {
    /// `call __tls_get_addr@PLT`
    Direct,
    /// `call *__tls_get_addr@GOTPCREL(%rip)`, from `-fno-plt`
    Indirect,
}

/// The numbers that go into a relocation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operands {
    /// The symbol, or for `GotRelative32` its slot.
    pub symbol: Value,
    pub addend: i64,
    /// The address of the place; a TLS image has none.
    pub place: Option<u64>,
    /// The symbol's PLT stub.
    pub stub: Option<u64>,
    /// Whether the place is in executable code.
    pub in_code: bool,
}

impl Kind {
    /// The relocations that rustc emits for the models `static` and `pic`.
    pub fn decode(kind: RelocationType) -> Option<Self> {
        Some(match elf::RelocationType(kind.0) {
            elf::R_X86_64_NONE => Self::None,
            elf::R_X86_64_64 => Self::Absolute64,
            elf::R_X86_64_32 => Self::Absolute32,
            elf::R_X86_64_32S => Self::Absolute32Signed,
            elf::R_X86_64_PC32 => Self::Relative32,
            elf::R_X86_64_PC64 => Self::Relative64,
            elf::R_X86_64_PLT32 => Self::Call32,
            elf::R_X86_64_GOTPCREL | elf::R_X86_64_GOTPCRELX | elf::R_X86_64_REX_GOTPCRELX => {
                Self::GotRelative32
            }
            elf::R_X86_64_TPOFF32 => Self::TpOffset32,
            elf::R_X86_64_GOTTPOFF => Self::InitialExec,
            elf::R_X86_64_TLSGD => Self::GeneralDynamic,
            elf::R_X86_64_TLSLD => Self::LocalDynamic,
            elf::R_X86_64_DTPOFF32 => Self::DtpOffset32,
            elf::R_X86_64_DTPOFF64 => Self::DtpOffset64,
            _ => return None,
        })
    }

    /// What must be known of the symbol.
    pub fn wants(self) -> Wants {
        match self {
            // Local Exec needs no module: LocalDynamic's symbol only names the module.
            Self::None | Self::LocalDynamic => Wants::Nothing,
            Self::Absolute64
            | Self::Absolute32
            | Self::Absolute32Signed
            | Self::Relative32
            | Self::Relative64
            | Self::Call32
            | Self::GotRelative32 => Wants::Address,
            Self::TpOffset32
            | Self::InitialExec
            | Self::GeneralDynamic
            | Self::DtpOffset32
            | Self::DtpOffset64 => Wants::TpOffset,
        }
    }

    /// Whether the next relocation is for the call that belongs to the same sequence.
    pub fn precedes_call(self) -> bool {
        matches!(self, Self::GeneralDynamic | Self::LocalDynamic)
    }
}

/// How `call`, the relocation after `first`, calls `__tls_get_addr`, if it is where the sequence
/// of `kind` has its call.
pub(crate) fn call_after(kind: Kind, first: &Relocation, call: &Relocation) -> Option<Call> {
    let form = match Kind::decode(call.kind)? {
        Kind::Call32 | Kind::Relative32 => Call::Direct,
        Kind::GotRelative32 => Call::Indirect,
        _ => return None,
    };
    let sequence = Sequence::of(kind, form)?;
    let distance = (4 + sequence.call.len()) as u64;
    (call.offset.checked_sub(first.offset)? == distance).then_some(form)
}

/// Relocates one place that needs no more than its own bytes, or an Initial Exec instruction.
pub(crate) fn apply(
    kind: Kind,
    section: &mut [u8],
    offset: u64,
    operands: &Operands,
) -> Result<(), Problem> {
    let sum = || Ok(i128::from(operands.address()?) + i128::from(operands.addend));
    match kind {
        Kind::None => Ok(()),
        // Wraps like the machine does: a negative addend to address 0 is meant so.
        Kind::Absolute64 => {
            let value = operands.address()?.wrapping_add_signed(operands.addend);
            put(section, offset, value.to_le_bytes())
        }
        Kind::Absolute32 => put(section, offset, unsigned(sum()?)?),
        Kind::Absolute32Signed => put(section, offset, signed(sum()?)?),
        Kind::Relative32 | Kind::GotRelative32 => {
            put(section, offset, signed(sum()? - operands.place()?)?)
        }
        Kind::Relative64 => {
            let value = sum()? - operands.place()?;
            put(section, offset, (value as i64).to_le_bytes())
        }
        Kind::Call32 => {
            let direct = signed(sum()? - operands.place()?);
            let value = match (direct, operands.stub) {
                (Err(_), Some(stub)) => {
                    signed(i128::from(stub) + i128::from(operands.addend) - operands.place()?)?
                }
                (direct, _) => direct?,
            };
            put(section, offset, value)
        }
        Kind::TpOffset32 => put(section, offset, signed(operands.tp_offset()?)?),
        Kind::DtpOffset32 | Kind::DtpOffset64 if !operands.in_code => {
            Err(Problem::OffsetOutsideCode)
        }
        Kind::DtpOffset32 => put(section, offset, signed(operands.tp_offset()?)?),
        Kind::DtpOffset64 => put(section, offset, (operands.tp_offset()? as i64).to_le_bytes()),
        Kind::InitialExec => initial_exec(section, offset, operands),
        Kind::GeneralDynamic | Kind::LocalDynamic => Err(Problem::MissingTlsCall),
    }
}

impl Operands {
    fn address(&self) -> Result<u64, Problem> {
        match self.symbol {
            Value::Address(address) => Ok(address),
            Value::Tls(_) => Err(Problem::ThreadLocal),
        }
    }

    fn place(&self) -> Result<i128, Problem> {
        self.place.map(i128::from).ok_or(Problem::NoAddress)
    }

    fn tp_offset(&self) -> Result<i128, Problem> {
        match self.symbol {
            Value::Tls(offset) => Ok(i128::from(offset) + i128::from(self.addend)),
            Value::Address(_) => Err(Problem::NotThreadLocal),
        }
    }
}

/// The bytes of a section from `offset` on, as many as `N`.
fn field<const N: usize>(section: &mut [u8], offset: u64) -> Result<&mut [u8; N], Problem> {
    let outside = Problem::OutsideSection { width: N as u64, size: section.len() as u64 };
    usize::try_from(offset)
        .ok()
        .and_then(|offset| section.get_mut(offset..)?.first_chunk_mut())
        .ok_or(outside)
}

fn put<const N: usize>(section: &mut [u8], offset: u64, value: [u8; N]) -> Result<(), Problem> {
    *field(section, offset)? = value;
    Ok(())
}

fn signed(value: i128) -> Result<[u8; 4], Problem> {
    let (min, max) = (i32::MIN.into(), i32::MAX.into());
    i32::try_from(value).map(i32::to_le_bytes).map_err(|_| Problem::Overflow { value, min, max })
}

fn unsigned(value: i128) -> Result<[u8; 4], Problem> {
    let (min, max) = (0, u32::MAX.into());
    u32::try_from(value).map(u32::to_le_bytes).map_err(|_| Problem::Overflow { value, min, max })
}

/// `mov` or `add` from the GOT becomes the same with an immediate. The `add` stays an `add`,
/// so that the flags are those the compiler expects.
fn initial_exec(section: &mut [u8], offset: u64, operands: &Operands) -> Result<(), Problem> {
    const BEFORE: u64 = 3;
    const REX_W: u8 = 0x48;
    const REX_WR: u8 = 0x4c;
    const REX_WB: u8 = 0x49;
    let outside = Problem::OutsideSection { width: 4, size: section.len() as u64 };
    let start = offset.checked_sub(BEFORE).ok_or(outside)?;
    let code: &mut [u8; 7] = field(section, start)?;
    let [rex, opcode, modrm, ..] = *code;
    // The place is relative to the next instruction, four bytes on.
    let value = signed(operands.tp_offset()? + 4)?;
    let register = modrm >> 3 & 7;
    let (new_rex, known_rex) = match rex {
        REX_W => (REX_W, true),
        REX_WR => (REX_WB, true),
        _ => (rex, false),
    };
    let new_opcode = match opcode {
        0x8b => 0xc7,
        0x03 => 0x81,
        _ => 0,
    };
    if !known_rex || new_opcode == 0 || modrm & 0xc7 != 0x05 {
        return Err(Problem::UnexpectedCode { found: Box::from(code.as_slice()) });
    }
    code[..3].copy_from_slice(&[new_rex, new_opcode, 0xc0 | register]);
    code[3..].copy_from_slice(&value);
    Ok(())
}

/// A call of `__tls_get_addr` with its argument, and what does the same in Local Exec.
struct Sequence {
    /// The `lea` up to its displacement, which is the place of the first relocation.
    lea: &'static [u8],
    /// The `call` up to its displacement, which is the place of the second relocation.
    call: &'static [u8],
    /// As many bytes as both have together.
    local_exec: &'static [u8],
    /// Where the offset from TP goes, if anywhere.
    value_at: Option<usize>,
}

impl Sequence {
    const GENERAL_DYNAMIC: Self = Self {
        lea: &[0x66, 0x48, 0x8d, 0x3d],
        call: &[0x66, 0x66, 0x48, 0xe8],
        local_exec: &[
            0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0, // mov %fs:0, %rax
            0x48, 0x8d, 0x80, 0, 0, 0, 0, // lea x@tpoff(%rax), %rax
        ],
        value_at: Some(12),
    };
    const GENERAL_DYNAMIC_INDIRECT: Self =
        Self { call: &[0x66, 0x48, 0xff, 0x15], ..Self::GENERAL_DYNAMIC };
    const LOCAL_DYNAMIC: Self = Self {
        lea: &[0x48, 0x8d, 0x3d],
        call: &[0xe8],
        // data16 ×3; mov %fs:0, %rax
        local_exec: &[0x66, 0x66, 0x66, 0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0],
        value_at: None,
    };
    const LOCAL_DYNAMIC_INDIRECT: Self = Self {
        lea: &[0x48, 0x8d, 0x3d],
        call: &[0xff, 0x15],
        // data16 ×4; mov %fs:0, %rax
        local_exec: &[0x66, 0x66, 0x66, 0x66, 0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0],
        value_at: None,
    };

    /// ELF TLS §5.5, tables 5.3 (General Dynamic) and 5.4 (Local Dynamic); psABI §11.1.2.
    fn of(kind: Kind, call: Call) -> Option<Self> {
        match (kind, call) {
            (Kind::GeneralDynamic, Call::Direct) => Some(Self::GENERAL_DYNAMIC),
            (Kind::GeneralDynamic, Call::Indirect) => Some(Self::GENERAL_DYNAMIC_INDIRECT),
            (Kind::LocalDynamic, Call::Direct) => Some(Self::LOCAL_DYNAMIC),
            (Kind::LocalDynamic, Call::Indirect) => Some(Self::LOCAL_DYNAMIC_INDIRECT),
            _ => None,
        }
    }
}

/// Relocates a General or Local Dynamic sequence as a whole, the call included.
pub(crate) fn apply_tls_call(
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
    let call_at = sequence.lea.len() + 4;
    if !code.starts_with(sequence.lea) || !code[call_at..].starts_with(sequence.call) {
        return Err(Problem::UnexpectedCode { found: Box::from(&*code) });
    }
    let value = match sequence.value_at {
        // The addend accounts for the four bytes to the next instruction; `lea` has none.
        Some(at) => Some((at, signed(operands.tp_offset()? + 4)?)),
        None => None,
    };
    code.copy_from_slice(sequence.local_exec);
    if let Some((at, value)) = value {
        code[at..at + 4].copy_from_slice(&value);
    }
    Ok(())
}

/// The stub at address `stub` that jumps to where the slot at `slot` points; both lie in one
/// object, so they reach each other.
pub(crate) fn plt_stub(stub: u64, slot: u64) -> [u8; PLT_STUB] {
    const JUMP: u64 = 6;
    let distance = slot.wrapping_sub(stub + JUMP) as u32;
    let [a, b, c, d] = distance.to_le_bytes();
    [0xff, 0x25, a, b, c, d, 0xcc, 0xcc] // jmp *slot(%rip); int3; int3
}

impl fmt::Display for RelocationType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match elf::RelocationType(self.0) {
            elf::R_X86_64_NONE => "NONE",
            elf::R_X86_64_64 => "64",
            elf::R_X86_64_PC32 => "PC32",
            elf::R_X86_64_GOT32 => "GOT32",
            elf::R_X86_64_PLT32 => "PLT32",
            elf::R_X86_64_GOTPCREL => "GOTPCREL",
            elf::R_X86_64_32 => "32",
            elf::R_X86_64_32S => "32S",
            elf::R_X86_64_16 => "16",
            elf::R_X86_64_PC16 => "PC16",
            elf::R_X86_64_8 => "8",
            elf::R_X86_64_PC8 => "PC8",
            elf::R_X86_64_DTPMOD64 => "DTPMOD64",
            elf::R_X86_64_DTPOFF64 => "DTPOFF64",
            elf::R_X86_64_TPOFF64 => "TPOFF64",
            elf::R_X86_64_TLSGD => "TLSGD",
            elf::R_X86_64_TLSLD => "TLSLD",
            elf::R_X86_64_DTPOFF32 => "DTPOFF32",
            elf::R_X86_64_GOTTPOFF => "GOTTPOFF",
            elf::R_X86_64_TPOFF32 => "TPOFF32",
            elf::R_X86_64_PC64 => "PC64",
            elf::R_X86_64_GOTOFF64 => "GOTOFF64",
            elf::R_X86_64_GOTPC32 => "GOTPC32",
            elf::R_X86_64_GOT64 => "GOT64",
            elf::R_X86_64_GOTPCREL64 => "GOTPCREL64",
            elf::R_X86_64_GOTPC64 => "GOTPC64",
            elf::R_X86_64_PLTOFF64 => "PLTOFF64",
            elf::R_X86_64_SIZE32 => "SIZE32",
            elf::R_X86_64_SIZE64 => "SIZE64",
            elf::R_X86_64_GOTPC32_TLSDESC => "GOTPC32_TLSDESC",
            elf::R_X86_64_TLSDESC_CALL => "TLSDESC_CALL",
            elf::R_X86_64_TLSDESC => "TLSDESC",
            elf::R_X86_64_GOTPCRELX => "GOTPCRELX",
            elf::R_X86_64_REX_GOTPCRELX => "REX_GOTPCRELX",
            _ => return write!(f, "relocation type {}", self.0),
        };
        write!(f, "R_X86_64_{name}")
    }
}

#[cfg(test)]
mod tests;
