//! Finds the module of a program counter, in any context, while modules come and go.
//!
//! ```text
//!   version 6 (even): readers use copy 0      writer: 7, change copy 0, 8, change copy 1
//!   version 7 (odd):  readers use copy 1      a reader whose version moved on reads again
//! ```
//!
//! Two copies of a sorted table under a version counter. A reader takes no lock: one that
//! interrupts the writer (an NMI on the same CPU) finds the copy that is not being changed, and
//! the version stands still for it, so it never loops. Writers exclude each other by a flag and
//! are never readers' concern.

use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};

use crate::cache::{Cache, Memory, Trail};
use crate::error::RegisterError;
use crate::fde::FdeEntry;
use crate::known::Known;
use crate::module::{FdeIndex, Module, Section};
use crate::rule::Rule;
use crate::table::{FrameTable, Reader};
use crate::variant::{GENERATION_BITS, REMEMBERS};

/// Answers which module a program counter belongs to.
pub trait FindModule {
    /// The module whose text contains `address`.
    fn find(&self, address: u64) -> Option<Module<'_>>;

    /// The rule at `address` that was worked out beforehand, if its module has a
    /// [table](crate::table) that has one.
    fn rule(&self, address: u64) -> Option<Rule> {
        self.find(address)?.rule(address)
    }

    /// The table that [`rule`](Self::rule) is from, to be asked for other addresses of its module
    /// without looking for that again; finders need not have it at hand.
    fn reader(&self, address: u64) -> Option<Reader<'_>> {
        let _ = address;
        None
    }

    /// Puts into `known` what was memorized of `address`, if that still holds; finders need not
    /// remember anything. `trail` is that of one walk, whose addresses are asked for in turn.
    fn recall(&self, address: u64, trail: &mut Trail, known: &mut Known) -> bool {
        let _ = (address, trail, known);
        false
    }

    /// The rule of [`recall`](Self::recall).
    #[inline]
    fn recall_rule(&self, address: u64, trail: &mut Trail) -> Option<Rule> {
        let mut known = Known::NOTHING;
        self.recall(address, trail, &mut known).then_some(known.rule)
    }

    /// What is memorized now, for a walk of many frames that comes to `address`; the trail enters the
    /// code there.
    fn memory(&self, address: u64, trail: &mut Trail) -> Option<Memory<'_>> {
        let _ = (address, trail);
        None
    }

    /// Changes whenever what is known of addresses may have changed.
    fn generation(&self) -> u32 {
        0
    }

    /// Remembers what was found out about `address` since the generation was `generation`.
    fn memorize(&self, address: u64, generation: u32, known: &Known, trail: &mut Trail) {
        let _ = (address, generation, known, trail);
    }

    /// As [`memorize`](Self::memorize), of which only the rule was found out: walks need no more.
    fn memorize_rule(&self, address: u64, generation: u32, rule: Rule, trail: &mut Trail) {
        let _ = (address, generation, rule, trail);
    }
}

/// How many modules a table holds.
const CAPACITY: usize = if cfg!(feature = "many-modules") { 4096 } else { 256 };

/// A module as words, so that a torn read is a wrong number and not undefined behaviour.
const WORDS: usize = 16;

/// One copy of the table: sorted by start of text, packed.
struct Copy {
    count: AtomicUsize,
    entries: [[AtomicU64; WORDS]; CAPACITY],
}

impl Copy {
    const fn new() -> Self {
        Self {
            count: AtomicUsize::new(0),
            entries: [const { [const { AtomicU64::new(0) }; WORDS] }; CAPACITY],
        }
    }

    fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed).min(CAPACITY)
    }

    fn start(&self, index: usize) -> u64 {
        self.entries[index][0].load(Ordering::Relaxed)
    }

    fn words(&self, index: usize) -> [u64; WORDS] {
        core::array::from_fn(|word| self.entries[index][word].load(Ordering::Relaxed))
    }

    fn store(&self, index: usize, words: &[u64; WORDS]) {
        for (to, &from) in self.entries[index].iter().zip(words) {
            to.store(from, Ordering::Relaxed);
        }
    }

    /// How many entries start at or below `address`.
    fn position(&self, address: u64) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.start(middle) <= address {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn find(&self, address: u64) -> Option<[u64; WORDS]> {
        let words = self.words(self.position(address).checked_sub(1)?);
        (address < words[1]).then_some(words)
    }

    /// The text of the module of `address`, where its `.eh_frame` is, and its table of frames: of all
    /// that [`find`](Self::find) gives only what a walk needs.
    fn table(&self, address: u64) -> Option<[u64; 5]> {
        let entry = &self.entries[self.position(address).checked_sub(1)?];
        let words = [0, 1, EH_FRAME, TABLE, TABLE + 1];
        let words = words.map(|word| entry[word].load(Ordering::Relaxed));
        (address < words[1] && words[4] != 0).then_some(words)
    }

    fn insert(&self, index: usize, words: &[u64; WORDS]) {
        let count = self.len();
        for place in (index..count).rev() {
            self.store(place + 1, &self.words(place));
        }
        self.store(index, words);
        self.count.store(count + 1, Ordering::Relaxed);
    }

    fn remove(&self, index: usize) {
        let count = self.len();
        for place in index + 1..count {
            self.store(place - 1, &self.words(place));
        }
        self.count.store(count - 1, Ordering::Relaxed);
    }
}

/// A table of modules, 256 of them (4,096 with `many-modules`), and what is known of their addresses;
/// without a heap.
pub struct Modules {
    version: AtomicU64,
    copies: [Copy; 2],
    writing: AtomicBool,
    /// The generation of modules that are found elsewhere.
    elsewhere: AtomicU64,
    /// A module with a table of frames was here: others need not be looked for twice.
    tables: AtomicBool,
    cache: Cache,
}

impl Modules {
    /// An empty table.
    pub const fn new() -> Self {
        Self {
            version: AtomicU64::new(0),
            copies: [Copy::new(), Copy::new()],
            writing: AtomicBool::new(false),
            elsewhere: AtomicU64::new(0),
            tables: AtomicBool::new(false),
            cache: Cache::new(),
        }
    }

    /// Adds a module; it is found from now on until the registration is dropped.
    ///
    /// # Errors
    ///
    /// [`RegisterError`] if the table is full, the text is empty or overlaps another's.
    ///
    /// # Safety
    ///
    /// Until the registration is dropped, the module's slices must stay valid and unchanged, and
    /// its tables must describe its code: exceptions are raised by them. It may be dropped only
    /// when no frame of the module is on any stack and none will be.
    pub unsafe fn register(
        &self,
        module: Module<'static>,
    ) -> Result<Registration<'_>, RegisterError> {
        self.insert(&encode(&module))?;
        Ok(Registration { modules: self, start: module.text.0 })
    }

    /// Adds a module that is removed by `key`, which is not zero; `object` comes back then.
    ///
    /// # Errors
    ///
    /// As [`register`](Self::register).
    ///
    /// # Safety
    ///
    /// As [`register`](Self::register).
    pub(crate) unsafe fn register_frames(
        &self,
        module: Module<'static>,
        key: u64,
        object: u64,
    ) -> Result<(), RegisterError> {
        let mut words = encode(&module);
        words[KEY] = key;
        words[OBJECT] = object;
        self.insert(&words)
    }

    /// Removes the modules that [`register_frames`](Self::register_frames) added with this key,
    /// and gives their object.
    pub(crate) fn deregister_frames(&self, key: u64) -> Option<u64> {
        let _writer = Writer::enter(&self.writing);
        let copy = &self.copies[0];
        let place = || (0..copy.len()).find(|&index| key != 0 && copy.words(index)[KEY] == key);
        let mut object = None;
        while let Some(index) = place() {
            object = Some(copy.words(index)[OBJECT]);
            self.change(|copy| copy.remove(index));
        }
        object
    }

    /// Modules that are not in this table may have come or gone, if `generation` is not the one
    /// that was noted last: what was memorized is forgotten.
    pub(crate) fn note_elsewhere(&self, generation: u64) {
        if self.elsewhere.load(Ordering::Acquire) != generation {
            // First, so that who sees the number noted sees the new version, too. Even stays even, also
            // in the midst of a writer's change: readers read again.
            self.advance(2);
            self.elsewhere.store(generation, Ordering::Release);
        }
    }

    /// On to another version. What was memorized is forgotten twice before a generation comes
    /// again.
    fn advance(&self, by: u64) {
        let before = self.version.fetch_add(by, Ordering::Release);
        if (before ^ before.wrapping_add(by)) >> (GENERATION_BITS - 1) != 0 {
            self.cache.forget();
        }
    }

    fn insert(&self, words: &[u64; WORDS]) -> Result<(), RegisterError> {
        let [start, end, ..] = *words;
        if start >= end {
            return Err(RegisterError::Empty { start });
        }
        let _writer = Writer::enter(&self.writing);
        let copy = &self.copies[0];
        let index = copy.position(end - 1);
        if let Some(before) = index.checked_sub(1) {
            let words = copy.words(before);
            if start < words[1] {
                return Err(RegisterError::Overlap { start, existing: words[0] });
            }
        }
        if copy.len() == CAPACITY {
            return Err(RegisterError::Full { capacity: CAPACITY });
        }
        if words[TABLE + 1] != 0 {
            self.tables.store(true, Ordering::Relaxed);
        }
        self.change(|copy| copy.insert(index, words));
        Ok(())
    }

    /// What is memorized now.
    #[inline(always)]
    pub(crate) fn remembered(&self) -> Option<Memory<'_>> {
        REMEMBERS.then(|| self.cache.memory(self.generation()))
    }

    /// How many modules are registered.
    pub fn len(&self) -> usize {
        self.read(Copy::len)
    }

    /// Whether no module is registered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Applies `change` to both copies, one after the other, each while readers use the other.
    /// The caller is the only writer.
    fn change(&self, change: impl Fn(&Copy)) {
        for copy in &self.copies {
            // Readers turn to the other copy. The release store publishes the previous round's
            // changes to it; the fence keeps this round's behind the new version.
            self.advance(1);
            fence(Ordering::Release);
            change(copy);
        }
        // An even number of increments: the version is even again, and readers use copy 0.
    }

    fn read<T>(&self, read: impl Fn(&Copy) -> T) -> T {
        loop {
            let version = self.version.load(Ordering::Acquire);
            let value = read(&self.copies[(version & 1) as usize]);
            fence(Ordering::Acquire);
            if self.version.load(Ordering::Relaxed) == version {
                return value;
            }
        }
    }
}

impl Default for Modules {
    fn default() -> Self {
        Self::new()
    }
}

impl FindModule for Modules {
    fn find(&self, address: u64) -> Option<Module<'_>> {
        let words = self.read(|copy| copy.find(address))?;
        // SAFETY: the words were read under one version, so they are what `register` stored for
        // one module, whose slices its caller keeps valid while it is registered.
        Some(unsafe { decode(&words) })
    }

    fn rule(&self, address: u64) -> Option<Rule> {
        self.reader(address)?.rule(address)
    }

    #[inline]
    fn reader(&self, address: u64) -> Option<Reader<'_>> {
        if !self.tables.load(Ordering::Relaxed) {
            return None;
        }
        let [start, end, eh_frame, table, length] = self.read(|copy| copy.table(address))?;
        // SAFETY: as above.
        let table = FrameTable::from_bytes(unsafe { slice(table, length) });
        table.reader(start..end, eh_frame)
    }

    #[inline]
    fn recall(&self, address: u64, trail: &mut Trail, known: &mut Known) -> bool {
        REMEMBERS && self.cache.recall(address, self.generation(), trail, known)
    }

    #[inline]
    fn recall_rule(&self, address: u64, trail: &mut Trail) -> Option<Rule> {
        if REMEMBERS { self.cache.recall_rule(address, self.generation(), trail) } else { None }
    }

    #[inline(always)]
    fn memory(&self, _address: u64, trail: &mut Trail) -> Option<Memory<'_>> {
        trail.enter(0..u64::MAX, 0);
        self.remembered()
    }

    /// Even: while a writer is at work, nothing has changed yet. Not zero, as memory is that was
    /// never used.
    #[inline]
    fn generation(&self) -> u32 {
        const MASK: u32 = (1 << GENERATION_BITS) - 1;
        const NOT_ZERO: u32 = 1 << 31;
        // Even: the odd version in the midst of a change has what the one before it had. Not zero,
        // as memory is that was never used: nothing is known of address 0.
        self.version.load(Ordering::Acquire) as u32 & MASK & !1 | NOT_ZERO
    }

    fn memorize(&self, address: u64, generation: u32, known: &Known, trail: &mut Trail) {
        // What was found out before a change may be wrong.
        if REMEMBERS && generation == self.generation() {
            self.cache.memorize(address, generation, known, trail);
        }
    }

    fn memorize_rule(&self, address: u64, generation: u32, rule: Rule, trail: &mut Trail) {
        if REMEMBERS && generation == self.generation() {
            self.cache.memorize_rule(address, generation, rule, trail);
        }
    }
}

/// Holds the right to change a table.
struct Writer<'m>(&'m AtomicBool);

impl<'m> Writer<'m> {
    fn enter(flag: &'m AtomicBool) -> Self {
        while flag.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            core::hint::spin_loop();
        }
        Self(flag)
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// A registered module. Dropping it removes the module from the table.
#[must_use = "dropping a registration removes the module"]
pub struct Registration<'m> {
    modules: &'m Modules,
    start: u64,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        let _writer = Writer::enter(&self.modules.writing);
        // The table is not changed by others while we hold the flag, and copies are equal
        // between changes, so the place found in one is the place in both.
        if let Some(index) = self.modules.copies[0].position(self.start).checked_sub(1) {
            self.modules.change(|copy| copy.remove(index));
        }
    }
}

static GLOBAL: Modules = Modules::new();

/// The table that raising uses.
pub fn global() -> &'static Modules {
    &GLOBAL
}

/// Adds a module to the [`global`] table.
///
/// # Errors
///
/// As [`Modules::register`].
///
/// # Safety
///
/// As [`Modules::register`].
pub unsafe fn register(module: Module<'static>) -> Result<Registration<'static>, RegisterError> {
    // SAFETY: the caller's promise is the same.
    unsafe { GLOBAL.register(module) }
}

const INDEX_LINEAR: u64 = 0;
const INDEX_HEADER: u64 = 1;
const INDEX_SORTED: u64 = 2;

/// Where the words of `.eh_frame` begin.
const EH_FRAME: usize = 2;
/// Where those of its table begin.
const TABLE: usize = 6;
/// What the module is removed by, if it is not a [`Registration`]; otherwise 0.
const KEY: usize = 13;
/// What is given back then.
const OBJECT: usize = 14;

/// Text, `.eh_frame`, LSDAs, table, bases and index, two words each, the kind of the index, … As
/// pointer and length, which are also their addresses: a registered module lies where it runs.
fn encode(module: &Module<'static>) -> [u64; WORDS] {
    let (kind, index) = match module.index {
        FdeIndex::Linear => (INDEX_LINEAR, [0, 0]),
        FdeIndex::Header(section) => (INDEX_HEADER, pointer(section.data)),
        FdeIndex::Sorted(table) => (INDEX_SORTED, pointer(table)),
    };
    let (eh_frame, lsda) = (pointer(module.eh_frame.data), pointer(module.lsda.data));
    let (table, bases) = (pointer(module.table.bytes()), [module.text_base, module.data_base]);
    let pairs = [module.text.into(), eh_frame, lsda, table, bases, index, [kind, 0], [0, 0]];
    core::array::from_fn(|word| pairs[word / 2][word % 2])
}

fn pointer<T>(slice: &'static [T]) -> [u64; 2] {
    [slice.as_ptr().expose_provenance() as u64, slice.len() as u64]
}

/// # Safety
///
/// `words` must come from [`encode`], and the module's slices must still be valid.
unsafe fn decode<'m>(words: &[u64; WORDS]) -> Module<'m> {
    // SAFETY: pointer and length of a valid slice, by this function's contract.
    let section = |at: usize| Section::in_memory(unsafe { slice(words[at], words[at + 1]) });
    let index = match words[12] {
        INDEX_HEADER => FdeIndex::Header(section(10)),
        // SAFETY: as above; `encode` stored a slice of entries.
        INDEX_SORTED => FdeIndex::Sorted(unsafe { slice::<FdeEntry>(words[10], words[11]) }),
        _ => FdeIndex::Linear,
    };
    Module::new(words[0]..words[1], section(EH_FRAME))
        .with_index(index)
        .with_lsda(section(4))
        .with_bases(words[8], words[9])
        .with_table(FrameTable::from_bytes(section(TABLE).data))
}

/// # Safety
///
/// Pointer and length of a valid slice of `T`.
unsafe fn slice<'m, T>(pointer: u64, length: u64) -> &'m [T] {
    let first = core::ptr::with_exposed_provenance(pointer as usize);
    // SAFETY: this function's contract.
    unsafe { core::slice::from_raw_parts(first, length as usize) }
}

#[cfg(test)]
mod kept;
#[cfg(all(test, feature = "build"))]
mod tabled;
#[cfg(test)]
mod tests;
