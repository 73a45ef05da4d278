//! The arithmetic of x86-64 relocations, on plain bytes.
//!
//! ```text
//!   section:  │ … │ field at P │ … │        what goes into the field
//!                       ▲
//!                       └─ S + A, S + A − P, G + A − P, L + A − GOT, TPOFF(S) + A, …
//!
//!   S symbol   A addend   P place   L its stub   G its GOT slot   GOT the table's start
//! ```
//!
//! Promise: bytes change only inside the field and only if the value fits; instructions change
//! only if they are what the model prescribes ([`tls`]). References: psABI x86-64 §4.4 (types),
//! ELF TLS §3.4.6 (the two kinds of TLS offsets).
#![forbid(unsafe_code)]

pub(super) mod tls;

use core::fmt;

use object::elf;

use super::{Problem, RelocationType};
use crate::got::Slot;
use crate::symbols::Value;
use crate::tls::Block;

/// Bytes of a word of the GOT: an address, or half of a pair.
pub(crate) const GOT_WORD: usize = 8;

/// Bytes of a PLT stub.
pub(crate) const PLT_STUB: usize = 8;

/// What a relocation computes.
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
    /// G + A − P, 64 bits.
    GotRelative64,
    /// G + A − GOT, 64 bits.
    GotSlot64,
    /// S + A − GOT, 64 bits.
    GotOffset64,
    /// L + A − GOT, 64 bits. They reach everything, so L is S.
    PltOffset64,
    /// GOT + A − P, 32 bits.
    GotBase32,
    /// GOT + A − P, 64 bits.
    GotBase64,
    /// TPOFF(S) + A, 32 bits.
    TpOffset32,
    /// TPOFF(S) + A, 64 bits.
    TpOffset64,
    /// Initial Exec: a GOT slot with TPOFF(S).
    InitialExec,
    /// General Dynamic: the address of a pair for `__tls_get_addr`.
    GeneralDynamic,
    /// Local Dynamic: the same for the object's own block.
    LocalDynamic,
    /// Follows `LocalDynamic`: DTPOFF(S) + A, 32 bits.
    DtpOffset32,
    /// The same in 64 bits.
    DtpOffset64,
    /// The address of a TLS descriptor.
    Descriptor,
    /// Marks the call through a TLS descriptor.
    DescriptorCall,
}

/// What a relocation wants to know of its symbol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wants {
    Nothing,
    Address,
    /// Where it lies in thread-local storage.
    Tls,
}

/// The numbers that go into a relocation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operands {
    pub symbol: Value,
    pub addend: i64,
    /// The address of the place; a TLS image has none.
    pub place: Option<u64>,
    /// The symbol's PLT stub.
    pub stub: Option<u64>,
    /// The GOT slot that goes with the relocation's kind.
    pub slot: Option<u64>,
    /// The start of the GOT.
    pub got: u64,
    /// Whether the place is in executable code.
    pub in_code: bool,
    /// Where the object's own TLS block is.
    pub block: Block,
}

impl Kind {
    /// The relocations that gcc, clang and rustc emit, in all their models.
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
            elf::R_X86_64_GOTPCREL64 => Self::GotRelative64,
            elf::R_X86_64_GOT64 => Self::GotSlot64,
            elf::R_X86_64_GOTOFF64 => Self::GotOffset64,
            elf::R_X86_64_PLTOFF64 => Self::PltOffset64,
            elf::R_X86_64_GOTPC32 => Self::GotBase32,
            elf::R_X86_64_GOTPC64 => Self::GotBase64,
            elf::R_X86_64_TPOFF32 => Self::TpOffset32,
            elf::R_X86_64_TPOFF64 => Self::TpOffset64,
            elf::R_X86_64_GOTTPOFF => Self::InitialExec,
            elf::R_X86_64_TLSGD => Self::GeneralDynamic,
            elf::R_X86_64_TLSLD => Self::LocalDynamic,
            elf::R_X86_64_DTPOFF32 => Self::DtpOffset32,
            elf::R_X86_64_DTPOFF64 => Self::DtpOffset64,
            elf::R_X86_64_GOTPC32_TLSDESC => Self::Descriptor,
            elf::R_X86_64_TLSDESC_CALL => Self::DescriptorCall,
            _ => return None,
        })
    }

    /// What must be known of the symbol.
    pub fn wants(self) -> Wants {
        match self {
            // These name the module and the table, not the symbol.
            Self::None | Self::LocalDynamic | Self::GotBase32 | Self::GotBase64 => Wants::Nothing,
            Self::Absolute64
            | Self::Absolute32
            | Self::Absolute32Signed
            | Self::Relative32
            | Self::Relative64
            | Self::Call32
            | Self::GotRelative32
            | Self::GotRelative64
            | Self::GotSlot64
            | Self::GotOffset64
            | Self::PltOffset64 => Wants::Address,
            Self::TpOffset32
            | Self::TpOffset64
            | Self::InitialExec
            | Self::GeneralDynamic
            | Self::DtpOffset32
            | Self::DtpOffset64
            | Self::Descriptor
            | Self::DescriptorCall => Wants::Tls,
        }
    }

    /// The GOT slot that the relocation reads, if any.
    pub fn slot(self) -> Option<Slot> {
        match self {
            Self::GotRelative32 | Self::GotRelative64 | Self::GotSlot64 => Some(Slot::Address),
            Self::InitialExec => Some(Slot::TpOffset),
            Self::GeneralDynamic => Some(Slot::Pair),
            Self::Descriptor => Some(Slot::Descriptor),
            _ => None,
        }
    }

    /// Whether the code has a fixed distance from TP in it, or in its GOT.
    pub fn needs_static_space(self) -> bool {
        matches!(self, Self::TpOffset32 | Self::TpOffset64 | Self::InitialExec)
    }

    /// Whether the next relocation is for the call that belongs to the same sequence.
    pub fn precedes_call(self) -> bool {
        matches!(self, Self::GeneralDynamic | Self::LocalDynamic)
    }
}

/// Relocates one place by its own bytes alone.
pub(crate) fn apply(
    kind: Kind,
    section: &mut [u8],
    offset: u64,
    operands: &Operands,
) -> Result<(), Problem> {
    let o = operands;
    let (place, got) = (|| o.place.map(i128::from).ok_or(Problem::NoAddress), i128::from(o.got));
    match kind {
        Kind::None => Ok(()),
        // Wraps like the machine does: a negative addend to address 0 is meant so.
        Kind::Absolute64 => {
            let value = o.address()?.wrapping_add_signed(o.addend);
            put(section, offset, value.to_le_bytes())
        }
        Kind::Absolute32 => put(section, offset, unsigned(o.sum()?)?),
        Kind::Absolute32Signed => put(section, offset, signed(o.sum()?)?),
        Kind::Relative32 => put(section, offset, signed(o.sum()? - place()?)?),
        Kind::Relative64 => put(section, offset, long(o.sum()? - place()?)),
        Kind::Call32 => {
            let direct = signed(o.sum()? - place()?);
            let value = match (direct, o.stub) {
                (Err(_), Some(stub)) => signed(o.plus_addend(stub) - place()?)?,
                (direct, _) => direct?,
            };
            put(section, offset, value)
        }
        Kind::GotRelative32 => {
            o.address()?;
            put(section, offset, signed(o.slot()? - place()?)?)
        }
        Kind::GotRelative64 => {
            o.address()?;
            put(section, offset, long(o.slot()? - place()?))
        }
        Kind::GotSlot64 => {
            o.address()?;
            put(section, offset, long(o.slot()? - got))
        }
        Kind::GotOffset64 | Kind::PltOffset64 => put(section, offset, long(o.sum()? - got)),
        Kind::GotBase32 => put(section, offset, signed(o.plus_addend(o.got) - place()?)?),
        Kind::GotBase64 => put(section, offset, long(o.plus_addend(o.got) - place()?)),
        Kind::TpOffset32 => put(section, offset, signed(o.tp_offset()?)?),
        Kind::TpOffset64 => put(section, offset, long(o.tp_offset()?)),
        Kind::DtpOffset32 => put(section, offset, signed(o.dtp_offset()?)?),
        Kind::DtpOffset64 => put(section, offset, long(o.dtp_offset()?)),
        Kind::InitialExec => {
            // What the slot will hold must be known.
            o.tp_offset()?;
            put(section, offset, signed(o.slot()? - place()?)?)
        }
        // What does not stand at a fixed distance from TP is reached through its slot.
        Kind::GeneralDynamic | Kind::LocalDynamic | Kind::Descriptor => {
            put(section, offset, signed(o.slot()? - place()?)?)
        }
        // The call stays; its two bytes must be there all the same.
        Kind::DescriptorCall => field::<2>(section, offset).map(|_| ()),
    }
}

impl Operands {
    fn address(&self) -> Result<u64, Problem> {
        match self.symbol {
            Value::Address(address) => Ok(address),
            Value::Tls(_) | Value::Dynamic { .. } => Err(Problem::ThreadLocal),
        }
    }

    /// `base` + A
    fn plus_addend(&self, base: u64) -> i128 {
        i128::from(base) + i128::from(self.addend)
    }

    /// S + A
    fn sum(&self) -> Result<i128, Problem> {
        Ok(self.plus_addend(self.address()?))
    }

    /// G + A
    fn slot(&self) -> Result<i128, Problem> {
        self.slot.map(|slot| self.plus_addend(slot)).ok_or(Problem::NoSlot)
    }

    /// TPOFF(S) + A
    fn tp_offset(&self) -> Result<i128, Problem> {
        match self.symbol {
            Value::Tls(offset) => Ok(i128::from(offset) + i128::from(self.addend)),
            Value::Dynamic { .. } => Err(Problem::NoStaticSpace),
            Value::Address(_) => Err(Problem::NotThreadLocal),
        }
    }

    /// What is added to the base that Local Dynamic finds: to TP, if the object's own block has
    /// a fixed distance from it, else to the start of that block.
    fn dtp_offset(&self) -> Result<i128, Problem> {
        match (self.symbol, self.block) {
            // In data, nothing says which of the two it would be added to.
            _ if !self.in_code => Err(Problem::OffsetOutsideCode),
            (Value::Dynamic { module, offset }, Block::Dynamic(own)) if module == own => {
                Ok(i128::from(offset) + i128::from(self.addend))
            }
            (Value::Tls(_), Block::Static(_)) => self.tp_offset(),
            (Value::Tls(_) | Value::Dynamic { .. }, _) => Err(Problem::OtherModule),
            (Value::Address(_), _) => Err(Problem::NotThreadLocal),
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

/// The lower half: what it loses are multiples of 2^64, as in the machine.
fn long(value: i128) -> [u8; 8] {
    (value as i64).to_le_bytes()
}

fn unsigned(value: i128) -> Result<[u8; 4], Problem> {
    let (min, max) = (0, u32::MAX.into());
    u32::try_from(value).map(u32::to_le_bytes).map_err(|_| Problem::Overflow { value, min, max })
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
