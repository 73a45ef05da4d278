//! Loading and unloading, side by side with `dlopen` and with LLVM's JITLink, in one process.
//!
//! ```text
//!  cargo bench -p unspool-loader [-- part of an input's name]
//! ```
//!
//! The sides take turns; a row shows medians, the shortest round, and how many times ours it takes.
//!
//! | row | what is timed |
//! |---|---|
//! | `unspool` | load and unload of an object that is in memory: linking, copying, sealing, names |
//! | `unspool_kept_pages` | the same where the process keeps its pages, as a kernel its frames and Linux its page cache: without the time for new ones |
//! | `unspool_read` | the same, and before it reading the file |
//! | `dlopen`, `dlopen_symbolic` | the same code, linked beforehand (bound at once); the file is in the page cache, and stays there: nothing is copied |
//! | `…_touched` | and then an access to each page, which is when `dlopen` has most of them mapped |
//! | `lld_and_dlopen` | what it takes from the same object with `dlopen`: the linker first |
//! | `jitlink` | the object in memory, without its debug information, which JITLink would copy |
//! | `jitlink_without_unwind` | also without unwind tables, which JITLink is slow to link |
//!
//! `dlopen_symbolic` is of a library whose references to itself the linker has resolved, so that there
//! is next to nothing left to relocate: it shows what mapping and finding alone take.
//!
//! The last table: bytes held beyond the sections themselves (mapped and heap). `jitlink` is a session
//! that has loaded nothing but a tiny function before, `jitlink_again` one that has loaded and removed
//! the same often, and has kept its tables of names.

mod glibc;
mod inputs;
mod jitlink;
mod measure;
mod program;

use std::ffi::{CStr, CString};
use std::path::{Path, PathBuf};

use glibc::Library;
use inputs::Input;
use jitlink::Jit;
use measure::{Side, Took};
use program::{Failure, Keeping, NoStacks, Process};
use unspool_loader::{Handle, Input as Files, Loader, Set};
use unspool_tls::{Registry, Template};

const ROUNDS: usize = 300;

fn main() -> Result<(), Failure> {
    let arguments = std::env::args().skip(1).filter(|word| word != "--bench");
    let filter = arguments.collect::<Vec<_>>().first().cloned().unwrap_or_default();
    let folder = std::env::temp_dir().join(format!("unspool-loader-bench-{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    let done = rows(&folder, &filter);
    std::fs::remove_dir_all(&folder)?;
    done
}

fn rows(folder: &Path, filter: &str) -> Result<(), Failure> {
    measure::keep_memory();
    let inputs = inputs::all(folder)?;
    let tls = Registry::new(Template::EMPTY, 4096)?;
    let kept = Keeping::default();
    let (loader, keeping) =
        (Loader::new(&Process, &Process, &tls), Loader::new(&kept, &Process, &tls));
    measure::print_head();
    let chosen = || inputs.iter().filter(|input| input.name.contains(filter));
    for input in chosen() {
        against_glibc(&loader, &keeping, input);
        against_linker(&loader, input);
    }
    // Only now: the dynamic linker's own times depend on what is there.
    let jit = Jit::start()?;
    for input in chosen().filter(|_| jit.is_some()) {
        against_jitlink(&loader, jit.as_ref().expect("it is there"), input);
    }
    println!(
        "\n{:36}{:>10}{:>10}{:>9}",
        "bytes beyond the sections", "sections", "beyond", "ratio"
    );
    let tiny = inputs::tiny(folder)?;
    for input in chosen() {
        memory(&loader, jit.as_ref(), &tiny, input);
    }
    if jit.is_none() {
        println!("LLVM 17 or later is not installed (Debian: apt-get install libllvm19)");
    }
    Ok(())
}

fn load<'l>(loader: &'l Loader<'_>, objects: &[Vec<u8>]) -> Handle<'l> {
    let inputs: Vec<_> = objects.iter().map(|object| Files::new("object", object)).collect();
    loader.load_set(&Set::new("set", &inputs)).unwrap_or_else(|error| panic!("{error}"))
}

/// Reads the files first.
fn read_and_load<'l>(loader: &'l Loader<'_>, files: &[PathBuf]) -> Handle<'l> {
    let read = |file| std::fs::read(file).expect("a file");
    load(loader, &files.iter().map(read).collect::<Vec<_>>())
}

fn unload(loader: &Loader<'_>, object: Handle<'_>) {
    loader.unload(&object, &NoStacks).unwrap_or_else(|error| panic!("{error}"));
}

fn open(library: &CStr) -> Library {
    Library::open(library, libc::RTLD_LOCAL).unwrap_or_else(|error| panic!("{error}"))
}

/// Reads a byte of each page from the one at `start` on.
fn touch(start: *const u8, bytes: usize) {
    for page in (0..bytes).step_by(4096) {
        // SAFETY: the caller's: so many bytes are mapped there.
        std::hint::black_box(unsafe { start.wrapping_add(page).read_volatile() });
    }
}

/// Touches all of what is loaded.
fn touch_object(object: &Handle<'_>) {
    for part in [object.text(), object.rodata(), object.data()] {
        let start = std::ptr::with_exposed_provenance(part.start as usize);
        touch(start, (part.end - part.start) as usize);
    }
}

/// Our side.
fn ours<'s>(name: &'s str, loader: &'s Loader<'_>, load_it: LoadIt<'s>) -> Side<'s> {
    let round = move || Took::both(|| load_it(loader), |object| unload(loader, object));
    Side { name, round: Box::new(round) }
}

type LoadIt<'s> = &'s dyn for<'l> Fn(&'l Loader<'_>) -> Handle<'l>;

/// The dynamic linker's side; `then` is done after opening.
fn theirs<'s>(name: &'s str, library: &'s CStr, then: &'s dyn Fn(&Library)) -> Side<'s> {
    let load = || {
        let library = open(library);
        then(&library);
        library
    };
    Side { name, round: Box::new(move || Took::both(load, Library::close)) }
}

fn against_glibc(loader: &Loader<'_>, keeping: &Loader<'_>, input: &Input) {
    let Input { name, objects, files, library, symbolic, .. } = input;
    let from_memory: LoadIt<'_> = &|loader| load(loader, objects);
    let from_file: LoadIt<'_> = &|loader| read_and_load(loader, files);
    let touched: LoadIt<'_> = &|loader| {
        let object = load(loader, objects);
        touch_object(&object);
        object
    };
    let touch = |library: &Library| library.touch(&input.functions[0]);
    let seconds = measure::compare(
        name,
        ROUNDS,
        &mut [
            ours("unspool", loader, from_memory),
            ours("unspool_kept_pages", keeping, from_memory),
            ours("unspool_read", loader, from_file),
            theirs("dlopen", library, &|_| ()),
            theirs("dlopen_symbolic", symbolic, &|_| ()),
        ],
    );
    measure::compare(
        name,
        ROUNDS,
        &mut [
            ours("unspool_touched", loader, touched),
            theirs("dlopen_touched", library, &touch),
            theirs("dlopen_symbolic_touched", symbolic, &touch),
        ],
    );
    let (count, rate) = (input.relocations, input.relocations as f64 / seconds / 1e6);
    println!("{:36}{count:10}  {rate:.1} million a second", format!("{name}/relocations"));
}

/// Both from the file that a compiler writes.
fn against_linker(loader: &Loader<'_>, input: &Input) {
    let Input { name, files, .. } = input;
    let from_file: LoadIt<'_> = &|loader| read_and_load(loader, files);
    let linked = files[0].with_extension("lld.so");
    let path = glibc::c_path(&linked).expect("a path");
    let link_and_open = || {
        let load = || {
            inputs::link_with_lld(files, &linked).unwrap_or_else(|error| panic!("{error}"));
            open(&path)
        };
        Took::both(load, Library::close)
    };
    let lld = Side { name: "lld_and_dlopen", round: Box::new(link_and_open) };
    measure::compare(name, ROUNDS / 15, &mut [ours("unspool_read", loader, from_file), lld]);
}

/// JITLink's side.
fn linked<'s>(
    name: &'s str,
    jit: &'s Jit,
    objects: &'s [Vec<u8>],
    functions: &'s [CString],
) -> Side<'s> {
    let load = move || jit.load(objects, functions).unwrap_or_else(|error| panic!("{error}"));
    let unload = move |it| jit.unload(it).unwrap_or_else(|error| panic!("{error}"));
    Side { name, round: Box::new(move || Took::both(load, unload)) }
}

fn against_jitlink(loader: &Loader<'_>, jit: &Jit, input: &Input) {
    let from_memory: LoadIt<'_> = &|loader| load(loader, &input.objects);
    let mut sides = [
        ours("unspool", loader, from_memory),
        linked("jitlink", jit, &input.stripped, &input.functions),
        linked("jitlink_without_unwind", jit, &input.without_unwind, &input.functions),
    ];
    measure::compare(input.name, ROUNDS / 15, &mut sides);
}

/// What each side holds while the input is loaded, beyond the sections in memory.
fn memory(loader: &Loader<'_>, jit: Option<&Jit>, tiny: &[u8], input: &Input) {
    let start = measure::held();
    let object = load(loader, &input.objects);
    let mut rows = vec![("unspool", measure::held() - start)];
    unload(loader, object);
    for (name, library) in [("dlopen", &input.library), ("dlopen_symbolic", &input.symbolic)] {
        let start = measure::held();
        let library = open(library);
        rows.push((name, measure::held() - start));
        library.close();
    }
    // A session remembers the names of what it has unloaded; one of its own is like ours.
    let new = jit.and_then(|_| Jit::start().expect("it has started before"));
    let sessions = [("jitlink", new.as_ref()), ("jitlink_again", jit)];
    for (name, session) in sessions.into_iter().filter_map(|(name, jit)| Some((name, jit?))) {
        let tiny = session.load(&[tiny.to_vec()], &[c"tiny".into()]);
        session.unload(tiny.expect("a function")).expect("it is unused");
        let start = measure::held();
        let linked = session.load(&input.stripped, &input.functions);
        let linked = linked.unwrap_or_else(|error| panic!("{error}"));
        rows.push((name, measure::held() - start));
        session.unload(linked).unwrap_or_else(|error| panic!("{error}"));
    }
    let beyond = |held: usize| held as f64 - input.sections as f64;
    let ours = beyond(rows[0].1);
    for (name, held) in rows {
        let (name, ratio) = (format!("{}/{name}", input.name), beyond(held) / ours);
        println!("{name:36}{:10}{:10.0}{ratio:9.2}", input.sections, beyond(held));
    }
}
