//! The arithmetic of x86-64 relocations, on plain bytes.
//!
//! ```text
//!   section:  │ … │ field at P │ … │        what goes into the field
//!                       ▲
//!                       └─ S + A, S + A − P, G + A − P, L + A − GOT, TPOFF(S) + A, …
//!
//!   S symbol   Z its size   A addend   P place   L its stub   G its GOT slot   GOT its start
//! ```
//!
//! Promise: bytes change only inside the field and only if the value fits; instructions change
//! only if they are what the model prescribes ([`tls`], [`got`]). References: psABI x86-64 §4.4
//! (types), ELF TLS §3.4.6 (the two kinds of TLS offsets).
#![forbid(unsafe_code)]

pub(super) mod got;
mod kind;
pub(super) mod tls;

use core::fmt;

use object::elf;
use unspool_tls::ModuleId;

use super::{Problem, RelocationType};
use crate::symbols::Value;
use crate::tls::{self as storage, Block};

pub(crate) use kind::{Kind, Wants};

/// Bytes of a word of the GOT: an address, or half of a pair.
pub(crate) const GOT_WORD: usize = 8;

/// Bytes of a PLT stub.
pub(crate) const PLT_STUB: usize = 8;

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
    /// The number of the object's own module.
    pub module: Option<ModuleId>,
    /// The size of the symbol, if it is known.
    pub size: Option<u64>,
}

/// Relocates one place by its own bytes alone.
pub(crate) fn apply(
    kind: Kind,
    section: &mut [u8],
    offset: u64,
    operands: &Operands,
) -> Result<(), Problem> {
    let o = operands;
    let place = || o.place.map(i128::from).ok_or(Problem::NoAddress);
    let relative = || Ok(o.sum()? - place()?);
    let table = i128::from(o.got);
    match kind {
        Kind::None => Ok(()),
        // Wraps like the machine does: a negative addend to address 0 is meant so.
        Kind::Absolute64 => {
            let value = o.address()?.wrapping_add_signed(o.addend);
            put(section, offset, value.to_le_bytes())
        }
        Kind::Absolute32 => put(section, offset, unsigned(o.sum()?)?),
        Kind::Absolute32Signed => put(section, offset, signed(o.sum()?)?),
        Kind::Absolute16 => put(section, offset, either::<2>(o.sum()?)?),
        Kind::Absolute8 => put(section, offset, either::<1>(o.sum()?)?),
        Kind::Relative64 => put(section, offset, long(relative()?)),
        Kind::Relative32 => put(section, offset, signed(relative()?)?),
        Kind::Relative16 => put(section, offset, narrow::<2>(relative()?)?),
        Kind::Relative8 => put(section, offset, narrow::<1>(relative()?)?),
        Kind::Size64 => put(section, offset, long(o.size()?)),
        Kind::Size32 => put(section, offset, unsigned(o.size()?)?),
        Kind::Call32 => {
            let value = match (signed(relative()?), o.stub) {
                (Err(_), Some(stub)) => signed(o.plus_addend(stub) - place()?)?,
                (direct, _) => direct?,
            };
            put(section, offset, value)
        }
        Kind::GotRelaxable32 if got::relax(false, section, offset, o)? => Ok(()),
        Kind::GotRelaxable32Rex if got::relax(true, section, offset, o)? => Ok(()),
        Kind::GotRelative32 | Kind::GotRelaxable32 | Kind::GotRelaxable32Rex => {
            put(section, offset, signed(o.address_slot()? - place()?)?)
        }
        Kind::GotRelative64 => put(section, offset, long(o.address_slot()? - place()?)),
        Kind::GotSlot32 => put(section, offset, signed(o.address_slot()? - table)?),
        Kind::GotSlot64 => put(section, offset, long(o.address_slot()? - table)),
        Kind::GotOffset64 | Kind::PltOffset64 => put(section, offset, long(o.sum()? - table)),
        Kind::GotBase32 => put(section, offset, signed(o.plus_addend(o.got) - place()?)?),
        Kind::GotBase64 => put(section, offset, long(o.plus_addend(o.got) - place()?)),
        _ => apply_tls(kind, section, offset, o),
    }
}

/// The same for thread-local storage.
fn apply_tls(kind: Kind, section: &mut [u8], offset: u64, o: &Operands) -> Result<(), Problem> {
    // What does not stand at a fixed distance from TP is reached through its slot.
    let slot_distance = || {
        let place = o.place.ok_or(Problem::NoAddress)?;
        signed(o.slot()? - i128::from(place))
    };
    match kind {
        Kind::TpOffset32 => put(section, offset, signed(o.tp_offset()?)?),
        Kind::TpOffset64 => put(section, offset, long(o.tp_offset()?)),
        Kind::DtpOffset32 => put(section, offset, signed(o.dtp_offset()?)?),
        Kind::DtpOffset64 => put(section, offset, long(o.dtp_offset()?)),
        Kind::DtpModule64 => put(section, offset, (o.module()?.get() as u64).to_le_bytes()),
        Kind::InitialExec | Kind::InitialExecSlot => {
            // What the slot will hold must be known.
            o.tp_offset()?;
            put(section, offset, slot_distance()?)
        }
        // Beside the words that are meant are those of another variable.
        Kind::GeneralDynamic | Kind::LocalDynamic | Kind::Descriptor => match o.addend {
            -4 => put(section, offset, slot_distance()?),
            addend => Err(Problem::Addend(addend.saturating_add(4))),
        },
        // The call stays; its two bytes must be there all the same.
        Kind::DescriptorCall => field::<2>(section, offset).map(|_| ()),
        Kind::DescriptorItself => {
            let [resolver, argument] = o.descriptor()?.map(u64::to_le_bytes);
            let words: &mut [u8; 16] = field(section, offset)?;
            words[..8].copy_from_slice(&resolver);
            words[8..].copy_from_slice(&argument);
            Ok(())
        }
        _ => Err(Problem::UnknownType),
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

    /// G + A, for a slot with an address in it.
    fn address_slot(&self) -> Result<i128, Problem> {
        self.address()?;
        self.slot()
    }

    /// Z + A
    fn size(&self) -> Result<i128, Problem> {
        self.size.map(|size| self.plus_addend(size)).ok_or(Problem::NoSize)
    }

    /// In code, what is added to the base that Local Dynamic finds: to TP, if the object's own
    /// block has a fixed distance from it, else to the start of that block. In data, what goes with
    /// the module's number (ELF TLS §3.4.6, `tls_index`).
    fn dtp_offset(&self) -> Result<i128, Problem> {
        match (self.symbol, self.block) {
            (Value::Address(_), _) => Err(Problem::NotThreadLocal),
            (Value::Dynamic { module, .. }, block)
                if self.in_code && block != Block::Dynamic(module) =>
            {
                Err(Problem::OtherModule)
            }
            (Value::Dynamic { offset, .. }, _) => Ok(i128::from(offset) + i128::from(self.addend)),
            (Value::Tls(_), Block::Static(_)) if self.in_code => self.tp_offset(),
            (Value::Tls(_), _) if self.in_code => Err(Problem::OtherModule),
            (Value::Tls(_), Block::Static(start)) => Ok(self.tp_offset()? - i128::from(start)),
            (Value::Tls(_), Block::Dynamic(_)) => Err(Problem::NoModule),
        }
    }

    /// The number of the module that [`dtp_offset`](Self::dtp_offset) counts from in data. Others'
    /// variables at a fixed distance from TP are at a fixed distance from the object's own, too.
    fn module(&self) -> Result<ModuleId, Problem> {
        match (self.symbol, self.block) {
            (Value::Address(_), _) => Err(Problem::NotThreadLocal),
            (Value::Dynamic { module, .. }, _) => Ok(module),
            (Value::Tls(_), Block::Static(_)) => self.module.ok_or(Problem::NoModule),
            (Value::Tls(_), Block::Dynamic(_)) => Err(Problem::NoModule),
        }
    }

    /// The two words of a descriptor.
    fn descriptor(&self) -> Result<[u64; 2], Problem> {
        match (self.symbol, self.addend) {
            (Value::Dynamic { .. }, 0) => {
                self.slot.map(storage::dynamic_descriptor).ok_or(Problem::NoSlot)
            }
            (Value::Dynamic { .. }, addend) => Err(Problem::Addend(addend)),
            _ => Ok(storage::static_descriptor(self.tp_offset()? as i64)),
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

/// Writes bytes at `offset`, if they lie in the section.
pub(super) fn put<const N: usize>(
    section: &mut [u8],
    offset: u64,
    value: [u8; N],
) -> Result<(), Problem> {
    *field(section, offset)? = value;
    Ok(())
}

/// The lower `N` bytes of a number between `min` and `max`, which fit into that many. With a sign,
/// numbers go round at 2^64, as addresses do: the highest are the negative ones.
fn checked<const N: usize>(value: i128, min: i64, max: i64) -> Result<[u8; N], Problem> {
    let round = if min < 0 { i128::from(value as i64) } else { value };
    if !(i128::from(min)..=i128::from(max)).contains(&round) {
        return Err(Problem::Overflow { value, min, max });
    }
    let mut bytes = [0; N];
    bytes.copy_from_slice(&value.to_le_bytes()[..N]);
    Ok(bytes)
}

/// The largest number of `N` bytes, at most four.
const fn max<const N: usize>() -> i64 {
    (1 << (8 * N)) - 1
}

/// A number that is extended with its sign.
fn narrow<const N: usize>(value: i128) -> Result<[u8; N], Problem> {
    let half = max::<N>() / 2;
    checked(value, -half - 1, half)
}

/// The same of four bytes.
fn signed(value: i128) -> Result<[u8; 4], Problem> {
    narrow(value)
}

/// A number that is extended with zeros.
fn unsigned(value: i128) -> Result<[u8; 4], Problem> {
    checked(value, 0, max::<4>())
}

/// A number that may be either.
fn either<const N: usize>(value: i128) -> Result<[u8; N], Problem> {
    checked(value, -(max::<N>() / 2) - 1, max::<N>())
}

/// The lower half: what it loses are multiples of 2^64, as in the machine.
fn long(value: i128) -> [u8; 8] {
    (value as i64).to_le_bytes()
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
        match elf::NAMES_R_X86_64.name(elf::RelocationType(self.0)) {
            Some(name) => f.write_str(name),
            None => write!(f, "relocation type {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests;
