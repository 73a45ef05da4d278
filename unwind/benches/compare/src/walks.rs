//! Walks: warm, with everything evicted, and the first one ever.

use std::hint::black_box;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::chain::{Bottom, Code, Shape, descend};
use crate::children;
use crate::measure::{Side, interleave, overhead, stamps, tick};
use crate::report::{Row, Target};
use crate::walkers::{NAMES, Places, STEPS, TABLE, Walker, walker};

const WARM_ROUNDS: usize = 41;
const EVICTED_ROUNDS: usize = 61;
const FIRST_ROUNDS: usize = 21;
/// Bytes of more than L2.
const EVICT: usize = 16 << 20;
/// The walk that cannot be beaten.
const POINTERS: &str = "frame pointers (ra)";
/// A kernel program by DWARF, and by the table of frames in its image.
const BARE: &str = "ours, bare";
const BARE_TABLE: &str = "ours, bare, table";

/// All that can walk here, and who cannot, with the reason.
type Walkers = (Vec<(&'static str, Box<dyn Walker>)>, Vec<String>);

fn walkers(places: &Places<'_>) -> Walkers {
    let (mut here, mut absent) = (Vec::new(), Vec::new());
    for name in NAMES {
        match walker(name, places) {
            Ok(walker) => here.push((name, walker)),
            Err(error) => absent.push(format!("{name}: {error:#}")),
        }
    }
    (here, absent)
}

/// The targets of warm walks. "All registers" can be read in two ways, so both are judged: they are
/// there for the asking in each frame (ours), or they have been read in each frame (ours, steps).
fn warm_targets(code: Code) -> Vec<Target> {
    let mut targets = vec![
        Target::at_most(5.0),
        Target::ahead("libgcc", 20.0),
        Target::ahead("unwinding", 60.0),
        Target::ahead("framehop (ra)", 1.0),
        Target::ahead("nongnu trace (ra)", 1.0),
    ];
    if code == Code::FramePointers {
        targets.push(Target::ahead(POINTERS, 1.0 / 3.0));
    }
    let steps = targets.clone().into_iter().map(|target| target.of(STEPS));
    targets.extend(steps);
    targets
}

/// Nanoseconds a frame of walks in a row.
fn timed(count: usize, frames: usize, mut walk: impl FnMut() -> u64) -> f64 {
    let start = stamps();
    (0..count).for_each(|_| _ = black_box(walk()));
    let took = (stamps() - start).saturating_sub(overhead());
    took as f64 * tick() / (count * frames) as f64
}

/// Rows of warm walks.
pub fn warm(places: &Places<'_>) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (frames, shape, code) in [
        (64, Shape::Distinct, Code::Plain),
        (256, Shape::Distinct, Code::Plain),
        (64, Shape::Recursive, Code::Plain),
        (256, Shape::Recursive, Code::Plain),
        (64, Shape::Distinct, Code::FramePointers),
        (256, Shape::Distinct, Code::FramePointers),
    ] {
        let (mut walkers, absent) = walkers(places);
        let sides =
            descend(shape, code, frames, |bottom| warm_here(&mut walkers, frames, code, bottom))?;
        let targets = warm_targets(code);
        let shape = if shape == Shape::Distinct { "distinct" } else { "recursion" };
        let code = if code == Code::Plain { "" } else { "_frame_pointers" };
        let name = format!("walk/warm/{frames}_{shape}{code}");
        rows.push(Row { absent, ..Row::new(name, "ns a frame", sides, targets) });
    }
    Ok(rows)
}

fn warm_here(
    walkers: &mut [(&'static str, Box<dyn Walker>)],
    frames: usize,
    code: Code,
    bottom: Bottom,
) -> Result<Vec<(String, f64)>> {
    let mut sides = Vec::new();
    for (name, walker) in walkers {
        sides.push(Side::new(name, move || Ok(timed(20, frames, || walker.walk(frames)))));
    }
    if code == Code::FramePointers {
        sides.push(Side::new(POINTERS, move || {
            Ok(timed(100, frames, || black_box(bottom).walk(frames)))
        }));
    }
    interleave(WARM_ROUNDS, sides)
}

/// The row of walks of which nothing is in L2.
pub fn evicted(places: &Places<'_>) -> Result<Vec<Row>> {
    const FRAMES: usize = 256;
    let (mut walkers, absent) = walkers(places);
    let mut buffer = vec![1u64; EVICT / 8];
    let sides = descend(Shape::Distinct, Code::Plain, FRAMES, |_| {
        let buffer = std::cell::RefCell::new(&mut buffer);
        let sides = walkers.iter_mut().map(|(name, walker)| {
            let buffer = &buffer;
            Side::new(name, move || {
                buffer.borrow_mut().iter_mut().step_by(8).for_each(|word| *word += 1);
                Ok(timed(1, FRAMES, || walker.walk(FRAMES)))
            })
        });
        interleave(EVICTED_ROUNDS, sides.collect())
    })?;
    let name = format!("walk/evicted/{FRAMES}_distinct");
    let targets = vec![Target::at_most(30.0), Target::ahead("framehop (ra)", 1.0)];
    Ok(vec![Row { absent, ..Row::new(name, "ns a frame", sides, targets) }])
}

/// The rows of first walks, each in a process of its own: of the host's, and of a kernel's.
pub fn first(places: &Places<'_>, kernel: &Path) -> Result<Vec<Row>> {
    let (walkers, absent) = walkers(places);
    let sides = walkers.iter().map(|&(name, _)| {
        Side::new(name, move || children::stamps(children::this("first", &[name], places)?, 1e-3))
    });
    let sides = interleave(FIRST_ROUNDS, sides.collect())?;
    let targets = vec![Target::at_most(15.0), Target::at_most(5.0).of(TABLE)];
    let host = Row { absent, ..Row::new("walk/first/64_distinct", "µs", sides, targets) };
    let side = |name, what| {
        Side::new(name, move || {
            let mut command = Command::new(kernel);
            command.args(["/dev/null", what, "64"]);
            children::stamps(command, 1e-3)
        })
    };
    let sides = vec![side(BARE, "walk"), side(BARE_TABLE, "walk_table")];
    let sides = interleave(FIRST_ROUNDS, sides)?;
    let targets = vec![Target::at_most(15.0), Target::at_most(5.0).of(BARE_TABLE)];
    Ok(vec![host, Row::new("walk/first/64_distinct_kernel", "µs", sides, targets)])
}

/// In a child: prints the time stamps of the first walk.
pub fn first_here(name: &str, places: &Places<'_>) -> Result<()> {
    let mut walker = walker(name, places)?;
    let took = descend(Shape::Distinct, Code::Plain, 64, |_| {
        let start = stamps();
        black_box(walker.walk(64));
        stamps() - start
    });
    println!("{took}");
    Ok(())
}

/// In a child: walks so often.
pub fn count_here(name: &str, walks: usize, places: &Places<'_>) -> Result<()> {
    let mut walker = walker(name, places)?;
    descend(Shape::Distinct, Code::Plain, 64, |_| {
        (0..walks).for_each(|_| _ = black_box(walker.walk(64)));
    });
    Ok(())
}

/// Instructions a frame of warm walks.
pub fn instructions(places: &Places<'_>) -> Result<Vec<Row>> {
    const WALKS: usize = 100;
    let mut sides = Vec::new();
    let (walkers, absent) = walkers(places);
    for (name, _) in walkers {
        let run = |walks: usize| children::this("walk", &[name, &walks.to_string()], places);
        let count = children::instructions(&|walks| run(walks), WALKS)?;
        sides.push((name.to_owned(), count / 64.0));
    }
    let name = "instructions/walk/64_distinct";
    Ok(vec![Row { absent, ..Row::new(name, "instructions a frame", sides, Vec::new()) }])
}
