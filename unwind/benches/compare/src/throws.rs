//! Throws and catches: panics in a program without `std` and with it, C++, the `lithium` crate.
//!
//! ```text
//!   ours, bare      a kernel program as a process            std     this program, libgcc
//!   ours, .so       this program, our library as libgcc      C++     the same of throw.cpp
//! ```
//!
//! Every round is a process; the sides take turns.

use std::collections::BTreeSet;
use std::panic::{catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail, ensure};

use crate::children::{self, replaced};
use crate::measure::{Side, interleave};
use crate::report::{Row, Target};
use crate::walkers::{LIBRARY, Places};

include!("../programs/work.rs");

const ROUNDS: usize = 15;

/// The programs that throw.
pub struct Programs<'a> {
    pub bare: &'a Path,
    pub cpp: PathBuf,
    /// A folder where our library has libgcc's name.
    pub place: PathBuf,
    pub places: &'a Places<'a>,
}

/// How a process throws.
#[derive(Clone, Copy)]
struct Work {
    depth: usize,
    guards: bool,
    threads: usize,
}

impl Work {
    fn words(self) -> [String; 4] {
        let batch = 2000 / (self.depth + 4) + 10;
        [self.depth, usize::from(self.guards), batch, self.threads].map(|n| n.to_string())
    }
}

impl<'a> Programs<'a> {
    /// Compiles and links what is needed, into `folder`.
    pub fn new(bare: &'a Path, places: &'a Places<'a>, folder: &Path) -> Result<Self> {
        let source = folder.join("throw.cpp");
        std::fs::write(&source, include_str!("../programs/throw.cpp"))?;
        let cpp = folder.join("throw");
        let mut compiler = Command::new("g++");
        compiler.args(["-O2", "-pthread", "-o"]).arg(&cpp).arg(&source);
        ensure!(compiler.status().context("g++")?.success(), "throw.cpp does not compile");
        let place = folder.join("place");
        std::fs::create_dir_all(&place)?;
        let link = place.join("libgcc_s.so.1");
        // It may be there from an earlier run.
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(places.ours, link)?;
        Ok(Self { bare, cpp, place, places })
    }

    fn bare(&self, what: &str, work: Work) -> Result<Command> {
        let mut command = Command::new(self.bare);
        command.args(["/dev/null", what]).args(work.words());
        Ok(command)
    }

    fn std(&self, what: &str, work: Work) -> Result<Command> {
        let words = work.words();
        let words: Vec<_> = words.iter().map(String::as_str).collect();
        children::this(what, &words, self.places)
    }

    fn cpp(&self, work: Work) -> Result<Command> {
        let mut command = Command::new(&self.cpp);
        command.args(work.words());
        Ok(command)
    }

    fn side<'s>(&'s self, name: &'s str, command: impl Fn() -> Result<Command> + 's) -> Side<'s> {
        Side::new(name, move || children::stamps(command()?, 1e-3))
    }
}

/// Rows of our panics against std's, and of real programs with our library.
pub fn rows(programs: &Programs<'_>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, depth, guards) in
        [("1_frame", 1, false), ("1_frame_1_drop", 1, true), ("100_frames_100_drops", 100, true)]
    {
        let work = Work { depth, guards, threads: 1 };
        let mut sides = vec![
            programs.side("ours, bare", || programs.bare("throw", work)),
            programs.side("std, libgcc", || programs.std("throw", work)),
            programs.side("std, ours.so", || {
                Ok(replaced(programs.std("throw", work)?, Some(&programs.place)))
            }),
        ];
        let mut targets = if depth == 1 {
            vec![Target::at_most(0.13), Target::ahead("std, libgcc", 15.0)]
        } else {
            vec![Target::at_most(3.0), Target::ahead("std, libgcc", 20.0)]
        };
        if depth == 1 && !guards {
            sides.push(programs.side("lithium", || programs.std("lithium", work)));
            targets.push(Target::ahead("lithium", 1.0));
        }
        let sides = interleave(ROUNDS, sides)?;
        rows.push(Row::new(format!("throw/{name}"), "µs", sides, targets));
    }
    for (name, depth, guards) in [
        ("1_frame", 1, false),
        ("1_frame_1_drop", 1, true),
        ("10_frames_10_drops", 10, true),
        ("100_frames", 100, false),
        ("100_frames_100_drops", 100, true),
    ] {
        let work = Work { depth, guards, threads: 1 };
        let std = |place| Ok(replaced(programs.std("throw", work)?, place));
        let cpp = |place| Ok(replaced(programs.cpp(work)?, place));
        rows.push(real(programs, &format!("rust/{name}"), &std)?);
        rows.push(real(programs, &format!("c++/{name}"), &cpp)?);
    }
    Ok(rows)
}

/// A real program, with our library in libgcc's place and without.
fn real<'s>(
    programs: &'s Programs<'_>,
    name: &str,
    command: &'s dyn Fn(Option<&'s Path>) -> Result<Command>,
) -> Result<Row> {
    let sides = vec![
        programs.side("ours.so", || command(Some(&programs.place))),
        programs.side("libgcc", || command(None)),
    ];
    let sides = interleave(ROUNDS, sides)?;
    let targets = vec![Target::ahead("libgcc", 8.0), Target::ahead("libgcc", 10.0).as_wish()];
    Ok(Row::new(format!("program/{name}"), "µs", sides, targets))
}

/// Rows of two threads that throw at once, against one.
pub fn threads(programs: &Programs<'_>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, depth) in [("1_frame_1_drop", 1), ("100_frames_100_drops", 100)] {
        let work = |threads| Work { depth, guards: true, threads };
        let place = Some(&*programs.place);
        let pair = |name, command: &dyn Fn(usize) -> Result<Command>| -> Result<_> {
            let side = |threads| programs.side(name, move || command(threads));
            let times = interleave(ROUNDS, vec![side(1), side(2)])?;
            Ok((String::from(name), 2.0 * times[0].1 / times[1].1))
        };
        let sides = vec![
            pair("ours, bare", &|threads| programs.bare("throw", work(threads)))?,
            pair("std, libgcc", &|threads| programs.std("throw", work(threads)))?,
            pair("std, ours.so", &|threads| {
                Ok(replaced(programs.std("throw", work(threads))?, place))
            })?,
        ];
        let targets = vec![Target::at_least(1.95)];
        let name = format!("two_threads/{name}");
        rows.push(Row::new(name, "times one's throughput", sides, targets));
    }
    Ok(rows)
}

/// Rows of instructions: catching nothing, and throwing.
pub fn instructions(programs: &Programs<'_>) -> Result<Vec<Row>> {
    let this =
        |what: &str, count: usize| children::this(what, &[&count.to_string()], programs.places);
    let sides = vec![
        ("ours".into(), children::instructions(&|n| this("catch_ours", n), 10_000)?),
        ("std".into(), children::instructions(&|n| this("catch_std", n), 10_000)?),
    ];
    let targets = vec![Target::ahead("std", 1.0)];
    let name = "instructions/catch_unwind_without_panic";
    let mut rows = vec![Row::new(name, "instructions", sides, targets)];
    for (name, depth, guards, count) in
        [("1_frame", 1, "0", 1000), ("100_frames_100_drops", 100, "1", 50)]
    {
        let depth = depth.to_string();
        let run = |place, count: usize| {
            let words = [&*depth, guards, &count.to_string()];
            Ok(replaced(children::this("count", &words, programs.places)?, place))
        };
        let sides = vec![
            (
                "std, ours.so".into(),
                children::instructions(&|n| run(Some(&*programs.place), n), count)?,
            ),
            ("std, libgcc".into(), children::instructions(&|n| run(None, n), count)?),
        ];
        let name = format!("instructions/throw/{name}");
        rows.push(Row::new(name, "instructions", sides, Vec::new()));
    }
    Ok(rows)
}

impl Programs<'_> {
    /// The functions that real programs' throws, in Rust and C++, and walks execute each time;
    /// `folder` is for what callgrind writes.
    pub fn executed(&self, folder: &Path) -> Result<BTreeSet<String>> {
        const COUNT: usize = 20;
        let (file, place) = (folder.join("callgrind.out"), Some(&*self.place));
        let mut all = BTreeSet::new();
        for depth in ["1", "100"] {
            let rust = |count: usize| {
                let words = [depth, "1", &count.to_string()];
                Ok(replaced(children::this("count", &words, self.places)?, place))
            };
            let cpp = |count: usize| {
                let mut command = Command::new(&self.cpp);
                command.args([depth, "1", &count.to_string(), "1"]);
                Ok(replaced(command, place))
            };
            all.append(&mut children::functions(&rust, COUNT, &file)?);
            all.append(&mut children::functions(&cpp, COUNT, &file)?);
        }
        let walk =
            |walks: usize| children::this("walk", &[LIBRARY, &walks.to_string()], self.places);
        all.append(&mut children::functions(&walk, COUNT, &file)?);
        std::fs::remove_file(file)?;
        Ok(all)
    }
}

/// Something that might panic, for all that the compiler knows.
#[inline(never)]
fn harmless(number: usize) -> usize {
    assert!(black_box(number) != usize::MAX);
    number
}

fn throw() -> ! {
    resume_unwind(Box::new(1u64))
}

fn once(frames: &'static [Frame]) {
    let thrown = catch_unwind(|| next(black_box(frames), throw));
    assert!(thrown.is_err_and(|payload| payload.is::<u64>()));
}

/// In a child.
pub fn here(what: &str, words: &[String]) -> Result<()> {
    let numbers: Vec<usize> = words.iter().map(|word| Ok(word.parse()?)).collect::<Result<_>>()?;
    match (what, &numbers[..]) {
        ("throw", &[depth, guards, batch, threads]) => {
            let frames = stack(depth, guards != 0);
            println!("{:.1}", in_threads(threads, || median(batch as u32, || once(frames))));
        }
        ("lithium", &[_, _, batch, _]) => {
            println!("{:.1}", median(batch as u32, lithium_once));
        }
        ("count", &[depth, guards, count]) => {
            let frames = stack(depth, guards != 0);
            (0..count).for_each(|_| once(frames));
        }
        ("catch_std", &[count]) => {
            (0..count).for_each(|n| drop(black_box(catch_unwind(move || harmless(n)))));
        }
        ("catch_ours", &[count]) => {
            (0..count)
                .for_each(|n| drop(black_box(unspool_panic::catch_unwind(move || harmless(n)))));
        }
        _ => bail!("what is {what} {words:?}?"),
    }
    Ok(())
}

fn lithium_once() {
    fn throws() -> u64 {
        // SAFETY: `catch` below expects this type.
        unsafe { lithium::throw(black_box(1u32)) }
    }
    // SAFETY: `throws` throws nothing else.
    let thrown = unsafe { lithium::catch::<u64, u32>(|| black_box(throws as fn() -> u64)()) };
    assert_eq!(thrown, Err(1));
}

/// Mean over threads that act at the same time.
fn in_threads(threads: usize, act: impl Fn() -> f64 + Sync) -> f64 {
    let ready = AtomicUsize::new(0);
    let work = || {
        ready.fetch_add(1, Ordering::SeqCst);
        while ready.load(Ordering::SeqCst) < threads {
            std::hint::spin_loop();
        }
        act()
    };
    let sum: f64 = std::thread::scope(|scope| {
        let all: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        all.into_iter().filter_map(|each| each.join().ok()).sum()
    });
    sum / threads as f64
}
