//! What the tables say of an address, found out once.
//!
//! ```text
//!   Known │ rule │ start │ LSDA │ personality │ landing pad │ flags: LSDA's length, kinds, module │
//! ```
//!
//! As addresses and flags rather than enums: it is copied for every frame that something is
//! thrown through, and little of it is looked at.
#![forbid(unsafe_code)]

use crate::encoding::Pointer;
use crate::in_flight::ModuleTag;
use crate::lsda::{Action, Site};
use crate::rule::Rule;

/// What is known of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// How to get to the caller.
    pub(crate) rule: Rule,
    /// The first address of the function.
    pub(crate) start: u64,
    pub(crate) lsda: u64,
    /// 0: there is none.
    pub(crate) personality: u64,
    pub(crate) landing_pad: u64,
    pub(crate) flags: u64,
}

/// Where an LSDA lies, and how many bytes its module has from there on; 0 if it lies elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lsda {
    pub(crate) pointer: Pointer,
    pub(crate) length: u32,
}

// The lower half of the flags is the length of the LSDA.
/// Of the personality. The sign, as which it costs least to test.
const INDIRECT: u64 = 1 << 63;
/// There is no LSDA, which one test then says together with the next one.
const NO_LSDA: u64 = 1 << 35;
const INDIRECT_LSDA: u64 = 1 << 36;
/// Where the kind of the action stands, and its bits. 0: it is not known.
const ACTION: u32 = 37;
const ACTIONS: u64 = 7;
/// Where the module's tag stands.
const MODULE: u32 = 40;
/// There are entries in the table of actions.
const ENTRIES: u64 = 1 << 48;

impl Known {
    /// Nothing: a place to put something.
    pub(crate) const NOTHING: Self = Self {
        rule: Rule::END_OF_STACK,
        start: 0,
        lsda: 0,
        personality: 0,
        landing_pad: 0,
        flags: NO_LSDA,
    };

    /// As much as leaving the frame takes.
    #[inline(always)]
    pub(crate) const fn only_to_leave(&self) -> Self {
        Self { rule: self.rule, ..Self::NOTHING }
    }

    pub(crate) fn lsda(&self) -> Option<Lsda> {
        (self.flags & NO_LSDA == 0).then(|| Lsda {
            pointer: kind(self.flags & INDIRECT_LSDA != 0, self.lsda),
            length: self.flags as u32,
        })
    }

    /// Where the LSDA is, if there is one and it is named without detour.
    #[inline]
    pub(crate) const fn direct_lsda(&self) -> Option<u64> {
        if self.flags & (NO_LSDA | INDIRECT_LSDA) == 0 { Some(self.lsda) } else { None }
    }

    pub(crate) fn set_lsda(&mut self, lsda: Option<Lsda>) {
        self.flags &= !(u64::from(u32::MAX) | NO_LSDA | INDIRECT_LSDA);
        let Some(Lsda { pointer, length }) = lsda else {
            self.flags |= NO_LSDA;
            return;
        };
        let indirect = matches!(pointer, Pointer::Indirect(_));
        self.flags |= u64::from(length) | if indirect { INDIRECT_LSDA } else { 0 };
        self.lsda = pointer.address();
    }

    #[inline]
    pub(crate) fn personality(&self) -> Option<Pointer> {
        (self.personality != 0).then(|| kind(self.flags & INDIRECT != 0, self.personality))
    }

    /// The personality's address, or that of a word with it; 0 without one.
    #[inline(always)]
    pub(crate) const fn personality_slot(&self) -> (u64, bool) {
        (self.personality, self.flags & INDIRECT != 0)
    }

    pub(crate) fn set_personality(&mut self, personality: Option<Pointer>) {
        self.personality = personality.map_or(0, Pointer::address);
        self.flags &= !INDIRECT;
        if let Some(Pointer::Indirect(_)) = personality {
            self.flags |= INDIRECT;
        }
    }

    /// What the LSDA says of the address, if it could be read.
    #[inline]
    pub(crate) fn action(&self) -> Option<Action> {
        Some(match self.flags >> ACTION & ACTIONS {
            1 => Action::None,
            2 => Action::Cleanup(self.landing_pad),
            3 => Action::Catch(self.landing_pad),
            4 => Action::Filter(self.landing_pad),
            5 => Action::Terminate,
            _ => return None,
        })
    }

    pub(crate) fn set_action(&mut self, action: Option<Action>) {
        let (kind, pad) = match action {
            None => (0, 0),
            Some(Action::None) => (1, 0),
            Some(Action::Cleanup(pad)) => (2, pad),
            Some(Action::Catch(pad)) => (3, pad),
            Some(Action::Filter(pad)) => (4, pad),
            Some(Action::Terminate) => (5, 0),
        };
        self.flags = self.flags & !(ACTIONS << ACTION) | kind << ACTION;
        self.landing_pad = pad;
    }

    /// What the LSDA says of the address.
    pub(crate) fn set_site(&mut self, site: Option<Site>) {
        self.set_action(site.map(|site| site.action));
        self.flags &= !ENTRIES;
        if site.is_some_and(|site| site.has_entries) {
            self.flags |= ENTRIES;
        }
    }

    /// Whether the action is only what the first of some entries says ([`Site`]).
    #[inline]
    pub(crate) const fn has_entries(&self) -> bool {
        self.flags & ENTRIES != 0
    }

    /// Tells the module from most others.
    #[inline]
    pub(crate) const fn module(&self) -> ModuleTag {
        ModuleTag::from_number((self.flags >> MODULE) as u8)
    }

    pub(crate) fn set_module(&mut self, module: ModuleTag) {
        self.flags =
            self.flags & !(u64::from(u8::MAX) << MODULE) | u64::from(module.number()) << MODULE;
    }
}

#[inline(always)]
fn kind(indirect: bool, address: u64) -> Pointer {
    if indirect { Pointer::Indirect(address) } else { Pointer::Direct(address) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_is_there_and_disturbs_nothing_else() {
        let mut known = Known::NOTHING;
        let module = ModuleTag::of(0x1234_5000);
        let lsda = Some(Lsda { pointer: Pointer::Indirect(0x99), length: u32::MAX });
        for personality in [Some(Pointer::Direct(7)), Some(Pointer::Indirect(8)), None] {
            for action in [
                Some(Action::None),
                Some(Action::Cleanup(1)),
                Some(Action::Catch(2)),
                Some(Action::Filter(3)),
                Some(Action::Terminate),
                None,
            ] {
                known.set_module(module);
                known.set_lsda(lsda);
                known.set_action(action);
                known.set_personality(personality);
                assert_eq!((known.lsda(), known.action()), (lsda, action));
                assert_eq!((known.personality(), known.module()), (personality, module));
                known.set_lsda(None);
                assert_eq!((known.lsda(), known.action()), (None, action));
                assert_eq!((known.personality(), known.module()), (personality, module));
            }
        }
    }
}
