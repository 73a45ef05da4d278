//! All compilers in all their models: each combination compiled here, loaded beside a hundred others,
//! and asked whether it finds everything as it should be.
//!
//! ```text
//!   gcc, g++, clang, clang++, rustc × small, medium, large, kernel × pic or not
//!     × general dynamic, local dynamic, initial exec, local exec (and gcc's other dialects) × -O0, -O2
//! ```
//!
//! The guests' sources are the same for all; the alignment of their variables goes from 1 to 4096.

mod guest;
mod sets;

use crate::compile;
use crate::memory::HostMemory;
use crate::program::{Program, registry};
use crate::relocations::far;
use crate::stacks::Frames;
use crate::task;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex};
use unspool_loader::{Handle, Loader, Symbols};
use unspool_tls::{Area, Registry, Template};

const HUB: &str = include_str!("matrix/hub.c");
const C: &str = include_str!("matrix/guest.c");

const CODE_MODELS: [&str; 4] = ["small", "medium", "large", "kernel"];
const TLS_MODELS: [&str; 4] = ["global-dynamic", "local-dynamic", "initial-exec", "local-exec"];

/// One way to compile a guest.
#[derive(Clone, Debug)]
struct Combination {
    compiler: &'static str,
    code: &'static str,
    flags: Vec<String>,
    align: usize,
    /// Whether all of its accesses to its own variables ask for addresses.
    dynamic: bool,
    /// Whether it reaches others wherever they are.
    far: bool,
}

fn combinations() -> Vec<Combination> {
    let mut all = Vec::new();
    for compiler in ["gcc", "g++", "clang", "clang++", "rustc"] {
        for code in CODE_MODELS {
            for tls in TLS_MODELS {
                for pic in [false, true] {
                    for dialect in dialects(compiler, code, tls, pic) {
                        for optimization in [0, 2] {
                            let mut flags = flags(compiler, code, tls, pic, dialect, optimization);
                            // Crates of different names, as it were.
                            let crate_of_its_own = format!("-Cmetadata={}", all.len());
                            flags.extend((compiler == "rustc").then_some(crate_of_its_own));
                            let align = 1 << (all.len() % 13);
                            let dynamic = pic && tls == "global-dynamic";
                            let far = pic || code == "large";
                            all.push(Combination { compiler, code, flags, align, dynamic, far });
                        }
                    }
                }
            }
        }
    }
    all
}

/// The further flags to try with a combination; none if there is no such combination.
fn dialects(compiler: &str, code: &str, tls: &str, pic: bool) -> &'static [&'static str] {
    let gnu = compiler.starts_with('g');
    match (code, tls) {
        // gcc has the kernel model only without.
        ("kernel", _) if gnu && pic => &[],
        (_, "global-dynamic" | "local-dynamic") if gnu && pic => {
            &["-mtls-dialect=gnu", "-mtls-dialect=gnu2", "-fno-plt"]
        }
        _ => &[""],
    }
}

fn flags(
    compiler: &str,
    code: &str,
    tls: &str,
    pic: bool,
    dialect: &str,
    optimization: u8,
) -> Vec<String> {
    if compiler == "rustc" {
        let relocation = if pic { "pic" } else { "static" };
        return vec![
            format!("-Ccode-model={code}"),
            format!("-Crelocation-model={relocation}"),
            format!("-Ztls-model={tls}"),
            format!("-Copt-level={optimization}"),
            "-Cdebug-assertions=off".into(),
            "-Coverflow-checks=off".into(),
        ];
    }
    let mut flags = vec![
        format!("-mcmodel={code}"),
        format!("-ftls-model={tls}"),
        format!("-O{optimization}"),
        if pic { "-fPIC" } else { "-fno-pic" }.into(),
    ];
    if compiler.ends_with("++") {
        flags.extend(["-std=c++17", "-fno-rtti"].map(String::from));
    }
    flags.extend((!dialect.is_empty()).then(|| dialect.into()));
    flags
}

impl Combination {
    fn compile(&self) -> Option<Vec<u8>> {
        let Self { compiler, align, .. } = *self;
        let mut flags: Vec<_> = self.flags.iter().map(String::as_str).collect();
        let define = format!("-DALIGN={align}");
        let extension = match compiler {
            "rustc" => {
                let source = guest::RUST.replace("align(ALIGN)", &format!("align({align})"));
                let source = format!("{source}const ALIGN: usize = {align};");
                return Some(compile::rust_crate(&source, &flags));
            }
            _ if compiler.ends_with("++") => "cc",
            _ => "c",
        };
        flags.push(&define);
        compile::gnu(compiler, C, extension, &flags)
    }
}

/// The objects of all combinations whose compilers are here; compiled once.
fn objects() -> &'static [(Combination, Vec<u8>)] {
    static OBJECTS: LazyLock<Vec<(Combination, Vec<u8>)>> = LazyLock::new(compile_all);
    &OBJECTS
}

fn compile_all() -> Vec<(Combination, Vec<u8>)> {
    let all = combinations();
    let (next, objects) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(one) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Some(object) = one.compile() else { continue };
                    objects.lock().unwrap().push((one.clone(), object));
                }
            });
        }
    });
    objects.into_inner().unwrap()
}

/// A program that offers what compiled code needs, and functions of Rust's that must not be called.
struct Guests {
    bare: Program,
    full: Program,
}

impl Guests {
    fn program() -> Self {
        let tls_get_addr = unspool_tls::__tls_get_addr as *const () as u64;
        let bare = Program::bare().with("__tls_get_addr", tls_get_addr);
        Self { bare, full: Program::full() }
    }
}

impl Symbols for Guests {
    fn address_of(&self, name: &str) -> Option<u64> {
        let rust = ["_R", "_ZN4core", "rust_eh_personality"];
        let program =
            if rust.iter().any(|start| name.starts_with(start)) { &self.full } else { &self.bare };
        program.address_of(name)
    }
}

/// Has a guest check everything, in tasks that are older than it and younger.
fn ask(guest: &Handle<'_>, hub: &Handle<'_>, areas: [&Area<'_>; 2], what: &Combination) {
    assert_eq!(function!(guest, "check", fn() -> u64)(), 0, "{what:?}");
    for area in areas {
        let run = |object, name| {
            let object: &Handle<'_> = object;
            task::run(area, function!(object, name, fn() -> u64))
        };
        assert_eq!(run(guest, "check_tls"), 0, "{what:?}");
        assert_eq!(run(guest, "where_shared"), run(hub, "where_shared"), "{what:?}");
    }
}

/// Loads a hub and all these guests, asks them, and unloads them. `full` leaves them no space in
/// areas.
fn meet(
    guests: &[&(Combination, Vec<u8>)],
    hub: &[u8],
    tls: &Registry,
    memory: HostMemory,
    full: bool,
) {
    let program = Guests::program();
    let loader = Loader::new(&memory, &program, tls);
    let old = tls.new_area(0).unwrap();
    let hub = loader.load("hub", hub).unwrap();
    let rest = full.then(|| tls.reserve(tls.surplus_free(), 1).unwrap());
    let mut loaded = Vec::new();
    for (what, object) in guests {
        let name = format!("{} {}", what.compiler, what.flags.join(" "));
        let guest = loader.load(&name, object).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(guest.tls_offset("offered_tls").is_none(), full, "{name}");
        loaded.push(guest);
    }
    let new = tls.new_area(0).unwrap();
    for (guest, (what, _)) in loaded.iter().zip(guests) {
        ask(guest, &hub, [&old, &new], what);
    }
    assert_eq!(function!(hub, "count", fn() -> u64)(), guests.len() as u64);
    while let Some(guest) = loaded.pop() {
        loader.unload(&guest, &Frames::none()).unwrap_or_else(|error| panic!("{guest:?}: {error}"));
    }
    loader.unload(&hub, &Frames::none()).unwrap();
    assert_eq!(memory.live(), 0);
    drop(rest);
}

/// How many guests meet. (The unwinder knows 256 objects at a time, those of other tests included.)
const TOGETHER: usize = 110;

#[test]
fn guests_of_all_compilers_and_models_get_on_together() {
    let Some(hub) = compile::c(HUB, &["-fPIC"]) else { return };
    // One after the other, of different compilers and models.
    let mut mixed: Vec<_> = objects().iter().collect();
    mixed.sort_by_key(|(what, _)| (what.align, what.compiler, &what.flags));
    let tls = Registry::new(Template::EMPTY, 4 << 20).unwrap();
    for guests in mixed.chunks(TOGETHER) {
        meet(guests, &hub, &tls, HostMemory::default(), false);
    }
    // More than 2 GiB from each other and from the program.
    let apart: Vec<_> = mixed.iter().copied().filter(|(what, _)| what.far).collect();
    for guests in apart.chunks(TOGETHER) {
        meet(guests, &hub, &tls, far(), false);
    }
    assert_eq!(tls.surplus_free(), 4 << 20);
    // Without space in areas, those that can.
    mixed.retain(|(what, _)| what.dynamic);
    assert!(mixed.len() >= 6);
    let tls = registry();
    for guests in mixed.chunks(TOGETHER) {
        meet(guests, &hub, &tls, far(), true);
    }
}
