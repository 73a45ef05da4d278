//! Walks the relocations of a unit, twice: once to see what they need, once to apply them.
//!
//! ```text
//!   scan  ──► which symbols are needed, which want a GOT slot or a PLT stub   (before placing)
//!   apply ──► S, A, P, G ──► x86_64: value, overflow check, bytes            (after resolving)
//!     └─ simple: a short way in both for the relocations that nearly all are
//!             x at a fixed distance from TP? ──► x86_64::tls: cheaper instructions
//! ```
//!
//! Promise: whatever `apply` would not understand, `scan` has refused before anything is mapped.
//! Sections that stay out of memory (debug information, copies) are not relocated.
#![forbid(unsafe_code)]

mod apply;
mod problem;
mod scan;
mod simple;
mod x86_64;

use crate::eh_frame::{Cut, EhFrame};
use crate::elf::{Elf, Relocation, RelocationTable};
use crate::error::Cause;
use crate::placement::{Group, Place};

pub(crate) use apply::Image;
pub use problem::{Code, Problem, RelocationType};
pub(crate) use scan::{Needs, scan};
use x86_64::Kind;
use x86_64::tls::{self, Call};
pub(crate) use x86_64::tls::{MODULE_BASE, TLS_GET_ADDR};
pub(crate) use x86_64::{GOT_WORD, PLT_STUB, Wants};

/// A relocation, understood; with the call of `__tls_get_addr` that belongs to it.
struct Step {
    relocation: Relocation,
    kind: Kind,
    call: Option<(Call, Relocation)>,
}

/// The relocations of one section that has a place. (An iterator of results would move them about
/// more than they are worked on.)
struct Steps<'e, 'a> {
    elf: &'e Elf<'a>,
    table: RelocationTable<'a>,
    place: Place,
    /// The section's bytes in the file.
    code: &'a [u8],
    /// What was cut out of the section.
    cut: Option<Cut<'e>>,
    next: usize,
    /// What is wrong with the last relocation that was looked at.
    error: Option<Cause>,
}

impl<'e, 'a> Steps<'e, 'a> {
    /// The steps for a section of a file, if it has a place. `elf` is the file, `first` the number of
    /// its section 0 in the unit.
    #[inline]
    fn new(
        elf: &'e Elf<'a>,
        first: usize,
        table: RelocationTable<'a>,
        places: &[Place],
        eh_frame: &'e EhFrame,
    ) -> Option<Self> {
        let section = first + table.target;
        let place = places[section];
        if !place.group.is_loaded() {
            return None;
        }
        let code = elf.section(table.target).data;
        let cut = if place.group == Group::EhFrame { eh_frame.of(section) } else { None };
        Some(Self { elf, table, place, code, cut, next: 0, error: None })
    }

    /// The next relocation of what was not cut out.
    #[inline]
    fn take(&mut self) -> Option<Relocation> {
        while self.next < self.table.len() {
            let mut relocation = self.table.get(self.next);
            if relocation.symbol >= self.elf.symbol_count() {
                self.error = Some(self.table.no_symbol(self.next));
                return None;
            }
            self.next += 1;
            let Some(cut) = self.cut else { return Some(relocation) };
            if let Some(offset) = cut.moved(relocation.offset) {
                relocation.offset = offset;
                return Some(relocation);
            }
        }
        None
    }

    /// The next step; after the last one, [`finish`](Self::finish) says whether it was that.
    #[inline]
    fn next_step(&mut self) -> Option<Step> {
        let relocation = self.take()?;
        match self.kind_of(&relocation) {
            Some(kind) if !kind.precedes_call() => Some(Step { relocation, kind, call: None }),
            Some(kind) => self.with_call(relocation, kind),
            None => {
                self.error = Some(self.error(&relocation, Problem::UnknownType));
                None
            }
        }
    }

    #[inline]
    fn kind_of(&self, relocation: &Relocation) -> Option<Kind> {
        let kind = Kind::decode(relocation.kind)?;
        Some(match self.place.group {
            Group::Text => kind.in_code(self.code, relocation.offset, relocation.addend),
            _ => kind,
        })
    }

    /// The step of a relocation that is followed by a call.
    fn with_call(&mut self, relocation: Relocation, kind: Kind) -> Option<Step> {
        let call = self.take().filter(|call| self.is_call(call));
        let call = call.and_then(|call| Some((tls::call_after(kind, &relocation, &call)?, call)));
        if call.is_none() && self.error.is_none() {
            self.error = Some(self.error(&relocation, Problem::MissingTlsCall));
        }
        call.map(|call| Step { relocation, kind, call: Some(call) })
    }

    /// Whether the short way may be taken: all relocations count, and mean what they say.
    fn may_be_simple(&self, discards: bool) -> bool {
        let group = self.place.group;
        // Tables may name what was discarded; initial values have no addresses.
        self.cut.is_none() && !group.is_tls() && !(discards && group.is_table())
    }

    /// Whether all relocations were steps.
    fn finish(self) -> Result<(), Cause> {
        self.error.map_or(Ok(()), Err)
    }

    fn is_call(&self, relocation: &Relocation) -> bool {
        self.elf.symbol_name(&self.elf.symbol(relocation.symbol)) == TLS_GET_ADDR
    }

    fn error(&self, relocation: &Relocation, problem: Problem) -> Cause {
        Cause::Relocation {
            section: self.elf.section_text(self.table.target),
            offset: relocation.offset,
            kind: relocation.kind,
            symbol: self.elf.symbol_text(relocation.symbol),
            problem,
        }
    }
}
