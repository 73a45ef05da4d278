//! What each type of relocation computes, and what it needs for that.
//!
//! ```text
//!   r_type ──► Kind ──┬─► of the symbol: nothing, its address, its place in TLS
//!                     ├─► a GOT slot, and of which sort
//!                     └─► of the object: static TLS space, a module number
//! ```
//!
//! Promise: these are all types that have a meaning in relocatable objects (psABI x86-64 §4.4,
//! table 4.9), but for TLS descriptors in instructions of APX.
#![forbid(unsafe_code)]

use object::elf;

use super::got;
use crate::got::Slot;
use crate::reloc::RelocationType;

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
    /// S + A, 16 bits of either kind.
    Absolute16,
    /// S + A, 8 bits of either kind.
    Absolute8,
    /// S + A − P, 64 bits.
    Relative64,
    /// S + A − P, 32 bits.
    Relative32,
    /// S + A − P, 16 bits.
    Relative16,
    /// S + A − P, 8 bits.
    Relative8,
    /// Z + A, 64 bits.
    Size64,
    /// Z + A, 32 bits.
    Size32,
    /// The same as `Relative32` for a callee, through a PLT stub if need be.
    Call32,
    /// G + A − P, 32 bits.
    GotRelative32,
    /// The same in an instruction that may do without the GOT.
    GotRelaxable32,
    /// The same in an instruction with a REX prefix.
    GotRelaxable32Rex,
    /// G + A − P, 64 bits.
    GotRelative64,
    /// G + A − GOT, 32 bits.
    GotSlot32,
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
    /// The same in an instruction that is not rewritten.
    InitialExecSlot,
    /// General Dynamic: the address of a pair for `__tls_get_addr`.
    GeneralDynamic,
    /// Local Dynamic: the same for the object's own block.
    LocalDynamic,
    /// Follows `LocalDynamic`: DTPOFF(S) + A, 32 bits. In data, it is a half of a pair.
    DtpOffset32,
    /// The same in 64 bits.
    DtpOffset64,
    /// The number of the module that has S, 64 bits: the other half.
    DtpModule64,
    /// The address of a TLS descriptor.
    Descriptor,
    /// Marks the call through a TLS descriptor.
    DescriptorCall,
    /// A TLS descriptor, 2 × 64 bits.
    DescriptorItself,
}

/// What a relocation wants to know of its symbol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wants {
    Nothing,
    Address,
    /// Where it lies in thread-local storage.
    Tls,
}

/// The kinds of the types by their numbers.
static KINDS: [Option<Kind>; 64] = {
    let mut kinds = [None; 64];
    let mut kind = 0;
    while kind < kinds.len() {
        kinds[kind] = Kind::of_type(elf::RelocationType(kind as u32));
        kind += 1;
    }
    kinds
};

impl Kind {
    /// The relocations of objects. (`COPY`, `RELATIVE` and the like are for linked files.)
    #[inline]
    pub fn decode(kind: RelocationType) -> Option<Self> {
        *KINDS.get(kind.0 as usize)?
    }

    const fn of_type(kind: elf::RelocationType) -> Option<Self> {
        Some(match kind {
            elf::R_X86_64_NONE => Self::None,
            elf::R_X86_64_64 => Self::Absolute64,
            elf::R_X86_64_32 => Self::Absolute32,
            elf::R_X86_64_32S => Self::Absolute32Signed,
            elf::R_X86_64_16 => Self::Absolute16,
            elf::R_X86_64_8 => Self::Absolute8,
            elf::R_X86_64_PC64 => Self::Relative64,
            elf::R_X86_64_PC32 => Self::Relative32,
            elf::R_X86_64_PC16 => Self::Relative16,
            elf::R_X86_64_PC8 => Self::Relative8,
            elf::R_X86_64_SIZE64 => Self::Size64,
            elf::R_X86_64_SIZE32 => Self::Size32,
            elf::R_X86_64_PLT32 => Self::Call32,
            elf::R_X86_64_GOTPCRELX => Self::GotRelaxable32,
            elf::R_X86_64_REX_GOTPCRELX => Self::GotRelaxable32Rex,
            // The others are for prefixes of APX (psABI §4.4, appendix B.2).
            elf::R_X86_64_GOTPCREL
            | elf::R_X86_64_CODE_4_GOTPCRELX
            | elf::R_X86_64_CODE_5_GOTPCRELX
            | elf::R_X86_64_CODE_6_GOTPCRELX => Self::GotRelative32,
            elf::R_X86_64_GOTPCREL64 => Self::GotRelative64,
            elf::R_X86_64_GOT32 => Self::GotSlot32,
            elf::R_X86_64_GOT64 | elf::R_X86_64_GOTPLT64 => Self::GotSlot64,
            elf::R_X86_64_GOTOFF64 => Self::GotOffset64,
            elf::R_X86_64_PLTOFF64 => Self::PltOffset64,
            elf::R_X86_64_GOTPC32 => Self::GotBase32,
            elf::R_X86_64_GOTPC64 => Self::GotBase64,
            elf::R_X86_64_TPOFF32 => Self::TpOffset32,
            elf::R_X86_64_TPOFF64 => Self::TpOffset64,
            elf::R_X86_64_GOTTPOFF => Self::InitialExec,
            elf::R_X86_64_CODE_4_GOTTPOFF
            | elf::R_X86_64_CODE_5_GOTTPOFF
            | elf::R_X86_64_CODE_6_GOTTPOFF => Self::InitialExecSlot,
            elf::R_X86_64_TLSGD => Self::GeneralDynamic,
            elf::R_X86_64_TLSLD => Self::LocalDynamic,
            elf::R_X86_64_DTPOFF32 => Self::DtpOffset32,
            elf::R_X86_64_DTPOFF64 => Self::DtpOffset64,
            elf::R_X86_64_DTPMOD64 => Self::DtpModule64,
            elf::R_X86_64_GOTPC32_TLSDESC => Self::Descriptor,
            elf::R_X86_64_TLSDESC_CALL => Self::DescriptorCall,
            elf::R_X86_64_TLSDESC => Self::DescriptorItself,
            _ => return None,
        })
    }

    /// What it computes at `offset` in `code`. The displacement of a direct branch may go to a stub,
    /// though it is not called `R_X86_64_PLT32`: assemblers other than GNU's since 2.31 and LLVM's
    /// write `R_X86_64_PC32` there.
    #[inline]
    pub fn in_code(self, code: &[u8], offset: u64, addend: i64) -> Self {
        // From the end of the field, which is the end of the instruction.
        let relative = self == Self::Relative32 && addend == -4;
        if relative && is_branch(code, offset) { Self::Call32 } else { self }
    }

    /// What must be known of the symbol.
    pub fn wants(self) -> Wants {
        match self {
            // These name the module and the table, not the symbol, or only its size.
            Self::None
            | Self::LocalDynamic
            | Self::GotBase32
            | Self::GotBase64
            | Self::Size32
            | Self::Size64 => Wants::Nothing,
            Self::TpOffset32
            | Self::TpOffset64
            | Self::InitialExec
            | Self::InitialExecSlot
            | Self::GeneralDynamic
            | Self::DtpOffset32
            | Self::DtpOffset64
            | Self::DtpModule64
            | Self::Descriptor
            | Self::DescriptorCall
            | Self::DescriptorItself => Wants::Tls,
            _ => Wants::Address,
        }
    }

    /// The GOT slot that the relocation reads, if any.
    pub fn slot(self) -> Option<Slot> {
        match self {
            Self::GotRelative32
            | Self::GotRelaxable32
            | Self::GotRelaxable32Rex
            | Self::GotRelative64
            | Self::GotSlot32
            | Self::GotSlot64 => Some(Slot::Address),
            Self::InitialExec | Self::InitialExecSlot => Some(Slot::TpOffset),
            // The descriptor's argument.
            Self::GeneralDynamic | Self::DescriptorItself => Some(Slot::Pair),
            Self::Descriptor => Some(Slot::Descriptor),
            _ => None,
        }
    }

    /// Whether the code has a fixed distance from TP in it, or in its GOT.
    pub fn needs_static_space(self) -> bool {
        matches!(
            self,
            Self::TpOffset32 | Self::TpOffset64 | Self::InitialExec | Self::InitialExecSlot
        )
    }

    /// Whether the object must have a module of its own, from which others' variables can be
    /// counted. `in_code` says where the place is.
    pub fn needs_module(self, in_code: bool) -> bool {
        match self {
            Self::DtpModule64 => true,
            Self::DtpOffset32 | Self::DtpOffset64 => !in_code,
            _ => false,
        }
    }

    /// Whether an instruction of this kind, at `offset` in `code`, can do without its GOT slot
    /// wherever the symbol is within 2 GiB.
    pub fn relaxes_if_near(self, code: &[u8], offset: u64, addend: i64) -> bool {
        match self {
            Self::GotRelaxable32 => got::relaxes_if_near(false, code, offset, addend),
            Self::GotRelaxable32Rex => got::relaxes_if_near(true, code, offset, addend),
            _ => false,
        }
    }

    /// Whether the next relocation is for the call that belongs to the same sequence.
    pub fn precedes_call(self) -> bool {
        matches!(self, Self::GeneralDynamic | Self::LocalDynamic)
    }
}

/// Whether a field is the displacement of `call`, `jmp`, or a conditional jump (Intel SDM volume 2:
/// E8, E9, 0F 80 to 0F 8F). Where an instruction addresses memory relative to itself, the byte before
/// the field says so (ModRM 00 xxx 101), and is none of these.
fn is_branch(code: &[u8], offset: u64) -> bool {
    let before = usize::try_from(offset).ok().and_then(|at| code.get(..at));
    match before {
        Some([.., 0xe8 | 0xe9] | [.., 0x0f, 0x80..=0x8f]) => true,
        Some(_) | None => false,
    }
}
