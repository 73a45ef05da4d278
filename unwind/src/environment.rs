//! What raising asks of the program it runs in.
//!
//! ```text
//!   stack(sp) ─► bounds of the stack        widen(bounds, address) ─► more of it
//!   find(address) ─► module                 besides those that are registered
//!   generation() ─► number                  changes when those come or go, or:
//!   whose(address) ─► extent, identity      what stands there now
//!   dead_end(error) ─► !                    unwinding has begun and cannot go on
//! ```
//!
//! Values, set once: a kernel says what stack it is on, a library in a process also asks the
//! dynamic linker for modules. Without an environment nothing can be read, and so nothing raised
//! through the C names.

use core::cell::Cell;
use core::ops::Range;
use core::ptr::from_ref;
use core::sync::atomic::{AtomicI32, AtomicPtr, AtomicU64, Ordering};

use crate::answer::Unasked;
use crate::arch;
use crate::cache::{Memory, Trail};
use crate::error::{RaiseError, UnwindError};
use crate::exception::Personality;
use crate::in_flight::IN_FLIGHT;
use crate::known::Known;
use crate::module::Module;
use crate::modules::{FindModule, global};
use crate::rule::Rule;
use crate::stack::{Climb, ReadStack, StackBounds, WordsBelow};
use crate::table::Reader;

/// Modules that come and go have whole ones (bytes).
const PAGE: u64 = 4096;

type Stack = fn(sp: u64) -> StackBounds;
type Widen = fn(known: StackBounds, address: u64) -> Option<StackBounds>;
type Find = fn(address: u64) -> Option<Module<'static>>;
type Generation = fn() -> u64;
type Identify = fn(address: u64) -> Whose;
type Always = fn() -> [Range<u64>; 2];
type Typed = fn() -> u64;

/// What stands around an address now, of the modules that are not registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Code in this range. As long as something with the same identity is there, its tables
    /// are the same.
    Known(Range<u64>, u64),
    /// Code that does not say what it is: nothing is remembered of it.
    Unknown,
    /// None of those modules.
    Nobodys,
}

/// What raising asks of the program it runs in. Every function may be called in any context in
/// which something is raised or walked: none may allocate, or unwind.
#[derive(Clone, Copy)]
pub struct Environment {
    stack: Stack,
    widen: Widen,
    find: Find,
    generation: Option<Generation>,
    identities: Option<(Identify, Always)>,
    plain: Option<Personality>,
    typed: Option<Typed>,
    guesses: bool,
    counts: bool,
    dead_end: fn(RaiseError) -> !,
}

impl Environment {
    /// `stack` gives the stack that the caller runs on, whose stack pointer it gets; `dead_end`
    /// reports that unwinding has begun and cannot go on, and stops.
    pub const fn new(stack: Stack, dead_end: fn(RaiseError) -> !) -> Self {
        Self {
            stack,
            widen: no_more,
            find: nowhere,
            generation: None,
            identities: None,
            plain: None,
            typed: None,
            guesses: false,
            counts: true,
            dead_end,
        }
    }

    /// For stacks whose bounds are not known beforehand: `stack` may give what is known of them,
    /// and when a walk reads beyond, `widen` gets that and the address, and gives bounds with
    /// the address inside, or `None`.
    ///
    /// If that was needed to find the frame that catches, each cleanup then goes on with what `stack`
    /// gives, too; otherwise with the stack up to that frame.
    #[must_use]
    pub const fn with_unknown_stacks(self, widen: Widen) -> Self {
        Self { widen, ..self }
    }

    /// Where modules are that are not registered, and a number that changes when one of them
    /// goes and another may have taken its place: unless they stay, or have
    /// [identities](Self::with_identities) that tell them apart.
    ///
    /// # Safety
    ///
    /// `find` gives only modules for which [`register`](crate::register) could be called, as
    /// long as a frame of theirs is on a stack; and what is said of the number is true.
    #[must_use]
    pub const unsafe fn with_modules(self, find: Find, generation: Option<Generation>) -> Self {
        Self { find, generation, ..self }
    }

    /// What stands around an address of those modules, for an environment that cannot say by a
    /// number that one took another's place. Walks ask for it whenever they come into other code,
    /// but for the code that is always there; for that `always` is asked when the environment is set.
    ///
    /// # Safety
    ///
    /// 1. Modules with tables that differ never have the same identity at the same address, as long
    ///    as the generation is the same.
    /// 2. No module takes the place of what is always there.
    #[must_use]
    pub const unsafe fn with_identities(self, identify: Identify, always: Always) -> Self {
        Self { identities: Some((identify, always)), ..self }
    }

    /// A personality that need not be called when something is raised, because it does what
    /// [`Context::action`](crate::Context::action) says and nothing else: goes on without an action,
    /// lands in cleanups with the exception in `rax` and 0 in `rdx`, and so catches whatever there is
    /// an action or a filter for. It is called where there is no such answer.
    #[must_use]
    pub const fn with_plain_personality(self, plain: Personality) -> Self {
        Self { plain: Some(plain), ..self }
    }

    /// The address of a personality that need not be called where its answer is the same whatever is
    /// raised: at calls without an entry in the function's table of actions, which have nothing to do, or
    /// a cleanup that it lands in with the exception in `rax` and 0 in `rdx`. 0: there is none. `find`
    /// is called when the environment is set.
    ///
    /// # Safety
    ///
    /// No other personality comes to be at the address.
    #[must_use]
    pub const unsafe fn with_typed_personality(self, find: fn() -> u64) -> Self {
        Self { typed: Some(find), ..self }
    }

    /// [`backtrace`](crate::backtrace) (`_Unwind_Backtrace`) goes on by frame pointers where there
    /// are no tables ([`Cursor::with_guesses`](crate::Cursor::with_guesses)). Raising never does.
    #[must_use]
    pub const fn with_guesses(self) -> Self {
        Self { guesses: true, ..self }
    }

    /// Nobody asks [`in_flight_in`](crate::in_flight_in): exceptions in flight are not counted, and it says
    /// that there may be some everywhere.
    #[must_use]
    pub const fn without_counting(self) -> Self {
        Self { counts: false, ..self }
    }
}

static NOTHING: Environment = Environment::new(|_| StackBounds::EMPTY, |_| arch::stop());
static ENVIRONMENT: AtomicPtr<Environment> = AtomicPtr::new(from_ref(&NOTHING).cast_mut());

/// Where code begins that needs no identity, and its length as trails keep it: all, unless the
/// environment has identities.
static ALWAYS: [(AtomicU64, AtomicI32); 2] =
    [(AtomicU64::new(0), AtomicI32::new(-1)), (AtomicU64::new(0), AtomicI32::new(0))];

/// Sets the program's environment. Before, nothing can be raised through the C names.
pub fn set_environment(environment: &'static Environment) {
    if let Some((_, always)) = environment.identities {
        for ((start, length), range) in ALWAYS.iter().zip(always()) {
            start.store(range.start, Ordering::Relaxed);
            length.store(Trail::length_of(&range), Ordering::Relaxed);
        }
    }
    let plain = environment.plain.map_or(0, |plain| plain as usize as u64);
    Unasked::new(plain, environment.typed.map_or(0, |find| find())).set();
    if !environment.counts {
        IN_FLIGHT.stop_counting();
    }
    ENVIRONMENT.store(from_ref(environment).cast_mut(), Ordering::Release);
}

fn environment() -> &'static Environment {
    let environment = ENVIRONMENT.load(Ordering::Acquire);
    // SAFETY: only references that live for ever are stored there.
    unsafe { &*environment }
}

fn no_more(_known: StackBounds, _address: u64) -> Option<StackBounds> {
    None
}

fn nowhere(_address: u64) -> Option<Module<'static>> {
    None
}

/// Whether walks go on by frame pointers.
pub(crate) fn guesses() -> bool {
    environment().guesses
}

/// The stack with this stack pointer in use.
pub(crate) fn current_stack(sp: u64) -> StackBounds {
    (environment().stack)(sp)
}

#[cold]
pub(crate) fn dead_end(error: RaiseError) -> ! {
    (environment().dead_end)(error)
}

/// A stack of which more may become known while it is walked.
pub(crate) struct LiveStack(Cell<StackBounds>);

impl LiveStack {
    pub(crate) const fn new(known: StackBounds) -> Self {
        Self(Cell::new(known))
    }

    /// Whether no more has become known.
    pub(crate) fn is(&self, known: StackBounds) -> bool {
        self.0.get() == known
    }

    #[cold]
    fn read_beyond(&self, address: u64) -> Option<u64> {
        let wider = (environment().widen)(self.0.get(), address)?;
        self.0.set(wider);
        wider.read(address)
    }
}

impl ReadStack for LiveStack {
    #[inline]
    fn read(&self, address: u64) -> Option<u64> {
        self.0.get().read(address).or_else(|| self.read_beyond(address))
    }

    #[inline]
    fn words_below(&self, end: u64, count: u8) -> Option<WordsBelow> {
        self.0.get().words_below(end, count)
    }

    #[inline]
    fn climb(&self, sp: u64) -> Option<Climb> {
        self.0.get().climb(sp)
    }
}

/// All modules that exceptions pass through: the registered ones, and those of the environment.
pub(crate) struct Everywhere;

impl Everywhere {
    /// Forgets what was remembered, if modules of the environment came or went since.
    ///
    /// Once a walk is enough: what has frames on its stack does not go meanwhile.
    pub(crate) fn refresh(&self) {
        if let Some(generation) = environment().generation {
            global().note_elsewhere(generation());
        }
    }
}

/// Whether something can be remembered of `address`; `trail` then says what it counts for.
///
/// The trail stays where it is, which may be in registers: only other code is asked for elsewhere.
#[inline(always)]
fn enter(address: u64, trail: &mut Trail) -> bool {
    if trail.covers(address) {
        return true;
    }
    for (start, length) in &ALWAYS {
        let (start, length) = (start.load(Ordering::Relaxed), length.load(Ordering::Relaxed));
        if trail.enter_always(start, length, address) {
            return true;
        }
    }
    let Some((code, identity)) = other(address) else { return false };
    trail.enter(code, identity);
    true
}

/// What is remembered of `address` counts for this code, and for this identity only; `None` if nothing
/// can be.
#[cold]
#[inline(never)]
fn other(address: u64) -> Option<(Range<u64>, u64)> {
    let (identify, _) = environment().identities?;
    match identify(address) {
        Whose::Known(range, identity) => Some((range, identity)),
        Whose::Unknown => None,
        // What is registered is told from others by the table's version. Not all of its text may be its
        // own, but no other code comes to be in a page of it.
        Whose::Nobodys => Some(match global().find(address) {
            Some(module) => {
                let page = address & !(PAGE - 1);
                (module.text.0.max(page)..module.text.1.min(page.saturating_add(PAGE)), 0)
            }
            None => (address..address + 1, 0),
        }),
    }
}

/// The registered module of `address`. Gives back the stack that looking for it took.
#[inline(never)]
fn registered(address: u64) -> Option<Module<'static>> {
    if is_gap(address) { None } else { global().find(address) }
}

/// Whether the environment has a module at `address`, and the registered one nothing: what is registered by
/// its tables alone reaches from its first function to its last, whatever lies between.
fn is_gap(address: u64) -> bool {
    !global().is_empty() && is_elsewhere(address) && has_nothing(address)
}

/// Whether the environment has a module at `address`. Gives back the stack that this took, as the next does.
#[inline(never)]
fn is_elsewhere(address: u64) -> bool {
    (environment().find)(address).is_some()
}

/// Whether a registered module reaches over `address`, but has no function there.
#[inline(never)]
fn has_nothing(address: u64) -> bool {
    let found = global().find(address);
    found.is_some_and(|module| matches!(module.function(address), Err(UnwindError::NoFde(_))))
}

impl FindModule for Everywhere {
    fn find(&self, address: u64) -> Option<Module<'_>> {
        match registered(address) {
            None => (environment().find)(address),
            found => found,
        }
    }

    /// Those of the environment have no tables.
    fn rule(&self, address: u64) -> Option<Rule> {
        global().rule(address)
    }

    fn reader(&self, address: u64) -> Option<Reader<'_>> {
        global().reader(address)
    }

    #[inline]
    fn recall(&self, address: u64, trail: &mut Trail, known: &mut Known) -> bool {
        enter(address, trail) && global().recall(address, trail, known)
    }

    #[inline]
    fn recall_rule(&self, address: u64, trail: &mut Trail) -> Option<Rule> {
        if enter(address, trail) { global().recall_rule(address, trail) } else { None }
    }

    #[inline(always)]
    fn memory(&self, address: u64, trail: &mut Trail) -> Option<Memory<'_>> {
        if enter(address, trail) { global().remembered() } else { None }
    }

    #[inline]
    fn generation(&self) -> u32 {
        global().generation()
    }

    fn memorize(&self, address: u64, generation: u32, known: &Known, trail: &mut Trail) {
        // A walk recalls before it finds out, so it has entered what can be remembered.
        if trail.covers(address) && trail.vouches_for(known) {
            global().memorize(address, generation, known, trail);
        }
    }

    fn memorize_rule(&self, address: u64, generation: u32, rule: Rule, trail: &mut Trail) {
        if trail.covers(address) {
            global().memorize_rule(address, generation, rule, trail);
        }
    }
}
