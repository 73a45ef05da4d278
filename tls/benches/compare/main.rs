//! Areas, accesses and first touches, side by side with glibc's in one process.
//!
//! ```text
//!  cargo bench -p unspool-tls [-- part of a row's name]
//! ```
//!
//! glibc has as many modules as there are shared libraries with thread-local variables: copies of
//! one, given to a child process to start with (`linked`) or opened by it (`opened`). Accesses
//! stand in a program that is linked as usual (relaxed) and in a library that is opened (as they are).

mod access;
mod arch;
mod glibc;
mod measure;

use std::error::Error;
use std::hint::black_box;
use std::path::Path;
use std::process::Command;

use glibc::Library;
use measure::Table;
use unspool_tls::{Area, Dynamic, Published, Registry, Template, TlsIndex};

/// Numbers of modules that areas are created with.
const COUNTS: [usize; 4] = [1, 10, 100, 1000];
/// Bytes of a module's block: half of it `.tdata`, half `.tbss`.
const SIZE: usize = 64;
/// Areas created in a row.
const ROW: usize = 8;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [child, how, count, folder] = &arguments[..]
        && child == "--child"
    {
        return in_child(how, count.parse()?, Path::new(folder));
    }
    let filter = arguments.first().cloned().unwrap_or_default();
    let folder = std::env::temp_dir().join(format!("unspool-tls-bench-{}", std::process::id()));
    std::fs::create_dir(&folder)?;
    let done = parts(&folder, &filter);
    std::fs::remove_dir_all(&folder)?;
    done
}

/// Measures each part in a process of its own.
fn parts(folder: &Path, filter: &str) -> Result<(), Box<dyn Error>> {
    glibc::stay_here();
    glibc::compile(folder, "small.so", &format!("-shared -fPIC -DSIZE={SIZE} module.c"))?;
    access::compile(folder)?;
    let copies = glibc::copies(folder, "small.so", COUNTS[COUNTS.len() - 1])?;
    Table::head();
    for how in ["linked", "opened", "access", "first_touch"] {
        let counts = match how {
            "linked" | "opened" => &COUNTS[..],
            "first_touch" => &[1, 100],
            _ => &[1],
        };
        for &count in counts.iter().filter(|_| how.contains(filter)) {
            let mut child = Command::new(std::env::current_exe()?);
            child.args(["--child", how, &count.to_string()]).arg(folder);
            if how == "linked" {
                // The program and libc are two modules.
                child.env("LD_PRELOAD", copies[..count.saturating_sub(2)].join(":"));
            }
            if !child.status()?.success() {
                return Err(format!("{how} with {count} modules failed").into());
            }
        }
    }
    Ok(())
}

fn in_child(how: &str, count: usize, folder: &Path) -> Result<(), Box<dyn Error>> {
    let open = |name: String| Library::open(&folder.join(name));
    let copies = |count| (0..count).map(|n| open(glibc::copy_name("small.so", n)));
    match how {
        "linked" => creation(how, count),
        "opened" => {
            let _opened = copies(count.saturating_sub(2)).collect::<Result<Vec<_>, _>>()?;
            creation(how, count)
        }
        "access" => access::access(folder),
        "first_touch" => first_touch(&copies(count).collect::<Result<Vec<_>, _>>()?),
        _ => Err(format!("what is {how}?").into()),
    }
}

/// A kernel with a block of its own.
fn registry(modules: usize) -> Registry {
    static TDATA: [u8; SIZE / 2] = [1; SIZE / 2];
    let kernel = Template::new(&TDATA, SIZE, 8).unwrap();
    Registry::new(kernel, modules * SIZE).unwrap()
}

fn publish(registry: &Registry, modules: usize) -> Vec<Published<'_>> {
    let publish = |_| registry.reserve(SIZE, 8).unwrap().publish(&[2; SIZE / 2]).unwrap();
    (0..modules).map(publish).collect()
}

fn creation(how: &str, count: usize) -> Result<(), Box<dyn Error>> {
    glibc::keep_memory();
    let registry = registry(count);
    let _modules = publish(&registry, count - 1);
    let theirs = glibc::Areas::find()?;
    let mut table = Table::new(format!("{}_{how}", glibc::modules()));
    let rounds = 20_000 / count.clamp(20, 400);

    let create = || registry.new_area(black_box(0)).unwrap();
    let row = || -> Vec<Area<'_>> { (0..ROW).map(|_| create()).collect() };
    let their_row = || -> Vec<_> { (0..ROW).map(|_| theirs.create()).collect() };
    let mut room: Vec<Area<'_>> = Vec::with_capacity(64 * ROW);
    let mut their_room = Vec::with_capacity(64 * ROW);
    drop(row());

    // Areas in the memory of tasks that ended, as malloc reuses what was freed.
    table.compare(
        &format!("area/create/{count}_modules"),
        rounds,
        ROW,
        |clock| {
            clock.time(|| room.extend((0..ROW).map(|_| create())));
            room.clear();
        },
        |clock| {
            clock.time(|| their_room.extend((0..ROW).map(|_| theirs.create())));
            their_room.drain(..).for_each(|area| theirs.end(area));
        },
    );
    table.compare(
        &format!("area/create_and_end/{count}_modules"),
        rounds,
        ROW,
        |clock| clock.time(|| (0..ROW).for_each(|_| drop(create()))),
        |clock| clock.time(|| (0..ROW).for_each(|_| theirs.end(theirs.create()))),
    );
    // More areas than are ever kept: memory from the allocator.
    let many = 32 * ROW;
    table.compare(
        &format!("area/create_in_new_memory/{count}_modules"),
        rounds / 8,
        many,
        |clock| {
            registry.trim();
            clock.time(|| room.extend((0..many).map(|_| create())));
            room.clear();
        },
        |clock| {
            clock.time(|| their_room.extend((0..many).map(|_| theirs.create())));
            their_room.drain(..).for_each(|area| theirs.end(area));
        },
    );
    // The limit: one copy of as many bytes, no bookkeeping.
    let (image, mut copy) = (vec![1u8; count * SIZE], vec![0u8; count * SIZE]);
    table.alone(&format!("area/bare_copy/{count}_modules"), rounds, ROW, |clock| {
        clock.time(|| {
            (0..ROW).for_each(|_| black_box(&mut copy).copy_from_slice(black_box(&image)))
        });
    });
    drop((row(), their_row().into_iter().for_each(|area| theirs.end(area))));
    Ok(())
}

fn first_touch(libraries: &[Library]) -> Result<(), Box<dyn Error>> {
    let registry = registry(0);
    let add = |_| registry.add_dynamic(&[1; SIZE / 2], SIZE, 8);
    let modules = libraries.iter().map(add).collect::<Result<Vec<Dynamic<'_>>, _>>()?;
    let indices: Result<Vec<_>, _> = libraries
        .iter()
        .map(|library| library.module().map(|module| TlsIndex { module, offset: 0 }))
        .collect();
    let (indices, get) = (indices?, glibc::tls_get_addr()?);
    let mut table = Table::new(String::new());
    // In the memory of tasks that ended, as malloc reuses what was freed; and with nothing kept.
    for (place, keep) in [("first_touch", true), ("first_touch_in_new_memory", false)] {
        table.compare(
            &format!("{place}/{}_modules", modules.len()),
            1000,
            modules.len(),
            |clock| {
                let (registry, modules) = (&registry, &modules);
                if !keep {
                    registry.trim();
                }
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        let area = registry.new_area(0).unwrap();
                        clock.time(|| {
                            for module in modules {
                                black_box(area.prepare(module.module()).unwrap());
                            }
                        });
                    });
                });
            },
            |clock| {
                let indices = &indices;
                std::thread::scope(|scope| {
                    scope.spawn(|| {
                        clock.time(|| {
                            for index in indices {
                                // SAFETY: the index of a module that is open.
                                black_box(unsafe { get(index) });
                            }
                        });
                    });
                });
            },
        );
    }
    Ok(())
}
