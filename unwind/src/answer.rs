//! What a personality would answer, where that is known without calling it.
//!
//! ```text
//!   the call's site │ plain: ours                │ typed: libstdc++'s         │ any other
//!   nothing         │ goes on                    │ goes on                    │ ┐
//!   cleanup         │ goes on, lands (phase 2)   │ goes on, lands (phase 2)   │ ├ is asked
//!   entries         │ catches                    │ is asked                   │ │
//!   none            │ is asked                   │ is asked                   │ ┘
//! ```
//!
//! A personality answers by the exception and by what the function's area says of the call (Itanium EH
//! §1.6, §7). Where the area has no entry for the call, nothing of the exception is looked at: without a
//! landing pad the search goes on in both phases, and with one it goes on in the first, and the second
//! lands there, with the exception and 0. So the answer follows from the address, whatever is thrown
//! and by whom; what the frame's registers are is asked by nobody. It is what these two personalities do,
//! and what others do is theirs to say: they are called.
//!
//! A forced unwinding asks every frame, and its stop function before each.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::address::Pc;
use crate::arch;
use crate::context::target;
use crate::encoding::Pointer;
use crate::known::Known;
use crate::lsda::Action;

/// What is known of a frame's answer to an exception.
#[derive(Clone, Copy)]
pub(crate) enum Answer {
    /// It goes on with the caller.
    Nothing,
    /// It has this cleanup.
    Cleanup(u64),
    /// It catches at this address.
    Catch(u64),
    /// It must be asked.
    Unknown,
    /// It must be asked, as all that have its personality.
    Foreign,
}

/// The addresses of personalities that need not always be asked; 0 where there is none.
#[derive(Clone, Copy)]
pub(crate) struct Unasked {
    plain: u64,
    typed: u64,
}

static PLAIN: AtomicU64 = AtomicU64::new(0);
static TYPED: AtomicU64 = AtomicU64::new(0);

/// The address of a frame's personality, or 0.
#[inline(always)]
pub(crate) fn personality(known: &Known) -> u64 {
    match known.personality_slot() {
        (0, _) => 0,
        (address, false) => address,
        (slot, true) => target(Pointer::Indirect(slot)),
    }
}

impl Unasked {
    /// Those of the environment.
    #[inline(always)]
    pub(crate) fn now() -> Self {
        let [plain, typed] = [&PLAIN, &TYPED].map(|address| address.load(Ordering::Relaxed));
        Self { plain, typed }
    }

    pub(crate) const fn new(plain: u64, typed: u64) -> Self {
        Self { plain, typed }
    }

    /// From now on, these are the environment's.
    pub(crate) fn set(self) {
        PLAIN.store(self.plain, Ordering::Relaxed);
        TYPED.store(self.typed, Ordering::Relaxed);
    }

    /// Whether it may be known who catches.
    #[inline(always)]
    pub(crate) const fn knows_handlers(self) -> bool {
        self.plain != 0
    }

    /// The answer of a frame at `pc`.
    #[inline(always)]
    pub(crate) fn answer(self, known: &Known, pc: Pc) -> Answer {
        self.answer_of(personality(known), known, pc)
    }

    /// As [`answer`](Self::answer), of a frame with the personality at this address.
    #[inline(always)]
    pub(crate) fn answer_of(self, personality: u64, known: &Known, pc: Pc) -> Answer {
        match personality {
            0 => Answer::Nothing,
            address if address == self.plain => match known.action() {
                Some(Action::None) => Answer::Nothing,
                Some(Action::Cleanup(pad)) => Answer::Cleanup(pad),
                Some(Action::Catch(pad) | Action::Filter(pad)) => Answer::Catch(pad),
                Some(Action::Terminate) | None => Answer::Unknown,
            },
            address if address == self.typed => match known.action() {
                Some(Action::None) => Answer::Nothing,
                Some(Action::Cleanup(pad)) if !known.has_entries() => Answer::Cleanup(pad),
                _ => Answer::Unknown,
            },
            address if arch::is_catch(address) => Answer::Catch(arch::catch_pad(pc.address())),
            _ => Answer::Foreign,
        }
    }
}

/// The personality that a walk asked last, of those that always must be: neighbours often have the same.
pub(crate) struct Foreign(u64);

impl Foreign {
    /// None was asked; none is there.
    pub(crate) const NONE: Self = Self(u64::MAX);

    /// As [`Unasked::answer_of`].
    #[inline(always)]
    pub(crate) fn answer_of(&mut self, personality: u64, known: &Known, pc: Pc) -> Answer {
        if personality == self.0 {
            return Answer::Foreign;
        }
        let answer = Unasked::now().answer_of(personality, known, pc);
        if matches!(answer, Answer::Foreign) {
            self.0 = personality;
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encoding::Pointer;
    use crate::lsda::Site;

    fn answer(site: Option<(Action, bool)>, personality: u64) -> Answer {
        let mut known = Known::NOTHING;
        known.set_personality(Some(Pointer::Direct(personality)));
        known.set_site(site.map(|(action, has_entries)| Site { action, has_entries }));
        Unasked::new(10, 20).answer(&known, Pc::Return(1))
    }

    #[test]
    fn a_plain_personality_is_asked_only_where_nothing_is_listed() {
        assert!(matches!(answer(Some((Action::None, false)), 10), Answer::Nothing));
        for has_entries in [false, true] {
            let cleanup = Some((Action::Cleanup(5), has_entries));
            assert!(matches!(answer(cleanup, 10), Answer::Cleanup(5)));
        }
        assert!(matches!(answer(Some((Action::Catch(5), true)), 10), Answer::Catch(5)));
        assert!(matches!(answer(Some((Action::Filter(5), true)), 10), Answer::Catch(5)));
        assert!(matches!(answer(Some((Action::Terminate, false)), 10), Answer::Unknown));
        assert!(matches!(answer(None, 10), Answer::Unknown));
    }

    #[test]
    fn a_typed_personality_is_asked_wherever_it_has_entries() {
        assert!(matches!(answer(Some((Action::None, false)), 20), Answer::Nothing));
        assert!(matches!(answer(Some((Action::Cleanup(5), false)), 20), Answer::Cleanup(5)));
        let asked = [(Action::Cleanup(5), true), (Action::Catch(5), true)];
        for site in asked.into_iter().chain([(Action::Filter(5), true), (Action::Terminate, false)])
        {
            assert!(matches!(answer(Some(site), 20), Answer::Unknown), "{site:?}");
        }
        assert!(matches!(answer(None, 20), Answer::Unknown));
    }

    #[test]
    fn any_other_personality_is_asked() {
        for site in [(Action::None, false), (Action::Cleanup(5), false), (Action::Catch(5), true)] {
            assert!(matches!(answer(Some(site), 30), Answer::Foreign), "{site:?}");
        }
        let null = answer(Some((Action::Catch(5), true)), 0);
        assert!(matches!(null, Answer::Nothing), "nobody to ask");
    }
}
