//! Files with changes that mean harm: nothing panics, nothing is touched outside, nothing stays.
//!
//! ```text
//!   a file ──► mutate ──► defuse ──► load ──┬─► error, everything given back
//!   (seeds)                                 └─► looked at, unloaded, everything given back
//! ```
//!
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

mod defuse;
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

use memory::{Guarded, Room};
use program::{Program, SURPLUS, registry};
use random::Random;
use report::Running;
use stacks::Frames;
use unspool_loader::{Handle, LoadError, Loader};
use unspool_stack_trace::Symbolize as _;
use unspool_unwind::{FindModule as _, global};

/// Cases that take a few seconds without optimization.
const CASES: u64 = 20_000;
/// More than the largest file.
const ROOM: usize = 1 << 20;
/// Objects that are loaded one after the other in a case.
const MOST: usize = 3;

fn from_environment(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn a_mutated_file_never_panics_never_reaches_outside_and_never_leaves_anything() {
    let (run, first) =
        (from_environment("UNSPOOL_FUZZ_RUN", 1), from_environment("UNSPOOL_FUZZ_FIRST", 0));
    let count = from_environment("UNSPOOL_FUZZ_CASES", CASES);
    let seeds = seeds::all();
    let mut rooms = [ROOM; MOST].map(Room::new);
    let mut counts = Counts::default();
    report::on_faults();
    for case in first..first + count {
        let mut random = Random::new(run, case);
        let files: Vec<_> = (0..random.within(1..MOST + 1))
            .map(|_| {
                let mut file = random.choose(&seeds).clone();
                if !random.once_in(8) {
                    mutate::mutate(&mut file, &seeds, &mut random);
                }
                defuse::defuse(&mut file);
                file
            })
            .collect();
        let _running = Running::new(run, case, &files);
        let files: Vec<_> = files.iter().zip(&mut rooms).map(|(f, room)| room.put(f)).collect();
        let heap = heap::used();
        one(&files, &mut random, &mut counts);
        // The first one may have found things that are there for good.
        assert!(case == first || heap::used() == heap, "{} bytes stay", heap::used() - heap);
    }
    // The same wherever compilers are the same.
    let bytes =
        seeds.iter().flatten().fold(0u64, |sum, &byte| sum.rotate_left(5) ^ u64::from(byte));
    println!("{} seeds {bytes:016x}", seeds.len());
    println!("{count} cases from {first} of run {run}: {counts:?}");
    let Counts { loaded, refused, .. } = counts;
    assert!(count < CASES || (loaded * 20 > count && refused * 20 > count), "{counts:?}");
}

/// How the cases ended.
#[derive(Default, Debug)]
struct Counts {
    loaded: u64,
    refused: u64,
    given_back: u64,
}

/// Runs one case: loads the files in turn, looks at what is there, and takes it away.
fn one(files: &[&[u8]], random: &mut Random, counts: &mut Counts) {
    let fails = random.once_in(4).then(|| random.within(1..12));
    let (full, strict) = (random.once_in(4), random.once_in(3));
    let (memory, tls) = (Guarded::new(fails), registry());
    let program = if strict { Program::bare() } else { Program::full().with_tls("y", -8) };
    let area = tls.new_area(0).unwrap();
    let rest = full.then(|| tls.reserve(tls.surplus_free(), 1).unwrap());
    let (free, modules) = (tls.surplus_free(), tls.modules());
    let loader = Loader::new(&memory, &program, &tls);
    let mut objects = Vec::new();
    for file in files {
        let before = (memory.live(), tls.surplus_free(), tls.modules(), global().len());
        let loaded = match random.below(16) {
            0 => heap::failing_always(|| load(&loader, file)),
            1..4 => heap::failing_at(random.within(0..80), || load(&loader, file)).0,
            _ => load(&loader, file),
        };
        match loaded {
            Ok(object) => {
                counts.loaded += 1;
                look_at(&loader, &memory, &object, random);
                objects.push(object);
            }
            Err(error) => {
                counts.refused += 1;
                assert!(!error.to_string().is_empty());
                let now = (memory.live(), tls.surplus_free(), tls.modules(), global().len());
                assert_eq!(before, now, "{error}");
            }
        }
    }
    // Some are unloaded, the others go with their loader.
    let unloaded = objects.len() * usize::from(!random.once_in(3));
    for object in objects.drain(..).rev().take(unloaded) {
        loader.unload(&object, &Frames::none()).unwrap();
        counts.given_back += 1;
    }
    if unloaded != 0 {
        let now = (memory.live(), tls.surplus_free(), tls.modules(), global().len());
        assert_eq!(now, (0, free, modules, 0));
    }
    drop(objects);
    drop((loader, rest, area));
    assert_eq!((memory.live(), tls.surplus_free(), tls.modules()), (0, SURPLUS, 0));
    assert_eq!(global().len(), 0);
}

fn load<'l>(loader: &'l Loader<'_>, file: &[u8]) -> Result<Handle<'l>, LoadError> {
    loader.load("mutant", file)
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
