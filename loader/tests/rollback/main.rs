//! Whatever fails, and whenever, everything is given back. Alone in its process, so that the
//! unwinder's table, which is global, can be counted.

#[path = "../loader/compile.rs"]
mod compile;
mod exhaustion;
mod heap;
#[path = "../loader/memory.rs"]
mod memory;
#[path = "../loader/program.rs"]
mod program;
mod rounds;
#[path = "../loader/stacks.rs"]
mod stacks;

use compile::RUST_FLAGS;
use memory::HostMemory;
use object::read::elf::{ElfFile64, ElfSection64, SectionHeader as _};
use object::{Endianness, Object as _, ObjectSection as _, elf};
use program::{Program, SURPLUS, registry};
use proptest::prelude::*;
use stacks::Frames;
use std::sync::atomic::Ordering;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use unspool_loader::{Cause, Loader, MapError};
use unspool_tls::Registry;
use unspool_unwind::{RegisterError, global};

/// One test at a time: all look at the global table.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

const SOURCE: &str = r#"
use core::cell::Cell;
#[thread_local] static A: Cell<u32> = Cell::new(7);
#[thread_local] #[unsafe(no_mangle)] pub static B: Cell<[u64; 9]> = Cell::new([0; 9]);
static NAMES: [&str; 3] = ["a", "b", "c"];
static mut COUNTER: u64 = 5;
pub struct Guard; impl Drop for Guard { fn drop(&mut self) { unsafe { COUNTER += 100 } } }
#[unsafe(no_mangle)] pub extern "C-unwind" fn guarded(call: extern "C-unwind" fn()) -> u64 {
    let _guard = Guard; call(); A.set(A.get() + 1); B.get()[A.get() as usize]
}
#[unsafe(no_mangle)] pub extern "C" fn name(index: usize) -> u8 { NAMES[index].as_bytes()[0] }
"#;

fn nothing_is_left(memory: &HostMemory, tls: &Registry) {
    assert_eq!(memory.live(), 0);
    let count = |counter: &std::sync::atomic::AtomicUsize| counter.load(Ordering::Relaxed);
    assert_eq!(count(&memory.maps), count(&memory.unmaps));
    assert_eq!(tls.surplus_free(), SURPLUS);
    assert_eq!(global().len(), 0);
}

#[test]
fn a_failing_seal_gives_everything_back_at_every_step() {
    let _alone = alone();
    let file = compile::rust(SOURCE, RUST_FLAGS[3]);
    for step in 1..=3 {
        let (memory, program, tls) = (HostMemory::default(), Program::full(), registry());
        memory.failing_protect.store(step, Ordering::Relaxed);
        let loader = Loader::new(&memory, &program, &tls);
        let error = loader.load("guest", &file).map(|_| ()).unwrap_err().into_cause();
        assert!(matches!(error, Cause::Map(MapError::Protect { .. })), "{error}");
        assert_eq!(loader.objects().count(), 0);
        nothing_is_left(&memory, &tls);
    }
}

#[test]
fn what_resolvers_have_registered_is_forgotten_if_a_later_step_fails() {
    let _alone = alone();
    let source = "int __cxa_atexit(void (*)(void *), void *, void *); extern char __dso_handle;
        static void late(void *p) {} static int one(void) { return 1; }
        static int (*pick(void))(void) { __cxa_atexit(late, 0, &__dso_handle); return one; }
        int chosen(void) __attribute__((ifunc(\"pick\")));";
    let Some(file) = compile::c(source, &["-fPIC"]) else { return };
    let refused = || {
        let (memory, program, tls) = (HostMemory::default(), Program::bare(), registry());
        // After the code is executable.
        memory.failing_protect.store(2, Ordering::Relaxed);
        let loader = Loader::new(&memory, &program, &tls);
        let error = loader.load("guest", &file).map(|_| ()).unwrap_err().into_cause();
        assert!(matches!(error, Cause::Map(MapError::Protect { .. })), "{error}");
        nothing_is_left(&memory, &tls);
    };
    let before = heap::used();
    refused();
    assert_eq!(heap::used(), before);
}

#[test]
fn a_full_table_of_modules_gives_the_last_object_back() {
    let _alone = alone();
    let file = compile::rust(SOURCE, RUST_FLAGS[3]);
    let memory = HostMemory::default();
    let program = Program::full();
    let tls = Registry::new(unspool_tls::Template::EMPTY, 1 << 20).unwrap();
    let loader = Loader::new(&memory, &program, &tls);
    let error = loop {
        let free = tls.surplus_free();
        if let Err(error) = loader.load("guest", &file) {
            assert_eq!(tls.surplus_free(), free);
            break error.into_cause();
        }
    };
    let Cause::UnwindRegister(RegisterError::Full { capacity }) = error else { panic!("{error}") };
    assert_eq!(
        (loader.objects().count(), memory.live(), global().len()),
        (capacity, capacity, capacity)
    );
    drop(loader);
    assert_eq!((memory.live(), global().len(), tls.surplus_free()), (0, 0, 1 << 20));
}

/// Objects of several compilers and models.
static SEEDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let mut seeds: Vec<_> = RUST_FLAGS.iter().map(|flags| compile::rust(SOURCE, flags)).collect();
    let source = "static __thread int x = 3; extern __thread int y; int z[10];
        __attribute__((weak)) int weak(int i) { return z[i]; }
        int get(int i) { return x++ + y + weak(i); }";
    let models: [&[&str]; 7] = [
        &["-fPIC"],
        &["-fno-pic"],
        &["-fPIC", "-fno-plt"],
        &["-fPIC", "-mtls-dialect=gnu2"],
        &["-fPIC", "-mtls-dialect=gnu2", "-ftls-model=local-dynamic"],
        &["-fPIC", "-mcmodel=large"],
        &["-fPIC", "-mcmodel=large", "-ftls-model=initial-exec"],
    ];
    for flags in models {
        seeds.extend(compile::c(source, flags));
    }
    let source = "struct S { int x = 3; S(); ~S(); }; static thread_local S s;
        inline thread_local int shared = 4; int get() { return s.x + shared; }";
    seeds.extend(compile::cpp(source, &["-fPIC"]));
    seeds
});

/// Where a byte is changed: in the header, in the tables at the end of the file, or anywhere.
fn place() -> impl Strategy<Value = (u8, prop::sample::Index, u8)> {
    (0u8..4, any::<prop::sample::Index>(), any::<u8>())
}

/// As many cases as the environment asks for (`PROPTEST_CASES`), but no fewer than `cases`.
fn at_least(cases: u32) -> ProptestConfig {
    let default = ProptestConfig::default();
    ProptestConfig { cases: default.cases.max(cases), ..default }
}

/// Whether to load a file is to call code of it: what was changed must not run.
fn runs(file: &[u8]) -> bool {
    let Ok(elf) = ElfFile64::<Endianness>::parse(file) else { return false };
    let lists = [elf::SHT_PREINIT_ARRAY, elf::SHT_INIT_ARRAY, elf::SHT_FINI_ARRAY];
    let of_functions = |section: ElfSection64<'_, '_, _>| {
        let kind = section.elf_section_header().sh_type(elf.endian());
        let name = section.name_bytes().unwrap_or_default();
        lists.contains(&kind) || name.starts_with(b".ctors") || name.starts_with(b".dtors")
    };
    elf.sections().any(of_functions)
        || elf.elf_symbol_table().iter().any(|symbol| symbol.st_type() == elf::STT_GNU_IFUNC)
}

proptest! {
    #![proptest_config(at_least(3000))]
    #[test]
    fn a_mutated_object_never_panics_and_never_leaves_anything(
        seed in any::<prop::sample::Index>(),
        changes in prop::collection::vec(place(), 1..6),
        full in any::<bool>(),
    ) {
        let _alone = alone();
        let mut file = seed.get(&SEEDS).clone();
        for (area, at, value) in changes {
            let len = file.len();
            let area = match area {
                0 => 0..64,
                1 => len - len / 3..len,
                _ => 0..len,
            };
            file[area.start + at.index(area.len())] = value;
        }
        prop_assume!(!runs(&file));
        let (memory, tls) = (HostMemory::default(), registry());
        let program = Program::full().with_tls("y", -8);
        let area = tls.new_area(0).unwrap();
        let rest = full.then(|| tls.reserve(tls.surplus_free(), 1).unwrap());
        let loader = Loader::new(&memory, &program, &tls);
        match loader.load("mutant", &file) {
            Ok(object) => {
                for section in object.sections() {
                    prop_assert!(memory.access(section.address).is_some() || section.size == 0);
                }
                prop_assert_eq!(memory.live(), 1);
                if full {
                    prop_assert_eq!(loader.unload(&object, &Frames::none()), Ok(()));
                }
            }
            Err(error) => {
                prop_assert!(!error.to_string().is_empty());
                prop_assert_eq!(loader.objects().count(), 0);
                prop_assert_eq!((memory.live(), global().len()), (0, 0));
            }
        }
        drop((loader, rest));
        nothing_is_left(&memory, &tls);
        drop(area);
    }
}
