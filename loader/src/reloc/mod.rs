//! Walks the relocations of a unit, twice: once to see what they need, once to apply them.
//!
//! ```text
//!   scan  ──► which symbols are needed, which want a GOT slot or a PLT stub   (before placing)
//!   apply ──► S, A, P, G ──► x86_64: value, overflow check, bytes            (after resolving)
//!             x at a fixed distance from TP? ──► x86_64::tls: cheaper instructions
//! ```
//!
//! Promise: whatever `apply` would not understand, `scan` has refused before anything is mapped.
//! Sections that stay out of memory (debug information, copies) are not relocated.
#![forbid(unsafe_code)]

mod apply;
mod problem;
mod scan;
mod x86_64;

use crate::eh_frame::{Cut, EhFrame};
use crate::elf::{Elf, Relocation, RelocationTable};
use crate::error::Cause;
use crate::placement::{Group, Place};
use crate::unit::File;

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

/// The relocations of one section that has a place.
struct Steps<'e, 'a> {
    elf: Elf<'a>,
    table: RelocationTable<'a>,
    place: Place,
    /// The section's bytes in the file.
    code: &'a [u8],
    /// What was cut out of the section.
    cut: Option<Cut<'e>>,
    next: usize,
}

impl<'e, 'a> Steps<'e, 'a> {
    /// The steps for a section of a file, if it has a place.
    fn new(
        file: &File<'a>,
        table: RelocationTable<'a>,
        places: &[Place],
        eh_frame: &'e EhFrame,
    ) -> Option<Self> {
        let section = file.first_section + table.target;
        let place = places[section];
        let cut = eh_frame.of(section);
        place.group.is_loaded().then(|| {
            let code = file.elf.section(table.target).data;
            Self { elf: file.elf, table, place, code, cut, next: 0 }
        })
    }

    /// The next relocation of what was not cut out.
    fn take(&mut self) -> Option<Result<Relocation, Cause>> {
        while self.next < self.table.len() {
            let mut relocation = self.table.get(self.next);
            if relocation.symbol >= self.elf.symbol_count() {
                return Some(Err(self.table.no_symbol(self.next)));
            }
            self.next += 1;
            let Some(cut) = self.cut else { return Some(Ok(relocation)) };
            if let Some(offset) = cut.moved(relocation.offset) {
                relocation.offset = offset;
                return Some(Ok(relocation));
            }
        }
        None
    }

    fn understand(&mut self, relocation: Relocation) -> Result<Step, Cause> {
        let kind = Kind::decode(relocation.kind);
        let kind = kind.ok_or_else(|| self.error(&relocation, Problem::UnknownType))?;
        let kind = match self.place.group {
            Group::Text => kind.in_code(self.code, relocation.offset, relocation.addend),
            _ => kind,
        };
        if !kind.precedes_call() {
            return Ok(Step { relocation, kind, call: None });
        }
        let call = match self.take().transpose()? {
            Some(call) if self.is_call(&call) => {
                tls::call_after(kind, &relocation, &call).map(|form| (form, call))
            }
            _ => None,
        };
        if call.is_none() {
            return Err(self.error(&relocation, Problem::MissingTlsCall));
        }
        Ok(Step { relocation, kind, call })
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

    fn next_step(&mut self) -> Option<Result<Step, Cause>> {
        let relocation = match self.take()? {
            Ok(relocation) => relocation,
            Err(cause) => {
                self.next = self.table.len();
                return Some(Err(cause));
            }
        };
        Some(self.understand(relocation))
    }
}
