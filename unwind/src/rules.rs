//! Finds the rules of a walk's frames, most of which are in their callees' module.
//!
//! ```text
//!   address ─► module: the last one? ─┬► table of frames ────────────────────► rule
//!                                     └► FDE ─► CIE: the last one? ─► program ─► rule
//! ```
//!
//! A walk needs no more than rules, so nothing else is read or remembered. Where there is none, the
//! cursor says why.
#![forbid(unsafe_code)]

use crate::cache::Trail;
use crate::fde::Function;
use crate::modules::FindModule;
use crate::rule::Rule;
use crate::table::Reader;

/// What is kept from one frame to the next. Modules with frames on the stack stay; of one that only a
/// smashed stack names, changes of the table of modules tell.
pub(crate) struct Rules<'m> {
    generation: u32,
    /// The table of a module that has one.
    table: Option<Reader<'m>>,
    /// The last function of a module whose table says nothing, or that has none.
    function: Option<Function<'m>>,
}

impl<'m> Rules<'m> {
    /// Of no module yet. Not a constant, of which all bytes would be copied.
    #[inline(always)]
    pub(crate) fn new() -> Self {
        Self { generation: 0, table: None, function: None }
    }

    /// The rule of an address that was worked out beforehand, or by DWARF, which is remembered; `None`:
    /// there is none, for a reason that DWARF tells.
    #[inline(never)]
    pub(crate) fn find(
        &mut self,
        modules: &'m impl FindModule,
        address: u64,
        trail: &mut Trail,
    ) -> Option<Rule> {
        let generation = modules.generation();
        if self.generation != generation {
            (self.generation, self.table, self.function) = (generation, None, None);
        }
        let rule = self.by_table(modules, address).or_else(|| self.by_dwarf(modules, address))?;
        modules.memorize_rule(address, generation, rule, trail);
        Some(rule)
    }

    /// Where the last module had no table, it is not asked for one again.
    #[inline(always)]
    fn by_table(&mut self, modules: &'m impl FindModule, address: u64) -> Option<Rule> {
        if self.table.is_none_or(|table| !table.covers(address)) {
            if self.table.is_none() && self.knows(address) {
                return None;
            }
            self.table = modules.reader(address);
            if self.table.is_none() {
                return modules.rule(address);
            }
        }
        self.table.as_ref()?.rule(address)
    }

    /// In a gap of the last module may be another: of that, too, the cursor knows.
    #[inline(always)]
    fn by_dwarf(&mut self, modules: &'m impl FindModule, address: u64) -> Option<Rule> {
        if !self.knows(address) {
            self.function.insert(Function::UNKNOWN).enter(modules, address)?;
        }
        let function = self.function.as_mut()?;
        function.locate(address).ok()?;
        let rule = function.rule(address).ok()?.ok()?;
        Some(if function.is_signal_frame() { rule.of_signal_frame() } else { rule })
    }

    /// Whether `address` is in the module of the last function.
    #[inline(always)]
    fn knows(&self, address: u64) -> bool {
        self.function.as_ref().is_some_and(|function| function.module.contains(address))
    }
}
