//! Sets of files with changes that mean harm: nothing panics, nothing is touched outside, nothing
//! stays.
//!
//! ```text
//!   files ──► mutate ──► a set ──► load ──┬─► error, everything given back
//!   (seeds)                ▲        │     └─► looked at, unloaded, everything given back
//!                       archives    └─ constructors, resolvers, destructors: called (`calls`)
//! ```
//!
//! In some cases one allocation fails, or each of them in turn, or a mapping, or a protection.
//! A case is made of two numbers, which are printed if it fails, and the file is kept then.
//! `UNSPOOL_FUZZ_CASES` and `UNSPOOL_FUZZ_RUN` choose other cases than the few that are always run:
//!
//! ```console
//! $ UNSPOOL_FUZZ_CASES=1000000 cargo test --release -p unspool-loader --test fuzz -- --nocapture
//! $ UNSPOOL_FUZZ_CASES=1 UNSPOOL_FUZZ_FIRST=4711 cargo test -p unspool-loader --test fuzz
//! ```
//!
//! The files depend on the compilers, whose objects a hash is printed of; where Linux puts them
//! decides whether a rare one reaches what it refers to (`setarch -R` keeps that the same, too).
//!
//! Under the address sanitizer, whose handler must leave faults to this one:
//!
//! ```console
//! $ ASAN_OPTIONS=detect_leaks=0:handle_segv=0 RUSTFLAGS=-Zsanitizer=address cargo test \
//!       --release --target x86_64-unknown-linux-gnu -p unspool-loader --test fuzz
//! ```

mod archives;
mod calls;
#[path = "../../../tests/fuzz/case.rs"]
mod case;
mod counts;
#[path = "../rollback/heap.rs"]
mod heap;
mod memory;
mod mutate;
#[path = "../loader/program.rs"]
mod program;
mod random;
mod report;
mod seeds;
#[path = "../loader/stacks.rs"]
mod stacks;
mod view;

use calls::AtExit;
use counts::Counts;
use memory::{Guarded, Room};
use program::{Program, SURPLUS, registry};
use random::Random;
use report::Running;
use seeds::Seed;
use stacks::Frames;
use std::ffi::c_void;
use std::time::Instant;
use unspool_loader::{Handle, Input, LoadError, Loader, Set};
use unspool_stack_trace::Symbolize as _;
use unspool_tls::Registry;
use unspool_unwind::{FindModule as _, global};

/// Cases that take a few seconds without optimization.
const CASES: u64 = 20_000;
/// More than the largest file.
const ROOM: usize = 1 << 20;
/// Sets that are loaded one after the other in a case.
const MOST: usize = 3;
/// Files of a set.
const FILES: usize = 4;

fn from_environment(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn mutated_files_never_panic_never_reach_outside_and_never_leave_anything() {
    let (run, first) =
        (from_environment("UNSPOOL_FUZZ_RUN", 1), from_environment("UNSPOOL_FUZZ_FIRST", 0));
    let count = from_environment("UNSPOOL_FUZZ_CASES", CASES);
    let seeds = seeds::all();
    let mut rooms: [[Room; FILES]; MOST] =
        std::array::from_fn(|_| std::array::from_fn(|_| Room::new(ROOM)));
    let mut counts = Counts::default();
    calls::catch();
    let at_exit = at_exit();
    let started = Instant::now();
    for case in first..first + count {
        let mut random = Random::new(run, case);
        let files: Vec<_> =
            (0..random.within(1..MOST + 1)).map(|_| some_files(&seeds, &mut random)).collect();
        let _running = Running::new(run, case, &files);
        let sets: Vec<Vec<_>> = files
            .iter()
            .zip(&mut rooms)
            .map(|(files, rooms)| {
                files.iter().zip(rooms).map(|(file, room)| room.put(file)).collect()
            })
            .collect();
        let heap = heap::used() - counts.heap;
        Case { at_exit, random, counts: &mut counts }.run(&sets);
        // The first one may have found things that are there for good.
        let stay = heap::used() - counts.heap - heap;
        assert!(case == first || stay == 0, "{stay} bytes stay");
    }
    // The same wherever compilers are the same.
    let files = seeds.iter().flat_map(|seed| &seed.file);
    let bytes = files.fold(0u64, |sum, &byte| sum.rotate_left(5) ^ u64::from(byte));
    println!("{} seeds {bytes:016x}", seeds.len());
    println!("{count} cases from {first} of run {run}, {:?}: {counts}", started.elapsed());
    println!("{} calls into them", calls::count());
    assert!(count < CASES || calls::count() > count / 20);
    counts.check(count, CASES);
}

/// Files for a set, most of them with changes. Few have two that define the same names for sure.
fn some_files(seeds: &[Seed], random: &mut Random) -> Vec<Vec<u8>> {
    let count = if random.once_in(2) { 1 } else { random.within(2..FILES + 1) };
    let mut chosen: Vec<&Seed> = Vec::new();
    while chosen.len() < count {
        // All families are chosen as often, though some are larger; those of libraries are many.
        let family = if random.once_in(2) {
            random.choose(seeds).family
        } else {
            random.below(seeds::FAMILIES)
        };
        let of_family: Vec<&Seed> = seeds.iter().filter(|seed| seed.family == family).collect();
        let again = chosen.iter().any(|seed| seed.family == family);
        if !of_family.is_empty() && (!again || random.once_in(16)) {
            let seed: &&Seed = random.choose(&of_family);
            chosen.push(seed);
        }
    }
    let files = chosen.into_iter().map(|seed| {
        let mut file = seed.file.clone();
        // Of several, one, more or less: another's faults would hide what comes of it.
        let changed = if count == 1 { !random.once_in(8) } else { random.once_in(count) };
        if changed {
            mutate::mutate(&mut file, seeds, random);
        }
        file
    });
    files.collect()
}

/// The loader's own `__cxa_atexit`, as an object sees it; nothing where there is no compiler.
fn at_exit() -> Option<AtExit> {
    let object = seeds::one("extern int __cxa_atexit(); void *at_exit = (void *)__cxa_atexit;")?;
    let (memory, tls, program) = (Guarded::new(None), registry(), Program::bare());
    let loader = Loader::new(&memory, &program, &tls);
    let object = loader.load("at_exit", &object).unwrap();
    let variable = object.symbol("at_exit").unwrap() as *const AtExit;
    // SAFETY: the object is loaded, and this is the function's type.
    Some(unsafe { variable.read() })
}

/// What there is to give back: mappings, bytes of the surplus, modules, unwind tables.
type Held = (usize, usize, usize, usize);

fn held(memory: &Guarded, tls: &Registry) -> Held {
    (memory.live(), tls.surplus_free(), tls.modules(), global().len())
}

/// A case that runs.
struct Case<'c> {
    at_exit: Option<AtExit>,
    random: Random,
    counts: &'c mut Counts,
}

impl Case<'_> {
    /// Loads the sets in turn, looks at what is there, and takes it away.
    fn run(mut self, sets: &[Vec<&[u8]>]) {
        let random = &mut self.random;
        let fails = random.once_in(4).then(|| random.within(1..12));
        let (full, strict) = (random.once_in(4), random.once_in(3));
        let (memory, tls) = (Guarded::new(fails), registry());
        let program = if strict { Program::bare() } else { Program::full().with_tls("y", -8) };
        let program = nothing_to_run(program);
        let area = tls.new_area(0).unwrap();
        let rest = full.then(|| tls.reserve(tls.surplus_free(), 1).unwrap());
        let (free, modules) = (tls.surplus_free(), tls.modules());
        let loader = Loader::new(&memory, &program, &tls);
        let mut objects = Vec::new();
        for files in sets {
            let Some(object) = self.load_set(&loader, &memory, &tls, files) else { continue };
            look_at(&loader, &memory, &object, &mut self.random);
            self.register(&object);
            objects.push(object);
        }
        // Some are unloaded, the others go with their loader.
        let unloaded = objects.len() * usize::from(!self.random.once_in(3));
        for object in objects.drain(..).rev().take(unloaded) {
            calls::expected(|| loader.unload(&object, &Frames::none())).unwrap();
            self.counts.given_back += 1;
        }
        if unloaded != 0 {
            assert_eq!(held(&memory, &tls), (0, free, modules, 0));
        }
        drop(objects);
        drop((loader, rest, area));
        assert_eq!(held(&memory, &tls), (0, SURPLUS, 0, 0));
    }

    /// Loads a set with what the case has fail.
    fn load_set<'l>(
        &mut self,
        loader: &'l Loader<'_>,
        memory: &Guarded,
        tls: &Registry,
        files: &[&[u8]],
    ) -> Option<Handle<'l>> {
        const NAMES: [&str; FILES] = ["first", "second", "third", "fourth"];
        let random = &mut self.random;
        let inputs: Vec<_> = NAMES
            .iter()
            .zip(files)
            .map(|(name, file)| {
                let input = Input::new(name, file);
                if random.once_in(4) { input.whole() } else { input }
            })
            .collect();
        let roots: &[&str] = if random.once_in(4) { &["get", "name", "nowhere"] } else { &[] };
        let set = Set::new("mutants", &inputs).roots(roots);
        let load = || calls::expected(|| loader.load_set(&set));
        let before = held(memory, tls);
        let loaded = match random.below(16) {
            0 => heap::failing_always(load),
            1..4 => heap::failing_at(random.within(0..80 * files.len()), load).0,
            _ if random.once_in(64) => self.every_allocation(&load, &|| held(memory, tls)),
            _ => load(),
        };
        match loaded {
            Ok(object) => {
                self.counts.loaded += 1;
                self.counts.together += u64::from(object.files().count() > 1);
                return Some(object);
            }
            Err(error) => {
                assert_eq!(before, held(memory, tls), "{error}");
                self.counts.refuse(&error);
            }
        }
        None
    }

    /// Has each allocation fail in turn, as long as there are more; what comes of it then.
    fn every_allocation<'l>(
        &mut self,
        load: &dyn Fn() -> Result<Handle<'l>, LoadError>,
        held: &dyn Fn() -> Held,
    ) -> Result<Handle<'l>, LoadError> {
        const GROW_ONCE: usize = 8;
        let (before, mut heap, mut growths) = (held(), heap::used(), 0);
        for failing in 0.. {
            let (loaded, failed) = heap::failing_at(failing, load);
            if !failed {
                return loaded;
            }
            self.counts.in_turn += 1;
            match loaded.map_err(drop) {
                Err(()) => assert_eq!(before, held(), "allocation {failing}"),
                // The loader's list of names has room in advance, if there is memory.
                Ok(object) if failing == 0 => return Ok(object),
                Ok(_) => panic!("allocation {failing} was not needed"),
            }
            // That list grows once, as do those of the TLS registry, whose image is made now.
            growths += usize::from(heap::used() != heap);
            assert!(
                growths <= GROW_ONCE,
                "allocation {failing} is the last of {growths} that stay"
            );
            heap = heap::used();
        }
        unreachable!("the objects are not so large");
    }

    /// Has an object ask to have something called when it goes: code of it, and code that it has not.
    fn register(&mut self, object: &Handle<'_>) {
        let Some(at_exit) = self.at_exit else { return };
        let all = [object.text(), object.rodata(), object.data()];
        for range in all.into_iter().filter(|range| !range.is_empty()) {
            let handle = range.start + self.random.below((range.end - range.start) as usize) as u64;
            let function = if self.random.once_in(2) { handle } else { program::trap() };
            // SAFETY: an address; it is called where calls are expected that do not arrive.
            let function =
                unsafe { std::mem::transmute::<u64, unsafe extern "C" fn(*mut c_void)>(function) };
            assert_eq!(at_exit(function, std::ptr::null_mut(), handle as *mut c_void), 0);
        }
    }
}

/// A program whose functions all trap.
fn nothing_to_run(program: Program) -> Program {
    let names = ["memcpy", "memmove", "memset", "memcmp", "__cxa_atexit", "atexit"];
    names.into_iter().fold(program, |program, name| program.with(name, program::trap()))
}

/// Asks a loaded object, and everyone who knows it, about places in it.
fn look_at(loader: &Loader<'_>, memory: &Guarded, object: &Handle<'_>, random: &mut Random) {
    for section in object.sections() {
        assert!(section.size == 0 || memory.has(section.address), "{}", section.name);
        assert!(section.size == 0 || memory.has(section.address + section.size - 1));
    }
    let text = object.text();
    for _ in 0..4 {
        let address = text.start + random.below((text.end - text.start) as usize) as u64;
        if let Some(symbol) = loader.symbolize(address) {
            let name = symbol.name.whole().expect("the loader keeps names as text");
            let _ = (object.symbol(name), object.tls_offset(name));
        }
        let Some(module) = global().find(address) else { continue };
        if let Ok(function) = module.function(address) {
            let _ = (function.row(address), function.lsda_data());
        }
    }
    assert!(loader.objects().any(|other| other.text() == text));
}
